//! The source: partitions of topics that match, and readers on them.
//!
//! The first reader of a partition is fed by the source's one thread; every further reader (one that catches up) has a consumer and a
//! thread of its own, so that it holds nobody back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use futures::future::BoxFuture;
use longhaul_broker::{ReadBatch, Reader, Shard, Source, SourceError};
use longhaul_event::{Start, hash64};
use longhaul_topic::{Filter, Topic};
use tokio::sync::watch;

use crate::cluster::{Cluster, Listener, Listing};
use crate::lane::Lane;
use crate::map::Origin;
use crate::pump::{Feed, Floors, Pump};

/// Topics of Kafka and of its companions, ours included; never a shard.
const INTERNAL_PREFIX: &str = "__";

/// A source of one cluster.
pub(crate) struct KafkaSource(Arc<Inner>);

struct Inner {
    cluster: Arc<Cluster>,
    /// Hash that names the broker in identities.
    place: u64,
    listed: Arc<Listed>,
    floors: Arc<Floors>,
    readers: Mutex<Readers>,
}

/// The shards, kept up by the cluster's thread.
struct Listed {
    filters: Vec<Filter>,
    shards: watch::Sender<Arc<Vec<Shard>>>,
}

#[derive(Default)]
struct Readers {
    pump: Option<Pump>,
    /// The lanes that the common thread feeds.
    primary: BTreeMap<String, Weak<Lane>>,
}

impl KafkaSource {
    pub(crate) fn new(cluster: Arc<Cluster>, place: u64, filters: Vec<Filter>) -> Arc<Self> {
        let listed = Arc::new(Listed { filters, shards: watch::Sender::default() });
        let listener: Arc<dyn Listener> = Arc::<Listed>::clone(&listed);
        cluster.listen(&Arc::downgrade(&listener));
        Arc::new(Self(Arc::new(Inner { cluster, place, listed, floors: Arc::default(), readers: Mutex::default() })))
    }
}

impl Inner {
    /// Finds the place to begin at and has it read. Blocks while Kafka is asked.
    fn open(&self, shard: &str, start: Start) -> Result<KafkaReader, SourceError> {
        let (topic, partition) =
            parse(shard).ok_or_else(|| SourceError::Config(format!("`{shard}` is no shard of a Kafka source")))?;
        let address = Topic::parse(&topic).map_err(|error| SourceError::Config(error.to_string()))?;
        let next = self.cluster.resolve(&topic, partition, start)?;
        let lane = Arc::new(Lane::default());
        let origin = Origin { topic: address, cluster: self.place, shard: hash64(shard.as_bytes()) };
        let feed = Feed { topic: topic.clone(), partition, origin, next, lane: Arc::clone(&lane) };
        let own = self.feed(shard, feed)?;
        let floors = Arc::clone(&self.floors);
        Ok(KafkaReader { lane, start: next.wrapping_sub(1), floors, address: (topic, partition), _own: own })
    }

    /// Has the lane fed: by the common thread if the partition is free there, else by one of its own, which is returned.
    fn feed(&self, name: &str, feed: Feed) -> Result<Option<Pump>, SourceError> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = readers.primary.get(name).and_then(Weak::upgrade).is_some_and(|lane| !lane.is_closed());
        if taken {
            drop(readers);
            let own = Pump::start(&self.cluster, false, None)?;
            own.open(feed);
            return Ok(Some(own));
        }
        let lane = Arc::downgrade(&feed.lane);
        let pump = match readers.pump.take() {
            Some(pump) => pump,
            None => Pump::start(&self.cluster, true, Some(Arc::clone(&self.floors)))?,
        };
        // A thread that has ended fails the lane; the next reader starts another.
        if pump.open(feed) {
            readers.pump = Some(pump);
            readers.primary.insert(name.to_owned(), lane);
        }
        Ok(None)
    }
}

impl Source for KafkaSource {
    fn shards(&self) -> watch::Receiver<Arc<Vec<Shard>>> {
        self.0.listed.shards.subscribe()
    }

    fn open<'a>(&'a self, shard: &'a Shard, start: Start) -> BoxFuture<'a, Result<Box<dyn Reader>, SourceError>> {
        let (inner, shard) = (Arc::clone(&self.0), shard.name.clone());
        Box::pin(async move {
            let opened = tokio::task::spawn_blocking(move || inner.open(&shard, start)).await;
            let reader = opened.map_err(|error| SourceError::Transient(format!("opening a partition: {error}")))??;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }
}

impl Listener for Listed {
    fn handle_listing(&self, listing: &Listing) {
        let shards = shards(&self.filters, listing);
        self.shards.send_if_modified(|now| {
            let changed = **now != shards;
            if changed {
                *now = Arc::new(shards);
            }
            changed
        });
    }
}

/// One shard per partition of every topic that matches.
fn shards(filters: &[Filter], listing: &Listing) -> Vec<Shard> {
    let mut shards = Vec::new();
    for (name, partitions) in listing {
        let Ok(topic) = Topic::parse(name) else { continue };
        if name.starts_with(INTERNAL_PREFIX) || !filters.iter().any(|filter| filter.matches(&topic)) {
            continue;
        }
        shards.extend((0..*partitions).map(|partition| Shard {
            name: format!("{name}/{partition}"),
            topic: Some(topic.clone()),
            partition: Some(partition),
            replayable: true,
        }));
    }
    shards
}

fn parse(shard: &str) -> Option<(String, i32)> {
    let (topic, partition) = shard.rsplit_once('/')?;
    Some((topic.to_owned(), partition.parse().ok()?))
}

/// A reader of one partition.
struct KafkaReader {
    lane: Arc<Lane>,
    start: u64,
    floors: Arc<Floors>,
    address: (String, i32),
    /// The thread of a further reader; it ends with it.
    _own: Option<Pump>,
}

impl Reader for KafkaReader {
    fn incarnation(&self) -> u64 {
        0
    }

    fn start(&self) -> u64 {
        self.start
    }

    fn read(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        Box::pin(self.lane.read())
    }

    fn release(&mut self, floor: u64) {
        let next = floor.wrapping_add(1);
        self.floors.lock().unwrap_or_else(PoisonError::into_inner).insert(self.address.clone(), next);
    }

    fn end(&self) -> Option<u64> {
        self.lane.newest()
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.lane.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(filters: &[&str], topics: &[(&str, u32)]) -> Vec<String> {
        let filters: Vec<Filter> = filters.iter().map(|text| Filter::parse(text).expect("a filter")).collect();
        let listing = topics.iter().map(|(name, partitions)| ((*name).to_owned(), *partitions)).collect();
        shards(&filters, &listing).into_iter().map(|shard| shard.name).collect()
    }

    #[test]
    fn every_partition_of_a_matching_topic_is_a_shard_and_internal_topics_never_are() {
        let topics = [("orders", 2), ("other", 1), ("__consumer_offsets", 50), ("__longhaul_cursors", 1)];
        assert_eq!(named(&["orders"], &topics), ["orders/0", "orders/1"]);
        assert_eq!(named(&["nothing"], &topics), [""; 0]);
        assert_eq!(named(&["__longhaul_cursors"], &topics), [""; 0]);
    }

    #[test]
    fn a_shard_says_its_topic_and_partition() {
        assert_eq!(parse("a.b/12"), Some(("a.b".to_owned(), 12)));
        assert_eq!(parse("a.b"), None);
        assert_eq!(parse("a/b"), None);
    }
}
