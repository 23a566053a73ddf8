//! Cursors: one record per flow in a compacted topic of the destination cluster.
//!
//! Key: the flow's identity, 32 hex digits. Value: JSON with the position and, for people, what the flow is. Every opening of a flow
//! reads the topic up to its present end, so that the cursor of another router is seen; openings at the same time share one read. Where
//! somebody's transaction is open in it, what stands behind its beginning is not to be seen yet: then it waits. A value that cannot be read is an error: to start over in silence could lose events. Deleting a cursor is writing a tombstone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul_broker::SinkError;
use longhaul_event::{FlowId, Position};
use longhaul_topology::FlowKey;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::BaseRecord;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tracing::warn;

use crate::batch::{Batch, Pending};
use crate::client::{Events, Offloaded, unknown_topic};
use crate::cluster::{ASK_MAX, Cluster};
use crate::config::TRANSACTION_MS;
use crate::producer::NotTaken;
use crate::topics::Topics;

/// Name of the topic.
pub const CURSORS: &str = "__longhaul_cursors";
/// Its only partition.
pub(crate) const PARTITION: i32 = 0;
const VERSION: u32 = 1;
/// Longest time that reading the topic to its end may take.
const READ_MAX: Duration = Duration::from_secs(60);
const ROOM_POLL: Duration = Duration::from_millis(2);
/// A cluster does not tell when a transaction has ended.
const STABLE_POLL: Duration = Duration::from_millis(10);

/// What stands in the topic for one flow.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Value {
    version: u32,
    incarnation: u64,
    offset: u64,
    mesh: String,
    route: String,
    /// Region, broker, shard.
    from: (String, String, String),
    /// Region, broker.
    to: (String, String),
}

/// The cursors of one cluster.
pub(crate) struct Cursors {
    cluster: Arc<Cluster>,
    topics: Arc<Topics>,
    reader: Mutex<Option<Box<Tail>>>,
}

impl Cursors {
    pub(crate) fn new(cluster: Arc<Cluster>, topics: Arc<Topics>) -> Self {
        Self { cluster, topics, reader: Mutex::default() }
    }

    /// The newest cursor of a flow, if there ever was one.
    ///
    /// # Errors
    /// [`SinkError`] when the topic cannot be made or read, or the value is not one of ours.
    pub(crate) async fn read(&self, flow: FlowId) -> Result<Option<Position>, SinkError> {
        let asked = Instant::now();
        self.topics.compacted(CURSORS).await?;
        let mut slot = self.reader.lock().await;
        // One that began to read after we asked has seen all that we must see.
        if let Some(tail) = slot.as_ref().filter(|tail| tail.begun > asked) {
            return tail.position(flow);
        }
        let (cluster, tail) = (Arc::clone(&self.cluster), slot.take());
        let read = tokio::task::spawn_blocking(move || Tail::refresh(tail, &cluster)).await;
        let read = read.map_err(|error| SinkError::Transient(format!("reading {CURSORS}: {error}")))?;
        let tail = read.map_err(|error| match error {
            Unread::Open => SinkError::Transient(hanging()),
            Unread::Failed(error) => {
                if error.rdkafka_error_code().is_some_and(unknown_topic) {
                    self.topics.doubt();
                }
                self.cluster.diagnosis.sink_error(&format!("reading {CURSORS}"), &error)
            }
        })?;
        let position = tail.position(flow);
        *slot = Some(tail);
        position
    }

    /// Writes the cursor of a flow and waits until the cluster has it.
    ///
    /// # Errors
    /// [`SinkError`] when it may not be there.
    pub(crate) async fn write(
        &self,
        pending: &Arc<Pending>,
        flow: &FlowKey,
        cursor: Position,
    ) -> Result<(), SinkError> {
        let info = self.topics.compacted(CURSORS).await?;
        let key = flow.id().to_string();
        let value = encode(flow, cursor);
        let batch = Batch::new(Arc::clone(pending), &[]);
        loop {
            if pending.is_spent() {
                return Err(SinkError::Transient("an earlier write of this flow failed".to_owned()));
            }
            let record = BaseRecord::with_opaque_to(CURSORS, Arc::clone(&batch))
                .key(key.as_bytes())
                .payload(&value[..])
                .partition(PARTITION);
            match info.producer.send(record) {
                Ok(()) => break,
                Err(NotTaken::Full) => tokio::time::sleep(ROOM_POLL).await,
                Err(NotTaken::TooLarge) => {
                    return Err(SinkError::Config(format!(
                        "{CURSORS} does not take a cursor of {} bytes",
                        value.len()
                    )));
                }
                Err(NotTaken::Failed(error)) => return Err(SinkError::Transient(format!("{CURSORS}: {error}"))),
            }
        }
        batch.seal();
        batch.finished().await.inspect_err(|_| self.topics.doubt())
    }
}

/// The value for a cursor of that flow.
pub(crate) fn encode(flow: &FlowKey, cursor: Position) -> Vec<u8> {
    let FlowKey { mesh, route, from, to } = flow.clone();
    let Position { incarnation, offset } = cursor;
    let value = Value { version: VERSION, incarnation, offset, mesh, route, from, to };
    serde_json::to_vec(&value).expect("numbers and text are always JSON")
}

fn decode(value: &[u8]) -> Option<Position> {
    let Value { version: VERSION, incarnation, offset, .. } = serde_json::from_slice(value).ok()? else { return None };
    Some(Position { incarnation, offset })
}

/// Why the topic is not read to its end.
enum Unread {
    /// A transaction stays open before that end.
    Open,
    Failed(KafkaError),
}

impl From<KafkaError> for Unread {
    fn from(error: KafkaError) -> Self {
        Self::Failed(error)
    }
}

/// What to do about a transaction that is open for longer than any of ours may be.
fn hanging() -> String {
    format!(
        "reading {CURSORS}: a transaction has been open there for {} s, and hides the cursors behind it. Kafka ends ours after {TRANSACTION_MS} ms; one that \
         it has lost sight of (as 4.3.0 and 4.3.1 may when a partition has no leader for a moment: KAFKA-20734) is shown by \
         `kafka-transactions.sh find-hanging` and ended by its `abort`, and what it held here is then written again",
        READ_MAX.as_secs()
    )
}

/// What was read of the topic so far.
struct Tail {
    consumer: Offloaded<BaseConsumer<Events>>,
    /// Sees what is not committed, and so the true end.
    ends: Offloaded<BaseConsumer<Events>>,
    /// When the last read began.
    begun: Instant,
    next: u64,
    /// `None` where a value could not be read.
    positions: HashMap<FlowId, Option<Position>>,
}

impl Tail {
    fn position(&self, flow: FlowId) -> Result<Option<Position>, SinkError> {
        match self.positions.get(&flow) {
            None => Ok(None),
            Some(Some(position)) => Ok(Some(*position)),
            Some(None) => Err(SinkError::Config(format!(
                "the cursor with key {flow} in {CURSORS} cannot be read; a newer Longhaul may have written it"
            ))),
        }
    }

    /// Reads on to the present end; from the beginning when there is nothing yet. Blocks.
    fn refresh(tail: Option<Box<Self>>, cluster: &Cluster) -> Result<Box<Self>, Unread> {
        let mut tail = match tail {
            Some(tail) => tail,
            None => {
                let events = || Events::new(Arc::clone(&cluster.diagnosis));
                let consumer = Offloaded::new(cluster.settings.cursor_reader().create_with_context(events())?);
                let ends = Offloaded::new(cluster.settings.uncommitted().create_with_context(events())?);
                Box::new(Self { consumer, ends, begun: Instant::now(), next: 0, positions: HashMap::new() })
            }
        };
        tail.begun = Instant::now();
        let (low, high) = tail.stable_bounds()?;
        if tail.next > high {
            // The topic was deleted and made again.
            tail.positions.clear();
            tail.next = low;
        }
        tail.next = tail.next.max(low);
        if tail.next < high {
            let read = tail.read_to(high);
            tail.consumer.unassign()?;
            read?;
        }
        Ok(tail)
    }

    /// The bounds of the topic as it is now, once no transaction is open before that end.
    fn stable_bounds(&self) -> Result<(u64, u64), Unread> {
        let (low, end) = self.ends.fetch_watermarks(CURSORS, PARTITION, ASK_MAX)?;
        let until = Instant::now() + READ_MAX;
        while self.consumer.fetch_watermarks(CURSORS, PARTITION, ASK_MAX)?.1 < end {
            if Instant::now() > until {
                return Err(Unread::Open);
            }
            std::thread::sleep(STABLE_POLL);
        }
        Ok((u64::try_from(low).unwrap_or(0), u64::try_from(end).unwrap_or(0)))
    }

    fn read_to(&mut self, high: u64) -> Result<(), KafkaError> {
        let mut from = TopicPartitionList::new();
        let offset = Offset::Offset(i64::try_from(self.next).unwrap_or(i64::MAX));
        from.add_partition_offset(CURSORS, PARTITION, offset)?;
        self.consumer.assign(&from)?;
        let until = Instant::now() + READ_MAX;
        let mut last = KafkaError::Canceled;
        while self.next < high {
            if Instant::now() > until {
                return Err(last);
            }
            match self.consumer.poll(Duration::from_millis(100)) {
                None => {}
                Some(Ok(message)) => {
                    take(&mut self.positions, message.key(), message.payload());
                    self.next = u64::try_from(message.offset()).unwrap_or(0) + 1;
                }
                // Compaction has left nothing behind us.
                Some(Err(KafkaError::PartitionEOF(_))) => self.next = high,
                // librdkafka connects again by itself.
                Some(Err(error)) => last = error,
            }
        }
        Ok(())
    }
}

fn take(positions: &mut HashMap<FlowId, Option<Position>>, key: Option<&[u8]>, value: Option<&[u8]>) {
    let Some(flow) = key.and_then(FlowId::parse) else {
        warn!(topic = CURSORS, "a record without the key of a flow is not ours");
        return;
    };
    match value {
        None => positions.remove(&flow),
        Some(value) => positions.insert(flow, decode(value)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> FlowKey {
        FlowKey {
            mesh: "m".to_owned(),
            route: "r".to_owned(),
            from: ("eu".to_owned(), "a".to_owned(), "orders/3".to_owned()),
            to: ("us".to_owned(), "b".to_owned()),
        }
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        for cursor in [
            Position { incarnation: 0, offset: 0 },
            Position { incarnation: u64::MAX - 1, offset: u64::MAX },
            Position { incarnation: 1 << 60, offset: (1 << 53) + 1 },
        ] {
            assert_eq!(decode(&encode(&flow(), cursor)), Some(cursor));
        }
    }

    #[test]
    fn the_newest_value_counts_a_tombstone_removes_and_what_is_unreadable_is_remembered_as_such() {
        let (id, mut positions) = (flow().id(), HashMap::new());
        let key = id.to_string();
        let at = |offset| Position { incarnation: 7, offset };
        take(&mut positions, Some(key.as_bytes()), Some(&encode(&flow(), at(1))));
        take(&mut positions, Some(key.as_bytes()), Some(&encode(&flow(), at(2))));
        take(&mut positions, Some(b"somebody else's"), Some(b"{}"));
        take(&mut positions, None, None);
        assert_eq!(positions, HashMap::from([(id, Some(at(2)))]));
        let newer = String::from_utf8(encode(&flow(), at(3))).expect("JSON").replace("\"version\":1", "\"version\":2");
        take(&mut positions, Some(key.as_bytes()), Some(newer.as_bytes()));
        assert_eq!(positions, HashMap::from([(id, None)]));
        take(&mut positions, Some(key.as_bytes()), None);
        assert!(positions.is_empty());
    }
}
