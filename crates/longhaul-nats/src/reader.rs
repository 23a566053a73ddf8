//! Reads one stream in order, by pull requests of an ephemeral consumer that acknowledges nothing.
//!
//! The server keeps no state that matters: when a consumer stalls, disappears or skips a number, a new one is made behind the last event
//! that was given. What may be on its way is bounded by what was asked for. Every step from one sequence to a later one that is not the
//! next is explained before it is passed on: by filters, by deletions of single messages, or not at all ([`Gap::Purged`]).
//!
//! One case cannot be told apart: with filters, messages that retention removed may or may not have been ours. It counts as a gap when the
//! consumer still had something for us before the hole; a reader that had caught up has lost nothing.

use std::sync::Arc;

use async_nats::Message;
use futures::FutureExt;
use futures::StreamExt;
use futures::future::BoxFuture;
use longhaul_broker::{Gap, ReadBatch, Reader, SourceError};
use longhaul_event::{Event, Position, Start, hash64};
use longhaul_topic::Topic;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::client::Link;
use crate::map::{self, Place};
use crate::pull::{self, HEARTBEAT, Pull};
use crate::reply::{Meta, Notice};
use crate::source::Selection;

/// About how much one batch holds.
pub(crate) const BATCH_BYTES: usize = 256 * 1024;
/// Consumers that are made in a row without one message before the caller is asked to start over.
const RESTARTS_MAX: u32 = 3;

/// A reader of one stream.
pub(crate) struct StreamReader {
    link: Arc<Link>,
    selection: Arc<Selection>,
    stream: String,
    shard: u64,
    incarnation: u64,
    start: u64,
    pull: Pull,
    /// Everything up to here is given or in `ready`.
    covered: u64,
    /// What the consumer had for us behind the last message, if it had requests to bring more ever since.
    pending: Option<u64>,
    end: Option<u64>,
    ready: Ready,
    /// Given after `ready`.
    failed: Option<SourceError>,
    /// Why a new consumer is needed.
    restart: Option<String>,
    restarts: u32,
    quiet_since: Option<Instant>,
    topic: Topic,
}

/// What is read but not given yet.
#[derive(Default)]
struct Ready {
    events: Vec<Event>,
    bytes: usize,
    moved: bool,
    /// The sequence before the first step that must be explained.
    suspect: Option<u64>,
}

impl StreamReader {
    /// Makes a consumer at that start.
    pub(crate) async fn open(
        link: Arc<Link>,
        selection: Arc<Selection>,
        stream: &str,
        start: Start,
    ) -> Result<Self, SourceError> {
        let attached = pull::attach(&link, &selection, stream, start).await?;
        let named = match start {
            Start::After(position) => position.offset,
            _ => attached.base,
        };
        Ok(Self {
            link,
            selection,
            stream: stream.to_owned(),
            shard: hash64(stream.as_bytes()),
            incarnation: attached.incarnation,
            start: named,
            pull: attached.pull,
            covered: attached.base,
            pending: attached.pending,
            end: attached.pending.map(|pending| attached.base.saturating_add(pending)),
            ready: Ready::default(),
            failed: None,
            restart: None,
            restarts: 0,
            quiet_since: None,
            topic: Topic::default(),
        })
    }

    /// Takes what the client has buffered, up to one batch.
    fn fill(&mut self) {
        while self.ready.bytes < BATCH_BYTES && self.failed.is_none() && self.restart.is_none() {
            match self.pull.messages.next().now_or_never() {
                Some(Some(message)) => self.take(message),
                Some(None) => self.lost(),
                None => return,
            }
        }
    }

    fn lost(&mut self) {
        self.failed = Some(SourceError::Transient("the connection to NATS was lost".to_owned()));
    }

    fn take(&mut self, message: Message) {
        self.quiet_since = None;
        if let Some(status) = message.status {
            let description = message.description.unwrap_or_default();
            return self.notice(Notice::parse(status.as_u16(), &description, message.headers.as_ref()));
        }
        let Some(meta) = message.reply.as_ref().and_then(|reply| Meta::parse(reply)) else {
            self.restart = Some("a message has no position".to_owned());
            return;
        };
        if meta.consumer_seq != self.pull.consumer_seq + 1 || meta.stream_seq <= self.covered {
            self.restart = Some(format!("delivery {} follows {}", meta.consumer_seq, self.pull.consumer_seq));
            return;
        }
        self.restarts = 0;
        self.pull.consumer_seq = meta.consumer_seq;
        self.pull.came(1);
        match self.event(message, meta) {
            Ok(event) => {
                self.step(meta.stream_seq, true);
                self.pending = Some(meta.pending);
                self.end = Some(meta.stream_seq.saturating_add(meta.pending));
                self.forget_if_unasked();
                if let Some(event) = event {
                    self.ready.bytes += event.size();
                    self.ready.events.push(event);
                }
            }
            Err(error) => self.failed = Some(error),
        }
    }

    /// The event of a message, if the route asked for it.
    fn event(&mut self, message: Message, meta: Meta) -> Result<Option<Event>, SourceError> {
        let place = Place {
            cluster: self.selection.cluster,
            incarnation: self.incarnation,
            shard: self.shard,
            offset: meta.stream_seq,
            time_ms: meta.time_ms,
        };
        let refused = |why: String| {
            SourceError::Config(format!("stream {}: the message at sequence {}: {why}", self.stream, meta.stream_seq))
        };
        let event = map::to_event(message, place, &self.topic).map_err(|e| refused(e.to_string()))?;
        if !self.selection.takes(&event.topic) {
            return Ok(None);
        }
        if event.size() > self.selection.event_bytes_max {
            return Err(refused(format!("it has {} bytes, more than an event may have", event.size())));
        }
        self.topic = event.topic.clone();
        Ok(Some(event))
    }

    /// Everything up to `to` is covered now; a hole on the way is noted when it must be explained. `given`: `to` itself came.
    fn step(&mut self, to: u64, given: bool) {
        let hole = to - self.covered > u64::from(given);
        let explained = self.pull.filtered && self.pending == Some(0);
        if hole && !explained && self.ready.suspect.is_none() {
            self.ready.suspect = Some(self.covered);
        }
        self.covered = to;
        self.ready.moved = true;
    }

    /// While nothing is asked for, messages may come and go behind our back: what we knew to be pending is worth nothing then.
    fn forget_if_unasked(&mut self) {
        if self.pull.is_idle() {
            self.pending = None;
        }
    }

    fn notice(&mut self, notice: Notice) {
        match notice {
            // The consumer has looked at its own copy of the stream up to `stream` and gave us all that was ours.
            Notice::Heartbeat { passed: Some((stream, consumer)) } if consumer == self.pull.consumer_seq => {
                if stream > self.covered {
                    self.step(stream, false);
                }
                self.end = Some(self.covered);
            }
            Notice::Heartbeat { passed: Some((_, consumer)) } => {
                self.restart = Some(format!("delivery {consumer} was sent, {} came", self.pull.consumer_seq));
            }
            Notice::Heartbeat { passed: None } => {}
            Notice::Ended { left, too_large } => {
                self.pull.came(left);
                self.forget_if_unasked();
                if too_large && self.pull.is_untouched(left) {
                    let max = self.selection.event_bytes_max;
                    self.failed = Some(SourceError::Config(format!(
                        "stream {}: the message behind sequence {} is larger than {max} bytes, more than an event may have",
                        self.stream, self.covered
                    )));
                }
            }
            Notice::Gone(reason) => self.restart = Some(reason),
        }
    }

    /// Asks the stream whether a hole is one: it is when what follows `suspect` was there and is gone from the front.
    async fn explain(&mut self) -> Result<(), SourceError> {
        let Some(suspect) = self.ready.suspect else { return Ok(()) };
        let session = self.link.session().await?;
        let stream = session.stream(&self.stream).await?;
        self.ready.suspect = None;
        if stream.incarnation() != self.incarnation {
            let found = stream.incarnation();
            self.fail_after(suspect, Gap::Recreated { cursor: self.incarnation, found });
        } else if stream.state.first_seq > suspect + 1 {
            self.fail_after(suspect, Gap::Purged { from: suspect + 1, to: stream.state.first_seq });
        }
        Ok(())
    }

    /// Keeps what stands before a gap, and the gap for the next read.
    fn fail_after(&mut self, last: u64, gap: Gap) {
        self.ready.events.retain(|event| event.offset <= last);
        self.ready.moved = !self.ready.events.is_empty();
        self.covered = last;
        self.failed = Some(SourceError::Gap(gap));
    }

    fn give(&mut self) -> ReadBatch {
        let ready = std::mem::take(&mut self.ready);
        ReadBatch { events: ready.events, last: self.covered }
    }

    /// A new consumer behind what is covered.
    async fn begin_again(&mut self, reason: &str) -> Result<(), SourceError> {
        self.restarts += 1;
        if self.restarts > RESTARTS_MAX {
            return Err(SourceError::Transient(format!("stream {}: no consumer lasts: {reason}", self.stream)));
        }
        warn!(stream = self.stream, reason, after = self.covered, "makes a new consumer");
        let after = Start::After(Position { incarnation: self.incarnation, offset: self.covered });
        self.pull = pull::attach(&self.link, &self.selection, &self.stream, after).await?.pull;
        self.pending = None;
        self.restart = None;
        self.quiet_since = None;
        Ok(())
    }

    /// Waits for one message, or for the silence to have lasted too long. Silence goes on over dropped futures.
    async fn wait(&mut self) {
        let since = *self.quiet_since.get_or_insert_with(Instant::now);
        match tokio::time::timeout_at(since + 2 * HEARTBEAT, self.pull.messages.next()).await {
            Ok(Some(message)) => self.take(message),
            Ok(None) => self.lost(),
            Err(_) => self.restart = Some(format!("nothing came for {:?}", 2 * HEARTBEAT)),
        }
    }

    async fn read_next(&mut self) -> Result<ReadBatch, SourceError> {
        loop {
            self.fill();
            self.explain().await?;
            if self.restart.is_none() && self.failed.is_none() {
                self.pull.ask().await.map_err(SourceError::Transient)?;
            }
            if self.ready.moved {
                return Ok(self.give());
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            if let Some(reason) = self.restart.clone() {
                self.begin_again(&reason).await?;
                continue;
            }
            self.wait().await;
        }
    }
}

impl Reader for StreamReader {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn start(&self) -> u64 {
        self.start
    }

    fn read(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        Box::pin(self.read_next().map(|read| {
            if let Err(error) = &read {
                debug!(%error, "a reader stopped");
            }
            read
        }))
    }

    /// Nothing to say to the server: it keeps what its limits say.
    fn release(&mut self, _: u64) {}

    fn end(&self) -> Option<u64> {
        self.end.map(|end| end.max(self.covered))
    }
}
