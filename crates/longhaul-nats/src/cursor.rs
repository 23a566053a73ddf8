//! Cursors: one key per flow in the KV bucket `longhaul_cursors`.
//!
//! Every write names the revision that it replaces. Opening a flow writes the cursor that it found, so that a router that still believes
//! to own the flow fails at its next commit: two writers notice each other. The value is JSON, for `nats kv get` to be of use; readers
//! take any version of it that they know and refuse others rather than start over.
//!
//! A flow that is written in atomic batches has a cursor in each stream too, under `$LONGHAUL.cursor.<stream>.<flow>`, with its events
//! (see [`batch`](crate::batch)). Cursors are numbered, and the one with the highest number counts; at the same number, that of a stream.
//! The bucket's follows, for streams whose limits may remove a message.

use async_nats::HeaderMap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use longhaul_broker::SinkError;
use longhaul_event::Position;
use longhaul_topology::FlowKey;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::api::{self, ApiError, StreamConfig};
use crate::client::Session;
use crate::config::PATIENCE;
use crate::subject;

const STREAM: &str = "KV_longhaul_cursors";
const VERSION: u32 = 1;
/// Cursors among the events of a stream.
pub(crate) const IN_STREAM: &str = "$LONGHAUL.cursor.";
/// The server's numbers for a revision that is not the one named, or that is being written.
const WRONG_LAST_SEQUENCE: [u64; 2] = [10071, 10164];

/// The key of one flow, and the revision that it has if nobody else wrote it.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    stream: String,
    subject: String,
    put: String,
    words: String,
    rollup: bool,
}

#[derive(Serialize, Deserialize)]
struct Value {
    v: u32,
    /// For people: which flow this is.
    flow: String,
    /// None: the flow was opened and never got anywhere.
    cursor: Option<Stored>,
    /// Which of several cursors of the flow counts: the highest.
    #[serde(default)]
    number: u64,
    /// When the cursor was written, where this only repeats it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

/// A cursor as it was found.
#[derive(Debug, Clone, Default)]
pub(crate) struct FoundCursor {
    /// Where the flow stands.
    pub(crate) position: Option<Position>,
    /// Which of several cursors counts.
    pub(crate) number: u64,
    /// When it was written, by the server's clock.
    pub(crate) since: Option<String>,
    /// Its sequence in the stream that holds it; 0 when there is none.
    pub(crate) revision: u64,
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
    #[serde(default)]
    time: String,
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
        Self { stream: STREAM.to_owned(), subject, put, words, rollup: false }
    }

    /// The same flow's cursor among the events of a stream; `None` when the stream takes no atomic batches or does not hold the subject.
    pub(crate) fn within(&self, stream: &StreamConfig, flow: &FlowKey) -> Option<Self> {
        let subject = format!("{IN_STREAM}{}.{}", stream.name, flow.id());
        let held = stream.subjects.iter().any(|held| subject::covers(held, &subject));
        let rollup = stream.allow_rollup_hdrs && !stream.deny_purge;
        let (stream_name, put, words) = (stream.name.clone(), subject.clone(), self.words.clone());
        (stream.allow_atomic && held).then_some(Self { stream: stream_name, subject, put, words, rollup })
    }

    /// Makes the bucket when it is missing.
    pub(crate) async fn ensure(session: &Session) -> Result<(), SinkError> {
        ensure_bucket(session).await
    }

    /// Takes the key over, with what was found or with something newer from elsewhere. Returns the revision that the next commit replaces.
    pub(crate) async fn take(&self, session: &Session, found: &FoundCursor, over: u64) -> Result<u64, SinkError> {
        let body = self.value(found.position, found.number, found.since.clone());
        self.store(session, body, over).await
    }

    /// What is there now.
    pub(crate) async fn get(&self, session: &Session) -> Result<FoundCursor, SinkError> {
        // From the stream's leader: a replica may be behind.
        let what = format!("STREAM.MSG.GET.{}", self.stream);
        let found: Result<Found, _> = session.ask(&what, &json!({ "last_by_subj": self.subject })).await;
        match found {
            Ok(found) => self.decode(found.message),
            Err(error) if error.is_missing() => Ok(FoundCursor::default()),
            Err(error) => Err(error.into()),
        }
    }

    fn decode(&self, message: FoundMessage) -> Result<FoundCursor, SinkError> {
        let odd =
            || SinkError::Config(format!("the cursor {} is in a form that this version does not know", self.subject));
        let bytes = BASE64.decode(&message.data).map_err(|_| odd())?;
        let revision = message.seq;
        // A deleted key: somebody wants the flow to start over.
        if bytes.is_empty() {
            return Ok(FoundCursor { revision, ..FoundCursor::default() });
        }
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| odd())?;
        if value.v != VERSION {
            return Err(odd());
        }
        let position = |stored: Stored| {
            let incarnation = u64::from_str_radix(&stored.incarnation, 16).ok()?;
            Some(Position { incarnation, offset: stored.offset.parse().ok()? })
        };
        let position = value.cursor.map(|stored| position(stored).ok_or_else(odd)).transpose()?;
        let since = value.since.or_else(|| (!message.time.is_empty()).then_some(message.time));
        Ok(FoundCursor { position, number: value.number, since, revision })
    }

    fn value(&self, cursor: Option<Position>, number: u64, since: Option<String>) -> Vec<u8> {
        let stored =
            |at: Position| Stored { incarnation: format!("{:x}", at.incarnation), offset: at.offset.to_string() };
        let value = Value { v: VERSION, flow: self.words.clone(), cursor: cursor.map(stored), number, since };
        serde_json::to_vec(&value).expect("a struct of texts is JSON")
    }

    /// Writes the cursor over that revision and returns the new one.
    pub(crate) async fn put(
        &self,
        session: &Session,
        cursor: Position,
        number: u64,
        over: u64,
    ) -> Result<u64, SinkError> {
        self.store(session, self.value(Some(cursor), number, None), over).await
    }

    /// The message that writes the cursor over that revision, to be sent with events.
    pub(crate) fn message(&self, cursor: Position, number: u64, over: u64) -> (String, HeaderMap, Vec<u8>) {
        (self.put.clone(), self.headers(over), self.value(Some(cursor), number, None))
    }

    fn headers(&self, over: u64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", over.to_string());
        if self.rollup {
            headers.insert("Nats-Rollup", "sub");
        }
        headers
    }

    async fn store(&self, session: &Session, body: Vec<u8>, over: u64) -> Result<u64, SinkError> {
        let asked = session.client.request_with_headers(self.put.clone(), self.headers(over), body.into());
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let answer = answer.map_err(|_| SinkError::Transient(format!("no answer to a cursor within {PATIENCE:?}")))?;
        let answer = answer.map_err(|e| SinkError::Transient(format!("a cursor was not written: {e}")))?;
        match api::read::<Put>("cursor", &answer.payload) {
            Ok(put) => Ok(put.seq),
            Err(error) if is_fenced(&error) => Err(self.fenced()),
            Err(error) => Err(SinkError::Transient(format!("a cursor was not written: {error}"))),
        }
    }

    /// What a writer is told that is not the last one.
    pub(crate) fn fenced(&self) -> SinkError {
        SinkError::Transient(format!("another router writes this flow ({})", self.words))
    }
}

/// Whether a refusal says that somebody else wrote the cursor.
pub(crate) fn is_fenced(error: &ApiError) -> bool {
    matches!(error, ApiError::Refused { err_code, .. } if WRONG_LAST_SEQUENCE.contains(err_code))
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
