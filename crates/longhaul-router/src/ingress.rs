//! The owning end of a flow: takes from the ring (or reads by itself), decides, encodes, and submits to a link, within credit.
//!
//! [`Owner`] decides everything that can be decided without waiting; this file only does what it says. It reads like the life of a
//! flow: find a link, open, seek, send, and again from the start whenever something breaks. Order of one turn: outputs of the state
//! machine, then send if allowed, then wait for whatever comes first.

mod gap;
mod send;
mod stall;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_broker::{Gap, ReadBatch, Reader, SourceError};
use longhaul_event::{Position, Start};
use longhaul_flow::{Heard, Owner, OwnerConfig, OwnerOutput, OwnerState, Reset, ResetCode};
use longhaul_link::class_to_wire;
use longhaul_route::{CompiledRoute, Refusal};
use longhaul_telemetry::FlowTracer;
use longhaul_topology::{FlowKey, Guarantee, RouteStart};
use longhaul_wire::{BatchEncoder, Compression, EVENT_BYTES_MAX, FlowOpen, Frame, Limits};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::cursor::{Cursor, Opened, read_own};
use crate::epochs::Epochs;
use crate::flow_status::{FlowStatus, Phase};
use crate::links::{Links, Port, PortEvent};
use crate::refusals::Refusals;
use crate::ring::{Next, RingBatch};
use crate::shard::{Member, ShardHandle, admit};
use crate::tap::FlowTap;
use crate::waiting::{sleep_until, wait_for};

/// Longest time that skipped events wait for the next event before they are reported as progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(1);
/// Most bytes of events in one batch on the wire; one larger event goes alone.
const BATCH_BYTES_MAX: u64 = 256 << 10;
/// How long a gap or a refusal by configuration rests before it is looked at again.
const SLOW_RETRY: Duration = Duration::from_secs(10);
const FAST_RETRY: Duration = Duration::from_millis(500);
/// Batches are compressed where a sample says that it pays.
const COMPRESSION: Compression = Compression::Lz4;
/// How long another way is preferred to a neighbour that had no way on.
const AVOIDED_FOR: Duration = Duration::from_secs(5);
/// How long it is not asked again where there is no other.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// How often a flow looks for a better way that has not the only one.
const LOOK_FOR_WAYS_EVERY: Duration = Duration::from_millis(500);
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// Batches that are looked at in one turn, so that a flow that skips everything still hears what it is told.
const TURN_BATCHES: usize = 32;

/// What an owning flow needs to run.
pub(crate) struct OwnerFlow {
    /// Its identity in words.
    pub key: FlowKey,
    /// The route as it is compiled now.
    pub route: Arc<CompiledRoute>,
    /// Which of the route's destinations, by index.
    pub to: usize,
    /// The shard that it reads, and its place there, which it keeps when this task panics or drains: what is not acknowledged in it
    /// holds the shard's floor back.
    pub member: Arc<Member>,
    /// Ways to the destination's region.
    pub links: Arc<Links>,
    /// Where its owner epochs come from.
    pub epochs: Arc<Epochs>,
    /// Where it stands, for people.
    pub status: Arc<FlowStatus>,
    /// Who records its spans, if somebody does.
    pub tracer: Option<FlowTracer>,
    /// Who taps it.
    pub tap: FlowTap,
    /// Router start, the origin of the state machine's time.
    pub origin: Instant,
    /// Stops reading at once; the flow ends when all that was sent is acknowledged.
    pub drain: CancellationToken,
    /// Ends the flow at once.
    pub stop: CancellationToken,
}

struct Driver {
    flow: Arc<OwnerFlow>,
    owner: Owner,
    member: Arc<Member>,
    news: watch::Receiver<u64>,
    port: Option<Port>,
    cursor: Cursor,
    incarnation: u64,
    /// The next offset to look at.
    next: u64,
    /// A batch of its own reader that was only partly sent.
    rest: Option<Arc<RingBatch>>,
    submitting: Option<BoxFuture<'static, ()>>,
    opening: Option<BoxFuture<'static, Opened>>,
    resume: Option<Position>,
    /// Where it begins when the destination has no cursor, or has lost it: where this flow first began, because to begin at the newest event
    /// once more would pass over what came in between. What may arrive once at most goes on behind what was sent.
    begun: Option<Position>,
    encoder: BatchEncoder,
    verdicts: Vec<Result<(), Refusal>>,
    topic: String,
    provenance: BytesMut,
    refusals: Refusals,
    audit: Audit,
    /// Where a gap begins that was found while events streamed: only a reader of its own finds it again, the ring knows nothing of it.
    gap_at: Option<u64>,
    /// A gap that was found while something is under way: to begin again at once would lose that, and find the gap anew.
    gap_waits: Option<Gap>,
    /// Where to go on behind a gap that was passed over.
    behind_gap: Option<Start>,
    skipped_since: Option<Duration>,
    /// The next event does not fit into the credit that is left.
    blocked: bool,
    /// The last turn ended before everything was looked at.
    more: bool,
    /// Beyond the ring with a reader of its own: news of the ring matter.
    ahead: bool,
    /// Neighbours that had no way on, and since when that is known.
    avoided: Vec<(String, Duration)>,
    /// Where it left the ring and opened a reader; when it has to leave there again, it first waits.
    left_at: Option<u64>,
}

impl OwnerFlow {
    /// Runs the flow until it is stopped or drained.
    pub(crate) async fn run(self: Arc<Self>) {
        let member = Arc::clone(&self.member);
        let replayable = member.shard().shard().replayable;
        let Some(owner_epoch) = self.epochs.next(&self.stop) else {
            return self.status.set_phase(Phase::Stopped);
        };
        let config = OwnerConfig { owner_epoch, replayable, back_off_min: BACK_OFF_MIN, back_off_max: BACK_OFF_MAX };
        let mut driver = Driver {
            owner: Owner::new(config),
            news: member.news(),
            member,
            port: None,
            cursor: Cursor::None,
            incarnation: 0,
            next: 0,
            rest: None,
            submitting: None,
            opening: None,
            resume: None,
            begun: None,
            encoder: BatchEncoder::new(Limits::new(EVENT_BYTES_MAX, u16::MAX)),
            verdicts: Vec::new(),
            topic: String::new(),
            provenance: BytesMut::new(),
            refusals: Refusals::default(),
            audit: Audit::default(),
            gap_at: None,
            gap_waits: None,
            behind_gap: None,
            skipped_since: None,
            blocked: false,
            more: false,
            ahead: false,
            avoided: Vec::new(),
            left_at: None,
            flow: self,
        };
        driver.run().await;
        driver.close().await;
        driver.flow.status.set_phase(Phase::Stopped);
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

impl Driver {
    fn shard(&self) -> &Arc<ShardHandle> {
        self.member.shard()
    }

    async fn run(&mut self) {
        let mut links = self.flow.links.watch();
        let mut draining = false;
        loop {
            self.choose_way().await;
            self.do_outputs().await;
            self.send_what_is_there();
            self.show();
            if self.is_drained() {
                return;
            }
            let timer = self.timer();
            let (stop, drain) = (self.flow.stop.clone(), self.flow.drain.clone());
            let rings = matches!(self.cursor, Cursor::Ring) || (self.ahead && matches!(self.cursor, Cursor::Own(_)));
            let wants_news = rings && self.may_send();
            let wants_read = matches!(self.cursor, Cursor::Own(_)) && self.may_send() && self.rest.is_none();
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = drain.cancelled(), if !draining => draining = true,
                event = port_event(self.port.as_mut()) => self.handle_port(event),
                Ok(()) = links.changed() => {}
                () = wait_for(&mut self.submitting), if self.submitting.is_some() => self.submitting = None,
                opened = wait_for(&mut self.opening), if self.opening.is_some() => self.handle_opened(opened),
                read = read_own(&mut self.cursor), if wants_read => self.handle_read(read),
                _ = self.news.changed(), if wants_news => {}
                () = tokio::task::yield_now(), if self.more => {}
                () = self.flow.status.stalled() => self.handle_stalled(),
                () = sleep_until(timer, self.flow.origin) => self.handle_timeout(),
            }
        }
    }

    /// Takes a way when there is none, leaves one for a better one, and notices when the link in use is gone.
    async fn choose_way(&mut self) {
        let now = self.flow.now();
        self.avoided.retain(|(_, since)| now < *since + AVOIDED_FOR);
        let links = Arc::clone(&self.flow.links);
        let of = self.flow.route.route().guarantee;
        if let Some(port) = &self.port
            && (port.is_closed()
                || self.is_avoided(port.hop())
                || links.has_better(&self.flow.key, of, port, |hop| self.is_avoided(hop)))
        {
            self.close().await;
            self.port = None;
            self.submitting = None;
            self.owner.handle_link_down(now);
        }
        if self.port.is_some() || self.flow.drain.is_cancelled() {
            return;
        }
        // Where no other way is left, one that was refused is tried again soon.
        let rested =
            |hop: &str| self.avoided.iter().all(|(avoided, since)| avoided != hop || now >= *since + ASK_AGAIN_AFTER);
        let key = &self.flow.key;
        let port = links.attach(key, of, |hop| self.is_avoided(hop));
        if let Some(port) = port.or_else(|| links.attach(key, of, |hop| !rested(hop))) {
            self.avoided.retain(|(avoided, _)| avoided != port.hop());
            self.flow.status.set_hop(port.hop());
            self.encoder = BatchEncoder::new(*port.limits());
            self.port = Some(port);
            self.owner.handle_link_up(now);
        }
    }

    fn is_avoided(&self, hop: &str) -> bool {
        self.avoided.iter().any(|(avoided, _)| avoided == hop)
    }

    /// Tells the applier that the flow ends here, so that it does not wait for more.
    async fn close(&mut self) {
        if let Some(port) = &self.port {
            port.cancel();
            port.send(Frame::Close { handle: port.handle(), path_epoch: self.owner.path_epoch() }).await;
        }
    }

    async fn do_outputs(&mut self) {
        while let Some(output) = self.owner.poll_output() {
            match output {
                OwnerOutput::Open { path_epoch } => self.open(path_epoch).await,
                OwnerOutput::Seek { resume } => self.seek(resume),
                OwnerOutput::SendStart { incarnation, after } => self.send_point(true, incarnation, after),
                OwnerOutput::SendTouch { incarnation, after } => self.send_point(false, incarnation, after),
                OwnerOutput::Release { floor } => self.release(floor),
                OwnerOutput::Cancel { .. } => self.cancel(),
            }
        }
        if self.owner.state() != OwnerState::Streaming {
            self.member.step_back();
        }
    }

    async fn open(&mut self, path_epoch: u32) {
        self.cancel();
        let Some(port) = &self.port else { return };
        let key = self.flow.key.clone();
        let open = FlowOpen {
            handle: port.handle(),
            mesh: key.mesh,
            route: key.route,
            from: key.from,
            to: key.to,
            partition: self.shard().shard().partition,
            owner_epoch: self.owner.owner_epoch(),
            path_epoch,
            route_hash: self.flow.route.hash_to(self.flow.to),
            class: class_to_wire(self.flow.route.route().class),
            links: 1,
        };
        port.send(Frame::Open(open)).await;
    }

    fn release(&mut self, floor: u64) {
        self.member.release(self.incarnation, floor);
    }

    fn cancel(&mut self) {
        if let Some(port) = &self.port {
            port.cancel();
        }
        self.submitting = None;
        self.opening = None;
        self.rest = None;
    }

    /// Finds the place to go on from: the ring where it can be, else a reader of its own.
    fn seek(&mut self, resume: Option<Position>) {
        (self.cursor, self.gap_waits) = (Cursor::None, None);
        self.resume = resume;
        if self.is_sent_once() && self.begun.is_some() {
            let sent = Position { incarnation: self.incarnation, offset: self.next.wrapping_sub(1) };
            // What was sent and is not confirmed is not sent again.
            self.audit.forsake();
            (self.begun, self.resume) = (Some(sent), resume.filter(|resume| resume.incarnation != sent.incarnation));
        }
        let resume = self.resume;
        match resume {
            Some(position) if self.member.holds(position) && !self.is_before_gap(position) => {
                self.cursor = Cursor::Ring;
                self.seeked(position.incarnation, position.offset, false);
            }
            _ if self.shard().shard().replayable => self.open_reader(),
            _ => {
                let base = self.member.base();
                self.opening = Some(base.map(|(incarnation, base)| Opened::Base(incarnation, base)).boxed());
            }
        }
    }

    fn is_sent_once(&self) -> bool {
        self.flow.route.route().guarantee == Guarantee::AtMostOnce
    }

    fn open_reader(&mut self) {
        let after = self.resume.or(self.begun).map_or(self.flow.route.route().start.start(), Start::After);
        let start = self.behind_gap.take().unwrap_or(after);
        let shard = Arc::clone(self.shard());
        self.opening = Some(async move { Opened::Reader(shard.open(start).await) }.boxed());
    }

    fn handle_opened(&mut self, opened: Opened) {
        self.opening = None;
        match opened {
            Opened::Reader(Err(error)) => self.opening_failed(&error),
            Opened::Reader(Ok(reader)) if self.owner.state() == OwnerState::Streaming => self.read_on_with(reader),
            Opened::Reader(Ok(reader)) => {
                let (incarnation, after) = (reader.incarnation(), reader.start());
                self.place(reader, after.wrapping_add(1));
                // Nothing is missing, yet the shard counts from here on in another life: a new chain begins.
                self.resume = self.resume.filter(|resume| resume.incarnation == incarnation);
                self.seeked(incarnation, after, self.resume.is_none());
            }
            Opened::Base(incarnation, base) => {
                self.cursor = Cursor::Ring;
                let sent = self.begun.filter(|sent| self.is_sent_once() && sent.incarnation == incarnation);
                match self.resume.or(sent) {
                    Some(position) if self.member.holds(position) => {
                        self.seeked(incarnation, position.offset, self.resume.is_none());
                    }
                    // Another life of the queue: what was not released came again, so a new chain begins.
                    _ => self.seeked(incarnation, base.wrapping_sub(1), true),
                }
            }
        }
    }

    /// The ring went on without this flow; a reader that stands exactly where it left takes over.
    fn read_on_with(&mut self, reader: Box<dyn Reader>) {
        if reader.incarnation() == self.incarnation && reader.start().wrapping_add(1) == self.next {
            self.place(reader, self.next);
        } else {
            self.source_failed(&SourceError::Transient("a reader did not begin where it was asked to".into()));
        }
    }

    fn seeked(&mut self, incarnation: u64, after: u64, fresh: bool) {
        self.incarnation = incarnation;
        self.next = after.wrapping_add(1);
        let moves = self.flow.route.route().start == RouteStart::Latest;
        if fresh || (moves && self.begun.is_none()) {
            self.begun = Some(Position { incarnation, offset: after });
        }
        (self.skipped_since, self.rest, self.blocked) = (None, None, false);
        if matches!(self.cursor, Cursor::Ring) {
            self.flow.status.set_detached(false);
        }
        self.audit.begin(incarnation, after);
        let now = self.flow.now();
        let _voided_by_a_later_seek = self.owner.handle_seeked(now, incarnation, after, fresh);
    }

    /// Hands a reader to the ring if it is the furthest, keeps it otherwise.
    fn place(&mut self, reader: Box<dyn Reader>, next: u64) {
        self.cursor = match self.member.offer_reader(reader, next) {
            None => Cursor::Ring,
            Some(reader) => Cursor::Own(reader),
        };
        self.ahead = false;
        self.flow.status.set_detached(matches!(self.cursor, Cursor::Own(_)));
    }

    fn source_failed(&mut self, error: &SourceError) {
        if let SourceError::Gap(gap) = error
            && self.owner.state() == OwnerState::Streaming
            && self.owner.in_flight() != (0, 0)
        {
            (self.cursor, self.gap_waits) = (Cursor::None, Some(gap.clone()));
            return;
        }
        let now = self.flow.now();
        let retry = match error {
            // Found while it streams: what the destination has by then says where the gap begins.
            SourceError::Gap(_) if self.owner.state() == OwnerState::Streaming => {
                (self.gap_at, self.left_at) = (Some(self.next), None);
                Duration::ZERO
            }
            SourceError::Transient(_) => FAST_RETRY,
            SourceError::Gap(_) | SourceError::Config(_) => SLOW_RETRY,
        };
        if self.flow.status.broker_fault(&error.to_string(), error.as_str()) {
            tracing::warn!(flow = %self.flow.status.name(), %error, "the source of a flow does not serve");
        }
        self.cursor = Cursor::None;
        self.owner.handle_seek_failed(now, retry);
    }

    fn may_send(&self) -> bool {
        self.submitting.is_none()
            && !self.blocked
            && !self.flow.drain.is_cancelled()
            && self.owner.allowance().is_some()
    }

    /// Sends from the ring, batch after batch, until it is empty, or credit or the link's queue is full, or it was enough for a turn.
    fn send_what_is_there(&mut self) {
        self.more = false;
        let mut looked_at = 0;
        while self.may_send() {
            looked_at += 1;
            if looked_at > TURN_BATCHES {
                self.more = true;
                return self.report_progress();
            }
            let batch = match (&self.cursor, self.rest.take()) {
                (Cursor::Own(_), Some(rest)) => rest,
                (Cursor::None, _) => return self.report_progress(),
                (Cursor::Own(_), None) => {
                    self.try_reattach();
                    if matches!(self.cursor, Cursor::Own(_)) {
                        return self.report_progress();
                    }
                    continue;
                }
                (Cursor::Ring, _) => match self.member.next(self.incarnation, self.next) {
                    Next::Batch(batch) => batch,
                    Next::Wait => return self.report_progress(),
                    Next::Elsewhere => return self.leave_ring(),
                },
            };
            self.send_batch(&batch);
        }
    }

    /// A flow with a reader of its own goes back to the ring as soon as the ring holds what it needs next, or gives it its reader when
    /// the ring has no use for another.
    fn try_reattach(&mut self) {
        if !matches!(self.member.next(self.incarnation, self.next), Next::Elsewhere) {
            (self.cursor, self.ahead) = (Cursor::Ring, false);
            self.flow.status.set_detached(false);
        } else if self.member.wants_reader(self.incarnation, self.next) {
            if let Cursor::Own(reader) = std::mem::replace(&mut self.cursor, Cursor::None) {
                self.place(reader, self.next);
            }
        } else {
            self.ahead = self.member.is_beyond(self.incarnation, self.next);
        }
    }

    /// The ring has moved on without this flow, or lost its reader: read on alone from the same offset.
    fn leave_ring(&mut self) {
        self.cursor = Cursor::None;
        if !self.shard().shard().replayable {
            let now = self.flow.now();
            return self.owner.handle_seek_failed(now, Duration::ZERO);
        }
        if self.left_at.take() == Some(self.next) {
            let reason = self.shard().error().unwrap_or_else(|| "the ring went on without this flow".into());
            return self.source_failed(&SourceError::Transient(reason));
        }
        self.left_at = Some(self.next);
        self.flow.status.set_detached(true);
        self.resume = Some(Position { incarnation: self.incarnation, offset: self.next.wrapping_sub(1) });
        self.open_reader();
    }

    fn handle_read(&mut self, read: Result<ReadBatch, SourceError>) {
        match read {
            Ok(batch) => {
                let batch = admit(self.shard().context(), self.incarnation, self.next, batch);
                self.rest = Some(Arc::new(batch));
            }
            Err(error) => self.source_failed(&error),
        }
    }

    fn handle_port(&mut self, event: Option<PortEvent>) {
        let now = self.flow.now();
        match event {
            Some(PortEvent::Accept { path_epoch, resume, credit }) => {
                if let (Heard::Taken, Some(resume)) =
                    (self.owner.handle_accept(now, path_epoch, resume, credit), resume)
                {
                    self.audit.settle(resume);
                }
                self.flow.status.clear_fault();
            }
            Some(PortEvent::Ack { path_epoch, durable, credit }) => {
                self.blocked = false;
                let heard = self.owner.handle_ack(now, path_epoch, durable, credit);
                if let Some(acked) = self.owner.acked() {
                    self.audit.settle(acked);
                }
                if let Some(gap) = self.gap_waits.take() {
                    self.source_failed(&SourceError::Gap(gap));
                }
                if let (Heard::Violation, Some(port)) = (heard, &self.port) {
                    port.lied(&self.flow.key.to.0);
                }
            }
            Some(PortEvent::Reset { path_epoch, code, text, retry }) => {
                self.handle_reset(path_epoch, code, &text, retry);
            }
            None => {}
        }
    }

    fn handle_reset(&mut self, path_epoch: u32, code: ResetCode, text: &str, retry: Duration) {
        if path_epoch != self.owner.path_epoch() {
            return;
        }
        if self.flow.status.set_fault(text) {
            tracing::warn!(flow = %self.flow.status.name(), code = code.as_str(), reason = text, "the destination refuses a flow for now");
        }
        self.flow.status.reset(code);
        let now = self.flow.now();
        if let (ResetCode::NoPath, Some(port)) = (code, &self.port) {
            self.avoided.push((port.hop().to_owned(), now));
        }
        let _stale_is_fine = self.owner.handle_reset(now, path_epoch, Reset { code, retry });
    }

    fn timer(&self) -> Option<Duration> {
        // What cannot be sent now is no reason to wake up.
        let progress = self.skipped_since.filter(|_| self.may_send()).map(|since| since + PROGRESS_AFTER);
        // Links that settle and neighbours that may be asked again tell nobody.
        let best = |port: &Port| port.hop() == self.flow.key.to.0 && !self.flow.links.has_many(port.hop());
        let is_best = self.port.as_ref().is_some_and(best);
        let look = (!is_best && !self.flow.drain.is_cancelled()).then(|| self.flow.now() + LOOK_FOR_WAYS_EVERY);
        [self.owner.poll_timeout(), progress, look].into_iter().flatten().min()
    }

    fn is_drained(&self) -> bool {
        let nothing_in_flight = self.owner.in_flight() == (0, 0) || self.port.is_none();
        self.flow.drain.is_cancelled() && self.submitting.is_none() && nothing_in_flight
    }

    fn show(&self) {
        let now = self.flow.now();
        self.flow.status.show(&self.owner, now, self.audit.view());
    }
}

async fn port_event(port: Option<&mut Port>) -> Option<PortEvent> {
    match port {
        Some(port) => port.event().await,
        None => std::future::pending().await,
    }
}
