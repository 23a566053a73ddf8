//! Publishes one flow in order, with many messages in flight, and says when they are stored.
//!
//! On one connection the server stores what it accepts in the order of sending, and a lost connection loses a tail only; so a plain
//! retry keeps order, and message ids keep it free of duplicates. A *refusal* in the middle does not: later messages may be stored, and
//! a retry with the same ids would put the refused one behind them. After such a one the flow goes on with other ids (a repeated tail,
//! with the same identities, in order) and one message at a time, until a lasting refusal can be about one event and nothing behind it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_nats::{Message, StatusCode, Subscriber};
use futures::{FutureExt, StreamExt};
use longhaul_broker::{Poison, SinkError};
use longhaul_event::{Event, Position};
use longhaul_topic::Topic;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::api::{self, ApiError};
use crate::catalog::{self, Catalog, Held};
use crate::client::Session;
use crate::cursor::IN_STREAM;
use crate::map::{self, Dedup, Outgoing};
use crate::once::Once;
use crate::sink::Memory;
use crate::window::Window;

/// Longest time without any acknowledgement while some are due.
pub(crate) const ACK_MAX: Duration = Duration::from_secs(10);
/// The server stores no larger header block.
pub(crate) const HEADER_BYTES_MAX: usize = 65_535;
/// Events that are written one at a time after a refusal; more than a window.
pub(crate) const CAREFUL_EVENTS: u32 = 2048;
pub(crate) const TOO_LARGE: [u64; 2] = [10054, 10097];

/// Events to write and whom to tell.
pub(crate) struct Job {
    /// In order.
    pub(crate) events: Vec<Event>,
    /// Where the flow stands behind them, when that is to be stored with them.
    pub(crate) cursor: Option<Position>,
    /// When it was handed over.
    pub(crate) at: Instant,
    /// Told once, when all are stored or one is refused.
    pub(crate) done: oneshot::Sender<Result<(), SinkError>>,
}

/// Writes one flow until it fails or is not wanted any more.
pub(crate) struct Publisher {
    session: Session,
    /// `None` for core NATS, where a message to ourselves behind each job confirms it.
    catalog: Option<Catalog>,
    create_streams: bool,
    /// For effectively-once.
    once: Option<Once>,
    memory: OwnedMutexGuard<Memory>,
    spent: Arc<AtomicBool>,
    inbox: String,
    acks: Subscriber,
    window: Window,
    /// The one in flight must be confirmed before the next goes.
    alone: bool,
    current: Option<Current>,
    /// Jobs that are sent whole, by the number behind their last message.
    sent: VecDeque<(u64, oneshot::Sender<Result<(), SinkError>>)>,
    heard: Instant,
}

struct Current {
    events: std::vec::IntoIter<Event>,
    next: Option<Next>,
    at: Instant,
    done: oneshot::Sender<Result<(), SinkError>>,
}

struct Next {
    out: Outgoing,
    offset: u64,
    topic: Topic,
    known: bool,
}

/// What only a stream answers; `duplicate` makes no difference, the message is there.
#[derive(Deserialize)]
struct PubAck {
    #[serde(rename = "stream")]
    _stream: String,
    #[serde(rename = "seq")]
    _seq: u64,
}

/// A place for acknowledgements: they come to its subjects below.
pub(crate) async fn inbox(session: &Session) -> Result<(String, Subscriber), SinkError> {
    let inbox = session.client.new_inbox();
    let acks = session.client.subscribe(format!("{inbox}.*")).await;
    let acks = acks.map_err(|e| SinkError::Transient(format!("the connection to NATS was lost: {e}")))?;
    Ok((inbox, acks))
}

impl Publisher {
    /// Makes what it needs on the connection; publishes nothing.
    pub(crate) async fn new(
        session: Session,
        catalog: Option<Catalog>,
        create_streams: bool,
        once: Option<Once>,
        memory: OwnedMutexGuard<Memory>,
        spent: Arc<AtomicBool>,
    ) -> Result<Self, SinkError> {
        let (inbox, acks) = inbox(&session).await?;
        Ok(Self {
            session,
            catalog,
            create_streams,
            once,
            memory,
            spent,
            inbox,
            acks,
            window: Window::default(),
            alone: false,
            current: None,
            sent: VecDeque::new(),
            heard: Instant::now(),
        })
    }

    /// Works until the writer is dropped and all in flight is settled, or until something fails. `first` stands before the others.
    pub(crate) async fn run(mut self, first: Option<Job>, mut jobs: mpsc::Receiver<Job>) {
        if let Some(first) = first {
            self.heard = Instant::now();
            self.begin(first);
        }
        let Err(error) = self.work(&mut jobs).await else { return };
        self.spent.store(true, Ordering::Release);
        jobs.close();
        let first =
            self.sent.pop_front().map(|(_, done)| done).or_else(|| self.current.take().map(|current| current.done));
        if let Some(done) = first {
            let _ = done.send(Err(error));
        }
    }

    async fn work(&mut self, jobs: &mut mpsc::Receiver<Job>) -> Result<(), SinkError> {
        loop {
            if self.spent.load(Ordering::Acquire) {
                return Err(SinkError::Transient("the flow's cursor could not be written".to_owned()));
            }
            // A writer that was dropped sends no more, but what is in flight must settle before the next one begins.
            if !jobs.is_closed() {
                self.send_all(jobs).await?;
            }
            if self.window.is_empty() {
                if self.current.is_some() {
                    return Ok(());
                }
                // With nothing in flight there was room for all, so no job is left half sent.
                let Some(job) = jobs.recv().await else { return Ok(()) };
                self.heard = Instant::now();
                self.begin(job);
                continue;
            }
            let takes_more = self.current.is_none() && !jobs.is_closed();
            tokio::select! {
                // Acknowledgements first: the time limit is about those that did not come, not those that were not looked at.
                biased;
                ack = self.acks.next() => {
                    let ack = ack.ok_or_else(|| SinkError::Transient("the connection to NATS was lost".to_owned()))?;
                    self.hear(&ack).await?;
                    while let Some(Some(ack)) = self.acks.next().now_or_never() {
                        self.hear(&ack).await?;
                    }
                }
                job = jobs.recv(), if takes_more => if let Some(job) = job { self.begin(job) },
                () = tokio::time::sleep_until(self.heard + ACK_MAX) => return Err(self.unheard()),
            }
        }
    }

    fn begin(&mut self, job: Job) {
        self.current = Some(Current { events: job.events.into_iter(), next: None, at: job.at, done: job.done });
    }

    /// Sends what there is as far as the window goes.
    async fn send_all(&mut self, jobs: &mut mpsc::Receiver<Job>) -> Result<(), SinkError> {
        loop {
            if self.current.is_none() {
                let Ok(job) = jobs.try_recv() else { return Ok(()) };
                self.begin(job);
            }
            if !self.send_current().await? {
                return Ok(());
            }
        }
    }

    /// Whether the current job is sent whole.
    async fn send_current(&mut self) -> Result<bool, SinkError> {
        loop {
            let Some(current) = &mut self.current else { return Ok(true) };
            if current.next.is_none() {
                let Some(event) = current.events.next() else { break };
                let at = current.at;
                if let Some(once) = &mut self.once
                    && let Some(catalog) = &mut self.catalog
                    && once.leaves_out(&self.session, catalog, &event, at).await?
                {
                    continue;
                }
                let next = match self.prepare(&event) {
                    Ok(next) => next,
                    Err((kind, reason)) => return Err(self.poison(event.offset, kind, reason).await),
                };
                if let Some(current) = &mut self.current {
                    current.next = Some(next);
                }
                continue;
            }
            let Some(next) = current.next.take_if(|next| {
                let free = self.window.has_room(next.out.bytes());
                free && (self.window.is_empty() || (next.known && !self.alone && self.memory.careful == 0))
            }) else {
                return Ok(false);
            };
            self.send(next).await?;
        }
        self.end_current().await?;
        Ok(true)
    }

    async fn end_current(&mut self) -> Result<(), SinkError> {
        let Some(current) = self.current.take() else { return Ok(()) };
        if self.catalog.is_none() {
            let reply = format!("{}.{}", self.inbox, self.window.next());
            let sent = self.session.client.publish(reply, "".into()).await;
            sent.map_err(|e| SinkError::Transient(format!("the connection to NATS was lost: {e}")))?;
            self.window.push(0, Topic::default(), 0);
        }
        self.sent.push_back((self.window.next(), current.done));
        self.tell();
        Ok(())
    }

    fn prepare(&mut self, event: &Event) -> Result<Next, (Poison, String)> {
        let dedup = if self.catalog.is_some() { Dedup::Salted(self.memory.salt) } else { Dedup::Off };
        let out = map::to_message(event, dedup)?;
        let held = self.catalog.as_mut().map(|catalog| catalog.held(&event.topic));
        let server_max = self.session.client.max_payload();
        let stream_max = if let Some(Held::Yes(Some(max))) = held { max } else { usize::MAX };
        let (bytes, max) = (out.bytes(), server_max.min(stream_max));
        if bytes > max {
            let whose = if stream_max < server_max { "stream's max_msg_size" } else { "server's max_payload" };
            let reason = format!("with its headers it has {bytes} bytes, the {whose} is {max}");
            return Err((Poison::TooLarge, reason));
        }
        if out.header_bytes > HEADER_BYTES_MAX {
            return Err((Poison::TooLarge, format!("its headers have {} bytes, NATS stores 64 KiB", out.header_bytes)));
        }
        let known = held != Some(Held::Unknown);
        Ok(Next { out, offset: event.offset, topic: event.topic.clone(), known })
    }

    async fn send(&mut self, next: Next) -> Result<(), SinkError> {
        let bytes = next.out.bytes();
        let Outgoing { subject, headers, payload, .. } = next.out;
        let client = &self.session.client;
        let sent = if self.catalog.is_some() {
            let reply = format!("{}.{}", self.inbox, self.window.next());
            let sent = client.publish_with_reply_and_headers(subject, reply, headers, payload).await;
            self.alone = !next.known;
            self.window.push(next.offset, next.topic, bytes);
            sent
        } else {
            client.publish_with_headers(subject, headers, payload).await
        };
        sent.map_err(|e| SinkError::Transient(format!("{} was not sent: {e}", self.words())))
    }

    fn words(&self) -> &'static str {
        if self.catalog.is_some() { "a message to a stream" } else { "a message" }
    }

    /// Takes one acknowledgement.
    async fn hear(&mut self, ack: &Message) -> Result<(), SinkError> {
        self.heard = Instant::now();
        let Some(number) = ack.subject.rsplit('.').next().and_then(|text| text.parse::<u64>().ok()) else {
            return Ok(());
        };
        let Some(slot) = self.window.get(number).cloned() else { return Ok(()) };
        if self.catalog.is_some() {
            let stored = if ack.status == Some(StatusCode::NO_RESPONDERS) {
                Err(ApiError::NoJetStream)
            } else {
                api::read::<PubAck>("acknowledgement", &ack.payload).map(|_| ())
            };
            if let Err(error) = stored {
                return Err(self.refused(number, slot.offset, &slot.topic, error).await);
            }
            if self.alone {
                self.alone = false;
                if let Some(catalog) = &mut self.catalog {
                    catalog.took(slot.topic);
                }
            }
        }
        self.window.confirm(number);
        self.memory.careful = self.memory.careful.saturating_sub(1);
        self.tell();
        Ok(())
    }

    /// Tells the jobs whose last message is stored.
    fn tell(&mut self) {
        while self.sent.front().is_some_and(|(end, _)| *end <= self.window.base()) {
            if let Some((_, done)) = self.sent.pop_front() {
                let _ = done.send(Ok(()));
            }
        }
    }

    /// A refusal by the server, in the words of the port.
    async fn refused(&mut self, number: u64, offset: u64, topic: &Topic, error: ApiError) -> SinkError {
        let last = number + 1 == self.window.next();
        let first = number == self.window.base();
        match error {
            ApiError::NoJetStream if first && last => {
                no_stream(&self.session, topic, self.create_streams, self.once.is_some()).await
            }
            ApiError::Refused { code: 400..=499, err_code, text } if first && last => {
                let kind = if TOO_LARGE.contains(&err_code) { Poison::TooLarge } else { Poison::Refused };
                SinkError::Poison {
                    offset,
                    kind,
                    reason: format!("the stream for {topic} refuses it: {text} ({err_code})"),
                }
            }
            error => {
                self.remember();
                SinkError::Transient(format!("a message to {topic} was not stored: {error}"))
            }
        }
    }

    /// Later messages may be stored although an earlier one is not: the next writer must not let the stream drop them.
    fn remember(&mut self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.memory.salt = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.memory.careful = CAREFUL_EVENTS;
        warn!("a message in the middle was refused: the flow goes on one at a time and may repeat events");
    }

    /// An event that must not be sent: everything before it is confirmed first.
    async fn poison(&mut self, offset: u64, kind: Poison, reason: String) -> SinkError {
        while !self.window.is_empty() {
            let heard = tokio::time::timeout_at(self.heard + ACK_MAX, self.acks.next()).await;
            let result = match heard {
                Ok(Some(ack)) => self.hear(&ack).await,
                Ok(None) => Err(SinkError::Transient("the connection to NATS was lost".to_owned())),
                Err(_) => Err(self.unheard()),
            };
            if let Err(error) = result {
                return error;
            }
        }
        SinkError::Poison { offset, kind, reason }
    }

    fn unheard(&mut self) -> SinkError {
        if self.window.base() + 1 < self.window.next() {
            self.remember();
        }
        match self.session.permission_error() {
            Some(text) => SinkError::Config(format!("NATS does not let us publish: {text}")),
            None => SinkError::Transient(format!("no acknowledgement within {ACK_MAX:?}")),
        }
    }
}

/// Nothing takes a topic: says so, or makes a stream that does. `once` makes one that takes atomic batches.
pub(crate) async fn no_stream(session: &Session, topic: &Topic, create: bool, once: bool) -> SinkError {
    match session.stream_names(topic.as_str()).await {
        Ok(names) if names.is_empty() && create => create_stream(session, topic, once).await,
        Ok(names) if names.is_empty() => SinkError::Config(format!("no stream holds subject {topic}")),
        Ok(names) => SinkError::Transient(format!("stream {} does not answer now", names.join(", "))),
        Err(error) => error.into(),
    }
}

async fn create_stream(session: &Session, topic: &Topic, once: bool) -> SinkError {
    let (name, subjects) = catalog::stream_for(topic);
    let mut config = json!({
        "name": name,
        "description": "made by Longhaul because no stream held a destination subject",
        "subjects": subjects,
        "retention": "limits",
        "storage": "file",
    });
    if once {
        config["subjects"] = json!([&subjects[0], &subjects[1], format!("{IN_STREAM}{name}.>")]);
        config["allow_atomic"] = json!(true);
        config["allow_rollup_hdrs"] = json!(true);
    }
    match session.create_stream(config).await {
        Ok(_) => {
            info!(stream = name, subjects = subjects.join(", "), "made a stream");
            SinkError::Transient(format!("stream {name} was made for subject {topic}"))
        }
        Err(error) => SinkError::Config(format!("no stream holds subject {topic}, and none can be made: {error}")),
    }
}
