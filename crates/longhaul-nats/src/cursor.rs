//! Cursors: one key per flow in the KV bucket `longhaul_cursors`.
//!
//! Every write names the revision that it replaces. Opening a flow writes the cursor that it found, so that a router that still believes
//! to own the flow fails at its next commit: two writers notice each other. The value is JSON, for `nats kv get` to be of use; readers
//! take any version of it that they know and refuse others rather than start over.

use async_nats::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use longhaul_broker::SinkError;
use longhaul_event::Position;
use longhaul_topology::FlowKey;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::api::{self, ApiError};
use crate::client::Session;
use crate::config::PATIENCE;

const STREAM: &str = "KV_longhaul_cursors";
const VERSION: u32 = 1;
/// The server's number for a revision that is not the one named.
const WRONG_LAST_SEQUENCE: u64 = 10071;

/// The key of one flow, and the revision that it has if nobody else wrote it.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    subject: String,
    put: String,
    words: String,
}

#[derive(Serialize, Deserialize)]
struct Value {
    v: u32,
    /// For people: which flow this is.
    flow: String,
    /// None: the flow was opened and never got anywhere.
    cursor: Option<Stored>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    /// Hex, since many readers of JSON round large numbers.
    incarnation: String,
    offset: String,
}

#[derive(Deserialize)]
struct Found {
    message: FoundMessage,
}

#[derive(Deserialize)]
struct FoundMessage {
    seq: u64,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct Put {
    seq: u64,
}

impl Cursor {
    /// Names the key; asks nothing.
    pub(crate) fn of(session: &Session, flow: &FlowKey) -> Self {
        let subject = format!("$KV.longhaul_cursors.{}", flow.id());
        let put = if &*session.api == "$JS.API" { subject.clone() } else { format!("{}.{subject}", session.api) };
        let (region, broker, shard) = &flow.from;
        let words = format!("{}: {region}/{broker}/{shard} to {}/{}", flow.route, flow.to.0, flow.to.1);
        Self { subject, put, words }
    }

    /// Reads the cursor and takes the key over. Returns the cursor and the revision that the next commit replaces.
    pub(crate) async fn take(&self, session: &Session) -> Result<(Option<Position>, u64), SinkError> {
        ensure_bucket(session).await?;
        let (cursor, revision) = self.get(session).await?;
        let revision = self.put(session, cursor, revision).await?;
        Ok((cursor, revision))
    }

    async fn get(&self, session: &Session) -> Result<(Option<Position>, u64), SinkError> {
        // From the stream's leader: a replica may be behind.
        let found: Result<Found, _> =
            session.ask(&format!("STREAM.MSG.GET.{STREAM}"), &json!({ "last_by_subj": self.subject })).await;
        match found {
            Ok(found) => Ok((self.decode(&found.message.data)?, found.message.seq)),
            Err(error) if error.is_missing() => Ok((None, 0)),
            Err(error) => Err(error.into()),
        }
    }

    fn decode(&self, data: &str) -> Result<Option<Position>, SinkError> {
        let odd =
            || SinkError::Config(format!("the cursor {} is in a form that this version does not know", self.subject));
        let bytes = BASE64.decode(data).map_err(|_| odd())?;
        // A deleted key: somebody wants the flow to start over.
        if bytes.is_empty() {
            return Ok(None);
        }
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| odd())?;
        let position = |stored: Stored| {
            let incarnation = u64::from_str_radix(&stored.incarnation, 16).ok()?;
            Some(Position { incarnation, offset: stored.offset.parse().ok()? })
        };
        match (value.v, value.cursor) {
            (VERSION, None) => Ok(None),
            (VERSION, Some(stored)) => position(stored).map(Some).ok_or_else(odd),
            _ => Err(odd()),
        }
    }

    /// Writes the cursor over that revision and returns the new one.
    pub(crate) async fn put(&self, session: &Session, cursor: Option<Position>, over: u64) -> Result<u64, SinkError> {
        let stored =
            |at: Position| Stored { incarnation: format!("{:x}", at.incarnation), offset: at.offset.to_string() };
        let value = Value { v: VERSION, flow: self.words.clone(), cursor: cursor.map(stored) };
        let body = serde_json::to_vec(&value).expect("a struct of texts is JSON");
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", over.to_string());
        let asked = session.client.request_with_headers(self.put.clone(), headers, body.into());
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let answer = answer.map_err(|_| SinkError::Transient(format!("no answer to a cursor within {PATIENCE:?}")))?;
        let answer = answer.map_err(|e| SinkError::Transient(format!("a cursor was not written: {e}")))?;
        match api::read::<Put>("cursor", &answer.payload) {
            Ok(put) => Ok(put.seq),
            Err(ApiError::Refused { err_code: WRONG_LAST_SEQUENCE, .. }) => {
                Err(SinkError::Transient(format!("another router writes this flow ({})", self.words)))
            }
            Err(error) => Err(SinkError::Transient(format!("a cursor was not written: {error}"))),
        }
    }
}

async fn ensure_bucket(session: &Session) -> Result<(), SinkError> {
    match session.stream(STREAM).await {
        Ok(_) => return Ok(()),
        Err(error) if !error.is_missing() => return Err(error.into()),
        Err(_) => {}
    }
    let config = json!({
        "name": STREAM,
        "description": "how far each flow of Longhaul got; one key per flow",
        "subjects": ["$KV.longhaul_cursors.>"],
        "max_msgs_per_subject": 1,
        "discard": "new",
        "allow_rollup_hdrs": true,
        "deny_delete": true,
        "allow_direct": true,
        "storage": "file",
        "retention": "limits",
    });
    session.create_stream(config).await?;
    Ok(())
}
