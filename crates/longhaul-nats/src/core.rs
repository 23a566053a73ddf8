//! Reads core NATS subjects: what is published while the reader is open, at most once.
//!
//! Offsets are counted by the reader and its incarnation is fresh, so nothing here can be asked for again. A reader that is slower than
//! its publishers loses messages in the client's bounded buffer; each loss is counted and said.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::{Message, Subscriber};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use longhaul_broker::{ReadBatch, Reader, SourceError};
use longhaul_event::hash64;
use longhaul_topic::Topic;
use tracing::warn;

use crate::client::{Link, Session};
use crate::map::{self, Place};
use crate::reader::BATCH_BYTES;
use crate::source::Selection;

/// A reader of core NATS.
pub(crate) struct CoreReader {
    session: Session,
    selection: Arc<Selection>,
    messages: Subscriber,
    shard: u64,
    incarnation: u64,
    offset: u64,
    dropped: u64,
    topic: Topic,
}

impl CoreReader {
    /// Subscribes as one of a group, and waits until the server has the subscription.
    pub(crate) async fn open(
        link: &Link,
        selection: Arc<Selection>,
        subject: &str,
        group: String,
    ) -> Result<Self, SourceError> {
        let session = link.session().await?;
        let messages = session.client.queue_subscribe(subject.to_owned(), group).await;
        let messages = messages.map_err(|e| SourceError::Transient(format!("{subject}: {e}")))?;
        session.round_trip().await.map_err(SourceError::Transient)?;
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let incarnation = hash64(format!("{nanos} {}", session.client.new_inbox()).as_bytes());
        let dropped = session.dropped();
        let shard = hash64(subject.as_bytes());
        Ok(Self { session, selection, messages, shard, incarnation, offset: 0, dropped, topic: Topic::default() })
    }

    /// Adds a message; one that cannot be an event is dropped with a line in the log, as at most once allows.
    fn take(&mut self, message: Message, batch: &mut ReadBatch) -> usize {
        self.offset += 1;
        batch.last = self.offset;
        let place = Place {
            cluster: self.selection.cluster,
            incarnation: self.incarnation,
            shard: self.shard,
            offset: self.offset,
            time_ms: now_ms(),
        };
        match map::to_event(message, place, &self.topic) {
            Ok(event) if !self.selection.takes(&event.topic) => 0,
            Ok(event) if event.size() > self.selection.event_bytes_max => {
                warn!(topic = %event.topic, bytes = event.size(), "a message is larger than an event may be; it is dropped");
                0
            }
            Ok(event) => {
                self.topic = event.topic.clone();
                let size = event.size();
                batch.events.push(event);
                size
            }
            Err(error) => {
                warn!(%error, "a message cannot be an event; it is dropped");
                0
            }
        }
    }

    fn tell_drops(&mut self) {
        let dropped = self.session.dropped();
        if dropped != self.dropped {
            warn!(lost = dropped - self.dropped, "core NATS messages were lost: they came faster than they were read");
            self.dropped = dropped;
        }
    }
}

impl Reader for CoreReader {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn start(&self) -> u64 {
        0
    }

    fn read(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        Box::pin(async move {
            loop {
                let lost = || SourceError::Transient("the connection to NATS was lost".to_owned());
                let first = self.messages.next().await.ok_or_else(lost)?;
                let mut batch = ReadBatch::default();
                let mut bytes = self.take(first, &mut batch);
                while bytes < BATCH_BYTES {
                    let Some(Some(message)) = self.messages.next().now_or_never() else { break };
                    bytes += self.take(message, &mut batch);
                }
                self.tell_drops();
                if !batch.events.is_empty() {
                    return Ok(batch);
                }
            }
        })
    }

    fn release(&mut self, _: u64) {}

    fn end(&self) -> Option<u64> {
        Some(self.offset)
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
