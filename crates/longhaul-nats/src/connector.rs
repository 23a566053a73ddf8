//! The connector: one NATS cluster, with a connection for writing and, once something is read, one for reading.
//!
//! They are two so that a flood of what is read never stands before acknowledgements of what is written, and so that a message that the
//! client cannot read takes down nothing but readers.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use longhaul_broker::{
    Connector, Context, Health, Parking, Sink, SinkError, SinkSpec, Source, SourceError, SourceSpec,
};
use longhaul_config::Nats;
use longhaul_topology::{Guarantee, SinkKind, SourceKind};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::client::Link;
use crate::config::Access;
use crate::health::Board;
use crate::once::WINDOW_MIN;
use crate::ownership::Ownership;
use crate::parked::StreamParking;
use crate::sink::{Memories, NatsSink};
use crate::source::{CoreSource, Selection, StreamSource};

/// One NATS cluster of this region.
pub struct NatsConnector {
    ctx: Context,
    access: Arc<Access>,
    runtime: Handle,
    board: Board,
    writing: Arc<Link>,
    reading: OnceLock<Arc<Link>>,
    ownership: OnceLock<Ownership>,
    memories: Arc<Memories>,
    window_min: Duration,
}

impl NatsConnector {
    /// Checks the configuration and starts connecting in the background.
    ///
    /// # Errors
    /// A sentence about an address that is none, or when called outside a tokio runtime.
    pub fn new(cfg: Nats, ctx: Context) -> Result<Arc<Self>, String> {
        Self::with_window_min(cfg, ctx, WINDOW_MIN)
    }

    /// The same with another shortest duplicate window for effectively-once; for tests, which cannot wait for minutes.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    #[doc(hidden)]
    pub fn with_window_min(cfg: Nats, ctx: Context, window_min: Duration) -> Result<Arc<Self>, String> {
        let runtime = Handle::try_current().map_err(|e| format!("the NATS connector: {e}"))?;
        let name = format!("longhaul {} {}", ctx.region, ctx.router);
        let access = Arc::new(Access::new(cfg, name)?);
        let board = Board::new();
        let writing = Arc::new(Link::start(access.clone(), board.report()));
        let (reading, ownership, memories) = (OnceLock::new(), OnceLock::new(), Arc::default());
        Ok(Arc::new(Self { ctx, access, runtime, board, writing, reading, ownership, memories, window_min }))
    }

    fn reading(&self) -> Arc<Link> {
        let _inside = self.runtime.enter();
        self.reading.get_or_init(|| Arc::new(Link::start(self.access.clone(), self.board.report()))).clone()
    }

    /// Over the connection for writing, since what is read may be a flood.
    fn ownership(&self) -> &Ownership {
        let _inside = self.runtime.enter();
        self.ownership.get_or_init(|| Ownership::start(self.writing.clone(), &self.ctx, self.board.report()))
    }
}

impl Connector for NatsConnector {
    fn health(&self) -> watch::Receiver<Health> {
        self.board.health()
    }

    fn source(&self, spec: SourceSpec) -> Result<Arc<dyn Source>, SourceError> {
        let _inside = self.runtime.enter();
        let some = |topics: &[_]| match topics.is_empty() {
            true => Err(SourceError::Config("a route from NATS needs `topics`, or the name of a stream".to_owned())),
            false => Ok(()),
        };
        Ok(match spec.source {
            SourceKind::JetStream { stream: Some(stream), topics } => {
                let selection = Selection::new(topics, true, &self.ctx)?;
                Arc::new(StreamSource::named(self.reading(), self.ownership(), &stream, selection))
            }
            SourceKind::JetStream { stream: None, topics } => {
                some(&topics)?;
                let selection = Selection::new(topics, false, &self.ctx)?;
                Arc::new(StreamSource::found(self.reading(), self.ownership(), selection))
            }
            SourceKind::NatsCapture { topics } => {
                some(&topics)?;
                let selection = Selection::new(topics, false, &self.ctx)?;
                Arc::new(StreamSource::captured(self.reading(), self.ownership(), selection, &self.ctx))
            }
            SourceKind::CoreNats { topics } => {
                some(&topics)?;
                Arc::new(CoreSource::new(self.reading(), Selection::new(topics, false, &self.ctx)?, &self.ctx))
            }
            _ => return Err(SourceError::Config("this broker is NATS; the route reads another kind".to_owned())),
        })
    }

    fn sink(&self, spec: SinkSpec) -> Result<Arc<dyn Sink>, SinkError> {
        let streams = match spec.sink {
            SinkKind::JetStream => true,
            SinkKind::CoreNats => false,
            _ => return Err(SinkError::Config("this broker is NATS; the route writes another kind".to_owned())),
        };
        let once = (spec.guarantee == Guarantee::EffectivelyOnce).then_some(self.window_min);
        if once.is_some() && !streams {
            return Err(SinkError::Config(
                "core NATS confirms nothing, so nothing is written effectively once".to_owned(),
            ));
        }
        let (link, create_streams) = (self.writing.clone(), self.access.create_streams());
        Ok(Arc::new(NatsSink { link, streams, create_streams, once, memories: self.memories.clone() }))
    }

    fn parking(&self) -> Option<Arc<dyn Parking>> {
        Some(Arc::new(StreamParking { link: self.writing.clone() }))
    }

    /// Hands our shards to the other routers of the region at once.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async {
            if let Some(ownership) = self.ownership.get() {
                ownership.leave().await;
            }
        })
    }
}
