//! A broker that takes everything, confirms it at once, keeps nothing but a count and the cursors.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use longhaul_broker::{Connector, Health, Opened, Sink, SinkError, SinkSpec, Source, SourceError, SourceSpec, Writer};
use longhaul_event::{Event, FlowId, Position};
use longhaul_topology::FlowKey;
use tokio::sync::watch;

/// The broker.
pub struct Discard {
    health: watch::Sender<Health>,
    sink: Arc<Void>,
}

#[derive(Default)]
struct Void {
    taken_bytes: AtomicU64,
    cursors: Mutex<HashMap<FlowId, Position>>,
}

struct VoidWriter {
    sink: Arc<Void>,
    flow: FlowId,
}

impl Discard {
    /// A broker that has taken nothing yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { health: watch::Sender::new(Health::Up), sink: Arc::default() })
    }

    /// Bytes of payload that it has taken.
    #[must_use]
    pub fn taken_bytes(&self) -> u64 {
        self.sink.taken_bytes.load(Ordering::Relaxed)
    }
}

impl Connector for Discard {
    fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn source(&self, _spec: SourceSpec) -> Result<Arc<dyn Source>, SourceError> {
        Err(SourceError::Config("what was discarded cannot be read".into()))
    }

    fn sink(&self, _spec: SinkSpec) -> Result<Arc<dyn Sink>, SinkError> {
        Ok(Arc::new(Shared(Arc::clone(&self.sink))))
    }
}

struct Shared(Arc<Void>);

impl Sink for Shared {
    fn open<'a>(&'a self, flow: &'a FlowKey, _partition: Option<u32>) -> BoxFuture<'a, Result<Opened, SinkError>> {
        let cursor = self.0.cursors().get(&flow.id()).copied();
        let writer = Box::new(VoidWriter { sink: Arc::clone(&self.0), flow: flow.id() });
        ready(Ok(Opened { writer, cursor })).boxed()
    }
}

impl Void {
    fn cursors(&self) -> std::sync::MutexGuard<'_, HashMap<FlowId, Position>> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer for VoidWriter {
    fn write(&mut self, events: Vec<Event>) -> BoxFuture<'static, Result<(), SinkError>> {
        let bytes: usize = events.iter().filter_map(|event| event.payload.as_ref()).map(bytes::Bytes::len).sum();
        self.sink.taken_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        ready(Ok(())).boxed()
    }

    fn commit(&mut self, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>> {
        self.sink.cursors().insert(self.flow, cursor);
        ready(Ok(())).boxed()
    }
}
