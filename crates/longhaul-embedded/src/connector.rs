//! The embedded broker as a whole: its log, its listener, and the port to them.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use longhaul_broker::{
    Connector, Context, Health, Parking, Sink, SinkError, SinkSpec, Source, SourceError, SourceSpec,
};
use longhaul_topology::{SinkKind, SourceKind};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::log::{Log, LogOptions};
use crate::parking::LogParking;
use crate::retain::Retention;
use crate::sink::LogSink;
use crate::source::LogSource;
use crate::{EmbeddedError, clock, http};

/// How often age and a failed store are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How long requests under way are waited for when the broker stops.
const STOP_MAX: Duration = Duration::from_secs(5);

/// A running embedded broker. Dropping it ends it as well, without waiting; its sources and sinks end with it.
pub struct Embedded {
    log: Arc<Log>,
    refused: Arc<http::Refused>,
    local_addr: SocketAddr,
    closing: watch::Sender<bool>,
    tasks: Mutex<Option<Tasks>>,
}

struct Tasks {
    server: JoinHandle<()>,
    ticker: JoinHandle<()>,
}

impl Embedded {
    /// Opens the store, binds the listener and serves.
    ///
    /// # Errors
    /// [`EmbeddedError`]: a busy address, a folder that cannot be used, a store in use or damaged. Nothing is left running.
    pub async fn start(cfg: &longhaul_config::Embedded, ctx: Context) -> Result<Arc<Self>, EmbeddedError> {
        let listener = TcpListener::bind(cfg.listen).await;
        let listener = listener.map_err(|source| EmbeddedError::Listen { addr: cfg.listen, source })?;
        let bound = listener.local_addr();
        let local_addr = bound.map_err(|source| EmbeddedError::Listen { addr: cfg.listen, source })?;
        let options = LogOptions {
            retention: Retention::new(cfg.retain_age, cfg.retain_bytes),
            cluster: ctx.cluster,
            event_bytes_max: ctx.event_bytes_max,
        };
        let log = Log::open(&cfg.data, options).await?;
        let (closing, closed) = watch::channel(false);
        let refused = Arc::<http::Refused>::default();
        let tasks = Tasks {
            server: tokio::spawn(http::serve(listener, Arc::clone(&log), Arc::clone(&refused), closed)),
            ticker: tokio::spawn(tick(Arc::clone(&log))),
        };
        let extent = log.extent();
        tracing::info!(
            broker = ctx.broker, listen = %local_addr, data = %cfg.data.display(), first = extent.first, next = extent.next,
            "the embedded broker serves"
        );
        Ok(Arc::new(Self { log, refused, local_addr, closing, tasks: Mutex::new(Some(tasks)) }))
    }

    /// Where it listens, with the port that the system chose when 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Ends subscriptions, lets requests under way finish (5 s at most), and closes the store. When it returns, the address
    /// and the folder are free. A second call does nothing.
    pub async fn stop(&self) {
        self.closing.send_replace(true);
        let tasks = self.take_tasks();
        if let Some(Tasks { mut server, ticker }) = tasks {
            ticker.abort();
            if tokio::time::timeout(STOP_MAX, &mut server).await.is_err() {
                server.abort();
            }
        }
        self.log.stop().await;
    }

    fn take_tasks(&self) -> Option<Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.closing.send_replace(true);
        if let Some(tasks) = self.take_tasks() {
            tasks.ticker.abort();
            tasks.server.abort();
        }
        self.log.stop_soon();
    }
}

async fn tick(log: Arc<Log>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if log.tick(clock::now_ms()).await.is_err() {
            return;
        }
    }
}

impl Connector for Embedded {
    fn health(&self) -> watch::Receiver<Health> {
        self.log.health()
    }

    fn source(&self, spec: SourceSpec) -> Result<Arc<dyn Source>, SourceError> {
        match spec.source {
            SourceKind::Embedded { topics } => Ok(Arc::new(LogSource::new(Arc::clone(&self.log), topics))),
            other => Err(SourceError::Config(format!("an embedded broker cannot read {other:?}"))),
        }
    }

    fn sink(&self, spec: SinkSpec) -> Result<Arc<dyn Sink>, SinkError> {
        match spec.sink {
            SinkKind::Embedded => Ok(Arc::new(LogSink::new(Arc::clone(&self.log)))),
            other => Err(SinkError::Config(format!("an embedded broker cannot write {other:?}"))),
        }
    }

    fn refused_requests(&self) -> Vec<(u16, u64)> {
        self.refused.counts()
    }

    fn parking(&self) -> Option<Arc<dyn Parking>> {
        Some(Arc::new(LogParking::new(Arc::clone(&self.log))))
    }

    /// Publishers whose events were taken are told so, instead of having to publish them again.
    fn close(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.stop())
    }
}
