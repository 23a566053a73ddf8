//! What was set aside: a compacted topic of ours, `__longhaul_parked`, which no route reads.
//!
//! Key: `name/piece`. Removing is writing a tombstone. Every call reads the topic on to its present end first, so that what another router
//! has parked or removed is seen. The heads stay in memory, the other pieces are read where they stand.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_broker::{ParkName, Parking, SinkError};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::BaseRecord;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::Mutex;

use crate::batch::{Batch, Pending};
use crate::client::{Events, Offloaded, unknown_topic};
use crate::cluster::{ASK_MAX, Cluster};
use crate::producer::NotTaken;
use crate::topics::Topics;

/// Name of the topic.
pub const PARKED: &str = "__longhaul_parked";
const PARTITION: i32 = 0;
/// Things that are parked in one cluster at the most: their heads are in memory.
const THINGS_MAX: usize = 10_000;
/// Longest time that reading the topic to its end may take.
const READ_MAX: Duration = Duration::from_secs(60);
const ROOM_POLL: Duration = Duration::from_millis(2);

/// The place of one cluster.
pub(crate) struct TopicParking {
    cluster: Arc<Cluster>,
    topics: Arc<Topics>,
    reader: Mutex<Option<Box<Tail>>>,
}

impl TopicParking {
    pub(crate) fn new(cluster: Arc<Cluster>, topics: Arc<Topics>) -> Self {
        Self { cluster, topics, reader: Mutex::default() }
    }

    /// Looks at the topic as it stands now. `None` is said when there is no topic.
    async fn look<T: Send + 'static>(
        &self,
        at: impl FnOnce(&mut Tail) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<Option<T>, SinkError> {
        let mut slot = self.reader.lock().await;
        let (cluster, tail) = (Arc::clone(&self.cluster), slot.take());
        let work = move || {
            let mut tail = match tail {
                Some(tail) => tail,
                None => Tail::new(&cluster)?,
            };
            tail.refresh()?;
            at(&mut tail).map(|answer| (answer, tail))
        };
        let done = tokio::task::spawn_blocking(work).await;
        match done.map_err(|error| SinkError::Transient(format!("reading {PARKED}: {error}")))? {
            Ok((answer, tail)) => {
                *slot = Some(tail);
                Ok(Some(answer))
            }
            Err(error) if error.rdkafka_error_code().is_some_and(unknown_topic) => Ok(None),
            Err(error) => Err(self.cluster.diagnosis.sink_error(&format!("reading {PARKED}"), &error)),
        }
    }

    /// Writes a record, or a tombstone, and waits until the cluster has it.
    async fn write(&self, key: &str, value: Option<&[u8]>) -> Result<(), SinkError> {
        let info = self.topics.compacted(PARKED).await?;
        let batch = Batch::new(Arc::new(Pending::new(Arc::default())), &[]);
        loop {
            let record =
                BaseRecord::with_opaque_to(PARKED, Arc::clone(&batch)).key(key.as_bytes()).partition(PARTITION);
            let record = match value {
                Some(value) => record.payload(value),
                None => record,
            };
            match info.producer.send(record) {
                Ok(()) => break,
                Err(NotTaken::Full) => tokio::time::sleep(ROOM_POLL).await,
                Err(NotTaken::TooLarge) => {
                    let bytes = value.map_or(0, <[u8]>::len);
                    return Err(SinkError::Config(format!("{PARKED} does not take a record of {bytes} bytes")));
                }
                Err(NotTaken::Failed(error)) => return Err(SinkError::Transient(format!("{PARKED}: {error}"))),
            }
        }
        batch.seal();
        batch.finished().await.inspect_err(|_| self.topics.doubt())
    }

    async fn put(&self, name: ParkName, piece: u32, value: Bytes) -> Result<(), SinkError> {
        if piece == 0 {
            let known = name.clone();
            let room = self.look(move |tail| Ok(tail.has_room_for(&known))).await?;
            if room == Some(false) {
                return Err(SinkError::Config(format!(
                    "{PARKED} holds {THINGS_MAX} events already: redrive or discard some of them"
                )));
            }
        }
        self.write(&key(&name, piece), Some(&value)).await
    }
}

impl Parking for TopicParking {
    fn put(&self, name: ParkName, piece: u32, value: Bytes) -> BoxFuture<'_, Result<(), SinkError>> {
        TopicParking::put(self, name, piece, value).boxed()
    }

    fn heads(&self, max: usize) -> BoxFuture<'_, Result<Vec<(ParkName, Bytes)>, SinkError>> {
        async move { Ok(self.look(move |tail| Ok(tail.heads(max))).await?.unwrap_or_default()) }.boxed()
    }

    fn get(&self, name: ParkName, piece: u32) -> BoxFuture<'_, Result<Option<Bytes>, SinkError>> {
        async move { Ok(self.look(move |tail| tail.get(&name, piece)).await?.flatten()) }.boxed()
    }

    fn remove(&self, name: ParkName, pieces: u32) -> BoxFuture<'_, Result<(), SinkError>> {
        async move {
            for piece in 0..pieces {
                self.write(&key(&name, piece), None).await?;
            }
            Ok(())
        }
        .boxed()
    }
}

fn key(name: &str, piece: u32) -> String {
    format!("{name}/{piece}")
}

fn parse_key(key: &[u8]) -> Option<(&str, u32)> {
    let (name, piece) = std::str::from_utf8(key).ok()?.rsplit_once('/')?;
    Some((name, piece.parse().ok()?))
}

/// What was read of the topic so far.
struct Tail {
    consumer: Offloaded<BaseConsumer<Events>>,
    next: u64,
    known: Known,
}

/// What is parked.
#[derive(Debug, Default)]
struct Known {
    heads: BTreeMap<String, Bytes>,
    /// Where the other pieces stand.
    pieces: HashMap<(String, u32), u64>,
}

impl Known {
    fn take(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, offset: u64) {
        let Some((name, piece)) = key.and_then(parse_key) else { return };
        match (value, piece) {
            (Some(value), 0) => drop(self.heads.insert(name.to_owned(), Bytes::copy_from_slice(value))),
            (None, 0) => drop(self.heads.remove(name)),
            (Some(_), _) => drop(self.pieces.insert((name.to_owned(), piece), offset)),
            (None, _) => drop(self.pieces.remove(&(name.to_owned(), piece))),
        }
    }
}

impl Tail {
    fn new(cluster: &Cluster) -> Result<Box<Self>, KafkaError> {
        let events = Events::new(Arc::clone(&cluster.diagnosis));
        let consumer = Offloaded::new(cluster.settings.cursor_reader().create_with_context(events)?);
        Ok(Box::new(Self { consumer, next: 0, known: Known::default() }))
    }

    fn has_room_for(&self, name: &str) -> bool {
        self.known.heads.len() < THINGS_MAX || self.known.heads.contains_key(name)
    }

    fn heads(&self, max: usize) -> Vec<(ParkName, Bytes)> {
        self.known.heads.iter().take(max).map(|(name, head)| (name.clone(), head.clone())).collect()
    }

    fn get(&mut self, name: &str, piece: u32) -> Result<Option<Bytes>, KafkaError> {
        if piece == 0 {
            return Ok(self.known.heads.get(name).cloned());
        }
        let Some(&offset) = self.known.pieces.get(&(name.to_owned(), piece)) else { return Ok(None) };
        let mut found = None;
        self.read(offset, offset + 1, |at, _, value| {
            if at == offset {
                found = value.map(Bytes::copy_from_slice);
            }
        })?;
        Ok(found)
    }

    /// Reads on to the present end. Blocks.
    fn refresh(&mut self) -> Result<(), KafkaError> {
        let (low, high) = self.consumer.fetch_watermarks(PARKED, PARTITION, ASK_MAX)?;
        let (low, high) = (u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0));
        if self.next > high {
            // The topic was deleted and made again.
            (self.known, self.next) = (Known::default(), low);
        }
        let from = self.next.max(low);
        if from < high {
            let mut known = std::mem::take(&mut self.known);
            let read = self.read(from, high, |offset, key, value| known.take(key, value, offset));
            self.known = known;
            // What was taken of a read that failed is taken again.
            read?;
        }
        self.next = high;
        Ok(())
    }

    /// Gives what stands in `from..to`; stops behind it.
    fn read(
        &mut self,
        from: u64,
        to: u64,
        mut take: impl FnMut(u64, Option<&[u8]>, Option<&[u8]>),
    ) -> Result<(), KafkaError> {
        let mut assigned = TopicPartitionList::new();
        let offset = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
        assigned.add_partition_offset(PARKED, PARTITION, offset)?;
        self.consumer.assign(&assigned)?;
        let until = Instant::now() + READ_MAX;
        let (mut next, mut last) = (from, KafkaError::Canceled);
        while next < to {
            if Instant::now() > until {
                self.consumer.unassign()?;
                return Err(last);
            }
            match self.consumer.poll(Duration::from_millis(100)) {
                None => {}
                Some(Ok(message)) => {
                    let at = u64::try_from(message.offset()).unwrap_or(0);
                    if at < to {
                        take(at, message.key(), message.payload());
                    }
                    next = at + 1;
                }
                // Compaction has left nothing behind us.
                Some(Err(KafkaError::PartitionEOF(_))) => next = to,
                // librdkafka connects again by itself.
                Some(Err(error)) => last = error,
            }
        }
        self.consumer.unassign()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_record_counts_and_a_tombstone_removes() {
        let mut known = Known::default();
        let mut take = |key: &str, value: Option<&str>, offset| {
            known.take(Some(key.as_bytes()), value.map(str::as_bytes), offset);
        };
        take("a/1", Some("body"), 0);
        take("a/0", Some("head"), 1);
        take("a/1", Some("body"), 2);
        take("a/0", Some("newer"), 3);
        take("b/0", Some("head"), 4);
        take("b/0", None, 5);
        take("somebody else's", Some("x"), 6);
        take("c/x", Some("x"), 7);
        known.take(None, Some(b"x"), 8);
        assert_eq!(known.heads, BTreeMap::from([("a".to_owned(), Bytes::from_static(b"newer"))]));
        assert_eq!(known.pieces, HashMap::from([(("a".to_owned(), 1), 2)]));
    }
}
