//! Sinks: open a flow, find its cursor, write.
//!
//! Two writers of one flow inside this router follow each other: the second waits until what the first had under way is settled. Two in
//! different routers notice each other at the cursor.
//!
//! Effectively once is kept in one of two ways, chosen by the stream of a writer's first event: in atomic batches with the cursor among the
//! events ([`batch`](crate::batch)), or by message ids ([`once`](crate::once)).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_broker::{Opened, Sink, SinkError, Standing, Writer};
use longhaul_event::{Event, FlowId, Position};
use longhaul_topology::FlowKey;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::time::Instant;

use crate::api::ApiError;
use crate::batch::{Batches, Fence, OpenBatches};
use crate::catalog::Catalog;
use crate::client::{Link, Session};
use crate::cursor::{Cursor, FoundCursor};
use crate::once::Once;
use crate::publish::{self, Job, Publisher};
use crate::tail;

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
pub(crate) struct Memories {
    flows: Mutex<HashMap<FlowId, Arc<tokio::sync::Mutex<Memory>>>>,
    open_batches: Arc<OpenBatches>,
}

impl Memories {
    fn of(&self, flow: FlowId) -> Arc<tokio::sync::Mutex<Memory>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).entry(flow).or_default().clone()
    }
}

/// Writes to streams, or to core NATS.
pub(crate) struct NatsSink {
    pub(crate) link: Arc<Link>,
    pub(crate) streams: bool,
    pub(crate) create_streams: bool,
    /// Shortest duplicate window for effectively-once; `None` for what may come twice.
    pub(crate) once: Option<Duration>,
    pub(crate) memories: Arc<Memories>,
}

/// What an opened flow found and took over.
struct Taken {
    cursor: Cursor,
    revision: u64,
    found: FoundCursor,
    fences: HashMap<String, Fence>,
}

impl NatsSink {
    async fn open_flow(&self, flow: &FlowKey) -> Result<Opened, SinkError> {
        let memory = tokio::time::timeout(SETTLE_MAX, self.memories.of(flow.id()).lock_owned()).await;
        let memory =
            memory.map_err(|_| SinkError::Transient("an earlier writer of this flow is not done".to_owned()))?;
        let session = self.link.session().await?;
        let catalog = self.catalog(&session).await?;
        let taken = match take(&session, flow, catalog.as_ref()).await {
            Ok(taken) => Some(taken),
            Err(error) if self.streams => return Err(error),
            // Core NATS without JetStream has no place for a cursor: at most once needs none.
            Err(_) if self.has_no_streams(&session).await => None,
            Err(error) => return Err(error),
        };
        let found = taken.as_ref().and_then(|taken| taken.found.position);
        let spent = Arc::new(AtomicBool::new(false));
        let number = Arc::new(AtomicU64::new(taken.as_ref().map_or(0, |taken| taken.found.number)));
        let kept = taken.as_ref().map(|taken| (taken.cursor.clone(), Arc::new(AtomicU64::new(taken.revision))));
        let (jobs, queue) = mpsc::channel(WRITES_MAX);
        let writer = NatsWriter {
            session: session.clone(),
            jobs,
            spent: spent.clone(),
            cursor: kept,
            number: number.clone(),
            standing: Standing::default(),
            once: self.once.is_some(),
        };
        let (create_streams, open_batches) = (self.create_streams, self.memories.open_batches.clone());
        match (self.once, taken, catalog) {
            (Some(window_min), Some(taken), Some(catalog)) => {
                let way =
                    Way { session, catalog, taken, create_streams, window_min, memory, spent, number, open_batches };
                tokio::spawn(way.run(queue));
            }
            (_, _, catalog) => {
                let publisher = Publisher::new(session, catalog, create_streams, None, memory, spent).await?;
                tokio::spawn(publisher.run(None, queue));
            }
        }
        Ok(Opened { writer: Box::new(writer), cursor: found })
    }

    async fn has_no_streams(&self, session: &Session) -> bool {
        matches!(session.streams().await, Err(ApiError::NoJetStream | ApiError::Refused { .. }))
    }

    /// `None` for core NATS. An account that may not list its streams is served with what it learns, but not effectively once.
    async fn catalog(&self, session: &Session) -> Result<Option<Catalog>, SinkError> {
        if !self.streams {
            return Ok(None);
        }
        let listed = session.streams().await;
        if self.once.is_some() {
            let reason = "effectively-once needs a list of all streams, and this account has too many";
            let listed = listed?.ok_or_else(|| SinkError::Config(reason.to_owned()))?;
            return Ok(Some(Catalog::new(listed)));
        }
        Ok(Some(Catalog::new(listed.ok().flatten().unwrap_or_default())))
    }
}

/// Finds the cursor that counts, and writes it again everywhere, so that whoever wrote the flow before fails from now on.
async fn take(session: &Session, flow: &FlowKey, catalog: Option<&Catalog>) -> Result<Taken, SinkError> {
    Cursor::ensure(session).await?;
    let cursor = Cursor::of(session, flow);
    let mut found = cursor.get(session).await?;
    let over = found.revision;
    let mut fences = HashMap::new();
    for stream in catalog.map(Catalog::streams).unwrap_or_default() {
        let Some(within) = cursor.within(stream, flow) else { continue };
        let there = within.get(session).await?;
        fences.insert(stream.name.clone(), Fence { cursor: within, revision: there.revision });
        if there.position.is_some() && there.number >= found.number {
            found = there;
        }
    }
    for fence in fences.values_mut().filter(|fence| fence.revision != 0) {
        fence.revision = fence.cursor.take(session, &found, fence.revision).await?;
    }
    let revision = cursor.take(session, &found, over).await?;
    Ok(Taken { cursor, revision, found, fences })
}

impl Sink for NatsSink {
    fn open<'a>(&'a self, flow: &'a FlowKey, _: Option<u32>) -> BoxFuture<'a, Result<Opened, SinkError>> {
        Box::pin(self.open_flow(flow))
    }
}

/// All that writing effectively once needs, until the first event says in which way.
struct Way {
    session: Session,
    catalog: Catalog,
    taken: Taken,
    create_streams: bool,
    window_min: Duration,
    memory: OwnedMutexGuard<Memory>,
    spent: Arc<AtomicBool>,
    number: Arc<AtomicU64>,
    open_batches: Arc<OpenBatches>,
}

impl Way {
    async fn run(self, mut queue: mpsc::Receiver<Job>) {
        let Some(first) = queue.recv().await else { return };
        let Self { session, mut catalog, taken, create_streams, window_min, memory, spent, number, open_batches } =
            self;
        let place = first.events.first().and_then(|event| catalog.place(&event.topic));
        let in_batches = place.is_some_and(|at| taken.fences.contains_key(&catalog.streams()[at].name));
        let ended = spent.clone();
        let begun = if in_batches {
            publish::inbox(&session).await.map(|(inbox, acks)| {
                let batches = Batches {
                    session,
                    catalog,
                    create_streams,
                    fences: taken.fences,
                    memory,
                    spent,
                    number,
                    open_batches,
                    inbox,
                    acks,
                    batches: 0,
                    count: 0,
                    asked: Instant::now(),
                    open: None,
                    committing: None,
                };
                batches.run(first, queue).boxed()
            })
        } else {
            // A cursor that a stream may hold from another time does not count any more.
            number.fetch_add(1, Ordering::AcqRel);
            let once = Once::new(window_min, tail::since_ms(taken.found.since.as_deref()), taken.fences.into_keys());
            let publisher = Publisher::new(session, Some(catalog), create_streams, Some(once), memory, spent).await;
            publisher.map(|publisher| publisher.run(Some(first), queue).boxed())
        };
        match begun {
            Ok(work) => work.await,
            // Whoever waits is told by its reply that is dropped.
            Err(_) => ended.store(true, Ordering::Release),
        }
    }
}

/// Hands events to the flow's publisher.
struct NatsWriter {
    session: Session,
    jobs: mpsc::Sender<Job>,
    spent: Arc<AtomicBool>,
    cursor: Option<(Cursor, Arc<AtomicU64>)>,
    /// The number of the last cursor that is stored.
    number: Arc<AtomicU64>,
    standing: Standing,
    once: bool,
}

fn spent() -> SinkError {
    SinkError::Transient("this writer failed already; the flow must be opened again".to_owned())
}

impl NatsWriter {
    fn hand_over(&mut self, events: Vec<Event>, cursor: Option<Position>) -> BoxFuture<'static, Result<(), SinkError>> {
        if cursor.is_some() != self.once {
            let reason = "events go with their cursor to a sink for effectively-once, and to no other";
            return std::future::ready(Err(SinkError::Config(reason.to_owned()))).boxed();
        }
        let (done, told) = oneshot::channel();
        if self.jobs.try_send(Job { events, cursor, at: Instant::now(), done }).is_err() {
            self.spent.store(true, Ordering::Release);
            return std::future::ready(Err(spent())).boxed();
        }
        if let Some(cursor) = cursor {
            self.standing.sent(cursor);
        }
        async move { told.await.unwrap_or_else(|_| Err(spent())) }.boxed()
    }
}

impl Writer for NatsWriter {
    fn write(&mut self, events: Vec<Event>) -> BoxFuture<'static, Result<(), SinkError>> {
        self.hand_over(events, None)
    }

    fn write_with_cursor(&mut self, events: Vec<Event>, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>> {
        self.hand_over(events, Some(cursor))
    }

    fn commit(&mut self, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>> {
        let (session, is_spent) = (self.session.clone(), self.spent.clone());
        let Some((key, revision)) = self.cursor.clone() else { return std::future::ready(Ok(())).boxed() };
        // A cursor that stands beyond this one among the events keeps counting.
        let number = if self.standing.covers(cursor) {
            self.number.load(Ordering::Acquire)
        } else {
            self.standing.sent(cursor);
            self.number.fetch_add(1, Ordering::AcqRel) + 1
        };
        async move {
            if is_spent.load(Ordering::Acquire) {
                return Err(spent());
            }
            let put = key.put(&session, cursor, number, revision.load(Ordering::Acquire)).await;
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
