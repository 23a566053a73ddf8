//! The reading port.

use std::sync::Arc;

use futures::future::BoxFuture;
use longhaul_event::{Event, Start};
use longhaul_topic::Topic;
use longhaul_topology::SourceKind;
use tokio::sync::watch;

use crate::SourceError;

/// What a source reads. Equal specs share one source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SourceSpec {
    /// What the route says.
    pub source: SourceKind,
    /// For a RabbitMQ exchange only, where each (route, destination) has a queue of its own: the queue's name.
    pub spool: Option<String>,
}

/// The smallest ordered unit of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    /// Its name: part of every flow identity, so it must be stable over restarts. Kafka: `topic/partition`; JetStream: the stream
    /// (and, with filters, `stream?filter,filter`); RabbitMQ: the queue; embedded: `log`.
    pub name: String,
    /// The topic of all its events, where that is known.
    pub topic: Option<Topic>,
    /// The partition number, for `partition: same`.
    pub partition: Option<u32>,
    /// Whether any position can be read again, by any number of readers at once. A RabbitMQ queue and core NATS cannot: one
    /// reader, and what it did not release comes again to the next reader (or, for core NATS, never).
    pub replayable: bool,
}

/// A source: lists shards and opens readers on them.
pub trait Source: Send + Sync + 'static {
    /// The shards that are there now, and changes (a new Kafka topic or partition within 30 s). Empty until the broker answered.
    fn shards(&self) -> watch::Receiver<Arc<Vec<Shard>>>;

    /// Opens a reader. `Start::After` of another incarnation, purged or beyond the end is a [`SourceError::Gap`]; for a shard that is
    /// not replayable `start` is ignored.
    fn open<'a>(&'a self, shard: &'a Shard, start: Start) -> BoxFuture<'a, Result<Box<dyn Reader>, SourceError>>;
}

/// Reads one shard in order. Dropping it closes it and releases nothing.
pub trait Reader: Send + 'static {
    /// The incarnation that this reader reads; constant for its life.
    fn incarnation(&self) -> u64;

    /// The offset before the first event that it will give: the resolved start. For an empty log or offset 0 this is
    /// `offset - 1` in wrapping arithmetic (`u64::MAX` stands before 0).
    fn start(&self) -> u64;

    /// Waits for events and returns what is there, 1 event at least, about 256 KiB at most (one larger event alone). Returns at
    /// once with what the client has buffered; never lingers. **Cancel safe**: a dropped future loses nothing.
    fn read(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>>;

    /// Everything up to and including that offset is delivered to every destination: the source may commit or acknowledge it.
    /// Never blocks; errors show in [`read`](Self::read).
    fn release(&mut self, floor: u64);

    /// Offset of the newest event of the shard as far as it is known; for lag.
    fn end(&self) -> Option<u64>;
}

/// Events of one shard and one incarnation, in order, with ascending offsets.
#[derive(Debug, Clone, Default)]
pub struct ReadBatch {
    /// The events; may be empty when only markers were passed over.
    pub events: Vec<Event>,
    /// The last offset that this batch covers: at least that of its last event, more when the log has markers or holes behind it.
    pub last: u64,
}
