//! Writes one flow effectively once, in atomic batches that each end with the flow's cursor.
//!
//! A stream takes part when it has `allow_atomic` (servers since 2.12) and holds the subjects `$LONGHAUL.cursor.<its name>.>`. The server
//! stores a batch whole or not at all, and only if the cursor before it is the one that this writer wrote or found: that is the fence
//! against every other writer of the flow, however late it wakes. So exactness depends on no window of time, and no event is refused
//! without its neighbours: what is there is always what the cursor says. One batch is under way at a time, for the next one names the
//! sequence of its cursor; what waits meanwhile goes together.
//!
//! Without such a stream the flow is written by [`publish`](crate::publish) with message ids. A flow is one or the other, by the stream of
//! its first event; a route that mixes both is refused. It refuses nothing about time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_nats::{HeaderMap, StatusCode, Subscriber};
use futures::StreamExt;
use longhaul_broker::{Poison, SinkError};
use longhaul_event::{Event, Position};
use serde::Deserialize;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};

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
    pub(crate) inbox: String,
    pub(crate) acks: Subscriber,
    /// Batches so far; the last token of a reply.
    pub(crate) count: u64,
}

type Done = oneshot::Sender<Result<(), SinkError>>;

/// Events of one stream, in order, and what is done when they are stored.
#[derive(Default)]
struct Batch {
    stream: usize,
    messages: Vec<Outgoing>,
    bytes: usize,
    /// Where the flow stands behind it.
    cursor: Option<Position>,
    /// Jobs that end with it.
    done: Vec<Done>,
    /// The event in it, when it holds one only: whose fault a refusal is.
    only: Option<u64>,
}

#[derive(Deserialize)]
struct BatchAck {
    seq: u64,
}

impl Batches {
    /// Works until the writer is dropped or something fails. `first` is the job by which the way was chosen.
    pub(crate) async fn run(mut self, first: Job, mut jobs: mpsc::Receiver<Job>) {
        let mut next = Some(first);
        let mut batch = Batch::default();
        while let Some(job) = next {
            // A writer that was dropped sends no more.
            let ended = jobs.is_closed() || self.spent.load(Ordering::Acquire);
            let added = if ended { Err(given_up()) } else { self.add(&mut batch, job).await };
            let waits = jobs.try_recv().ok();
            let flushed = match (&added, &waits) {
                (Ok(()), Some(_)) => Ok(()),
                (Ok(()), None) => self.flush(&mut batch).await,
                (Err(_), _) => Ok(()),
            };
            if added.and(flushed).is_err() {
                self.spent.store(true, Ordering::Release);
                jobs.close();
                return;
            }
            next = match waits {
                Some(job) => Some(job),
                None => jobs.recv().await,
            };
        }
    }

    /// Adds a job's events, sending whole batches on the way. A failure is told to the first job that it concerns.
    async fn add(&mut self, batch: &mut Batch, job: Job) -> Result<(), SinkError> {
        let Job { events, cursor, done, .. } = job;
        let incarnation = cursor.map_or(0, |cursor| cursor.incarnation);
        for event in events {
            match self.prepare(&event).await {
                Ok((stream, out)) => {
                    let full = batch.messages.len() >= self.events_max() || batch.bytes + out.bytes() > BATCH_BYTES_MAX;
                    if !batch.messages.is_empty()
                        && (full || batch.stream != stream)
                        && let Err(error) = self.flush(batch).await
                    {
                        let _ = done.send(Err(error.clone()));
                        return Err(error);
                    }
                    batch.add(stream, out, Position { incarnation, offset: event.offset });
                }
                Err(error) => {
                    let error = self.flush(batch).await.err().unwrap_or(error);
                    let _ = done.send(Err(error.clone()));
                    return Err(error);
                }
            }
        }
        if batch.messages.is_empty() {
            let _ = done.send(Ok(()));
        } else {
            batch.cursor = cursor;
            batch.done.push(done);
        }
        Ok(())
    }

    fn events_max(&self) -> usize {
        if self.memory.careful > 0 { 1 } else { BATCH_EVENTS_MAX }
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

    /// Sends the batch, waits until it is stored, and tells its jobs; it is empty then.
    async fn flush(&mut self, batch: &mut Batch) -> Result<(), SinkError> {
        let mut batch = std::mem::take(batch);
        let Some(cursor) = batch.cursor.filter(|_| !batch.messages.is_empty()) else { return Ok(()) };
        let done = std::mem::take(&mut batch.done);
        let stored = self.store(batch, cursor).await;
        for done in done {
            let _ = done.send(stored.clone());
        }
        stored
    }

    async fn store(&mut self, batch: Batch, cursor: Position) -> Result<(), SinkError> {
        if self.spent.load(Ordering::Acquire) {
            return Err(given_up());
        }
        let name = self.catalog.streams()[batch.stream].name.clone();
        let fence = self.fences.get(&name).ok_or_else(|| SinkError::Config(mixed(&name)))?;
        self.count += 1;
        let id = format!("{}-{}", self.inbox.rsplit('.').next().unwrap_or_default(), self.count);
        let number = self.number.load(Ordering::Acquire) + 1;
        let (events, only) = (batch.messages.len(), batch.only);
        let lost = |e: async_nats::PublishError| SinkError::Transient(format!("a batch was not sent: {e}"));
        let client = &self.session.client;
        for (at, out) in batch.messages.into_iter().enumerate() {
            let mut headers = out.headers;
            in_batch(&mut headers, &id, at + 1);
            client.publish_with_headers(out.subject, headers, out.payload).await.map_err(lost)?;
        }
        let (subject, mut headers, body) = fence.cursor.message(cursor, number, fence.revision);
        in_batch(&mut headers, &id, events + 1);
        headers.insert("Nats-Batch-Commit", "1");
        let reply = format!("{}.{}", self.inbox, self.count);
        client.publish_with_reply_and_headers(subject, reply, headers, body.into()).await.map_err(lost)?;
        match self.answer().await? {
            Ok(ack) => {
                if let Some(fence) = self.fences.get_mut(&name) {
                    fence.revision = ack.seq;
                }
                self.number.store(number, Ordering::Release);
                self.memory.careful = self.memory.careful.saturating_sub(u32::try_from(events).unwrap_or(u32::MAX));
                Ok(())
            }
            Err(error) => Err(self.refused(&name, only, error)),
        }
    }

    /// The answer to the batch that was sent last.
    async fn answer(&mut self) -> Result<Result<BatchAck, ApiError>, SinkError> {
        loop {
            let ack = tokio::time::timeout(ACK_MAX, self.acks.next()).await;
            let ack = ack.map_err(|_| match self.session.permission_error() {
                Some(text) => SinkError::Config(format!("NATS does not let us publish: {text}")),
                None => SinkError::Transient(format!("no answer to a batch within {ACK_MAX:?}")),
            })?;
            let ack = ack.ok_or_else(|| SinkError::Transient("the connection to NATS was lost".to_owned()))?;
            if ack.subject.rsplit('.').next().and_then(|text| text.parse().ok()) != Some(self.count) {
                continue;
            }
            if ack.status == Some(StatusCode::NO_RESPONDERS) {
                return Ok(Err(ApiError::NoJetStream));
            }
            return Ok(api::read("answer to a batch", &ack.payload));
        }
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

impl Batch {
    fn add(&mut self, stream: usize, out: Outgoing, at: Position) {
        self.stream = stream;
        self.bytes += out.bytes();
        self.only = self.messages.is_empty().then_some(at.offset);
        self.messages.push(out);
        self.cursor = Some(at);
    }
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
