//! The applying end of a flow: takes batches in order, writes them, commits the cursor, acknowledges.
//!
//! [`Applier`] decides; this file hands batches to the sink, keeps a few writes under way, and reports what was confirmed. A flow
//! outlives the connection that it came over: when the link is cut and comes back, what was accepted is still known, so that nothing
//! is written twice. Whatever the sink does wrong ends the same way: the writer is dropped, the owner is told to open again, and the
//! destination's own cursor says where from.

mod aside;
mod returned;
mod watched;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use longhaul_broker::{Health, Opened, Parking, Poison, Sink, SinkError, Writer};
use longhaul_event::{Event, Position};
use longhaul_flow::{Applier, ApplierConfig, ApplierOutput, ApplierState, Offer, ResetCode, Span};
use longhaul_route::CompiledRoute;
use longhaul_telemetry::FlowTracer;
use longhaul_topology::{FlowKey, Guarantee, OnPoison};
use longhaul_wire::Frame;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::budget::{Budget, Share, Use};
use crate::flow_status::{InflowStatus, Phase};
use crate::mailbox::{Attachment, Inbound, Mailbox, Received};
use crate::parked::Refused;
use crate::tap::FlowTap;
use crate::waiting::{sleep_until, wait_for};
use returned::changed;
use watched::Watched;

/// Writes of one flow under way at the same time.
const WRITES_MAX: usize = 8;
/// The same where the cursor goes with the events: what gathers while one transaction commits goes into the next. Credit bounds the bytes.
const ATOMIC_WRITES_MAX: usize = 64;
/// Most refused events that a flow with `on_poison: drop` or `park` remembers between two openings.
const SKIPPED_MAX: usize = 1024;
const FAST_RETRY: Duration = Duration::from_millis(500);
const SLOW_RETRY: Duration = Duration::from_secs(10);
/// A flow whose link is gone gives its sink back after that long: another router of the region may be asked to take it.
const ABANDONED_AFTER: Duration = Duration::from_secs(5);
/// A sink that has not answered for that long, whatever it was asked, is given up and opened again. Connectors have time limits of
/// their own, and shorter ones; this is for those that fail.
const SINK_PATIENCE: Duration = if cfg!(test) { Duration::from_secs(3) } else { Duration::from_secs(120) };

/// What a flow follows, from one opening to the next: a changed mesh document may have changed it meanwhile.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Where it writes.
    pub sink: Arc<dyn Sink>,
    /// The route that it follows, for its policy and the binding of its headers.
    pub route: Arc<CompiledRoute>,
    /// Which of the route's destinations, by index.
    pub to: usize,
    /// Where it sets aside what is refused, if the route says so.
    pub parking: Option<Arc<dyn Parking>>,
}

impl Plan {
    fn hash(&self) -> u64 {
        self.route.hash_to(self.to)
    }

    /// Whether the cursor goes with the events.
    fn is_atomic(&self) -> bool {
        self.route.route().guarantee == Guarantee::EffectivelyOnce
    }
}

/// What an applying flow needs to run.
pub(crate) struct ApplierFlow {
    /// Its identity in words.
    pub key: FlowKey,
    /// What it follows until it is opened.
    pub plan: Plan,
    /// What comes in.
    pub mailbox: Arc<Mailbox>,
    /// Where it stands, for people.
    pub status: Arc<InflowStatus>,
    /// The memory that its credit comes from.
    pub budget: Arc<Budget>,
    /// How the destination broker is.
    pub health: Option<watch::Receiver<Health>>,
    /// Who records its spans, if somebody does.
    pub tracer: Option<FlowTracer>,
    /// Who taps it.
    pub tap: FlowTap,
    /// Router start, the origin of the state machine's time.
    pub origin: Instant,
    /// Finishes what is written, then ends.
    pub drain: CancellationToken,
    /// Who opened the flow last, and in which path epoch: told to open again if this task had to begin anew.
    pub last_owner: Mutex<Option<(Attachment, u32)>>,
}

/// A cursor that is being written.
type Committing = BoxFuture<'static, (Position, Result<(), SinkError>)>;

/// A write that has ended, with what of it is watched.
type Written = (Span, Watched, Result<(), SinkError>);

/// Events on their way into the sink, and what of them is watched.
struct Batch {
    span: Span,
    events: Vec<Event>,
    watched: Watched,
}

struct Driver {
    flow: Arc<ApplierFlow>,
    plan: Plan,
    applier: Applier<Received>,
    share: Share,
    owner: Option<Attachment>,
    partition: Option<u32>,
    writer: Option<Box<dyn Writer>>,
    opening: Option<BoxFuture<'static, Result<Opened, SinkError>>>,
    writes: FuturesOrdered<BoxFuture<'static, Written>>,
    committing: Option<Committing>,
    /// The cursor that the destination had when it last said so.
    cursor: Option<Position>,
    /// After a refused event: what was confirmed before it is made durable. A flow that is opened again meanwhile goes on with that.
    settling: Option<BoxFuture<'static, Result<Opened, SinkError>>>,
    /// Refused events to be left out or parked, as far as the cursor is not beyond them.
    refused: Vec<Refused>,
    /// Events that are being parked. What stands with them waits here, so that nothing is written beyond them before that is done.
    parking: Option<BoxFuture<'static, Result<(), SinkError>>>,
    parked: Option<Batch>,
    audit: Audit,
    /// Where a new chain begins, until its first events are delivered.
    begins: Option<Position>,
    /// Without an owner: when the sink is given back.
    abandoned_at: Duration,
    /// When the sink last answered, or was first asked for something.
    heard: Duration,
    draining: bool,
    /// How the destination broker is, and whether it was away since it was last looked at.
    health: Option<watch::Receiver<Health>>,
    away: bool,
}

impl ApplierFlow {
    /// Runs the flow until it is abandoned or drained.
    pub(crate) async fn run(self: Arc<Self>) {
        let share = self.budget.share(Use::Credit);
        self.disown_last_owner().await;
        let config = ApplierConfig { bytes_cap: share.bytes_max() };
        let mut driver = Driver {
            applier: Applier::new(config),
            share,
            owner: None,
            partition: None,
            writer: None,
            opening: None,
            writes: FuturesOrdered::new(),
            committing: None,
            cursor: None,
            settling: None,
            refused: Vec::new(),
            parking: None,
            parked: None,
            audit: Audit::default(),
            begins: None,
            abandoned_at: self.origin.elapsed() + ABANDONED_AFTER,
            heard: self.origin.elapsed(),
            draining: false,
            health: self.health.clone(),
            away: false,
            plan: self.plan.clone(),
            flow: self,
        };
        driver.run().await;
        driver.flow.status.set_phase(Phase::Stopped);
    }

    /// A task that panicked has forgotten what it accepted; its owner must open again to learn that.
    async fn disown_last_owner(&self) {
        let last = self.last_owner.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((owner, path_epoch)) = last {
            let reset =
                reset_frame(owner.handle(), path_epoch, ResetCode::SinkLost, "the applier was restarted", FAST_RETRY);
            owner.send(reset).await;
        }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }
}

impl Driver {
    async fn run(&mut self) {
        let drain = self.flow.drain.clone();
        loop {
            self.do_outputs().await;
            self.deliver();
            self.show();
            if self.is_done() {
                return;
            }
            let timer = self.timer();
            let mailbox = Arc::clone(&self.flow.mailbox);
            tokio::select! {
                biased;
                () = drain.cancelled(), if !self.draining => self.drain(),
                Some((span, watched, result)) = self.writes.next(), if !self.writes.is_empty() => self.handle_written(span, watched, result),
                (position, result) = wait_for(&mut self.committing), if self.committing.is_some() => self.handle_committed(position, result),
                settled = wait_for(&mut self.settling), if self.settling.is_some() => self.handle_settled(settled),
                parked = wait_for(&mut self.parking), if self.parking.is_some() => self.handle_parked(parked),
                opened = wait_for(&mut self.opening), if self.opening.is_some() => self.handle_opened(opened),
                true = changed(self.health.as_mut()) => self.handle_health(),
                inbound = mailbox.take() => {
                    for one in inbound {
                        self.handle_inbound(one).await;
                        self.do_outputs().await;
                    }
                }
                () = sleep_until(timer, self.flow.origin) => self.handle_timeout(),
            }
        }
    }

    fn handle_timeout(&mut self) {
        let now = self.flow.now();
        self.applier.handle_timeout(now);
        if self.is_asking() && now >= self.heard + SINK_PATIENCE {
            let text = format!("the destination broker has not answered for {} s", SINK_PATIENCE.as_secs());
            self.sink_failed(&SinkError::Transient(text));
        }
    }

    /// Whether the sink owes an answer.
    fn is_asking(&self) -> bool {
        let asked = [self.committing.is_some(), self.settling.is_some(), self.parking.is_some()];
        self.opening.is_some() || asked.contains(&true) || !self.writes.is_empty()
    }

    /// Notes that the sink is asked for something.
    fn ask(&mut self) {
        if !self.is_asking() {
            self.heard = self.flow.now();
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        let now = self.flow.now();
        self.applier.handle_drain(now);
    }

    async fn handle_inbound(&mut self, inbound: Inbound) {
        let now = self.flow.now();
        match inbound {
            Inbound::Open { attachment, owner_epoch, path_epoch, partition, plan } => {
                self.follow(plan);
                if let Err(stale) = self.applier.handle_open(now, owner_epoch, path_epoch) {
                    let text = stale.to_string();
                    let reset = reset_frame(attachment.handle(), path_epoch, ResetCode::StaleEpoch, &text, FAST_RETRY);
                    return attachment.send(reset).await;
                }
                self.applier.handle_rtt(attachment.rtt());
                self.partition = partition;
                let last = (attachment.clone(), path_epoch);
                *self.flow.last_owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
                self.owner = Some(attachment);
            }
            Inbound::Batch { attachment, start, incarnation, span, batch } => {
                if self.is_owner(attachment) {
                    self.handle_batch(start, incarnation, span, batch);
                }
            }
            Inbound::Gone { attachment, closed } => {
                if self.is_owner(attachment) {
                    self.owner = None;
                    self.abandoned_at = if closed { now } else { now + ABANDONED_AFTER };
                    self.applier.handle_flow_closed(now);
                }
            }
        }
    }

    /// Goes on with a changed route as if nothing had been accepted: what the destination does not have is sent again, by the new words.
    fn follow(&mut self, plan: Plan) {
        if plan.hash() != self.plan.hash() && !self.draining {
            self.drop_writer();
            self.refused.clear();
            self.applier = Applier::new(ApplierConfig { bytes_cap: self.share.bytes_max() });
            self.plan = plan;
        }
    }

    fn is_owner(&self, attachment: u64) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.id() == attachment)
    }

    fn handle_batch(&mut self, start: bool, incarnation: u64, span: Span, batch: Received) {
        let now = self.flow.now();
        self.flow.status.received(span.events, span.bytes);
        match self.applier.handle_batch(now, batch.path_epoch, start, incarnation, span, batch) {
            Offer::Accepted | Offer::Held if start => self.begins = Some(Position { incarnation, offset: span.prev }),
            Offer::Accepted | Offer::Held => {}
            Offer::Duplicate | Offer::Stale => self.flow.status.stale_batch(),
            Offer::Refused(code) => {
                tracing::warn!(flow = %self.flow.status.name(), code = code.as_str(), "refused a batch; the flow opens again");
            }
        }
    }

    async fn do_outputs(&mut self) {
        while let Some(output) = self.applier.poll_output() {
            match output {
                ApplierOutput::OpenSink => self.open_sink(),
                ApplierOutput::Accept { path_epoch, resume, credit } => {
                    self.flow.status.clear_fault();
                    let (events_limit, bytes_limit) = (credit.events_limit, credit.bytes_limit);
                    self.reply(|handle| Frame::Accept { handle, path_epoch, resume, events_limit, bytes_limit }).await;
                }
                ApplierOutput::Commit(position) => self.commit(position),
                ApplierOutput::Ack { path_epoch, durable, credit } => {
                    let (events_limit, bytes_limit) = (credit.events_limit, credit.bytes_limit);
                    self.reply(|handle| Frame::Ack { handle, path_epoch, durable, events_limit, bytes_limit }).await;
                }
                ApplierOutput::Reset { path_epoch, reset } => {
                    let text = self.flow.status.fault().unwrap_or_else(|| sentence(reset.code).to_owned());
                    self.reply(|handle| reset_frame(handle, path_epoch, reset.code, &text, reset.retry)).await;
                }
            }
        }
    }

    async fn reply(&mut self, frame: impl FnOnce(u32) -> Frame) {
        if let Some(owner) = &self.owner {
            owner.send(frame(owner.handle())).await;
        }
    }

    fn open_sink(&mut self) {
        let settling = self.settling.take();
        self.drop_writer();
        self.ask();
        let (flow, sink, partition) = (Arc::clone(&self.flow), Arc::clone(&self.plan.sink), self.partition);
        let open = async move { sink.open(&flow.key, partition).await };
        self.opening = Some(settling.unwrap_or_else(|| open.boxed()));
    }

    fn handle_opened(&mut self, opened: Result<Opened, SinkError>) {
        self.opening = None;
        match opened {
            Ok(Opened { writer, cursor }) => {
                (self.writer, self.cursor) = (Some(writer), cursor);
                self.reopen_books(cursor);
                let now = self.flow.now();
                self.applier.handle_sink_open(now, cursor);
            }
            Err(error) => self.sink_failed(&error),
        }
    }

    /// Hands what is in order to the sink, a few batches at a time.
    fn deliver(&mut self) {
        let writes_max = if self.plan.is_atomic() { ATOMIC_WRITES_MAX } else { WRITES_MAX };
        while self.writes.len() < writes_max && self.writer.is_some() && self.parking.is_none() {
            let Some((span, Received { events, path_epoch, at })) = self.applier.poll_deliver() else { return };
            let watched = self.watch(&events, path_epoch, at);
            let mut batch = Batch { span, events, watched };
            let aside = self.set_aside(span, &mut batch.events);
            self.end_aside(&mut batch);
            if aside.is_empty() {
                self.write(batch);
            } else {
                self.park(batch, aside);
            }
        }
    }

    fn write(&mut self, Batch { span, mut events, mut watched }: Batch) {
        self.rebind(&mut events);
        watched.held = self.flow.tap.hold(&events);
        self.ask();
        self.flow.status.writing(&events);
        let write = match self.writer.as_mut() {
            Some(writer) if !events.is_empty() && self.plan.is_atomic() => {
                let accepted = self.applier.accepted().expect("what is delivered was accepted");
                writer.write_with_cursor(events, Position { offset: span.last, ..accepted })
            }
            Some(writer) if !events.is_empty() => writer.write(events),
            _ => futures::future::ready(Ok(())).boxed(),
        };
        self.writes.push_back(write.map(move |result| (span, watched, result)).boxed());
    }

    /// CloudEvents attributes are written in the binding of the destination. Where that would not fit into an event's headers, they stay as
    /// they came: nothing is lost.
    fn rebind(&self, events: &mut [Event]) {
        let (from, to) = self.plan.route.bindings(self.plan.to);
        if from == to {
            return;
        }
        for event in events {
            if let Ok(headers) = self.plan.route.rebind(self.plan.to, &event.headers) {
                event.headers = headers;
            }
        }
    }

    fn handle_written(&mut self, span: Span, watched: Watched, result: Result<(), SinkError>) {
        let now = self.flow.now();
        self.heard = now;
        self.end_writes(watched, result.as_ref().err());
        match result {
            Ok(()) => {
                self.flow.status.delivered(span.events, span.bytes);
                self.applier.handle_written(now, span.last);
            }
            Err(error) => self.sink_failed(&error),
        }
    }

    fn commit(&mut self, position: Position) {
        self.ask();
        if let Some(writer) = self.writer.as_mut() {
            self.committing = Some(writer.commit(position).map(move |result| (position, result)).boxed());
        }
    }

    fn handle_committed(&mut self, position: Position, result: Result<(), SinkError>) {
        self.committing = None;
        let now = self.flow.now();
        self.heard = now;
        match result {
            Ok(()) => {
                self.cursor = Some(position);
                self.refused.retain(|refused| is_behind(position, refused.at));
                self.audit.settle(position);
                self.applier.handle_committed(now, position);
            }
            Err(error) => self.sink_failed(&error),
        }
    }

    fn sink_failed(&mut self, error: &SinkError) {
        if self.flow.status.broker_fault(&error.to_string(), error.as_str()) {
            tracing::warn!(flow = %self.flow.status.name(), %error, "the destination does not take a flow");
        }
        let retry = match error {
            SinkError::Transient(_) => FAST_RETRY,
            SinkError::Config(_) => SLOW_RETRY,
            SinkError::Poison { offset, kind, reason } => return self.poisoned(*offset, *kind, reason),
        };
        self.fail(ResetCode::SinkLost, retry);
    }

    fn fail(&mut self, code: ResetCode, retry: Duration) {
        let now = self.flow.now();
        self.applier.handle_sink_failed(now, code, retry);
        self.drop_writer();
    }

    /// Everything before the refused event is confirmed, and made durable; what happens to the event itself is the route's policy.
    fn poisoned(&mut self, offset: u64, kind: Poison, reason: &str) {
        self.flow.status.poisoned(kind);
        // What is with the sink belongs to the chain that is accepted: a new one waits until the one before it is written.
        let Some(accepted) = self.applier.accepted() else { return self.fail(ResetCode::Poison, SLOW_RETRY) };
        let retry = self.leave_out(Position { offset, ..accepted }, kind, reason);
        let committing = self.committing.take();
        self.fail(ResetCode::Poison, retry);
        self.settle(committing, Position { offset: offset.wrapping_sub(1), ..accepted });
    }

    /// What the route says of a refused event; returns how long its flow rests.
    fn leave_out(&mut self, at: Position, kind: Poison, reason: &str) -> Duration {
        match self.plan.route.route().on_poison {
            OnPoison::Halt => SLOW_RETRY,
            OnPoison::Park if self.plan.parking.is_none() => SLOW_RETRY,
            policy @ (OnPoison::Park | OnPoison::Drop) => {
                if self.refused.len() == SKIPPED_MAX {
                    self.refused.clear();
                }
                self.refused.push(Refused { at, kind, reason: reason.to_owned() });
                if policy == OnPoison::Drop {
                    self.flow.status.dropped(kind);
                }
                Duration::ZERO
            }
        }
    }

    /// Brings the cursor up to what is confirmed at once, so that it is not written again: later the destination may not have it any more.
    /// The writer is spent, so the flow is opened anew for that.
    fn settle(&mut self, committing: Option<Committing>, confirmed: Position) {
        self.ask();
        let (flow, sink, partition) = (Arc::clone(&self.flow), Arc::clone(&self.plan.sink), self.partition);
        let mut known = self.cursor;
        let settling = async move {
            // What is under way may still arrive.
            if let Some(committing) = committing
                && let (position, Ok(())) = committing.await
            {
                known = Some(position);
            }
            settle(&*sink, &flow.key, partition, known, confirmed).await
        };
        self.settling = Some(settling.boxed());
    }

    fn handle_settled(&mut self, settled: Result<Opened, SinkError>) {
        self.settling = None;
        self.heard = self.flow.now();
        if let Err(error) = settled {
            tracing::warn!(flow = %self.flow.status.name(), %error, "what came before a refused event may be written again");
        }
    }

    fn drop_writer(&mut self) {
        self.writer = None;
        self.opening = None;
        (self.committing, self.settling) = (None, None);
        (self.parking, self.parked) = (None, None);
        self.writes = FuturesOrdered::new();
    }

    fn timer(&self) -> Option<Duration> {
        let abandoned = self.owner.is_none().then_some(self.abandoned_at);
        // With something left to write, it ends with the last write.
        let abandoned = abandoned.filter(|_| self.can_end());
        let silent = self.is_asking().then(|| self.heard + SINK_PATIENCE);
        [self.applier.poll_timeout(), abandoned, silent].into_iter().flatten().min()
    }

    /// Drained, or given up by its owner with nothing left to write.
    fn is_done(&self) -> bool {
        let abandoned = self.owner.is_none() && self.flow.now() >= self.abandoned_at;
        let drained = self.flow.drain.is_cancelled()
            && matches!(self.applier.state(), ApplierState::Drained | ApplierState::Closed);
        self.settling.is_none() && (drained || (abandoned && self.can_end()))
    }

    fn can_end(&self) -> bool {
        self.settling.is_none() && (self.applier.is_flushed() || self.writer.is_none())
    }

    fn show(&mut self) {
        // The share of everybody changes as flows come and go.
        self.applier.set_bytes_cap(self.share.bytes_max());
        self.share.set_used(self.applier.committed_bytes());
        self.flow.status.show(&self.applier, self.audit.view());
    }
}

/// Opens a flow and moves its cursor from where it is known to be. Where it stands elsewhere, somebody else has moved it, or the destination has
/// lost what it had: then it stays.
async fn settle(
    sink: &dyn Sink,
    key: &FlowKey,
    partition: Option<u32>,
    known: Option<Position>,
    confirmed: Position,
) -> Result<Opened, SinkError> {
    let mut opened = sink.open(key, partition).await?;
    if opened.cursor == known && known.is_none_or(|known| is_behind(known, confirmed)) {
        opened.writer.commit(confirmed).await?;
        opened.cursor = Some(confirmed);
    }
    Ok(opened)
}

fn is_behind(cursor: Position, confirmed: Position) -> bool {
    cursor.incarnation != confirmed.incarnation || cursor.offset.wrapping_add(1) < confirmed.offset.wrapping_add(1)
}

/// The frame that tells an owner to open again.
pub(crate) fn reset_frame(handle: u32, path_epoch: u32, code: ResetCode, text: &str, retry: Duration) -> Frame {
    let retry_ms = u32::try_from(retry.as_millis()).unwrap_or(u32::MAX);
    Frame::Reset { handle, path_epoch, code: code as u8, text: text.to_owned(), retry_ms }
}

fn sentence(code: ResetCode) -> &'static str {
    match code {
        ResetCode::SinkLost => "the destination broker does not take the flow",
        ResetCode::Poison => "the destination refuses an event",
        ResetCode::BadChain => "a batch does not follow the one before it",
        ResetCode::UnknownRoute => "the route is not known here",
        ResetCode::StaleEpoch => "a later owner has the flow",
        ResetCode::Draining => "this router goes away",
        ResetCode::Limits => "more was sent than credit allows",
        ResetCode::NoPath => "there is no way to the destination now",
    }
}
