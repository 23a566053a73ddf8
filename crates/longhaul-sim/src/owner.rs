//! The owning end of a flow, as thin as it can be: the same calls in the same order as the router's, without its ring.
//!
//! A replayable shard is read by a reader of the flow's own; a queue is read by the [`shard`](crate::shard) of the router.

mod ways;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use longhaul_event::{Event, Position};
use longhaul_flow::{Credit, Heard, Owner, OwnerConfig, OwnerOutput, OwnerState, Reset, ResetCode, Span};
use longhaul_route::{Admission, IngressContext, ingress};
use longhaul_wire::{BatchEncoder, Chain, Compression, FlowOpen, Frame, Limits, WireError};

use crate::broker::{Answer, Ask, From};
use crate::core::{Core, End, Message, Port, Process, What, said};
use crate::plan::{BROKER, MESH};
use crate::serve::shard_name;
use crate::shard::{QueueShard, Taken};
use crate::way::{Avoided, Neighbours};

const PROGRESS_AFTER: Duration = Duration::from_secs(1);
const SLOW_RETRY: Duration = Duration::from_secs(10);
const FAST_RETRY: Duration = Duration::from_millis(500);
const LOOK_FOR_WAYS_EVERY: Duration = Duration::from_millis(500);
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

/// What was read and admitted: offsets from `first` to before `end`.
#[derive(Debug)]
pub(crate) struct ReadBatch {
    pub end: u64,
    pub events: Vec<Event>,
    pub admissions: Vec<Admission>,
}

impl ReadBatch {
    pub(crate) fn admit(core: &Core, shard: usize, incarnation: u64, mut events: Vec<Event>, last: u64) -> Self {
        let plan = &core.plan.shards[shard];
        let name = shard_name(plan.broker, plan.partition);
        let context = IngressContext::new(MESH, &format!("r{}", plan.broker), BROKER, &name);
        let admissions = ingress(&mut events, &context.with_replayable(plan.replayable), incarnation);
        Self { end: last.wrapping_add(1), events, admissions }
    }
}

#[derive(Debug)]
enum Cursor {
    None,
    Shared,
    Own { session: u64, asked: bool },
}

/// The driver.
pub(crate) struct OwnerFlow {
    flow: usize,
    process: Process,
    pub owner: Owner,
    port: Option<Port>,
    /// The region over which it goes.
    hop: usize,
    avoided: Avoided,
    /// Who had no way on last: region, path epoch, and when.
    refused: Option<(usize, u32, Duration)>,
    look: Option<Duration>,
    cursor: Cursor,
    /// The reader that is being opened.
    opening: Option<u64>,
    /// Waits for the one reader of a queue.
    waits_for_base: bool,
    resume: Option<Position>,
    begun: Option<Position>,
    behind_gap: Option<From>,
    incarnation: u64,
    next: u64,
    rest: Option<Rc<ReadBatch>>,
    encoder: BatchEncoder,
    blocked: bool,
    skipped_since: Option<Duration>,
    pub draining: bool,
    armed: Option<Duration>,
    state: OwnerState,
    /// What was granted and sent in this path epoch, counted by itself.
    account: Account,
}

#[derive(Debug, Default)]
struct Account {
    granted: Credit,
    events: u64,
    bytes: u64,
}

impl OwnerFlow {
    pub(crate) fn new(flow: usize, process: Process, owner_epoch: u64, core: &Core) -> Self {
        let replayable = core.plan.shards[core.plan.flows[flow].shard].replayable;
        let config = OwnerConfig { owner_epoch, replayable, back_off_min: BACK_OFF_MIN, back_off_max: BACK_OFF_MAX };
        Self {
            flow,
            process,
            owner: Owner::new(config),
            port: None,
            hop: 0,
            avoided: Avoided::default(),
            refused: None,
            look: None,
            cursor: Cursor::None,
            opening: None,
            waits_for_base: false,
            resume: None,
            begun: None,
            behind_gap: None,
            incarnation: 0,
            next: 0,
            rest: None,
            encoder: BatchEncoder::new(Limits::new(core.plan.event_bytes_max, u16::MAX)),
            blocked: false,
            skipped_since: None,
            draining: false,
            armed: None,
            state: OwnerState::Idle,
            account: Account::default(),
        }
    }

    fn shard(&self, core: &Core) -> usize {
        core.plan.flows[self.flow].shard
    }

    fn is_replayable(&self, core: &Core) -> bool {
        core.plan.shards[self.shard(core)].replayable
    }

    /// The port of this flow, if it is that one.
    pub(crate) fn has_port(&self, conn: u64, handle: u32) -> bool {
        self.port == Some((conn, handle))
    }

    /// One turn: link, outputs, sending, timers.
    pub(crate) fn turn(&mut self, core: &mut Core, near: &Neighbours<'_>, shard: Option<&mut QueueShard>) {
        let mut shard = shard;
        self.choose_way(core, near);
        self.do_outputs(core, shard.as_deref_mut());
        self.send_what_is_there(core, shard.as_deref_mut());
        // Sending may have broken the flow; what follows from that is said now.
        self.do_outputs(core, shard);
        self.read_on(core);
        self.arm(core);
        self.look_for_ways(core, near);
        self.observe(core);
    }

    fn observe(&mut self, core: &mut Core) {
        let state = self.owner.state();
        if state != self.state {
            let name = format!("{}>{}", self.state.as_str(), state.as_str());
            core.cover.count("owner", &name);
            let (flow, epoch) = (self.flow, self.owner.path_epoch());
            core.note(|| format!("owner: flow {flow} {name} at path epoch {epoch}"));
            if let Some(fault) = self.owner.last_fault().filter(|_| state == OwnerState::Faulted) {
                core.cover.count("owner fault", fault.as_str());
            }
            self.state = state;
        }
    }

    fn do_outputs(&mut self, core: &mut Core, mut shard: Option<&mut QueueShard>) {
        while let Some(output) = self.owner.poll_output() {
            core.cover.count("owner does", output_name(&output));
            match output {
                OwnerOutput::Open { path_epoch } => self.open(core, path_epoch),
                OwnerOutput::Seek { resume } => self.seek(core, resume, shard.as_deref()),
                OwnerOutput::SendStart { incarnation, after } => self.send_point(core, true, incarnation, after),
                OwnerOutput::SendTouch { incarnation, after } => self.send_point(core, false, incarnation, after),
                OwnerOutput::Release { floor } => self.release(core, floor, shard.as_deref_mut()),
                OwnerOutput::Cancel { .. } => self.cancel(core),
            }
            self.observe(core);
        }
    }

    fn open(&mut self, core: &mut Core, path_epoch: u32) {
        self.cancel(core);
        self.account = Account::default();
        let Some((conn, handle)) = self.port else { return };
        let flow = &core.plan.flows[self.flow];
        let (shard, to_region) = (&core.plan.shards[flow.shard], flow.to_broker);
        let route_hash = core.plan.table.route(&flow.route).map_or(0, |route| route.hash_to(flow.to));
        let name = shard_name(shard.broker, shard.partition);
        let open = FlowOpen {
            handle,
            mesh: MESH.to_owned(),
            route: flow.route.clone(),
            from: (format!("r{}", flow.from_broker), BROKER.to_owned(), name),
            to: (format!("r{to_region}"), BROKER.to_owned()),
            partition: Some(shard.partition),
            owner_epoch: self.owner.owner_epoch(),
            path_epoch,
            route_hash,
            class: 1,
            links: 1,
        };
        core.send(conn, 0, &Frame::Open(open));
    }

    fn release(&mut self, core: &mut Core, floor: u64, shard: Option<&mut QueueShard>) {
        let of = self.shard(core);
        let upto = core.uids.range((of, self.incarnation, 0)..=(of, self.incarnation, floor)).last();
        if let Some(uid) = upto.and_then(|(_, uids)| uids.first()).copied() {
            core.ledger.released(self.flow, uid);
        }
        if let Some(shard) = shard {
            shard.acked(self.flow, self.incarnation, floor.wrapping_add(1));
        }
    }

    fn cancel(&mut self, core: &mut Core) {
        if let Some((conn, handle)) = self.port {
            core.cancel(conn, handle);
        }
        self.drop_opening(core);
        self.rest = None;
    }

    fn drop_opening(&mut self, core: &mut Core) {
        self.waits_for_base = false;
        if let Some(session) = self.opening.take() {
            core.hang_up(session);
        }
    }

    fn drop_cursor(&mut self, core: &mut Core) {
        if let Cursor::Own { session, .. } = std::mem::replace(&mut self.cursor, Cursor::None) {
            core.hang_up(session);
        }
    }

    fn seek(&mut self, core: &mut Core, resume: Option<Position>, shard: Option<&QueueShard>) {
        self.drop_cursor(core);
        self.resume = resume;
        if self.is_replayable(core) {
            return self.open_reader(core);
        }
        match resume {
            Some(position) if shard.is_some_and(|shard| shard.holds(position)) => {
                self.cursor = Cursor::Shared;
                self.seeked(core, position.incarnation, position.offset, false);
            }
            _ => {
                self.waits_for_base = true;
                self.try_base(core, shard);
            }
        }
    }

    /// The one reader of a queue stands: go on where it still has what follows, or begin a new chain.
    fn try_base(&mut self, core: &mut Core, shard: Option<&QueueShard>) {
        let Some(shard) = shard.filter(|_| self.waits_for_base) else { return };
        let Some((incarnation, base)) = shard.base(self.flow) else { return };
        self.waits_for_base = false;
        self.cursor = Cursor::Shared;
        match self.resume {
            Some(position) if shard.holds(position) => self.seeked(core, incarnation, position.offset, false),
            _ => self.seeked(core, incarnation, base.wrapping_sub(1), true),
        }
    }

    /// The queue was read, or has another reader.
    pub(crate) fn handle_news(&mut self, core: &mut Core, shard: Option<&QueueShard>) {
        self.try_base(core, shard);
    }

    fn open_reader(&mut self, core: &mut Core) {
        let start = match self.resume.or(self.begun) {
            Some(position) => From::After(position),
            None if core.plan.latest => From::Latest,
            None => From::Earliest,
        };
        let start = self.behind_gap.take().unwrap_or(start);
        let (shard, flow) = (self.shard(core), Some(self.flow));
        let session = core.connect(core.plan.shards[shard].broker, self.process, End::Owner(self.flow));
        core.ask(session, Ask::OpenReader { shard, flow, start });
        self.opening = Some(session);
    }

    pub(crate) fn handle_answer(&mut self, core: &mut Core, session: u64, answer: Answer) {
        if self.opening == Some(session) {
            self.opening = None;
            return match answer {
                Answer::Reader { incarnation, after } => {
                    self.cursor = Cursor::Own { session, asked: false };
                    self.seeked(core, incarnation, after, self.resume.is_none());
                }
                // What a log lost at its end cannot be told from what came since: such a flow always waits for an operator here.
                Answer::Gap(gap, behind) if core.plan.passes_gaps && gap != "truncated" => {
                    core.note(|| format!("owner: passes over a gap: {gap}"));
                    core.cover.count("gap passed", gap);
                    (self.resume, self.begun) = (None, None);
                    self.behind_gap = Some(From::Behind(behind));
                    self.open_reader(core);
                }
                Answer::Gap(gap, _) => {
                    core.note(|| format!("owner: a gap: {gap}"));
                    core.cover.count("gap", gap);
                    core.ledger.halted(self.flow);
                    self.source_failed(core, SLOW_RETRY);
                }
                _ => self.source_failed(core, FAST_RETRY),
            };
        }
        let Cursor::Own { session: own, asked } = &mut self.cursor else { return };
        if *own != session {
            return;
        }
        *asked = false;
        match answer {
            Answer::Read { events, last } => {
                let batch = ReadBatch::admit(core, self.shard(core), self.incarnation, events, last);
                self.rest = Some(Rc::new(batch));
            }
            _ => self.source_failed(core, FAST_RETRY),
        }
    }

    fn seeked(&mut self, core: &mut Core, incarnation: u64, after: u64, fresh: bool) {
        self.incarnation = incarnation;
        self.next = after.wrapping_add(1);
        if fresh || (core.plan.latest && self.begun.is_none()) {
            self.begun = Some(Position { incarnation, offset: after });
        }
        (self.skipped_since, self.rest, self.blocked) = (None, None, false);
        self.owner.handle_seeked(core.now, incarnation, after, fresh);
        self.observe(core);
    }

    fn source_failed(&mut self, core: &mut Core, retry: Duration) {
        self.drop_cursor(core);
        self.owner.handle_seek_failed(core.now, retry);
        self.observe(core);
    }

    fn send_point(&mut self, core: &mut Core, start: bool, incarnation: u64, after: u64) {
        let chain = self.chain(start, incarnation, after, after);
        let batch = self.encoder.finish(chain, Compression::None);
        self.submit(core, batch);
    }

    fn chain(&self, start: bool, incarnation: u64, prev: u64, last: u64) -> Chain {
        let handle = self.port.map_or(0, |(_, handle)| handle);
        Chain { handle, path_epoch: self.owner.path_epoch(), start, incarnation, prev, last }
    }

    fn submit(&mut self, core: &mut Core, batch: Bytes) {
        if let Some((conn, handle)) = self.port {
            core.submit(conn, handle, batch);
        }
    }

    fn may_send(&self) -> bool {
        !self.blocked && !self.draining && self.owner.allowance().is_some()
    }

    fn send_what_is_there(&mut self, core: &mut Core, mut shard: Option<&mut QueueShard>) {
        while self.may_send() {
            let batch = match (&self.cursor, self.rest.take()) {
                (Cursor::None, _) | (Cursor::Own { .. }, None) => break,
                (Cursor::Own { .. }, Some(rest)) => rest,
                (Cursor::Shared, _) => {
                    let Some(shard) = shard.as_deref_mut() else { break };
                    match shard.take(self.incarnation, self.next) {
                        Taken::Batch(batch) => batch,
                        Taken::Wait => break,
                        Taken::Elsewhere => {
                            self.cursor = Cursor::None;
                            self.owner.handle_seek_failed(core.now, Duration::ZERO);
                            return self.observe(core);
                        }
                    }
                }
            };
            self.send_batch(core, &batch);
        }
        self.report_progress(core);
    }

    /// What the route takes of a batch, as far as credit goes, as one batch on the wire.
    fn send_batch(&mut self, core: &mut Core, batch: &Rc<ReadBatch>) {
        let Some(allowance) = self.owner.allowance() else { return };
        let flow = &core.plan.flows[self.flow];
        let (to, drops) = (flow.to, core.plan.drops_poison);
        let Some(route) = core.plan.table.route(&flow.route).cloned() else { return };
        let from = batch.events.partition_point(|event| event.offset < self.next);
        let (events, admissions) = (&batch.events[from..], &batch.admissions[from..]);
        let (mut verdicts, mut topic, mut provenance) = (Vec::new(), String::new(), BytesMut::new());
        route.decide_batch(to, events, admissions, &mut verdicts);
        let mut end = batch.end;
        for ((event, admission), verdict) in events.iter().zip(admissions).zip(&verdicts) {
            if let Err(refusal) = verdict {
                core.cover.count("refusal", refusal.as_str());
                if refusal.is_poison() && !drops {
                    end = event.offset;
                    if self.encoder.is_empty() {
                        return self.cannot_carry(core);
                    }
                    break;
                }
                continue;
            }
            topic.clear();
            route.render(to, event, &mut topic);
            route.stamp(to, event, admission, &topic, &mut provenance);
            let room = allowance.bytes.saturating_sub(self.encoder.len() as u64);
            let bound = (event.size() + topic.len() + provenance.len()) as u64;
            let fits = bound <= room && u64::from(self.encoder.count()) < allowance.events;
            if !(fits || self.encoder.is_empty() && allowance.overdraft) {
                end = event.offset;
                break;
            }
            match self.encoder.push(event, &topic, &provenance) {
                Ok(()) => {}
                Err(WireError::BatchFull) => {
                    end = event.offset;
                    break;
                }
                Err(_) if drops => core.cover.count("refusal", "too_large"),
                Err(_) => return self.cannot_carry(core),
            }
        }
        if end < batch.end && matches!(self.cursor, Cursor::Own { .. }) {
            self.rest = Some(Rc::clone(batch));
        }
        let starved = end < batch.end && self.encoder.is_empty();
        let moved = self.next != end;
        self.next = end;
        if !self.encoder.is_empty() {
            self.send_span(core);
        } else if moved {
            self.skipped_since.get_or_insert(core.now);
        }
        if starved {
            self.owner.handle_blocked(core.now);
            self.blocked = true;
            core.cover.count("owner does", "waits for credit");
        }
    }

    /// Nothing in these plans is refused by a route that halts.
    fn cannot_carry(&mut self, core: &mut Core) {
        core.ledger.violate("carry", format!("flow {} refuses an event that it must carry", self.flow));
        self.source_failed(core, SLOW_RETRY);
    }

    fn send_span(&mut self, core: &mut Core) {
        let Some(sent) = self.owner.sent() else { return };
        let (events, bytes) = (self.encoder.count(), self.encoder.len() as u32);
        let span = Span { prev: sent.offset, last: self.next.wrapping_sub(1), events, bytes };
        let alone = self.owner.in_flight() == (0, 0);
        let batch = self.encoder.finish(self.chain(false, self.incarnation, span.prev, span.last), Compression::Lz4);
        self.skipped_since = None;
        if self.owner.handle_sent(core.now, span) {
            self.check_credit(core, span, alone);
            self.submit(core, batch);
        }
    }

    fn check_credit(&mut self, core: &mut Core, span: Span, alone: bool) {
        let account = &mut self.account;
        (account.events, account.bytes) = (
            account.events + u64::from(span.events),
            account.bytes + if span.events == 0 { 0 } else { u64::from(span.bytes) },
        );
        let within = account.events <= account.granted.events_limit && account.bytes <= account.granted.bytes_limit;
        if !(within || alone && span.events <= 1) {
            core.ledger.violate("credit", format!("flow {} sent more than it was granted", self.flow));
        }
    }

    fn report_progress(&mut self, core: &mut Core) {
        if self.may_send() && self.skipped_since.is_some_and(|since| core.now >= since + PROGRESS_AFTER) {
            self.send_span(core);
            core.cover.count("owner does", "reports progress");
        }
    }

    /// Asks its own reader for more, when there is use for it.
    fn read_on(&mut self, core: &mut Core) {
        let wants = self.may_send() && self.rest.is_none();
        if let Cursor::Own { session, asked } = &mut self.cursor
            && wants
            && !*asked
        {
            *asked = true;
            core.ask(*session, Ask::Read { next: self.next });
        }
    }

    pub(crate) fn handle_frame(&mut self, core: &mut Core, frame: &Frame) {
        let now = core.now;
        if said(self.flow, frame).is_some_and(|said| !core.said.contains(&said)) {
            let detail = format!("flow {}: no applier has said this: {frame:?}", self.flow);
            core.ledger.violate("acknowledged on the way", detail);
        }
        let heard = match *frame {
            Frame::Accept { path_epoch, resume, events_limit, bytes_limit, .. } => {
                let credit = Credit { events_limit, bytes_limit };
                self.grant(path_epoch, credit);
                ("accept", self.owner.handle_accept(now, path_epoch, resume, credit))
            }
            Frame::Ack { path_epoch, durable, events_limit, bytes_limit, .. } => {
                self.blocked = false;
                let credit = Credit { events_limit, bytes_limit };
                self.grant(path_epoch, credit);
                ("ack", self.owner.handle_ack(now, path_epoch, durable, credit))
            }
            Frame::Reset { path_epoch, code, retry_ms, .. } => {
                let code = ResetCode::ALL.get(usize::from(code)).copied().unwrap_or(ResetCode::BadChain);
                let retry = Duration::from_millis(u64::from(retry_ms));
                if path_epoch == self.owner.path_epoch() && code == ResetCode::NoPath {
                    self.avoid(core);
                }
                ("reset", self.owner.handle_reset(now, path_epoch, Reset { code, retry }))
            }
            _ => return,
        };
        let word = match heard.1 {
            Heard::Taken => "taken",
            Heard::Stale => "stale",
            Heard::Violation => "violation",
        };
        core.cover.count("owner hears", &format!("{} {word}", heard.0));
        let is_stale = matches!(*frame, Frame::Reset { code, .. } if code == ResetCode::StaleEpoch as u8);
        let region = core.plan.flows[self.flow].from_broker;
        if is_stale && heard.1 == Heard::Taken && core.owner_of[region] == Some(self.process) {
            core.ledger
                .violate("epoch", format!("flow {}: its rightful owner is told that a later one has it", self.flow));
        }
        if heard.1 == Heard::Violation {
            core.ledger.violate("peer", format!("flow {} heard what no honest applier says: {frame:?}", self.flow));
        }
        self.observe(core);
    }

    fn grant(&mut self, path_epoch: u32, credit: Credit) {
        if path_epoch == self.owner.path_epoch() {
            let granted = &mut self.account.granted;
            granted.events_limit = granted.events_limit.max(credit.events_limit);
            granted.bytes_limit = granted.bytes_limit.max(credit.bytes_limit);
        }
    }

    fn arm(&mut self, core: &mut Core) {
        let progress = self.skipped_since.filter(|_| self.may_send()).map(|since| since + PROGRESS_AFTER);
        let due = [self.owner.poll_timeout(), progress].into_iter().flatten().min();
        if let Some(due) = due.filter(|due| self.armed.is_none_or(|armed| *due < armed)) {
            self.armed = Some(due);
            core.at(due, What::To(self.process, Message::Timer { end: End::Owner(self.flow) }));
        }
    }

    pub(crate) fn handle_timer(&mut self, core: &mut Core) {
        self.armed = self.armed.filter(|armed| core.now < *armed);
        self.owner.handle_timeout(core.now);
        self.observe(core);
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.draining && (self.owner.in_flight() == (0, 0) || self.port.is_none())
    }

    /// The flow ends here: its applier hears of it, its reader is closed.
    pub(crate) fn close(&mut self, core: &mut Core) {
        self.drop_opening(core);
        self.drop_cursor(core);
        if let Some((conn, handle)) = self.port {
            core.cancel(conn, handle);
            core.send(conn, 0, &Frame::Close { handle, path_epoch: self.owner.path_epoch() });
        }
    }
}

fn output_name(output: &OwnerOutput) -> &'static str {
    match output {
        OwnerOutput::Cancel { .. } => "cancel",
        OwnerOutput::Release { .. } => "release",
        OwnerOutput::Open { .. } => "open",
        OwnerOutput::Seek { .. } => "seek",
        OwnerOutput::SendStart { .. } => "start",
        OwnerOutput::SendTouch { .. } => "touch",
    }
}

/// The owning flows of a router.
pub(crate) type Owners = BTreeMap<usize, OwnerFlow>;
