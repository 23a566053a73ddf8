//! The writer of one flow: a channel of its own, a lock on it, and a task that publishes in order and hears the confirmations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use lapin::types::ShortString;
use lapin::{Channel, Confirmation};
use longhaul_broker::{Poison, SinkError, Writer};
use longhaul_event::{Event, EventId, Position};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::fault::{Fault, message_bytes_max};
use crate::lock::Lock;
use crate::map::{self, Outgoing};
use crate::task::Task;
use crate::window::{Slot, Window, spent};
use crate::{cell, cursor, publish};

/// Most writes that wait for room on the channel. A caller that keeps to its credit never gets there.
const WAITING_MAX: usize = 1_024;
/// Largest message that any RabbitMQ takes as it is configured by default (4.x takes less and says so).
const MESSAGE_BYTES_MAX: usize = 134_217_728;
/// What the properties of a message may have beside key, headers and provenance.
const PROPERTIES_BYTES: usize = 4 * 1024;

/// What a destination takes at most; learnt from its refusals, shared by all its writers.
#[derive(Debug)]
pub(crate) struct Limits {
    message_bytes: AtomicUsize,
    /// Whether the broker counts properties too.
    is_whole: AtomicBool,
}

impl Limits {
    pub(crate) fn new() -> Self {
        Self { message_bytes: AtomicUsize::new(MESSAGE_BYTES_MAX), is_whole: AtomicBool::new(false) }
    }

    /// The broker named its limit. `some_larger` says whether a body alone explains the refusal.
    fn learn(&self, message_bytes: usize, some_larger: bool) {
        self.message_bytes.store(message_bytes, Ordering::Relaxed);
        if !some_larger {
            self.is_whole.store(true, Ordering::Relaxed);
        }
    }

    fn check(&self, event: &Event) -> Result<(), String> {
        let max = self.message_bytes.load(Ordering::Relaxed);
        let body = event.payload.as_ref().map_or(0, |payload| payload.len());
        let counted = if self.is_whole.load(Ordering::Relaxed) { event.size() + PROPERTIES_BYTES } else { body };
        if counted > max { Err(format!("RabbitMQ takes at most {max} bytes, this has {counted}")) } else { Ok(()) }
    }
}

/// Where a flow is written.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The exchange; empty for a queue.
    pub(crate) exchange: ShortString,
    /// The queue, where it is one.
    pub(crate) queue: Option<ShortString>,
    /// Whether that is a stream.
    pub(crate) is_stream: bool,
    /// What it takes.
    pub(crate) limits: Arc<Limits>,
}

/// Where and how the cursor of a flow is kept.
pub(crate) struct CursorCell {
    pub(crate) name: ShortString,
    /// The flow in words, for people who look at the queue.
    pub(crate) note: String,
}

type Reply = oneshot::Sender<Result<(), SinkError>>;
type Answer = BoxFuture<'static, Result<(), SinkError>>;

/// Messages that go out together: the events of one write, or a cursor, which is none.
struct Job {
    messages: Vec<(Option<(u64, EventId)>, Outgoing)>,
    refused: Option<SinkError>,
    reply: Reply,
}

/// The writer as its caller sees it.
pub(crate) struct FlowWriter {
    target: Target,
    cursor: CursorCell,
    frame_bytes_max: usize,
    jobs: mpsc::Sender<Job>,
    is_spent: bool,
    _task: Task,
}

impl FlowWriter {
    /// `channel` confirms, and holds the lock.
    pub(crate) fn start(
        runtime: &Handle,
        channel: Channel,
        lock: Lock,
        target: Target,
        cursor: CursorCell,
        frame_bytes_max: usize,
    ) -> Self {
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        let publisher = Publisher {
            channel: Arc::new(channel),
            lock,
            target: target.clone(),
            window: Window::new(),
            confirms: FuturesUnordered::new(),
        };
        let task = Task::spawn(runtime, publisher.run(waiting));
        Self { target, cursor, frame_bytes_max, jobs, is_spent: false, _task: task }
    }

    fn message(&self, event: &Event) -> Result<Outgoing, SinkError> {
        let refused = |(kind, reason)| SinkError::Poison { offset: event.offset, kind, reason };
        self.target.limits.check(event).map_err(|reason| refused((Poison::TooLarge, reason)))?;
        let beside_body = event.size() - event.payload.as_ref().map_or(0, |payload| payload.len());
        // Twice, as the names of repeated headers are told once more.
        if 2 * beside_body + PROPERTIES_BYTES > self.frame_bytes_max {
            let reason = format!(
                "key and headers have {beside_body} bytes, and one AMQP frame of {} must hold them twice",
                self.frame_bytes_max
            );
            return Err(refused((Poison::TooLarge, reason)));
        }
        match &self.target.queue {
            Some(stream) if self.target.is_stream => map::to_stream_message(event, stream),
            queue => map::to_message(event, queue.as_ref()),
        }
        .map_err(refused)
    }

    fn send(&mut self, job: Job, answer: oneshot::Receiver<Result<(), SinkError>>) -> Answer {
        if self.is_spent {
            return ended(spent());
        }
        match self.jobs.try_send(job) {
            Ok(()) => Box::pin(async move { answer.await.unwrap_or_else(|_| Err(spent())) }),
            Err(mpsc::error::TrySendError::Closed(_)) => ended(spent()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.is_spent = true;
                ended(SinkError::Transient(format!("more than {WAITING_MAX} writes wait for RabbitMQ")))
            }
        }
    }
}

fn ended(error: SinkError) -> Answer {
    Box::pin(std::future::ready(Err(error)))
}

impl Writer for FlowWriter {
    fn write(&mut self, events: Vec<Event>) -> Answer {
        let mut messages = Vec::with_capacity(events.len());
        let mut refused = None;
        for event in &events {
            match self.message(event) {
                Ok(message) => messages.push((Some((event.offset, event.id)), message)),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        let (reply, answer) = oneshot::channel();
        let is_last = refused.is_some();
        let answer = self.send(Job { messages, refused, reply }, answer);
        self.is_spent |= is_last;
        answer
    }

    fn commit(&mut self, position: Position) -> Answer {
        let message = Outgoing {
            routing_key: self.cursor.name.clone(),
            properties: cell::properties(&self.cursor.note),
            body: cursor::encode(position).into(),
        };
        let (reply, answer) = oneshot::channel();
        self.send(Job { messages: vec![(None, message)], refused: None, reply }, answer)
    }
}

/// The task behind a writer.
struct Publisher {
    channel: Arc<Channel>,
    lock: Lock,
    target: Target,
    window: Window<Reply>,
    confirms: FuturesUnordered<BoxFuture<'static, Confirmed>>,
}

type Confirmed = (u64, lapin::Result<Confirmation>);

impl Publisher {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while !self.window.is_spent() {
            tokio::select! {
                biased;
                Some(confirmed) = self.confirms.next(), if !self.confirms.is_empty() => self.note_all(confirmed),
                job = jobs.recv(), if self.window.has_room() => match job {
                    Some(job) => self.start(job).await,
                    None => return,
                },
            }
            for (reply, result) in self.window.settle() {
                // Nobody waits for a write whose future was dropped.
                let _ = reply.send(result);
            }
        }
    }

    async fn start(&mut self, job: Job) {
        if self.lock.is_lost() {
            self.window.fail(SinkError::Transient("the lock of this flow was taken away".to_owned()));
        }
        for (event, message) in job.messages {
            self.publish(event, message).await;
        }
        self.window.end_write(job.refused, job.reply);
    }

    /// Puts the message into lapin's queue: that happens when it is polled for the first time, so order is the order of these calls.
    async fn publish(&mut self, event: Option<(u64, EventId)>, message: Outgoing) {
        let exchange = if event.is_some() { self.target.exchange.clone() } else { ShortString::default() };
        let number = self.window.publish(Slot { event, bytes: message.body.len() });
        let channel = Arc::clone(&self.channel);
        let mut confirm: BoxFuture<'static, Confirmed> = Box::pin(async move {
            let Outgoing { routing_key, properties, body } = message;
            let published = channel.basic_publish(exchange, routing_key, publish::MANDATORY, &body, properties).await;
            match published {
                Ok(confirm) => (number, confirm.await),
                Err(error) => (number, Err(error)),
            }
        });
        match futures::poll!(confirm.as_mut()) {
            std::task::Poll::Ready(confirmed) => self.note(confirmed),
            std::task::Poll::Pending => self.confirms.push(confirm),
        }
    }

    /// Notes that one and all others that are there: a returned message may be tied to another confirmation than its own, but to
    /// one that is there no later.
    fn note_all(&mut self, confirmed: Confirmed) {
        self.note(confirmed);
        while let Some(Some(confirmed)) = self.confirms.next().now_or_never() {
            self.note(confirmed);
        }
    }

    fn note(&mut self, (number, result): Confirmed) {
        match result {
            Ok(Confirmation::Ack(returned)) => {
                if let Some(message) = returned {
                    self.window.give_back(map::id_of(&message.delivery.properties), message.reply_text.as_str());
                }
                self.window.confirm(number);
            }
            Ok(Confirmation::Nack(_)) => {
                self.window.fail(SinkError::Transient("RabbitMQ could not store an event and says so".to_owned()));
            }
            Ok(Confirmation::NotRequested) => {
                self.window.fail(SinkError::Transient("the channel does not confirm".to_owned()));
            }
            Err(error) => {
                if let Some(max) = message_bytes_max(&error) {
                    self.target.limits.learn(max, self.window.has_larger_than(max));
                }
                self.window.fail(Fault::of(&error, "publishing").into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use longhaul_event::{Headers, Identity};
    use longhaul_topic::Topic;

    use super::*;

    fn event(payload: usize) -> Event {
        Event {
            offset: 0,
            topic: Topic::default(),
            key: None,
            headers: Headers::default(),
            payload: Some(Bytes::from(vec![0; payload])),
            time_ms: 0,
            id: EventId::default(),
            identity: Identity::Unique,
            provenance: Bytes::new(),
        }
    }

    #[test]
    fn a_limit_is_known_learnt_and_told() {
        let limits = Limits::new();
        assert!(limits.check(&event(20_000)).is_ok());
        limits.learn(20_000, true);
        assert!(limits.check(&event(20_000)).is_ok());
        assert!(limits.check(&event(20_001)).expect_err("too large").contains("20000"));
        limits.learn(20_000, false);
        assert!(limits.check(&event(19_999)).is_err(), "the properties count");
        assert!(limits.check(&event(10_000)).is_ok());
    }
}
