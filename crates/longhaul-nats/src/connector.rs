//! The connector: one NATS cluster, with a connection for writing and, once something is read, one for reading.
//!
//! They are two so that a flood of what is read never stands before acknowledgements of what is written, and so that a message that the
//! client cannot read takes down nothing but readers.

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
        let (reading, memories) = (OnceLock::new(), Arc::default());
        Ok(Arc::new(Self { ctx, access, runtime, board, writing, reading, memories, window_min }))
    }

    fn reading(&self) -> Arc<Link> {
        let _inside = self.runtime.enter();
        self.reading.get_or_init(|| Arc::new(Link::start(self.access.clone(), self.board.report()))).clone()
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
                Arc::new(StreamSource::named(self.reading(), &stream, selection))
            }
            SourceKind::JetStream { stream: None, topics } => {
                some(&topics)?;
                Arc::new(StreamSource::found(self.reading(), Selection::new(topics, false, &self.ctx)?))
            }
            SourceKind::NatsCapture { topics } => {
                some(&topics)?;
                Arc::new(StreamSource::captured(self.reading(), Selection::new(topics, false, &self.ctx)?, &self.ctx))
            }
            SourceKind::CoreNats { topics } => {
                some(&topics)?;
                Arc::new(CoreSource::new(self.reading(), Selection::new(topics, false, &self.ctx)?))
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
}
