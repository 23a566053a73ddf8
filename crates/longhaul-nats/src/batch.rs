//! Writes one flow effectively once, in atomic batches that each end with the flow's cursor.
//!
//! A stream takes part when it has `allow_atomic` (servers since 2.12) and holds the subjects `$LONGHAUL.cursor.<its name>.>`. The server
//! stores a batch whole or not at all, and only if the cursor before it is the one that this writer wrote or found: that is the fence
//! against every other writer of the flow, however late it wakes. So exactness depends on no window of time, and no event is refused
//! without its neighbours: what is there is always what the cursor says. One commit is under way at a time, for the next one names the
//! sequence of its cursor; meanwhile the next batch is filled:
//!
//! ```text
//! jobs -> open batch, sent as it comes -> committing, one message with the cursor -> answered: its jobs are told
//! ```
//!
//! Without such a stream the flow is written by [`publish`](crate::publish) with message ids. A flow is one or the other, by the stream of
//! its first event; a route that mixes both is refused. It refuses nothing about time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::{HeaderMap, StatusCode, Subscriber};
use futures::StreamExt;
use longhaul_broker::{Poison, SinkError};
use longhaul_event::{Event, Position};
use serde::Deserialize;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::api::{self, ApiError};
use crate::catalog::Catalog;
use crate::client::Session;
use crate::cursor::{Cursor, is_fenced};
use crate::map::{self, Dedup, Outgoing};
use crate::publish::{self, ACK_MAX, CAREFUL_EVENTS, HEADER_BYTES_MAX, Job, TOO_LARGE};
use crate::sink::Memory;

/// Events in one batch at most: the server takes 1,000 messages, one of which is the cursor.
const BATCH_EVENTS_MAX: usize = 999;
/// Bytes in one batch at most; a larger event goes alone.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Batches of one stream that the flows of this router have open at most.
const OPEN_MAX: usize = 20;
/// What the headers of a batch add to a message, at most.
const BATCH_HEADER_BYTES: usize = 160;
/// The server's numbers for a batch that it gave up, or has no room for now.
const PASSES: [u64; 2] = [10176, 10210];

/// A cursor in a stream and its sequence there.
pub(crate) struct Fence {
    /// The cursor's place.
    pub(crate) cursor: Cursor,
    /// The sequence that the next batch replaces.
    pub(crate) revision: u64,
}

/// Writes one flow until it fails or is not wanted any more.
pub(crate) struct Batches {
    pub(crate) session: Session,
    pub(crate) catalog: Catalog,
    pub(crate) create_streams: bool,
    /// By the stream's name.
    pub(crate) fences: HashMap<String, Fence>,
    pub(crate) memory: OwnedMutexGuard<Memory>,
    pub(crate) spent: Arc<AtomicBool>,
    /// The number of the last cursor that is stored.
    pub(crate) number: Arc<AtomicU64>,
    /// How many batches all flows of this router may have open.
    pub(crate) open_batches: Arc<OpenBatches>,
    pub(crate) inbox: String,
    pub(crate) acks: Subscriber,
    /// Batches so far; part of their names.
    pub(crate) batches: u64,
    /// Commits so far; the last token of a reply.
    pub(crate) count: u64,
    /// When the last commit was sent.
    pub(crate) asked: Instant,
    pub(crate) open: Option<Batch>,
    pub(crate) committing: Option<Batch>,
}

/// Batches that may be open in each stream; the server takes 50 in all, of several routers.
#[derive(Debug, Default)]
pub(crate) struct OpenBatches(Mutex<HashMap<String, Arc<Semaphore>>>);

impl OpenBatches {
    fn of(&self, stream: &str) -> Arc<Semaphore> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(stream.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(OPEN_MAX))).clone()
    }
}

type Done = oneshot::Sender<Result<(), SinkError>>;

/// Events of one stream that are sent, in order, and what is done when they are stored.
pub(crate) struct Batch {
    id: String,
    stream: usize,
    events: usize,
    bytes: usize,
    /// Where the flow stands behind it.
    cursor: Position,
    /// Jobs that end with it.
    done: Vec<Done>,
    /// The first event: whose fault a refusal is when it is the only one.
    first: u64,
    _permit: OwnedSemaphorePermit,
}

#[derive(Deserialize)]
struct BatchAck {
    seq: u64,
}

impl Batches {
    /// Works until the writer is dropped or something fails. `first` is the job by which the way was chosen.
    pub(crate) async fn run(mut self, first: Job, mut jobs: mpsc::Receiver<Job>) {
        let Err(error) = self.work(first, &mut jobs).await else { return };
        self.spent.store(true, Ordering::Release);
        jobs.close();
        // The next writer of the flow must find what this one has asked for.
        let _ = self.settled().await;
        let under_way = [self.committing.take(), self.open.take()];
        for batch in under_way.into_iter().flatten() {
            self.abandon(&batch).await;
            for done in batch.done {
                let _ = done.send(Err(error.clone()));
            }
        }
    }

    async fn work(&mut self, first: Job, jobs: &mut mpsc::Receiver<Job>) -> Result<(), SinkError> {
        let mut next = Some(first);
        loop {
            if let Some(job) = next.take() {
                self.add(job, jobs.is_closed()).await?;
            }
            // What waits already goes together.
            if let Ok(job) = jobs.try_recv() {
                next = Some(job);
                continue;
            }
            if self.committing.is_none() && self.open.is_some() {
                self.commit().await?;
            }
            next = if self.committing.is_some() {
                tokio::select! {
                    biased;
                    ack = answer(&mut self.acks, &self.session, self.asked, self.count) => {
                        self.settle(ack?)?;
                        None
                    }
                    job = jobs.recv() => match job {
                        Some(job) => Some(job),
                        None => {
                            self.settled().await?;
                            return Err(given_up());
                        }
                    }
                }
            } else {
                match jobs.recv().await {
                    Some(job) => Some(job),
                    None => return Ok(()),
                }
            };
        }
    }

    /// Sends a job's events, ending batches on the way. A failure is told to the first job that it concerns.
    async fn add(&mut self, job: Job, dropped: bool) -> Result<(), SinkError> {
        let Job { events, cursor, done, .. } = job;
        let sent = if dropped { Err(given_up()) } else { self.send_all(events, cursor).await };
        match (sent, &mut self.open) {
            (Ok(()), Some(open)) => open.done.push(done),
            (Ok(()), None) => drop(done.send(Ok(()))),
            (Err(error), _) => {
                drop(done.send(Err(error.clone())));
                return Err(error);
            }
        }
        Ok(())
    }

    async fn send_all(&mut self, events: Vec<Event>, cursor: Option<Position>) -> Result<(), SinkError> {
        let cursor = cursor.ok_or_else(given_up)?;
        for event in events {
            match self.prepare(&event).await {
                Ok((stream, out)) => self.send(stream, out, Position { offset: event.offset, ..cursor }).await?,
                Err(error) => {
                    self.flush().await?;
                    return Err(error);
                }
            }
        }
        if let Some(open) = &mut self.open {
            open.cursor = cursor;
        }
        Ok(())
    }

    /// Sends one event in the open batch, or in a new one when that is full or of another stream.
    async fn send(&mut self, stream: usize, out: Outgoing, at: Position) -> Result<(), SinkError> {
        let events_max = if self.memory.careful > 0 { 1 } else { BATCH_EVENTS_MAX };
        let fits = |open: &Batch| {
            open.stream == stream && open.events < events_max && open.bytes + out.bytes() <= BATCH_BYTES_MAX
        };
        if self.open.as_ref().is_some_and(|open| !fits(open)) {
            self.settled().await?;
            self.commit().await?;
        }
        if self.open.is_none() {
            let permit = self.permit(stream).await?;
            self.batches += 1;
            let id = format!("{}-{}", self.inbox.rsplit('.').next().unwrap_or_default(), self.batches);
            let (done, first) = (Vec::new(), at.offset);
            self.open = Some(Batch { id, stream, events: 0, bytes: 0, cursor: at, done, first, _permit: permit });
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.events += 1;
        open.bytes += out.bytes();
        open.cursor = at;
        let mut headers = out.headers;
        in_batch(&mut headers, &open.id, open.events);
        self.session.client.publish_with_headers(out.subject, headers, out.payload).await.map_err(|e| lost(&e))
    }

    /// The right to have one more batch open in a stream.
    async fn permit(&mut self, stream: usize) -> Result<OwnedSemaphorePermit, SinkError> {
        let open = self.open_batches.of(&self.catalog.streams()[stream].name);
        if let Ok(permit) = open.clone().try_acquire_owned() {
            return Ok(permit);
        }
        // Whoever waits holds none: the others come to their ends.
        self.settled().await?;
        let permit = tokio::time::timeout(ACK_MAX, open.acquire_owned()).await;
        let busy = || SinkError::Transient("the stream has as many batches open as it can".to_owned());
        permit.ok().and_then(Result::ok).ok_or_else(busy)
    }

    /// Commits what is open and waits until all is stored.
    async fn flush(&mut self) -> Result<(), SinkError> {
        self.settled().await?;
        self.commit().await?;
        self.settled().await
    }

    /// Waits for the answer that is due.
    async fn settled(&mut self) -> Result<(), SinkError> {
        if self.committing.is_none() {
            return Ok(());
        }
        let ack = answer(&mut self.acks, &self.session, self.asked, self.count).await?;
        self.settle(ack)
    }

    /// Ends the open batch with its cursor. None is committing.
    async fn commit(&mut self) -> Result<(), SinkError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        if self.spent.load(Ordering::Acquire) {
            self.open = Some(open);
            return Err(given_up());
        }
        let name = &self.catalog.streams()[open.stream].name;
        let fence = self.fences.get(name).ok_or_else(|| SinkError::Config(mixed(name)))?;
        let number = self.number.load(Ordering::Acquire) + 1;
        let (subject, mut headers, body) = fence.cursor.message(open.cursor, number, fence.revision);
        in_batch(&mut headers, &open.id, open.events + 1);
        headers.insert("Nats-Batch-Commit", "1");
        self.count += 1;
        let reply = format!("{}.{}", self.inbox, self.count);
        self.committing = Some(open);
        self.asked = Instant::now();
        let sent = self.session.client.publish_with_reply_and_headers(subject, reply, headers, body.into()).await;
        sent.map_err(|e| lost(&e))
    }

    /// Takes the answer to the commit that is under way, and tells its jobs.
    fn settle(&mut self, ack: Result<BatchAck, ApiError>) -> Result<(), SinkError> {
        let Some(batch) = self.committing.take() else { return Ok(()) };
        let name = self.catalog.streams()[batch.stream].name.clone();
        let stored = match ack {
            Ok(ack) => {
                if let Some(fence) = self.fences.get_mut(&name) {
                    fence.revision = ack.seq;
                }
                self.number.fetch_add(1, Ordering::AcqRel);
                let events = u32::try_from(batch.events).unwrap_or(u32::MAX);
                self.memory.careful = self.memory.careful.saturating_sub(events);
                Ok(())
            }
            Err(error) => Err(self.refused(&name, (batch.events == 1).then_some(batch.first), error)),
        };
        for done in batch.done {
            let _ = done.send(stored.clone());
        }
        stored
    }

    /// Lets the server forget a batch at once; it would by itself after 10 s.
    async fn abandon(&self, batch: &Batch) {
        let name = &self.catalog.streams()[batch.stream].name;
        let Some(fence) = self.fences.get(name) else { return };
        let (subject, mut headers, _) = fence.cursor.message(batch.cursor, 0, u64::MAX);
        in_batch(&mut headers, &batch.id, batch.events + 1);
        headers.insert("Nats-Batch-Commit", "no");
        let _ = self.session.client.publish_with_headers(subject, headers, "".into()).await;
    }

    /// Maps an event and finds its stream.
    async fn prepare(&mut self, event: &Event) -> Result<(usize, Outgoing), SinkError> {
        let poison = |(kind, reason)| SinkError::Poison { offset: event.offset, kind, reason };
        let out = map::to_message(event, Dedup::Off).map_err(poison)?;
        let topic = &event.topic;
        let Some(stream) = self.catalog.place(topic) else {
            return Err(publish::no_stream(&self.session, topic, self.create_streams, true).await);
        };
        let config = &self.catalog.streams()[stream];
        if !self.fences.contains_key(&config.name) {
            return Err(SinkError::Config(mixed(&config.name)));
        }
        let stream_max = usize::try_from(config.max_msg_size).ok().filter(|max| *max > 0).unwrap_or(usize::MAX);
        let (bytes, max) = (out.bytes() + BATCH_HEADER_BYTES, self.session.client.max_payload().min(stream_max));
        if bytes > max {
            let reason =
                format!("with its headers it has {bytes} bytes, the server or stream {} takes {max}", config.name);
            return Err(poison((Poison::TooLarge, reason)));
        }
        if out.header_bytes + BATCH_HEADER_BYTES > HEADER_BYTES_MAX {
            let reason = format!("its headers have {} bytes, NATS stores 64 KiB", out.header_bytes);
            return Err(poison((Poison::TooLarge, reason)));
        }
        Ok((stream, out))
    }

    /// A refusal by the server: nothing of the batch is there. About one event it is that event's; else the flow goes on one at a time.
    fn refused(&mut self, stream: &str, only: Option<u64>, error: ApiError) -> SinkError {
        match (error, only) {
            (error, _) if is_fenced(&error) => self.fences[stream].cursor.fenced(),
            (ApiError::Refused { code: 400..=499, err_code, text }, Some(offset)) if !PASSES.contains(&err_code) => {
                let kind = if TOO_LARGE.contains(&err_code) { Poison::TooLarge } else { Poison::Refused };
                SinkError::Poison { offset, kind, reason: format!("stream {stream} refuses it: {text} ({err_code})") }
            }
            (error, _) => {
                if matches!(&error, ApiError::Refused { code: 400..=499, err_code, .. } if !PASSES.contains(err_code)) {
                    self.memory.careful = CAREFUL_EVENTS;
                }
                SinkError::Transient(format!("stream {stream} did not store a batch: {error}"))
            }
        }
    }
}

/// The answer to the last commit, which was sent then.
async fn answer(
    acks: &mut Subscriber,
    session: &Session,
    asked: Instant,
    count: u64,
) -> Result<Result<BatchAck, ApiError>, SinkError> {
    loop {
        let ack = tokio::time::timeout_at(asked + ACK_MAX, acks.next()).await;
        let ack = ack.map_err(|_| match session.permission_error() {
            Some(text) => SinkError::Config(format!("NATS does not let us publish: {text}")),
            None => SinkError::Transient(format!("no answer to a batch within {ACK_MAX:?}")),
        })?;
        let ack = ack.ok_or_else(|| SinkError::Transient("the connection to NATS was lost".to_owned()))?;
        if ack.subject.rsplit('.').next().and_then(|text| text.parse().ok()) != Some(count) {
            continue;
        }
        if ack.status == Some(StatusCode::NO_RESPONDERS) {
            return Ok(Err(ApiError::NoJetStream));
        }
        return Ok(api::read("answer to a batch", &ack.payload));
    }
}

fn lost(error: &async_nats::PublishError) -> SinkError {
    SinkError::Transient(format!("a batch was not sent: {error}"))
}

fn in_batch(headers: &mut HeaderMap, id: &str, sequence: usize) {
    headers.insert("Nats-Batch-Id", id);
    headers.insert("Nats-Batch-Sequence", sequence.to_string());
}

fn given_up() -> SinkError {
    SinkError::Transient("the writer was given up".to_owned())
}

/// What a route is told that writes to streams of both kinds.
pub(crate) fn mixed(stream: &str) -> String {
    format!(
        "stream {stream} takes no atomic batches with cursors while another stream of the same route does: give it allow_atomic and the \
         subject {}{stream}.>, or take them from the other",
        crate::cursor::IN_STREAM
    )
}
