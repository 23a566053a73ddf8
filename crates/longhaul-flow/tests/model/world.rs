//! The driver of both machines, as the router is one, with everything that can go wrong as an action.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use longhaul_event::Position;
use longhaul_flow::{
    Applier, ApplierConfig, ApplierOutput, Credit, Offer, Owner, OwnerConfig, OwnerOutput, OwnerState, Reset,
    ResetCode, Span,
};

use crate::action::Action;
use crate::sink::Sink;
use crate::source::{EVENT_BYTES_MAX, Event, Kind, Source, takes};

enum ToApplier {
    Open { owner_epoch: u64, path_epoch: u32 },
}

enum ToOwner {
    Accept { path_epoch: u32, resume: Option<Position>, credit: Credit },
    Ack { path_epoch: u32, durable: u64, credit: Credit },
    Reset { path_epoch: u32, reset: Reset },
}

struct Parcel {
    conn: u32,
    path_epoch: u32,
    start: bool,
    incarnation: u64,
    span: Span,
    events: Vec<Event>,
}

/// What happened, so that a model that exercises nothing is found out.
#[derive(Debug, Default, Clone)]
pub(crate) struct Seen {
    held: u64,
    stale: u64,
    duplicate_events: u64,
    stale_opens: u64,
    overdrafts: u64,
    starved: u64,
    stalls: u64,
    partial_resumes: u64,
    delivered: u64,
}

impl Seen {
    pub(crate) fn add(&mut self, other: &Self) {
        self.held += other.held;
        self.stale += other.stale;
        self.duplicate_events += other.duplicate_events;
        self.stale_opens += other.stale_opens;
        self.overdrafts += other.overdrafts;
        self.starved += other.starved;
        self.stalls += other.stalls;
        self.partial_resumes += other.partial_resumes;
        self.delivered += other.delivered;
    }

    pub(crate) fn stalls(&self) -> u64 {
        self.stalls
    }

    pub(crate) fn delivered(&self) -> u64 {
        self.delivered
    }

    pub(crate) fn assert_all(&self) {
        let Self {
            held,
            stale,
            duplicate_events,
            stale_opens,
            overdrafts,
            starved,
            stalls,
            partial_resumes,
            delivered,
        } = *self;
        let counts =
            [held, stale, duplicate_events, stale_opens, overdrafts, starved, stalls, partial_resumes, delivered];
        assert!(counts.iter().all(|&count| count > 0), "something was never exercised: {self:?}");
    }
}

pub(crate) struct World {
    now: Duration,
    source: Source,
    owner: Owner,
    owner_epoch: u64,
    /// First connection of the present life of the owner.
    life_from: u32,
    /// The connection that the owner uses; `None` when it knows of no link.
    conn: Option<u32>,
    conns: u32,
    seek: Option<Option<Position>>,
    applier: Applier<Vec<Event>>,
    /// The connection of the last Open that was not refused, and the oldest that reaches this life of the applier.
    bound: Option<u32>,
    reach_from: u32,
    opening_sink: bool,
    sink: Sink,
    cap_max: u64,
    to_applier: VecDeque<(u32, ToApplier)>,
    to_owner: VecDeque<(u32, ToOwner)>,
    parcels: Vec<Parcel>,
    seen: Seen,
}

impl World {
    pub(crate) fn new(kind: Kind, cap: u64) -> Self {
        Self {
            now: Duration::ZERO,
            source: Source::new(kind),
            owner: new_owner(kind, 1),
            owner_epoch: 1,
            life_from: 1,
            conn: None,
            conns: 0,
            seek: None,
            applier: Applier::new(ApplierConfig { bytes_cap: cap }),
            bound: None,
            reach_from: 1,
            opening_sink: false,
            sink: Sink::default(),
            cap_max: cap,
            to_applier: VecDeque::new(),
            to_owner: VecDeque::new(),
            parcels: Vec::new(),
            seen: Seen::default(),
        }
    }

    pub(crate) fn seen(&self) -> Seen {
        Seen { duplicate_events: self.duplicates(), delivered: self.sink.data.len() as u64, ..self.seen.clone() }
    }

    /// Events that the destination has more than once.
    pub(crate) fn duplicates(&self) -> u64 {
        let distinct: HashSet<u64> = self.sink.data.iter().copied().collect();
        (self.sink.data.len() - distinct.len()) as u64
    }

    pub(crate) fn act(&mut self, action: Action, choice: usize) {
        match action {
            Action::Produce => self.source.produce(1 + choice as u64 % 20),
            Action::Send => self.send(1 + choice % 12),
            Action::DeliverParcel => self.deliver_parcel(choice),
            Action::ToApplier => self.deliver_to_applier(choice),
            Action::ToOwner => self.deliver_to_owner(choice),
            Action::FinishWrite => self.finish_write(!choice.is_multiple_of(4)),
            Action::FinishCommit => self.finish_commit(),
            Action::FinishSinkOpen => self.finish_sink_open(),
            Action::FinishSeek => self.finish_seek(),
            Action::Wait => self.wait(Duration::from_millis(1 << (choice % 16))),
            Action::LinkUp => self.link_up(),
            Action::LinkDown => self.link_down(),
            Action::PathLostAtApplier => self.path_lost_at_applier(),
            // A new connection, before the far end, or anything on its way, knows that the old one is gone.
            Action::SwitchConnection => {
                self.link_down();
                self.link_up();
            }
            Action::RestartOwner => self.restart_owner(),
            Action::RestartApplier => self.restart_applier(choice),
            Action::FailSink => self.fail_sink(choice),
            Action::LoseTail => self.lose_tail(choice),
            Action::FailSource => {
                self.seek = None;
                self.source.lose_reader();
                self.owner.handle_seek_failed(self.now, Duration::from_millis(choice as u64));
            }
            Action::LoseParcel => {
                if !self.parcels.is_empty() {
                    self.parcels.swap_remove(choice % self.parcels.len());
                }
            }
            Action::Recap => {
                let cap = 1 << (choice % 22);
                self.cap_max = self.cap_max.max(cap);
                self.applier.set_bytes_cap(cap);
            }
        }
        self.drive();
    }

    /// All faults end; everything must arrive within a bounded number of steps.
    pub(crate) fn heal(&mut self) {
        for step in 0..50_000 {
            if self.is_done() {
                return self.check_end();
            }
            self.link_up();
            self.deliver_to_applier(step);
            self.deliver_to_owner(step);
            self.finish_seek();
            self.finish_sink_open();
            self.send(8);
            self.deliver_parcel(step);
            self.finish_write(true);
            self.finish_commit();
            self.drive();
            if step.is_multiple_of(8) {
                self.wait(Duration::from_millis(40));
                self.drive();
            }
        }
        panic!(
            "no end in sight: owner {:?} at {:?}, acked {:?}; applier {:?} at {:?}, durable {:?}; {} parcels",
            self.owner.state(),
            self.owner.sent(),
            self.owner.acked(),
            self.applier.state(),
            self.applier.accepted(),
            self.applier.durable(),
            self.parcels.len()
        );
    }

    fn is_done(&self) -> bool {
        let acked = self.owner.acked().map(|acked| acked.offset);
        self.owner.state() == OwnerState::Streaming
            && self.source.is_read()
            && acked == Some(self.source.at())
            && self.parcels.is_empty()
            && self.sink.is_idle()
            // A Reset may be on its way, of a sink that has lost what was acknowledged.
            && self.to_owner.is_empty()
            && self.to_applier.is_empty()
    }

    fn check_end(&self) {
        let there: HashSet<u64> = self.sink.data.iter().copied().collect();
        let all = self.source.all();
        let lost: Vec<&u64> = all.iter().filter(|id| !there.contains(id)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        assert_eq!(there.len(), all.len(), "something arrived that never was sent");
        assert_eq!(self.owner.in_flight(), (0, 0));
        assert_eq!(self.applier.outstanding(), (0, 0));
        assert!(self.owner.allowance().is_some(), "credit leaked");
        if self.source.kind == Kind::Queue {
            let released: HashSet<u64> = self.source.released.iter().copied().collect();
            assert_eq!(released.len(), all.len(), "everything is released in the end");
        }
    }

    // The owner's router.

    fn link_up(&mut self) {
        if self.conn.is_none() {
            self.conns += 1;
            self.conn = Some(self.conns);
            self.owner.handle_link_up(self.now);
        }
    }

    fn link_down(&mut self) {
        if self.conn.take().is_some() {
            self.seek = None;
            self.owner.handle_link_down(self.now);
        }
    }

    fn restart_owner(&mut self) {
        self.owner_epoch += 1;
        self.source.lose_reader();
        self.owner = new_owner(self.source.kind, self.owner_epoch);
        self.conn = None;
        self.life_from = self.conns + 1;
        self.seek = None;
    }

    fn finish_seek(&mut self) {
        if let Some(resume) = self.seek.take() {
            let (incarnation, after, fresh) = self.source.seek(resume);
            assert!(self.owner.handle_seeked(self.now, incarnation, after, fresh), "the answer to the last Seek");
        }
        self.drive();
    }

    /// Sends one batch of at most so many events, as far as credit goes.
    fn send(&mut self, count: usize) {
        let (Some(allowance), Some(sent), Some(conn)) = (self.owner.allowance(), self.owner.sent(), self.conn) else {
            self.seen.starved += u64::from(self.owner.state() == OwnerState::Streaming);
            return;
        };
        let mut span = Span { prev: sent.offset, last: sent.offset, events: 0, bytes: 0 };
        let mut events: Vec<Event> = Vec::new();
        while let Some((offset, event)) = self.source.peek() {
            if let Some(event) = event {
                let bytes = u64::from(span.bytes) + u64::from(event.bytes());
                let fits = events.len() < count && (events.len() as u64) < allowance.events && bytes <= allowance.bytes;
                let overdraws = events.is_empty() && allowance.overdraft;
                if !fits && !overdraws {
                    break;
                }
                self.seen.overdrafts += u64::from(!fits);
                span.events += 1;
                span.bytes += event.bytes();
                events.push(event);
            }
            span.last = offset;
            self.source.advance();
            if u64::from(span.bytes) > allowance.bytes {
                break;
            }
        }
        if span.last == span.prev {
            if !self.source.is_read() {
                self.owner.handle_blocked(self.now);
            }
            return;
        }
        assert!(self.owner.handle_sent(self.now, span));
        let path_epoch = self.owner.path_epoch();
        self.parcels.push(Parcel { conn, path_epoch, start: false, incarnation: sent.incarnation, span, events });
    }

    fn deliver_to_owner(&mut self, choice: usize) {
        let Some((conn, frame)) = take_frame(&mut self.to_owner, choice) else { return };
        if conn < self.life_from {
            return;
        }
        let now = self.now;
        match frame {
            ToOwner::Accept { path_epoch, resume, credit } => self.owner.handle_accept(now, path_epoch, resume, credit),
            ToOwner::Ack { path_epoch, durable, credit } => self.owner.handle_ack(now, path_epoch, durable, credit),
            ToOwner::Reset { path_epoch, reset } => {
                self.seek = self.seek.filter(|_| path_epoch != self.owner.path_epoch());
                self.owner.handle_reset(now, path_epoch, reset)
            }
        };
        self.drive();
    }

    fn drive_owner(&mut self) {
        while let Some(output) = self.owner.poll_output() {
            match output {
                // What had left the queue already arrives, late: only some of it is caught.
                OwnerOutput::Cancel { path_epoch } => {
                    let conn = self.conn;
                    let mut catch = false;
                    self.parcels.retain(|parcel| {
                        catch = !catch;
                        !(catch && Some(parcel.conn) == conn && parcel.path_epoch == path_epoch)
                    });
                }
                OwnerOutput::Release { floor } => self.release(floor),
                OwnerOutput::Open { path_epoch } => {
                    let conn = self.conn.expect("opens only over a link");
                    self.to_applier.push_back((conn, ToApplier::Open { owner_epoch: self.owner_epoch, path_epoch }));
                }
                OwnerOutput::Seek { resume } => self.seek = Some(resume),
                OwnerOutput::SendStart { incarnation, after } => self.send_empty(true, incarnation, after),
                OwnerOutput::SendTouch { incarnation, after } => self.send_empty(false, incarnation, after),
            }
        }
    }

    fn send_empty(&mut self, start: bool, incarnation: u64, after: u64) {
        let conn = self.conn.expect("streams only over a link");
        let span = Span { prev: after, last: after, events: 0, bytes: 0 };
        let path_epoch = self.owner.path_epoch();
        self.parcels.push(Parcel { conn, path_epoch, start, incarnation, span, events: Vec::new() });
    }

    fn release(&mut self, floor: u64) {
        let before = self.source.released.len();
        self.source.release(floor);
        for id in &self.source.released[before..] {
            assert!(self.sink.data.contains(id), "event {id} is released and not at the destination");
        }
    }

    // The applier's router.

    fn path_lost_at_applier(&mut self) {
        // Only a connection that the owner has left, or whose loss it will hear of.
        if self.bound.take().is_some_and(|bound| self.conn == Some(bound)) {
            self.link_down();
        }
        self.applier.handle_flow_closed(self.now);
    }

    fn restart_applier(&mut self, choice: usize) {
        self.fail_writer(choice);
        self.applier = Applier::new(ApplierConfig { bytes_cap: self.cap_max });
        self.opening_sink = false;
        self.bound = None;
        self.link_down();
        self.reach_from = self.conns + 1;
    }

    fn fail_sink(&mut self, choice: usize) {
        self.fail_writer(choice);
        self.opening_sink = false;
        let code = if choice.is_multiple_of(3) { ResetCode::Poison } else { ResetCode::SinkLost };
        self.applier.handle_sink_failed(self.now, code, Duration::from_millis(choice as u64));
    }

    fn fail_writer(&mut self, choice: usize) {
        self.sink.fail(choice % 7);
        self.sink.open();
    }

    fn lose_tail(&mut self, choice: usize) {
        // A queue that has released an event cannot give it again: there a lost tail is a lost event, with any protocol.
        if self.source.kind == Kind::Log {
            self.fail_sink(choice);
            self.sink.lose_tail(choice % 20);
        }
    }

    fn finish_sink_open(&mut self) {
        if std::mem::take(&mut self.opening_sink) {
            let cursor = self.sink.open();
            self.applier.handle_sink_open(self.now, cursor);
        }
        self.drive();
    }

    fn finish_write(&mut self, whole: bool) {
        let before = self.sink.data.len();
        let last = self.sink.last();
        let Some(written) = self.sink.finish_write(whole) else { return };
        self.check_order(last, before);
        self.applier.handle_written(self.now, written);
        self.drive();
    }

    /// Within the life of a writer, every event follows the one before it, with nothing left out and nothing twice.
    fn check_order(&self, last: Option<u64>, before: usize) {
        if self.source.kind == Kind::Queue {
            return;
        }
        let mut at = last.or(self.sink.cursor.map(|cursor| cursor.offset)).unwrap_or(u64::MAX);
        for &id in &self.sink.data[before..] {
            at = at.wrapping_add(1);
            while !takes(at) {
                at += 1;
            }
            assert_eq!(id, at, "out of order, left out or repeated");
        }
    }

    fn finish_commit(&mut self) {
        if let Some(cursor) = self.sink.finish_commit() {
            self.applier.handle_committed(self.now, cursor);
        }
        self.drive();
    }

    fn deliver_to_applier(&mut self, choice: usize) {
        let Some((conn, ToApplier::Open { owner_epoch, path_epoch })) = take_frame(&mut self.to_applier, choice) else {
            return;
        };
        if conn < self.reach_from {
            return;
        }
        if self.applier.handle_open(self.now, owner_epoch, path_epoch).is_ok() {
            self.bound = Some(conn);
        } else {
            self.seen.stale_opens += 1;
            let reset = Reset { code: ResetCode::StaleEpoch, retry: Duration::ZERO };
            self.to_owner.push_back((conn, ToOwner::Reset { path_epoch, reset }));
        }
        self.drive();
    }

    fn deliver_parcel(&mut self, choice: usize) {
        if self.parcels.is_empty() {
            return;
        }
        let parcel = self.parcels.swap_remove(choice % self.parcels.len());
        if parcel.conn < self.reach_from || self.bound != Some(parcel.conn) {
            return;
        }
        let Parcel { path_epoch, start, incarnation, span, events, .. } = parcel;
        match self.applier.handle_batch(self.now, path_epoch, start, incarnation, span, events) {
            Offer::Refused(code) => panic!("an honest owner was refused: {code:?} for {span:?}"),
            Offer::Held => self.seen.held += 1,
            Offer::Stale => self.seen.stale += 1,
            Offer::Accepted | Offer::Duplicate => {}
        }
        self.drive();
    }

    fn drive_applier(&mut self) {
        while let Some(output) = self.applier.poll_output() {
            let frame = match output {
                ApplierOutput::OpenSink => {
                    self.opening_sink = true;
                    continue;
                }
                ApplierOutput::Commit(cursor) => {
                    self.sink.commit(cursor);
                    continue;
                }
                ApplierOutput::Accept { path_epoch, resume, credit } => {
                    self.seen.partial_resumes += u64::from(resume != self.sink.cursor);
                    ToOwner::Accept { path_epoch, resume, credit }
                }
                ApplierOutput::Ack { path_epoch, durable, credit } => {
                    self.check_durable(durable);
                    ToOwner::Ack { path_epoch, durable, credit }
                }
                ApplierOutput::Reset { path_epoch, reset } => ToOwner::Reset { path_epoch, reset },
            };
            if let Some(conn) = self.bound {
                self.to_owner.push_back((conn, frame));
            }
        }
        while let Some((span, events)) = self.applier.poll_deliver() {
            self.sink.write(span, events);
        }
    }

    /// Nothing is acknowledged that the destination does not have.
    fn check_durable(&self, durable: u64) {
        let cursor = self.sink.cursor.expect("acknowledged without a cursor");
        let accepted = self.applier.accepted().expect("acknowledged without a chain");
        assert_eq!(cursor.incarnation, accepted.incarnation);
        assert!(durable.wrapping_add(1) <= cursor.offset.wrapping_add(1), "acknowledged {durable}, durable {cursor:?}");
    }

    fn drive(&mut self) {
        self.drive_owner();
        self.drive_applier();
        let here = self.applier.committed_bytes().max(self.sink.bytes_writing());
        let bound = self.cap_max.max(1) + EVENT_BYTES_MAX;
        assert!(here <= bound, "{here} bytes are promised, the bound is {bound}");
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        if self.owner.poll_timeout().is_some_and(|due| due <= self.now) {
            self.seen.stalls += u64::from(self.owner.state() == OwnerState::Streaming);
            self.owner.handle_timeout(self.now);
        }
        if self.applier.poll_timeout().is_some_and(|due| due <= self.now) {
            self.applier.handle_timeout(self.now);
        }
    }
}

fn new_owner(kind: Kind, owner_epoch: u64) -> Owner {
    Owner::new(OwnerConfig {
        owner_epoch,
        replayable: kind == Kind::Log,
        back_off_min: Duration::from_millis(50),
        back_off_max: Duration::from_millis(400),
    })
}

/// Frames of one connection keep their order; those of two do not.
fn take_frame<T>(frames: &mut VecDeque<(u32, T)>, choice: usize) -> Option<(u32, T)> {
    let conn = frames.get(choice % frames.len().max(1))?.0;
    let first = frames.iter().position(|frame| frame.0 == conn)?;
    frames.remove(first)
}
