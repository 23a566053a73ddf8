//! A broker that is never empty: every shard gives events as fast as they are taken, from memory that is filled once.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use longhaul_broker::{
    Connector, Health, ReadBatch, Reader, Shard, Sink, SinkError, SinkSpec, Source, SourceError, SourceSpec,
};
use longhaul_event::{Event, EventId, Headers, Identity, Start};
use longhaul_topic::Topic;
use tokio::sync::watch;

use crate::figures::Random;

/// Bytes of a payload.
pub const PAYLOAD_BYTES: usize = 1024;
/// Events of a read, as connectors give them: about 256 KiB.
const READ_EVENTS: u64 = 240;
/// More than the processor's caches hold, so that payloads come from memory as they do from a socket.
const POOL_PAYLOADS: usize = 64 * 1024;
const KEYS: u64 = 256;

/// The broker.
pub struct Generator {
    health: watch::Sender<Health>,
    source: Arc<Endless>,
}

struct Endless {
    shards: watch::Sender<Arc<Vec<Shard>>>,
    /// Random bytes: nothing to compress.
    pool: Bytes,
    keys: Bytes,
    topic: Topic,
}

struct EndlessReader {
    source: Arc<Endless>,
    start: u64,
    next: u64,
}

impl Generator {
    /// A broker with so many shards.
    ///
    /// # Panics
    /// Never: its one topic is short.
    #[must_use]
    pub fn new(shards: u32) -> Arc<Self> {
        let topic = Topic::parse("load").expect("a short topic");
        let shard = |partition: u32| Shard {
            name: format!("load/{partition}"),
            topic: Some(topic.clone()),
            partition: Some(partition),
            replayable: true,
        };
        let source = Endless {
            shards: watch::Sender::new(Arc::new((0..shards).map(shard).collect())),
            pool: Random(1).bytes(POOL_PAYLOADS * PAYLOAD_BYTES),
            keys: (0..KEYS).flat_map(u64::to_le_bytes).collect::<Vec<u8>>().into(),
            topic,
        };
        Arc::new(Self { health: watch::Sender::new(Health::Up), source: Arc::new(source) })
    }
}

impl Connector for Generator {
    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn source(&self, _spec: SourceSpec) -> Result<Arc<dyn Source>, SourceError> {
        Ok(Arc::new(Shared(Arc::clone(&self.source))))
    }

    fn sink(&self, _spec: SinkSpec) -> Result<Arc<dyn Sink>, SinkError> {
        Err(SinkError::Config("a generator takes nothing".into()))
    }
}

struct Shared(Arc<Endless>);

impl Source for Shared {
    fn shards(&self) -> watch::Receiver<Arc<Vec<Shard>>> {
        self.0.shards.subscribe()
    }

    fn open<'a>(&'a self, _shard: &'a Shard, start: Start) -> BoxFuture<'a, Result<Box<dyn Reader>, SourceError>> {
        let next = match start {
            Start::After(position) => position.offset.wrapping_add(1),
            Start::Earliest | Start::Latest | Start::Time(_) => 0,
        };
        let reader = EndlessReader { source: Arc::clone(&self.0), start: next.wrapping_sub(1), next };
        ready(Ok(Box::new(reader) as Box<dyn Reader>)).boxed()
    }
}

impl EndlessReader {
    fn event(&self, offset: u64) -> Event {
        let at = offset as usize % POOL_PAYLOADS * PAYLOAD_BYTES;
        let key = (offset % KEYS) as usize * 8;
        Event {
            offset,
            topic: self.source.topic.clone(),
            key: Some(self.source.keys.slice(key..key + 8)),
            headers: Headers::default(),
            payload: Some(self.source.pool.slice(at..at + PAYLOAD_BYTES)),
            time_ms: 1_700_000_000_000,
            id: EventId::of_position(1, 1, 1, offset),
            identity: Identity::Unique,
            provenance: Bytes::new(),
        }
    }
}

impl Reader for EndlessReader {
    fn incarnation(&self) -> u64 {
        1
    }

    fn start(&self) -> u64 {
        self.start
    }

    fn read(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        let events: Vec<Event> = (self.next..self.next + READ_EVENTS).map(|offset| self.event(offset)).collect();
        self.next += READ_EVENTS;
        ready(Ok(ReadBatch { events, last: self.next - 1 })).boxed()
    }

    fn release(&mut self, _floor: u64) {}

    fn end(&self) -> Option<u64> {
        Some(self.next)
    }
}
