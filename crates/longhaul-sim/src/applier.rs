//! The applying end of a flow, as thin as it can be: the same calls in the same order as the router's.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use longhaul_event::{Event, Position};
use longhaul_flow::{Applier, ApplierConfig, ApplierOutput, ApplierState, Offer, ResetCode, Span};
use longhaul_wire::{BatchHeader, FlowOpen, Frame};

use crate::broker::{Answer, Ask};
use crate::core::{Core, End, Message, Process, What, said};
use crate::serve::ordinal;

const WRITES_MAX: usize = 8;
const FAST_RETRY: Duration = Duration::from_millis(500);
const SLOW_RETRY: Duration = Duration::from_secs(10);
const ABANDONED_AFTER: Duration = Duration::from_secs(5);
const SINK_PATIENCE: Duration = Duration::from_secs(120);

/// What is really in memory, counted by the batches themselves: events and bytes.
type Memory = Rc<Cell<(u64, u64)>>;

/// A batch that knows what it weighs.
struct Batch {
    incarnation: u64,
    events: Vec<Event>,
    weight: (u64, u64),
    memory: Memory,
}

impl Batch {
    fn new(incarnation: u64, events: Vec<Event>, span: Span, memory: &Memory) -> Self {
        let weight = if span.events == 0 { (0, 0) } else { (u64::from(span.events), u64::from(span.bytes)) };
        let (events_held, bytes_held) = memory.get();
        memory.set((events_held + weight.0, bytes_held + weight.1));
        Self { incarnation, events, weight, memory: Rc::clone(memory) }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let (events, bytes) = self.memory.get();
        self.memory.set((events - self.weight.0, bytes - self.weight.1));
    }
}

struct Write {
    span: Span,
    /// What is with the sink is still in memory.
    _batch: Batch,
    /// Nothing of it was left to write.
    done: bool,
}

/// A cursor that is brought up to what is confirmed, from one of two places where it may be: a commit was under way.
struct Settling {
    session: u64,
    known: [Option<Position>; 2],
    confirmed: Position,
    tails_lost: u64,
}

/// The driver.
pub(crate) struct ApplierFlow {
    flow: usize,
    process: Process,
    applier: Applier<Batch>,
    memory: Memory,
    /// The epochs of the last Open that was taken.
    opened: (u64, u32),
    /// Connection, handle and number of the last Open that was not refused.
    owner: Option<(u64, u32, u64)>,
    writer: Option<u64>,
    opening: Option<u64>,
    /// The cursor that the destination had when it last said so.
    cursor: Option<Position>,
    /// What was confirmed before a refused event is made durable; then the flow fails.
    settling: Option<Settling>,
    writes: VecDeque<Write>,
    committing: Option<Position>,
    /// The last cursor that was sent to an atomic sink: what it covers is not sent again, or the cursor would go back.
    carried: Option<Position>,
    /// The commit that is under way needs no answer.
    covered: bool,
    /// Refused events to be left out or parked, as far as the cursor is not beyond them.
    skipped: Vec<Position>,
    /// Events are being parked. What stands with them waits, so that nothing is written beyond them before that is done.
    parking: Option<(u64, Span, Batch)>,
    idle_since: Duration,
    heard: Duration,
    pub draining: bool,
    armed: Option<Duration>,
    state: ApplierState,
    cap: u64,
    cap_max: u64,
}

impl ApplierFlow {
    pub(crate) fn new(flow: usize, process: Process, cap: u64, core: &Core) -> Self {
        Self {
            flow,
            process,
            applier: Applier::new(ApplierConfig { bytes_cap: cap }),
            memory: Memory::default(),
            opened: (0, 0),
            owner: None,
            writer: None,
            opening: None,
            cursor: None,
            settling: None,
            writes: VecDeque::new(),
            committing: None,
            carried: None,
            covered: false,
            skipped: Vec::new(),
            parking: None,
            idle_since: core.now,
            heard: core.now,
            draining: false,
            armed: None,
            state: ApplierState::Closed,
            cap,
            cap_max: cap,
        }
    }

    fn observe(&mut self, core: &mut Core) {
        let state = self.applier.state();
        if state != self.state {
            let name = format!("{}>{}", self.state.as_str(), state.as_str());
            core.cover.count("applier", &name);
            let (flow, process) = (self.flow, self.process);
            core.note(|| format!("applier: flow {flow} at {process:?} {name}"));
            self.state = state;
        }
    }

    /// The budget is divided anew.
    pub(crate) fn set_cap(&mut self, cap: u64) {
        self.cap = cap;
        self.cap_max = self.cap_max.max(cap);
    }

    pub(crate) fn handle_open(&mut self, core: &mut Core, conn: u64, attachment: u64, open: &FlowOpen) {
        let (handle, path_epoch) = (open.handle, open.path_epoch);
        if self.applier.handle_open(core.now, open.owner_epoch, path_epoch).is_err() {
            core.cover.count("applier hears", "open of a stale epoch");
            return core.send(conn, 1, &reset_frame(handle, path_epoch, ResetCode::StaleEpoch, FAST_RETRY));
        }
        let epochs = (open.owner_epoch, path_epoch);
        if epochs <= self.opened {
            core.ledger
                .violate("epoch", format!("flow {} was opened with {epochs:?} after {:?}", self.flow, self.opened));
        }
        self.opened = epochs;
        self.observe(core);
        self.applier.handle_rtt(core.rtt());
        self.owner = Some((conn, handle, attachment));
    }

    pub(crate) fn handle_batch(&mut self, core: &mut Core, attachment: u64, header: &BatchHeader, events: Vec<Event>) {
        if self.owner.is_none_or(|(_, _, id)| id != attachment) {
            return core.cover.count("offer", "of another attachment");
        }
        let span = Span { prev: header.prev, last: header.last, events: header.count, bytes: header.raw_len };
        let batch = Batch::new(header.incarnation, events, span, &self.memory);
        let (epoch, start) = (header.path_epoch, header.start);
        let offer = self.applier.handle_batch(core.now, epoch, start, header.incarnation, span, batch);
        let word = match offer {
            Offer::Accepted => "accepted",
            Offer::Held => "held",
            Offer::Duplicate => "duplicate",
            Offer::Stale => "stale",
            Offer::Refused(code) => code.as_str(),
        };
        core.cover.count("offer", word);
        if word == "stale" && epoch < self.opened.1 && core.plan.has_detours() {
            core.cover.count("fault", "parcel of an older way");
        }
        let flow = self.flow;
        core.note(|| format!("applier: flow {flow} {span:?} start {start} of path epoch {epoch}: {word}"));
        if matches!(offer, Offer::Refused(_)) && !core.unclean {
            core.ledger.violate("peer", format!("flow {flow}: an honest batch was refused: {word}, {span:?}"));
        }
        self.observe(core);
    }

    pub(crate) fn handle_gone(&mut self, core: &mut Core, attachment: u64) {
        if self.owner.is_some_and(|(_, _, id)| id == attachment) {
            self.owner = None;
            self.idle_since = core.now;
            self.applier.handle_flow_closed(core.now);
            self.observe(core);
        }
    }

    pub(crate) fn drain(&mut self, core: &mut Core) {
        self.draining = true;
        self.applier.handle_drain(core.now);
        self.observe(core);
    }

    /// One turn: outputs, writes, timers, until nothing moves.
    pub(crate) fn turn(&mut self, core: &mut Core) {
        self.applier.set_bytes_cap(self.cap);
        loop {
            self.do_outputs(core);
            self.deliver(core);
            if !self.finish_done(core) && !self.finish_carried(core) {
                break;
            }
        }
        self.check_memory(core);
        self.arm(core);
    }

    fn check_memory(&mut self, core: &mut Core) {
        let (events, bytes) = self.memory.get();
        if self.applier.outstanding() != (events, bytes) {
            let says = self.applier.outstanding();
            let detail = format!("flow {}: holds {events} events, {bytes} bytes, and counts {says:?}", self.flow);
            core.ledger.violate("memory", detail);
        }
        let one_event = core.plan.payload_bytes_max + 1_024;
        let most = self.cap_max + one_event;
        if bytes > most || self.applier.committed_bytes() > most {
            let detail = format!("flow {}: {bytes} bytes held or promised beyond {most}", self.flow);
            core.ledger.violate("memory", detail);
        }
    }

    fn do_outputs(&mut self, core: &mut Core) {
        while let Some(output) = self.applier.poll_output() {
            match output {
                ApplierOutput::OpenSink => self.open_sink(core),
                ApplierOutput::Accept { path_epoch, resume, credit } => {
                    core.cover.count("applier does", "accept");
                    let (events_limit, bytes_limit) = (credit.events_limit, credit.bytes_limit);
                    self.reply(core, |handle| Frame::Accept { handle, path_epoch, resume, events_limit, bytes_limit });
                }
                ApplierOutput::Commit(position) => self.commit(core, position),
                ApplierOutput::Ack { path_epoch, durable, credit } => {
                    core.cover.count("applier does", "ack");
                    let (events_limit, bytes_limit) = (credit.events_limit, credit.bytes_limit);
                    self.reply(core, |handle| Frame::Ack { handle, path_epoch, durable, events_limit, bytes_limit });
                }
                ApplierOutput::Reset { path_epoch, reset } => {
                    core.cover.count("reset", reset.code.as_str());
                    self.reply(core, |handle| reset_frame(handle, path_epoch, reset.code, reset.retry));
                }
            }
            self.observe(core);
        }
    }

    fn reply(&mut self, core: &mut Core, frame: impl FnOnce(u32) -> Frame) {
        if let Some((conn, handle, _)) = self.owner {
            let frame = frame(handle);
            core.said.extend(said(self.flow, &frame));
            core.send(conn, 1, &frame);
        }
    }

    fn is_asking(&self) -> bool {
        self.opening.is_some()
            || self.settling.is_some()
            || self.committing.is_some()
            || self.parking.is_some()
            || !self.writes.is_empty()
    }

    fn ask(&mut self, core: &mut Core, session: u64, ask: Ask) {
        if !self.is_asking() {
            self.heard = core.now;
        }
        core.ask(session, ask);
    }

    fn open_sink(&mut self, core: &mut Core) {
        core.cover.count("applier does", "open sink");
        let settling = self.settling.take();
        self.drop_writer(core);
        if let Some(settling) = settling {
            self.opening = Some(settling.session);
            self.settling = Some(settling);
            return;
        }
        let flow = self.flow;
        let session = core.connect(core.plan.flows[flow].to_broker, self.process, End::Applier(flow));
        self.ask(core, session, Ask::OpenSink { flow });
        self.opening = Some(session);
    }

    fn is_atomic(&self, core: &Core) -> bool {
        core.plan.kinds[core.plan.flows[self.flow].to_broker].is_atomic()
    }

    fn commit(&mut self, core: &mut Core, position: Position) {
        core.cover.count("applier does", "commit");
        if !self.is_carried(position)
            && let Some(session) = self.writer
        {
            self.carried = self.is_atomic(core).then_some(position);
            self.covered = false;
            self.ask(core, session, Ask::Commit { flow: self.flow, cursor: position });
        } else {
            self.covered = true;
        }
        self.committing = Some(position);
    }

    /// Hands what is in order to the sink, a few batches at a time.
    fn deliver(&mut self, core: &mut Core) {
        while self.writes.len() < WRITES_MAX && self.parking.is_none() {
            if self.writer.is_none() {
                return;
            }
            let Some((span, mut batch)) = self.applier.poll_deliver() else { return };
            let incarnation = batch.incarnation;
            let skipped = &self.skipped;
            let is_refused = |event: &mut Event| skipped.contains(&Position { incarnation, offset: event.offset });
            let aside: Vec<Event> = batch.events.extract_if(.., is_refused).collect();
            if aside.is_empty() || !core.plan.parks {
                self.write(core, span, batch);
            } else {
                self.park(core, aside, span, batch);
            }
        }
    }

    fn write(&mut self, core: &mut Core, span: Span, mut batch: Batch) {
        let Some(session) = self.writer else { return };
        let (incarnation, events) = (batch.incarnation, std::mem::take(&mut batch.events));
        let done = events.is_empty();
        if !done {
            let cursor = self.is_atomic(core).then_some(Position { incarnation, offset: span.last });
            self.carried = cursor;
            self.ask(core, session, Ask::Write { flow: self.flow, incarnation, events, cursor });
        }
        self.writes.push_back(Write { span, _batch: batch, done });
    }

    fn park(&mut self, core: &mut Core, events: Vec<Event>, span: Span, batch: Batch) {
        core.cover.count("applier does", "park");
        let (flow, incarnation) = (self.flow, batch.incarnation);
        let session = core.connect(core.plan.flows[flow].to_broker, self.process, End::Applier(flow));
        self.ask(core, session, Ask::Park { flow, incarnation, events });
        self.parking = Some((session, span, batch));
    }

    fn handle_parked(&mut self, core: &mut Core, answer: &Answer) {
        let Some((session, span, rest)) = self.parking.take() else { return };
        core.hang_up(session);
        match answer {
            Answer::Parked => self.write(core, span, rest),
            _ => self.sink_failed(core, ResetCode::SinkLost, FAST_RETRY),
        }
        self.observe(core);
    }

    fn finish_done(&mut self, core: &mut Core) -> bool {
        let Some(done) = self.writes.pop_front_if(|write| write.done) else { return false };
        self.applier.handle_written(core.now, done.span.last);
        drop(done);
        self.observe(core);
        true
    }

    fn finish_carried(&mut self, core: &mut Core) -> bool {
        let Some(position) = self.committing.filter(|_| self.covered) else { return false };
        self.committed(core, position);
        true
    }

    fn is_carried(&self, position: Position) -> bool {
        self.carried.is_some_and(|carried| carried == position || is_behind(position, carried))
            && self.carried.is_some_and(|carried| carried.incarnation == position.incarnation)
    }

    fn committed(&mut self, core: &mut Core, position: Position) {
        (self.committing, self.covered, self.cursor) = (None, false, Some(position));
        self.skipped.retain(|skipped| is_behind(position, *skipped));
        self.applier.handle_committed(core.now, position);
        self.observe(core);
    }

    pub(crate) fn handle_answer(&mut self, core: &mut Core, session: u64, answer: Answer) {
        if self.opening == Some(session) {
            return self.handle_opened(core, session, answer);
        }
        if self.settling.as_ref().is_some_and(|settling| settling.session == session) {
            self.heard = core.now;
            if self.handle_settling(core, session, answer).is_some() {
                core.hang_up(session);
            }
            return;
        }
        if self.parking.as_ref().is_some_and(|(parking, ..)| *parking == session) {
            self.heard = core.now;
            return self.handle_parked(core, &answer);
        }
        if self.writer != Some(session) {
            return core.unheard(session, &answer);
        }
        self.heard = core.now;
        match answer {
            Answer::Written => {
                if let Some(write) = self.writes.pop_front() {
                    self.applier.handle_written(core.now, write.span.last);
                }
            }
            Answer::Committed(position) => self.committed(core, position),
            Answer::Poison { offset } => self.poisoned(core, offset),
            _ => self.sink_failed(core, ResetCode::SinkLost, FAST_RETRY),
        }
        self.observe(core);
    }

    fn handle_opened(&mut self, core: &mut Core, session: u64, answer: Answer) {
        self.heard = core.now;
        let Some(cursor) = self.handle_settling(core, session, answer) else { return };
        (self.writer, self.opening, self.cursor) = (Some(session), None, cursor);
        self.carried = cursor.filter(|_| self.is_atomic(core));
        self.applier.handle_sink_open(core.now, cursor);
        self.observe(core);
    }

    fn sink_failed(&mut self, core: &mut Core, code: ResetCode, retry: Duration) {
        self.applier.handle_sink_failed(core.now, code, retry);
        self.drop_writer(core);
        self.observe(core);
    }

    /// Everything before the refused event is confirmed, and made durable; the event itself is left out, or waits.
    fn poisoned(&mut self, core: &mut Core, offset: u64) {
        let Some(accepted) = self.applier.accepted() else {
            return self.sink_failed(core, ResetCode::Poison, SLOW_RETRY);
        };
        let retry = if core.plan.drops_poison || core.plan.parks {
            self.skipped.push(Position { offset, ..accepted });
            Duration::ZERO
        } else {
            SLOW_RETRY
        };
        let known = [self.cursor, self.committing.or(self.cursor)];
        self.sink_failed(core, ResetCode::Poison, retry);
        let to = core.plan.flows[self.flow].to_broker;
        let session = core.connect(to, self.process, End::Applier(self.flow));
        self.ask(core, session, Ask::OpenSink { flow: self.flow });
        let (confirmed, tails_lost) =
            (Position { offset: offset.wrapping_sub(1), ..accepted }, core.brokers[to].tails_lost);
        self.settling = Some(Settling { session, known, confirmed, tails_lost });
    }

    /// Whether that cursor is brought up to what is confirmed. A destination that crashes within this round trip and loses what it
    /// confirmed, though not the cursor before it, is not tried: no opening can tell.
    fn settles(&self, core: &Core, settling: &Settling, cursor: Option<Position>) -> bool {
        settling.tails_lost == core.brokers[core.plan.flows[self.flow].to_broker].tails_lost
            && settling.known.contains(&cursor)
            && cursor.is_none_or(|cursor| is_behind(cursor, settling.confirmed))
    }

    /// The cursor that the destination has then; `None` while it is asked to move it, or when it fails.
    fn handle_settling(&mut self, core: &mut Core, session: u64, answer: Answer) -> Option<Option<Position>> {
        match (answer, self.settling.take()) {
            (Answer::Sink { cursor }, Some(settling)) if settling.session == session => {
                if !self.settles(core, &settling, cursor) {
                    return Some(cursor);
                }
                core.cover.count("applier does", "settle");
                core.ask(session, Ask::Commit { flow: self.flow, cursor: settling.confirmed });
                self.settling = Some(settling);
                None
            }
            (Answer::Sink { cursor }, _) => Some(cursor),
            (Answer::Committed(cursor), Some(_)) => Some(Some(cursor)),
            _ => {
                self.sink_failed(core, ResetCode::SinkLost, FAST_RETRY);
                None
            }
        }
    }

    fn drop_writer(&mut self, core: &mut Core) {
        let settling = self.settling.take().map(|settling| settling.session);
        let parking = self.parking.take().map(|(session, ..)| session);
        for session in [self.writer.take(), self.opening.take(), settling, parking].into_iter().flatten() {
            core.hang_up(session);
        }
        (self.committing, self.carried) = (None, None);
        self.covered = false;
        self.writes.clear();
    }

    fn arm(&mut self, core: &mut Core) {
        let abandoned = (self.owner.is_none() && self.can_end()).then(|| self.idle_since + ABANDONED_AFTER);
        let silent = self.is_asking().then(|| self.heard + SINK_PATIENCE);
        let due = [self.applier.poll_timeout(), abandoned, silent].into_iter().flatten().min();
        if let Some(due) = due.filter(|due| self.armed.is_none_or(|armed| *due < armed)) {
            self.armed = Some(due);
            core.at(due, What::To(self.process, Message::Timer { end: End::Applier(self.flow) }));
        }
    }

    pub(crate) fn handle_timer(&mut self, core: &mut Core) {
        self.armed = None;
        self.applier.handle_timeout(core.now);
        if self.is_asking() && core.now >= self.heard + SINK_PATIENCE {
            core.cover.count("applier does", "loses patience");
            self.sink_failed(core, ResetCode::SinkLost, FAST_RETRY);
        }
    }

    fn can_end(&self) -> bool {
        self.settling.is_none() && (self.applier.is_flushed() || self.writer.is_none())
    }

    /// Drained, or given up by its owner with nothing left to write.
    pub(crate) fn is_done(&self, now: Duration) -> bool {
        let drained = self.draining && matches!(self.applier.state(), ApplierState::Drained | ApplierState::Closed);
        let abandoned = self.owner.is_none() && now >= self.idle_since + ABANDONED_AFTER;
        self.settling.is_none() && (drained || (abandoned && self.can_end()))
    }

    pub(crate) fn close(&mut self, core: &mut Core) {
        self.drop_writer(core);
    }
}

fn is_behind(cursor: Position, confirmed: Position) -> bool {
    cursor.incarnation != confirmed.incarnation || ordinal(cursor.offset) < ordinal(confirmed.offset)
}

pub(crate) fn reset_frame(handle: u32, path_epoch: u32, code: ResetCode, retry: Duration) -> Frame {
    let retry_ms = u32::try_from(retry.as_millis()).unwrap_or(u32::MAX);
    Frame::Reset { handle, path_epoch, code: code as u8, text: code.as_str().to_owned(), retry_ms }
}

/// The applying flows of a router.
pub(crate) type Appliers = BTreeMap<usize, ApplierFlow>;
