//! What a stream holds of the last life of a flow, beyond its cursor.
//!
//! A server knows message ids for its duplicate window only. A flow that is opened again later than that reads which ids the stream got
//! around the time of its last cursor, and leaves those events out: everything that it had under way then lies between a little before
//! that cursor and [`UNDER_WAY_MAX`] behind it. Headers alone are read, once per stream and opening. What retention, or a reader of a work
//! queue, removed is not seen: then, and when there is more than [`IDS_MAX`], duplicates are possible, and it is said.

use std::collections::HashSet;
use std::time::Duration;

use async_nats::Message;
use futures::StreamExt;
use longhaul_broker::SinkError;
use serde_json::json;
use tracing::{info, warn};

use crate::api::{Consumer, StreamConfig};
use crate::client::Session;
use crate::config::PATIENCE;
use crate::reply::{Meta, parse_rfc3339, rfc3339};

/// Events that were sent before a cursor was written and are not covered by it, and clocks of servers that differ.
const BEFORE: Duration = Duration::from_secs(15);
/// How long a writer goes on without a cursor at most, with room: its router gives it up after 120 s of silence.
const UNDER_WAY_MAX: Duration = Duration::from_secs(300);
/// Ids that are kept at most: 24 bytes each.
const IDS_MAX: usize = 2_000_000;
const REQUEST_MESSAGES: usize = 1_000;

/// Ids of messages, as hashes wide enough never to meet.
#[derive(Debug, Default)]
pub(crate) struct Stored(HashSet<u128>);

impl Stored {
    /// Whether a message of that id is there.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.0.contains(&wide(id))
    }

    /// Whether nothing is known to be there.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what the stream got around that time.
    pub(crate) async fn add(
        &mut self,
        session: &Session,
        stream: &StreamConfig,
        since_ms: i64,
    ) -> Result<(), SinkError> {
        let away = |e: String| SinkError::Transient(format!("the end of stream {} was not read: {e}", stream.name));
        let from = since_ms.saturating_sub(millis(BEFORE));
        let until = since_ms.saturating_add(millis(UNDER_WAY_MAX));
        let inbox = session.client.new_inbox();
        let name = format!("longhaul_{}", inbox.rsplit('.').next().unwrap_or_default());
        let config = json!({
            "name": name, "deliver_policy": "by_start_time", "opt_start_time": rfc3339(from), "ack_policy": "none",
            "replay_policy": "instant", "headers_only": true, "mem_storage": true, "num_replicas": 1, "inactive_threshold": 30_000_000_000_u64,
        });
        let body = json!({ "stream_name": stream.name, "config": config, "action": "create" });
        let _: Consumer = session.ask(&format!("CONSUMER.CREATE.{}.{name}", stream.name), &body).await?;
        let mut messages = session.client.subscribe(inbox.clone()).await.map_err(|e| away(e.to_string()))?;
        let next = format!("{}.CONSUMER.MSG.NEXT.{}.{name}", session.api, stream.name);
        let request = json!({ "batch": REQUEST_MESSAGES, "no_wait": true }).to_string();
        let before = self.0.len();
        'ask: loop {
            let asked = session.client.publish_with_reply(next.clone(), inbox.clone(), request.clone().into()).await;
            asked.map_err(|e| away(e.to_string()))?;
            for _ in 0..REQUEST_MESSAGES {
                let message = tokio::time::timeout(PATIENCE, messages.next()).await;
                let message = message.map_err(|_| away(format!("nothing within {PATIENCE:?}")))?;
                let message = message.ok_or_else(|| away("the connection was lost".to_owned()))?;
                match message.status.map(|status| status.as_u16()) {
                    None | Some(200) => {}
                    // No more is there, at once or after some of what was asked for.
                    Some(404 | 408) => break 'ask,
                    Some(code) => return Err(away(format!("status {code}"))),
                }
                if !self.take(&message, until) {
                    break 'ask;
                }
                if self.0.len() >= IDS_MAX {
                    warn!(
                        stream = stream.name,
                        "too much was written meanwhile to be looked through: duplicates are possible"
                    );
                    break 'ask;
                }
            }
        }
        let _ =
            session.client.publish(format!("{}.CONSUMER.DELETE.{}.{name}", session.api, stream.name), "".into()).await;
        info!(stream = stream.name, ids = self.0.len() - before, "looked for events of before in a stream");
        Ok(())
    }

    /// Whether the message is of the time that matters.
    fn take(&mut self, message: &Message, until: i64) -> bool {
        let Some(meta) = message.reply.as_ref().and_then(|reply| Meta::parse(reply)) else { return false };
        let id = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id"));
        if let Some(id) = id {
            self.0.insert(wide(id.as_str()));
        }
        meta.time_ms <= until
    }
}

/// The moment of a server's time, in milliseconds, if it can be read.
pub(crate) fn since_ms(text: Option<&str>) -> Option<i64> {
    parse_rfc3339(text?)
}

fn wide(id: &str) -> u128 {
    let (low, high) = (longhaul_event::hash64(id.as_bytes()), longhaul_event::hash64(format!("{id}/").as_bytes()));
    u128::from(high) << 64 | u128::from(low)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
