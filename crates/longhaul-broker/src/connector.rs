//! A connector: one broker of this region, whatever its state.

use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::watch;

use crate::{Parking, Sink, SinkError, SinkSpec, Source, SourceError, SourceSpec};

/// What every connector is told about where it runs.
#[derive(Debug, Clone)]
pub struct Context {
    /// Name of the mesh; names what Longhaul declares at the broker.
    pub mesh: String,
    /// Name of this region.
    pub region: String,
    /// Name of the broker in the documents.
    pub broker: String,
    /// Name of this router.
    pub router: String,
    /// `provenance::Place::cluster` of this broker: what identities of events read here are derived from.
    pub cluster: u64,
    /// Largest event that may be read; a larger one is a permanent [`SourceError`] of its shard.
    pub event_bytes_max: usize,
}

/// Whether a broker can be reached, as the connector itself sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Not tried yet, or being tried for the first time.
    Connecting,
    /// It answered last time.
    Up,
    /// It did not; the text is the broker's or the client's own reason, free of secrets.
    Down(String),
}

/// One broker of this region. Making one connects to nothing; it connects when used, reconnects for ever with jittered
/// back-off (100 ms doubling to 10 s), and is dropped to be closed.
pub trait Connector: Send + Sync + 'static {
    /// The current health and its changes. A connector probes by itself, so that a broker nobody uses is not `Connecting` for ever.
    fn health(&self) -> watch::Receiver<Health>;

    /// A source for what a route reads.
    ///
    /// # Errors
    /// [`SourceError::Config`] when this broker can never serve that.
    fn source(&self, spec: SourceSpec) -> Result<Arc<dyn Source>, SourceError>;

    /// A sink for what a route writes.
    ///
    /// # Errors
    /// [`SinkError::Config`] when this broker can never serve that.
    fn sink(&self, spec: SinkSpec) -> Result<Arc<dyn Sink>, SinkError>;

    /// Requests of clients that were refused since the start, by HTTP status; a broker that this router does not serve itself has none.
    fn refused_requests(&self) -> Vec<(u16, u64)> {
        Vec::new()
    }

    /// The place for what this broker refuses, if it can keep one.
    fn parking(&self) -> Option<Arc<dyn Parking>> {
        None
    }

    /// The router ends: answers whoever this connector serves, and closes what it holds. Called once, after the last flow has ended. A
    /// connector that serves nobody by itself has nothing to do.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::ready(()))
    }
}
