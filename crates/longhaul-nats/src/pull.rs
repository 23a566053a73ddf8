//! An ephemeral pull consumer and what was asked of it.
//!
//! Requests overlap so that the server always has one to fill, and each is bounded in messages and in bytes, so that what can lie in the
//! client is bounded too, however long nobody reads.

use std::time::Duration;

use async_nats::{Client, Subscriber};
use longhaul_broker::{Gap, SourceError};
use longhaul_event::Start;
use serde_json::{Value, json};

use crate::api::{ApiError, Consumer, Stream};
use crate::client::{Link, Session};
use crate::reply::rfc3339;
use crate::source::Selection;
use crate::subject;

/// How often a consumer without messages says that it is there.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);
const REQUEST_EXPIRES: Duration = Duration::from_secs(30);
const REQUEST_MESSAGES: u64 = 1000;
/// Requests under way when events are small.
const REQUESTS: u64 = 3;
const REQUEST_BYTES_MIN: usize = 1 << 20;
/// What headers, subject and reply subject add to the largest event.
const ENVELOPE_BYTES: usize = 72 * 1024;
/// How long the server keeps a consumer of which nobody asks anything: a reader may pause that long.
const INACTIVE: Duration = Duration::from_secs(300);

/// A consumer of ours.
#[derive(Debug)]
pub(crate) struct Pull {
    client: Client,
    next: String,
    delete: String,
    inbox: String,
    request: String,
    requests_max: u64,
    /// Messages that the server may still send.
    asked: u64,
    /// Messages and notices, in order.
    pub(crate) messages: Subscriber,
    /// Number of the last delivery that came.
    pub(crate) consumer_seq: u64,
    /// Whether it passes over messages of the stream by subject.
    pub(crate) filtered: bool,
}

/// A consumer and where it begins.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) pull: Pull,
    pub(crate) incarnation: u64,
    /// The sequence before the first that it can give.
    pub(crate) base: u64,
    /// What it has for us already.
    pub(crate) pending: Option<u64>,
}

impl Pull {
    /// Keeps enough requests under way. A dropped future may have asked once too often, which only means more at once.
    pub(crate) async fn ask(&mut self) -> Result<(), String> {
        while self.asked <= (self.requests_max - 1) * REQUEST_MESSAGES {
            let (subject, reply) = (self.next.clone(), self.inbox.clone());
            let sent = self.client.publish_with_reply(subject, reply, self.request.clone().into()).await;
            sent.map_err(|e| format!("the connection to NATS was lost: {e}"))?;
            self.asked += REQUEST_MESSAGES;
        }
        Ok(())
    }

    /// That many of the messages that were asked for came or will not come.
    pub(crate) fn came(&mut self, messages: u64) {
        self.asked = self.asked.saturating_sub(messages);
    }

    /// Whether the server has nothing to fill.
    pub(crate) fn is_idle(&self) -> bool {
        self.asked == 0
    }

    /// Whether a request that ended with so many messages left had brought none.
    pub(crate) fn is_untouched(&self, left: u64) -> bool {
        left == REQUEST_MESSAGES
    }
}

impl Drop for Pull {
    /// A wish, not a need: the server forgets the consumer by itself.
    fn drop(&mut self) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (client, delete) = (self.client.clone(), std::mem::take(&mut self.delete));
            runtime.spawn(async move { client.publish(delete, "".into()).await });
        }
    }
}

/// Makes a consumer at that start, after checking that the start is there.
pub(crate) async fn attach(
    link: &Link,
    selection: &Selection,
    name: &str,
    start: Start,
) -> Result<Attached, SourceError> {
    let session = link.session().await?;
    let stream = session.stream(name).await.map_err(|error| match error {
        error if error.is_missing() => SourceError::Config(format!("NATS has no stream {name}")),
        error => error.into(),
    })?;
    if stream.config.retention != "limits" && !stream.config.retention.is_empty() {
        return Err(SourceError::Config(format!(
            "stream {name} has {} retention, where reading removes messages; a route reads streams with limits retention",
            stream.config.retention
        )));
    }
    let (policy, wanted) = policy(&stream, start)?;
    let filters = filters(&stream, selection);
    let filtered = !filters.is_empty();
    let consumer = create(&session, name, policy, &filters).await?;
    let base = consumer.delivered.stream_seq;
    if let Some(wanted) = wanted {
        // The stream may have changed between both answers.
        if base + 1 > wanted {
            return Err(SourceError::Gap(Gap::Purged { from: wanted, to: base + 1 }));
        }
        if base + 1 < wanted {
            return Err(SourceError::Gap(Gap::Truncated { cursor: wanted - 1, end: base + 1 }));
        }
    }
    let pull = pull(&session, selection, name, &consumer.name, filtered).await?;
    Ok(Attached { pull, incarnation: stream.incarnation(), base, pending: consumer.num_pending })
}

/// The deliver policy for a start, and the sequence that it must begin with.
fn policy(stream: &Stream, start: Start) -> Result<(Value, Option<u64>), SourceError> {
    let state = stream.state;
    let from = |seq: u64| json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": seq });
    Ok(match start {
        Start::Earliest => (json!({ "deliver_policy": "all" }), None),
        Start::Time(ms) => (json!({ "deliver_policy": "by_start_time", "opt_start_time": rfc3339(ms) }), None),
        Start::Latest => (from(state.last_seq + 1), None),
        Start::After(position) => {
            let found = stream.incarnation();
            if position.incarnation != found {
                return Err(SourceError::Gap(Gap::Recreated { cursor: position.incarnation, found }));
            }
            // What stands before offset 0 stands before everything: sequences begin with 1.
            let wanted = position.offset.wrapping_add(1).max(1);
            if wanted > state.last_seq + 1 {
                let (cursor, end) = (position.offset, state.last_seq + 1);
                return Err(SourceError::Gap(Gap::Truncated { cursor, end }));
            }
            if state.first_seq > wanted {
                return Err(SourceError::Gap(Gap::Purged { from: wanted, to: state.first_seq }));
            }
            (from(wanted), Some(wanted))
        }
    })
}

/// The subjects to filter by; none when the stream holds nothing else, which reads faster and sees every hole.
fn filters(stream: &Stream, selection: &Selection) -> Vec<String> {
    let held = &stream.config.subjects;
    let takes = |held: &String| selection.subjects.iter().any(|subject| subject::covers(subject, held));
    if !held.is_empty() && held.iter().all(takes) { Vec::new() } else { selection.subjects.clone() }
}

async fn create(session: &Session, stream: &str, policy: Value, filters: &[String]) -> Result<Consumer, ApiError> {
    let inbox = session.client.new_inbox();
    let name = format!("longhaul_{}", inbox.rsplit('.').next().unwrap_or(&inbox));
    let mut config = policy;
    config["name"] = json!(name);
    config["ack_policy"] = json!("none");
    config["replay_policy"] = json!("instant");
    config["inactive_threshold"] = json!(nanos(INACTIVE));
    config["mem_storage"] = json!(true);
    config["num_replicas"] = json!(1);
    match filters {
        [] => {}
        [one] => config["filter_subject"] = json!(one),
        more => config["filter_subjects"] = json!(more),
    }
    let body = json!({ "stream_name": stream, "config": config, "action": "create" });
    session.ask(&format!("CONSUMER.CREATE.{stream}.{name}"), &body).await
}

async fn pull(
    session: &Session,
    selection: &Selection,
    stream: &str,
    consumer: &str,
    filtered: bool,
) -> Result<Pull, SourceError> {
    let client = session.client.clone();
    let inbox = client.new_inbox();
    let messages = client.subscribe(inbox.clone()).await.map_err(|e| SourceError::Transient(e.to_string()))?;
    let bytes = REQUEST_BYTES_MIN.max(selection.event_bytes_max.saturating_add(ENVELOPE_BYTES));
    let request = json!({
        "batch": REQUEST_MESSAGES,
        "max_bytes": bytes,
        "expires": nanos(REQUEST_EXPIRES),
        "idle_heartbeat": nanos(HEARTBEAT),
    });
    Ok(Pull {
        client,
        next: format!("{}.CONSUMER.MSG.NEXT.{stream}.{consumer}", session.api),
        delete: format!("{}.CONSUMER.DELETE.{stream}.{consumer}", session.api),
        inbox,
        request: request.to_string(),
        // Large events need no overlap to keep a connection busy, and their requests are large.
        requests_max: if bytes > 4 * REQUEST_BYTES_MIN { 1 } else { REQUESTS },
        asked: 0,
        messages,
        consumer_seq: 0,
        filtered,
    })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
