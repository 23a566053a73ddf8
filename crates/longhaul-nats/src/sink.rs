//! Sinks: open a flow, find its cursor, write.
//!
//! Two writers of one flow inside this router follow each other: the second waits until what the first had under way is settled. Two in
//! different routers notice each other at the cursor.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_broker::{Opened, Sink, SinkError, Writer};
use longhaul_event::{Event, FlowId, Position};
use longhaul_topology::FlowKey;
use tokio::sync::{mpsc, oneshot};

use crate::api::ApiError;
use crate::catalog::Catalog;
use crate::client::{Link, Session};
use crate::cursor::Cursor;
use crate::publish::{Job, Publisher};

/// Writes under way at most; the caller's credit is far below.
const WRITES_MAX: usize = 16_384;
/// How long an open waits for an earlier writer of the same flow to settle.
const SETTLE_MAX: Duration = Duration::from_secs(15);

/// What a flow's writers leave for the next one.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Tells message ids apart from those of earlier writers when a later event may stand before an earlier one.
    pub(crate) salt: u64,
    /// Events to write one at a time, for a refusal to be about one event only.
    pub(crate) careful: u32,
}

/// The memories of all flows that this connector ever wrote, whatever sink opened them; flows are declared and few.
#[derive(Debug, Default)]
pub(crate) struct Memories(Mutex<HashMap<FlowId, Arc<tokio::sync::Mutex<Memory>>>>);

impl Memories {
    fn of(&self, flow: FlowId) -> Arc<tokio::sync::Mutex<Memory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(flow).or_default().clone()
    }
}

/// Writes to streams, or to core NATS.
pub(crate) struct NatsSink {
    link: Arc<Link>,
    streams: bool,
    create_streams: bool,
    memories: Arc<Memories>,
}

impl NatsSink {
    /// A sink to streams, or else to core NATS.
    pub(crate) fn new(link: Arc<Link>, streams: bool, create_streams: bool, memories: Arc<Memories>) -> Self {
        Self { link, streams, create_streams, memories }
    }

    async fn open_flow(&self, flow: &FlowKey) -> Result<Opened, SinkError> {
        let memory = tokio::time::timeout(SETTLE_MAX, self.memories.of(flow.id()).lock_owned()).await;
        let memory =
            memory.map_err(|_| SinkError::Transient("an earlier writer of this flow is not done".to_owned()))?;
        let session = self.link.session().await?;
        let cursor = Cursor::of(&session, flow);
        let (cursor, found) = match cursor.take(&session).await {
            Ok((found, revision)) => (Some((cursor, Arc::new(AtomicU64::new(revision)))), found),
            Err(error) if self.streams => return Err(error),
            // Core NATS without JetStream has no place for a cursor: at most once needs none.
            Err(_) if self.has_no_streams(&session).await => (None, None),
            Err(error) => return Err(error),
        };
        let catalog = self.catalog(&session).await;
        let (jobs, queue) = mpsc::channel(WRITES_MAX);
        let spent = Arc::new(AtomicBool::new(false));
        let publisher = Publisher::new(session.clone(), catalog, self.create_streams, memory, spent.clone()).await?;
        tokio::spawn(publisher.run(queue));
        Ok(Opened { writer: Box::new(NatsWriter { session, jobs, spent, cursor }), cursor: found })
    }

    async fn has_no_streams(&self, session: &Session) -> bool {
        matches!(session.streams().await, Err(ApiError::NoJetStream | ApiError::Refused { .. }))
    }

    /// `None` for core NATS. An account that may not list its streams is served with what it learns.
    async fn catalog(&self, session: &Session) -> Option<Catalog> {
        if !self.streams {
            return None;
        }
        Some(Catalog::new(session.streams().await.ok().flatten().unwrap_or_default()))
    }
}

impl Sink for NatsSink {
    fn open<'a>(&'a self, flow: &'a FlowKey, _: Option<u32>) -> BoxFuture<'a, Result<Opened, SinkError>> {
        Box::pin(self.open_flow(flow))
    }
}

/// Hands events to the flow's publisher.
struct NatsWriter {
    session: Session,
    jobs: mpsc::Sender<Job>,
    spent: Arc<AtomicBool>,
    cursor: Option<(Cursor, Arc<AtomicU64>)>,
}

fn spent() -> SinkError {
    SinkError::Transient("this writer failed already; the flow must be opened again".to_owned())
}

impl Writer for NatsWriter {
    fn write(&mut self, events: Vec<Event>) -> BoxFuture<'static, Result<(), SinkError>> {
        let (done, told) = oneshot::channel();
        if self.jobs.try_send(Job { events, done }).is_err() {
            self.spent.store(true, Ordering::Release);
            return std::future::ready(Err(spent())).boxed();
        }
        async move { told.await.unwrap_or_else(|_| Err(spent())) }.boxed()
    }

    fn commit(&mut self, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>> {
        let (session, is_spent) = (self.session.clone(), self.spent.clone());
        let Some((key, revision)) = self.cursor.clone() else { return std::future::ready(Ok(())).boxed() };
        async move {
            if is_spent.load(Ordering::Acquire) {
                return Err(spent());
            }
            let put = key.put(&session, Some(cursor), revision.load(Ordering::Acquire)).await;
            match put {
                Ok(next) => {
                    revision.store(next, Ordering::Release);
                    Ok(())
                }
                Err(error) => {
                    is_spent.store(true, Ordering::Release);
                    Err(error)
                }
            }
        }
        .boxed()
    }
}
