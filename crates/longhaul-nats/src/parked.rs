//! What was set aside: a stream of ours, `longhaul_parked`, with one subject per piece and the newest message of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_broker::{ParkName, Parking, SinkError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::{self, ApiError};
use crate::client::{Link, Session};
use crate::config::PATIENCE;

/// Name of the stream.
pub const PARKED: &str = "longhaul_parked";
const SUBJECT: &str = "$LONGHAUL.parked.";

/// The place of one cluster.
pub(crate) struct StreamParking {
    pub(crate) link: Arc<Link>,
}

#[derive(Deserialize)]
struct Info {
    state: State,
}

#[derive(Deserialize)]
struct State {
    /// Number of messages by subject, of those that were asked for.
    #[serde(default)]
    subjects: Option<BTreeMap<String, u64>>,
}

#[derive(Deserialize)]
struct Found {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct Stored {
    #[serde(rename = "seq")]
    _seq: u64,
}

fn subject(name: &str, piece: u32) -> String {
    format!("{SUBJECT}{name}.{piece}")
}

impl StreamParking {
    async fn put_piece(&self, name: &str, piece: u32, value: Bytes) -> Result<(), SinkError> {
        let session = self.link.session().await?;
        ensure_stream(&session).await?;
        let subject = subject(name, piece);
        let put = if &*session.api == "$JS.API" { subject } else { format!("{}.{subject}", session.api) };
        let away = |reason: String| SinkError::Transient(format!("{PARKED}: {reason}"));
        let asked = tokio::time::timeout(PATIENCE, session.client.request(put, value)).await;
        let answer = asked.map_err(|_| away(format!("no answer within {PATIENCE:?}")))?;
        let answer = answer.map_err(|error| away(error.to_string()))?;
        let _stored: Stored = api::read(PARKED, &answer.payload)?;
        Ok(())
    }

    async fn list_heads(&self, max: usize) -> Result<Vec<(ParkName, Bytes)>, SinkError> {
        let session = self.link.session().await?;
        let filter = json!({ "subjects_filter": format!("{SUBJECT}*.0") });
        let info: Option<Info> = there(session.ask(&format!("STREAM.INFO.{PARKED}"), &filter).await)?;
        let subjects = info.and_then(|info| info.state.subjects).unwrap_or_default();
        let mut heads = Vec::new();
        for subject in subjects.into_keys().take(max) {
            let name = subject.strip_prefix(SUBJECT).and_then(|rest| rest.strip_suffix(".0"));
            // One that was removed meanwhile is no head any more.
            if let (Some(name), Some(head)) = (name, read(&session, &subject).await?) {
                heads.push((name.to_owned(), head));
            }
        }
        Ok(heads)
    }

    async fn purge(&self, name: &str) -> Result<(), SinkError> {
        let session = self.link.session().await?;
        for filter in [subject(name, 0), format!("{SUBJECT}{name}.>")] {
            let purged = session.ask::<Value>(&format!("STREAM.PURGE.{PARKED}"), &json!({ "filter": filter })).await;
            there(purged)?;
        }
        Ok(())
    }
}

impl Parking for StreamParking {
    fn put(&self, name: ParkName, piece: u32, value: Bytes) -> BoxFuture<'_, Result<(), SinkError>> {
        async move { self.put_piece(&name, piece, value).await }.boxed()
    }

    fn heads(&self, max: usize) -> BoxFuture<'_, Result<Vec<(ParkName, Bytes)>, SinkError>> {
        self.list_heads(max).boxed()
    }

    fn get(&self, name: ParkName, piece: u32) -> BoxFuture<'_, Result<Option<Bytes>, SinkError>> {
        async move { read(&self.link.session().await?, &subject(&name, piece)).await }.boxed()
    }

    fn remove(&self, name: ParkName, _pieces: u32) -> BoxFuture<'_, Result<(), SinkError>> {
        async move { self.purge(&name).await }.boxed()
    }
}

/// From the stream's leader: a replica may be behind.
async fn read(session: &Session, subject: &str) -> Result<Option<Bytes>, SinkError> {
    let asked = session.ask(&format!("STREAM.MSG.GET.{PARKED}"), &json!({ "last_by_subj": subject })).await;
    let found: Option<Found> = there(asked)?;
    let decoded = found.map(|found| BASE64.decode(found.message.data));
    let odd = |error| SinkError::Transient(format!("{PARKED}: the server's answer is not understood: {error}"));
    Ok(decoded.transpose().map_err(odd)?.map(Bytes::from))
}

/// `None` for what is not there.
fn there<T>(asked: Result<T, ApiError>) -> Result<Option<T>, SinkError> {
    match asked {
        Ok(found) => Ok(Some(found)),
        // Without JetStream there is no stream either.
        Err(error) if error.is_missing() || matches!(error, ApiError::NoJetStream) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn ensure_stream(session: &Session) -> Result<(), SinkError> {
    match session.stream(PARKED).await {
        Ok(_) => return Ok(()),
        Err(error) if !error.is_missing() => return Err(error.into()),
        Err(_) => {}
    }
    let config = json!({
        "name": PARKED,
        "description": "events that Longhaul could not deliver here, with the reason; see longhaul parked list",
        "subjects": [format!("{SUBJECT}*.*")],
        "max_msgs_per_subject": 1,
        "discard": "new",
        "storage": "file",
        "retention": "limits",
    });
    session.create_stream(config).await?;
    Ok(())
}
