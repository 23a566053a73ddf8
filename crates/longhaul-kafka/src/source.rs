//! The source: those partitions of topics that match which this router owns, and readers on them.
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
use crate::ownership::{Ownership, Partitions};
use crate::pump::{Feed, Pump};

/// Topics of Kafka and of its companions, ours included; never a shard.
const INTERNAL_PREFIX: &str = "__";

/// A source of one cluster.
pub(crate) struct KafkaSource(Arc<Inner>);

struct Inner {
    cluster: Arc<Cluster>,
    /// Hash that names the broker in identities.
    place: u64,
    listed: Arc<Listed>,
    readers: Mutex<Readers>,
}

/// The shards, kept up by the cluster's threads.
struct Listed {
    filters: Vec<Filter>,
    /// Held while the shards are told, so that what was seen later is told later.
    seen: Mutex<Seen>,
    shards: watch::Sender<Arc<Vec<Shard>>>,
}

#[derive(Default)]
struct Seen {
    listing: Option<Arc<Listing>>,
    /// The topics of it that match, with their partitions.
    topics: Vec<(Topic, u32)>,
}

#[derive(Default)]
struct Readers {
    pump: Option<Pump>,
    /// The lanes that the common thread feeds.
    primary: BTreeMap<String, Weak<Lane>>,
}

impl KafkaSource {
    pub(crate) fn new(cluster: Arc<Cluster>, place: u64, filters: Vec<Filter>) -> Arc<Self> {
        let listed = Arc::new(Listed { filters, seen: Mutex::default(), shards: watch::Sender::default() });
        let listener: Arc<dyn Listener> = Arc::<Listed>::clone(&listed);
        cluster.listen(&Arc::downgrade(&listener));
        Arc::new(Self(Arc::new(Inner { cluster, place, listed, readers: Mutex::default() })))
    }
}

impl Inner {
    /// Finds the place to begin at and has it read. Blocks while Kafka is asked.
    fn open(&self, shard: &str, start: Start) -> Result<KafkaReader, SourceError> {
        let (topic, partition) =
            parse(shard).ok_or_else(|| SourceError::Config(format!("`{shard}` is no shard of a Kafka source")))?;
        let address = Topic::parse(&topic).map_err(|error| SourceError::Config(error.to_string()))?;
        let at = (topic, partition);
        let (incarnation, next) = self.cluster.resolve(&at, start)?;
        let lane = Arc::new(Lane::default());
        let origin = Origin { topic: address, cluster: self.place, shard: hash64(shard.as_bytes()), incarnation };
        let feed = Feed { topic: at.0.clone(), partition, origin, next, lane: Arc::clone(&lane) };
        let own = self.feed(shard, feed)?;
        let ownership = Arc::clone(&self.cluster.ownership);
        Ok(KafkaReader { lane, incarnation, start: next.wrapping_sub(1), ownership, address: at, _own: own })
    }

    /// Has the lane fed: by the common thread if the partition is free there, else by one of its own, which is returned.
    fn feed(&self, name: &str, feed: Feed) -> Result<Option<Pump>, SourceError> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = readers.primary.get(name).and_then(Weak::upgrade).is_some_and(|lane| !lane.is_closed());
        if taken {
            drop(readers);
            let own = Pump::start(&self.cluster, false)?;
            own.open(feed);
            return Ok(Some(own));
        }
        let lane = Arc::downgrade(&feed.lane);
        let pump = match readers.pump.take() {
            Some(pump) => pump,
            None => Pump::start(&self.cluster, true)?,
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
    fn handle_change(&self, cluster: &Cluster) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let view = cluster.view();
        let Some(listing) = view.listing else { return };
        if !seen.listing.as_ref().is_some_and(|before| Arc::ptr_eq(before, &listing)) {
            seen.topics = matching(&self.filters, &listing);
            seen.listing = Some(listing);
        }
        let shards = shards(&seen.topics, &view.owned);
        self.shards.send_if_modified(|now| {
            let changed = **now != shards;
            if changed {
                *now = Arc::new(shards);
            }
            changed
        });
    }

    fn topics(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.topics.iter().map(|(topic, _)| topic.to_string()).collect()
    }
}

/// The topics that match, with their partitions.
fn matching(filters: &[Filter], listing: &Listing) -> Vec<(Topic, u32)> {
    let listed = listing.iter().filter(|(name, _)| !name.starts_with(INTERNAL_PREFIX));
    let parsed = listed.filter_map(|(name, partitions)| Some((Topic::parse(name).ok()?, *partitions)));
    parsed.filter(|(topic, _)| filters.iter().any(|filter| filter.matches(topic))).collect()
}

/// One shard per partition that is ours.
fn shards(topics: &[(Topic, u32)], owned: &Partitions) -> Vec<Shard> {
    let mut shards = Vec::new();
    for (topic, partitions) in topics {
        let name = topic.to_string();
        let Some(ours) = owned.get(&name) else { continue };
        let ours = ours.iter().filter_map(|partition| u32::try_from(*partition).ok());
        shards.extend(ours.filter(|partition| partition < partitions).map(|partition| Shard {
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
    incarnation: u64,
    start: u64,
    ownership: Arc<Ownership>,
    address: (String, i32),
    /// The thread of a further reader; it ends with it.
    _own: Option<Pump>,
}

impl Reader for KafkaReader {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn start(&self) -> u64 {
        self.start
    }

    fn read(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        Box::pin(self.lane.read())
    }

    fn release(&mut self, floor: u64) {
        self.ownership.release(&self.address, floor.wrapping_add(1));
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

    fn named(filters: &[&str], topics: &[(&str, u32)], owned: &[(&str, &[i32])]) -> Vec<String> {
        let filters: Vec<Filter> = filters.iter().map(|text| Filter::parse(text).expect("a filter")).collect();
        let listing = topics.iter().map(|(name, partitions)| ((*name).to_owned(), *partitions)).collect();
        let owned = owned.iter().map(|(name, ours)| ((*name).to_owned(), ours.iter().copied().collect())).collect();
        shards(&matching(&filters, &listing), &owned).into_iter().map(|shard| shard.name).collect()
    }

    #[test]
    fn every_partition_of_a_matching_topic_that_is_ours_is_a_shard_and_internal_topics_never_are() {
        let topics = [("orders", 3), ("other", 1), ("__consumer_offsets", 50), ("__longhaul_cursors", 1)];
        let ours: [(&str, &[i32]); 3] = [("orders", &[0, 2, 3]), ("other", &[0]), ("__longhaul_cursors", &[0])];
        assert_eq!(named(&["orders"], &topics, &ours), ["orders/0", "orders/2"], "3 is not listed yet");
        assert_eq!(named(&["orders"], &topics, &[]), [""; 0]);
        assert_eq!(named(&["nothing"], &topics, &ours), [""; 0]);
        assert_eq!(named(&["__longhaul_cursors"], &topics, &ours), [""; 0]);
    }

    #[test]
    fn a_shard_says_its_topic_and_partition() {
        assert_eq!(parse("a.b/12"), Some(("a.b".to_owned(), 12)));
        assert_eq!(parse("a.b"), None);
        assert_eq!(parse("a/b"), None);
    }
}
