//! The records of the routers of one region that read one NATS cluster: a KV bucket with one key per router.
//!
//! Only requests and their bytes; what follows from the records stands in [`members`](crate::members). A record is JSON, for `nats kv get`
//! to be of use, and every write names the revision that it replaces. The bucket is read to its end through the stream's leader, from
//! the last revision on, which needs no consumer that could get lost. The server forgets what nobody wrote for an hour.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use longhaul_broker::Context;
use longhaul_event::hash64;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::api::{self, ApiError};
use crate::client::Session;
use crate::config::PATIENCE;
use crate::members::Record;

/// How long the server keeps what nobody writes again: the marks of what was removed, above all.
const FORGET_AFTER: Duration = Duration::from_secs(3600);
/// The server's number for a stream that is not there; a message that is not there has another one.
const NO_STREAM: u64 = 10059;

/// One bucket.
#[derive(Debug)]
pub(crate) struct Roster {
    bucket: String,
    description: String,
    /// For people: which process this is.
    process: u32,
}

/// A key as it was read.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) revision: u64,
    /// `None`: it was removed, or is in a form that this version does not know.
    pub(crate) record: Option<Record>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    /// Changes with every life of a router.
    life: String,
    /// Process id, for people.
    process: u32,
    /// Hex, since many readers of JSON round large numbers.
    serves: Vec<String>,
}

#[derive(Deserialize)]
struct Found {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    subject: String,
    seq: u64,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct Put {
    seq: u64,
}

impl Roster {
    /// Names the bucket; asks nothing.
    pub(crate) fn new(ctx: &Context) -> Self {
        let (mesh, region, broker) = (&ctx.mesh, &ctx.region, &ctx.broker);
        // Names may hold the character that joins them here; the hash keeps `a_b` and `c` apart from `a` and `b_c`.
        let apart = hash64(format!("{mesh}\n{region}\n{broker}").as_bytes()) >> 32;
        Self {
            bucket: format!("longhaul_routers_{mesh}_{region}_{broker}_{apart:08x}"),
            description: format!("routers of mesh {mesh}, region {region}, that read {broker}; one key per router"),
            process: std::process::id(),
        }
    }

    /// The bucket's name, for people.
    pub(crate) fn bucket(&self) -> &str {
        &self.bucket
    }

    fn stream(&self) -> String {
        format!("KV_{}", self.bucket)
    }

    fn subject(&self, name: &str) -> String {
        format!("$KV.{}.{name}", self.bucket)
    }

    /// The first key that was written after that revision; `None` at the end. Makes the bucket when it is missing.
    pub(crate) async fn next(&self, session: &Session, after: u64) -> Result<Option<Entry>, ApiError> {
        let what = format!("STREAM.MSG.GET.{}", self.stream());
        let asked = session.ask::<Found>(&what, &json!({ "seq": after + 1, "next_by_subj": self.subject(">") })).await;
        match asked {
            Ok(found) => Ok(Some(self.entry(found.message))),
            Err(ApiError::Refused { err_code: NO_STREAM, .. }) => self.create(session).await.map(|()| None),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn entry(&self, message: Message) -> Entry {
        let name = message.subject.strip_prefix(&self.subject("")).unwrap_or(&message.subject);
        let stored = BASE64.decode(&message.data).ok().and_then(|bytes| serde_json::from_slice::<Stored>(&bytes).ok());
        let serves = |texts: Vec<String>| texts.iter().filter_map(|text| u64::from_str_radix(text, 16).ok()).collect();
        let record = stored.map(|stored| Record { life: stored.life, serves: serves(stored.serves) });
        Entry { name: name.to_owned(), revision: message.seq, record }
    }

    async fn create(&self, session: &Session) -> Result<(), ApiError> {
        let config = json!({
            "name": self.stream(),
            "description": self.description,
            "subjects": [self.subject(">")],
            "max_msgs_per_subject": 1,
            "max_age": u64::try_from(FORGET_AFTER.as_nanos()).unwrap_or(u64::MAX),
            "discard": "new",
            "allow_rollup_hdrs": true,
            "deny_delete": true,
            "storage": "file",
            "retention": "limits",
        });
        session.create_stream(config).await.map(|_| ())
    }

    /// Writes a router's record over that revision and returns the new one.
    pub(crate) async fn put(
        &self,
        session: &Session,
        name: &str,
        life: &str,
        serves: &BTreeSet<u64>,
        over: u64,
    ) -> Result<u64, ApiError> {
        let serves = serves.iter().map(|source| format!("{source:016x}")).collect();
        let stored = Stored { life: life.to_owned(), process: self.process, serves };
        let body = serde_json::to_vec(&stored).expect("a struct of texts is JSON");
        self.store(session, name, HeaderMap::new(), body, over).await
    }

    /// Removes a router's record, if it is still of that revision.
    pub(crate) async fn remove(&self, session: &Session, name: &str, over: u64) -> Result<(), ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        self.store(session, name, headers, Vec::new(), over).await.map(|_| ())
    }

    async fn store(
        &self,
        session: &Session,
        name: &str,
        mut headers: HeaderMap,
        body: Vec<u8>,
        over: u64,
    ) -> Result<u64, ApiError> {
        headers.insert("Nats-Expected-Last-Subject-Sequence", over.to_string());
        let subject = self.subject(name);
        let put = if &*session.api == "$JS.API" { subject } else { format!("{}.{subject}", session.api) };
        let asked = tokio::time::timeout(PATIENCE, session.client.request_with_headers(put, headers, body.into()));
        let away = |why: String| ApiError::Away(format!("{}: {why}", self.bucket));
        let answer = asked.await.map_err(|_| away(format!("no answer within {PATIENCE:?}")))?;
        let answer = answer.map_err(|error| away(error.to_string()))?;
        api::read::<Put>(&self.bucket, &answer.payload).map(|put| put.seq)
    }
}
