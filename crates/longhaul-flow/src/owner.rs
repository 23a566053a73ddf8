//! The owner of a flow: opens it, resumes where the destination stands, sends within credit, releases what is durable there.
//!
//! ```text
//!            link up            Accept             seeked
//!   Idle ------------> Opening --------> Seeking ---------> Streaming
//!    ^                  ^   |               |                   |
//!    | link down        |   | no Accept     | source failed     | Reset, source failed,
//!    | (from any)       |   | for 15 s      |                   | no progress
//!                       |   v               v                   v
//!                       +------------------------------- Faulted
//!                            retry due: path_epoch + 1
//! ```
//!
//! Contract with the driver. After every `handle_*` call it takes [`poll_output`](Owner::poll_output) until `None`, does what it says
//! in that order, and only then asks for the [`allowance`](Owner::allowance).
//!
//! | output | what the driver does |
//! | --- | --- |
//! | `Cancel` | drops what it queued at the link for that path epoch |
//! | `Release` | counts it towards the floor of the shard; [`Owner::acked`] says the same |
//! | `Open` | sends the frame; the answer is `handle_accept` or `handle_reset` |
//! | `Seek` | stands a reader there (`None`: where the route says), then `handle_seeked` or `handle_seek_failed`. A shard that is not replayable goes on there while the same reader still has what follows; else it is read anew, as a fresh chain. A later `Seek`, or leaving [`OwnerState::Seeking`], voids an earlier one: its answer must not be given any more |
//! | `SendStart` | sends an empty START batch (`prev == last == after`) before any other batch; no `handle_sent` for it |
//! | `SendTouch` | the same without the START flag: the applier answers with how far it is durable |
//!
//! While [`allowance`](Owner::allowance) is given, the driver may send batches: `prev` is what [`sent`](Owner::sent) says, and each is
//! followed by `handle_sent`. A range of which the route takes nothing is sent as an empty batch. When the next event does not fit, it says
//! `handle_blocked`. When the reader breaks in mid-stream it says `handle_seek_failed`. `handle_timeout` is due at
//! [`poll_timeout`](Owner::poll_timeout). Frames of the link are handed in whatever their path epoch: stale ones come back as [`Heard::Stale`].
//!
//! What is not durable at the destination is never released: an acknowledgement counts only for the chain of the path epoch that it
//! names, and for nothing beyond what was sent in it.

use std::time::Duration;

use longhaul_event::Position;

use crate::credit::{Credit, Spend};
use crate::driver::{Allowance, Fault, Heard, OwnerConfig, OwnerOutput};
use crate::reset::Reset;
use crate::span::{Span, ordinal};
use crate::state::{OwnerEvent, OwnerState};
use crate::timer::BackOff;
use crate::window::Unacked;

/// How long an Open may stay without an answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long something may be under way without progress; doubles with every time that it did not help to open again.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Doublings of the stall timeout at most (16 minutes).
const STALL_DOUBLINGS_MAX: u8 = 5;
/// Longest wait that an applier may ask for.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The machine. Under 256 B beside its window.
#[derive(Debug)]
pub struct Owner {
    owner_epoch: u64,
    replayable: bool,
    state: OwnerState,
    path_epoch: u32,
    stalls: u8,
    back_off: BackOff,
    /// Open timeout, stall timeout or retry, by state; in `Idle`, until when a fault of the source is waited out.
    deadline: Option<Duration>,
    /// What the last Accept said; `None` also for a chain that began anew.
    resume: Option<Position>,
    /// Where the last Accept said that the destination stands, as an ordinal; 0 for nowhere.
    told: u64,
    /// Incarnation and end of the chain, while streaming.
    sent: Option<Position>,
    acked: Option<Position>,
    unacked: Unacked,
    spend: Spend,
    blocked: Blocked,
    last_fault: Option<Fault>,
    out: Outbox,
}

/// Since when credit is exhausted, and for how long it was before.
#[derive(Debug, Clone, Copy, Default)]
struct Blocked {
    since: Option<Duration>,
    total: Duration,
}

/// What the driver has not fetched yet: one of each kind, since a newer one replaces an older.
#[derive(Debug, Clone, Copy, Default)]
struct Outbox {
    cancel: Option<u32>,
    release: Option<u64>,
    open: bool,
    seek: bool,
    start: bool,
    touch: bool,
    /// A START whose chain could be mistaken for the one before it is acknowledged before anything follows it.
    awaits_start: bool,
}

impl Owner {
    /// A flow without a link.
    #[must_use]
    pub fn new(config: OwnerConfig) -> Self {
        Self {
            owner_epoch: config.owner_epoch,
            replayable: config.replayable,
            state: OwnerState::Idle,
            path_epoch: 0,
            stalls: 0,
            back_off: BackOff::new(config.back_off_min, config.back_off_max),
            deadline: None,
            resume: None,
            told: 0,
            sent: None,
            acked: None,
            unacked: Unacked::default(),
            spend: Spend::default(),
            blocked: Blocked::default(),
            last_fault: None,
            out: Outbox::default(),
        }
    }

    /// There is a way to an applier. A flow changes its way by `handle_link_down` first.
    pub fn handle_link_up(&mut self, now: Duration) {
        let early = self.state == OwnerState::Idle && self.deadline.is_some_and(|due| now < due);
        if early {
            // Idle => Faulted; the deadline stays.
            let _still_waiting = self.step(OwnerEvent::LinkUpEarly);
        } else if self.step(OwnerEvent::LinkUp) {
            self.open(now);
        }
    }

    /// The way is gone. What was under way on it is void. A fault of the source is still waited out; one of the applier is not,
    /// since the next way may lead to another.
    pub fn handle_link_down(&mut self, now: Duration) {
        let waits_for_source = matches!(self.state, OwnerState::Faulted | OwnerState::Idle)
            && matches!(self.last_fault, Some(Fault::Source))
            && self.deadline.is_some_and(|due| now < due);
        self.abandon(now);
        self.step(OwnerEvent::LinkDown);
        if !waits_for_source {
            self.deadline = None;
        }
    }

    /// The applier has opened the flow and stands at `resume`.
    pub fn handle_accept(&mut self, now: Duration, path_epoch: u32, resume: Option<Position>, credit: Credit) -> Heard {
        if path_epoch != self.path_epoch || !self.step(OwnerEvent::Accepted) {
            return Heard::Stale;
        }
        let told = resume.map_or(0, |resume| ordinal(resume.offset));
        if self.told > 0 && told > self.told {
            // It moves, though every path ends early: a run of refused events, say.
            self.back_off.reset();
        }
        (self.resume, self.told) = (resume, told);
        self.acked = lower(self.acked, resume);
        self.spend.restart(credit);
        self.unblock(now);
        self.deadline = None;
        self.out.seek = true;
        Heard::Taken
    }

    /// The reader stands after that offset. `fresh`: the position is not the one that was asked for, a new chain begins; always so
    /// when the applier had none. Returns false, and changes nothing, when it answers no [`OwnerOutput::Seek`] that still counts.
    pub fn handle_seeked(&mut self, now: Duration, incarnation: u64, after: u64, fresh: bool) -> bool {
        let position = Position { incarnation, offset: after };
        let fresh = fresh || self.resume.is_none();
        if !(fresh || self.resume == Some(position)) || !self.step(OwnerEvent::Seeked) {
            return false;
        }
        self.out.seek = false;
        self.sent = Some(position);
        if fresh {
            self.acked = None;
            self.out.release = None;
            self.out.start = true;
            self.out.awaits_start = self.resume.take().is_some_and(|resume| resume.incarnation == incarnation);
        } else {
            // Without credit nothing else would follow, and the applier says nothing before it has heard of this path.
            self.out.touch = self.acked != self.resume || self.spend.left() == (0, 0);
        }
        self.expect_progress(now);
        true
    }

    /// The reader could not be opened there, or broke. Waits for `retry`, or longer when it happens again and again.
    pub fn handle_seek_failed(&mut self, now: Duration, retry: Duration) {
        self.fault(now, OwnerEvent::SourceFailed, Fault::Source, retry);
    }

    /// A batch was given to the link. False, and not counted, when the flow is not streaming: then the batch must not be sent.
    pub fn handle_sent(&mut self, now: Duration, span: Span) -> bool {
        let Some(sent) = self.sent.filter(|_| self.state == OwnerState::Streaming) else { return false };
        debug_assert_eq!(span.prev, sent.offset, "a batch follows the one before it");
        if span.prev != sent.offset || span.is_broken() {
            self.fault(now, OwnerEvent::Broken, Fault::BadSpan, Duration::ZERO);
            return false;
        }
        let bytes = if span.events == 0 { 0 } else { span.bytes };
        if self.unacked.is_empty() {
            self.expect_progress(now);
        }
        self.unacked.push(now, Span { bytes, ..span });
        self.spend.spend(span.events, bytes);
        self.sent = Some(Position { offset: span.last, ..sent });
        if self.spend.left() == (0, 0) {
            self.handle_blocked(now);
        }
        true
    }

    /// There is something to send that the allowance does not cover. Ends by itself when credit comes.
    pub fn handle_blocked(&mut self, now: Duration) {
        if self.state == OwnerState::Streaming {
            self.blocked.since.get_or_insert(now);
        }
    }

    /// The destination has everything up to `durable`.
    pub fn handle_ack(&mut self, now: Duration, path_epoch: u32, durable: u64, credit: Credit) -> Heard {
        let Some(sent) = self.sent.filter(|_| path_epoch == self.path_epoch && self.state == OwnerState::Streaming)
        else {
            return Heard::Stale;
        };
        if ordinal(durable) > ordinal(sent.offset) {
            self.fault(now, OwnerEvent::Broken, Fault::AckBeyondSent, Duration::ZERO);
            return Heard::Violation;
        }
        let more_credit = self.spend.grant(credit);
        if more_credit {
            self.unblock(now);
        }
        let news = self.acked.is_none_or(|acked| ordinal(acked.offset) < ordinal(durable));
        if news {
            self.progress(now, Position { offset: durable, ..sent });
        }
        if news || more_credit { Heard::Taken } else { Heard::Stale }
    }

    /// The applier gives the path up.
    pub fn handle_reset(&mut self, now: Duration, path_epoch: u32, reset: Reset) -> Heard {
        if path_epoch != self.path_epoch {
            return Heard::Stale;
        }
        let retry = reset.retry.min(RETRY_MAX);
        if self.fault(now, OwnerEvent::Reset, Fault::Reset(reset.code), retry) { Heard::Taken } else { Heard::Stale }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return;
        }
        match self.state {
            OwnerState::Opening => {
                self.fault(now, OwnerEvent::OpenTimedOut, Fault::OpenTimeout, Duration::ZERO);
            }
            OwnerState::Streaming => {
                self.stalls = (self.stalls + 1).min(STALL_DOUBLINGS_MAX);
                self.fault(now, OwnerEvent::Broken, Fault::Stalled, Duration::ZERO);
            }
            OwnerState::Faulted => {
                if self.step(OwnerEvent::RetryDue) {
                    self.open(now);
                }
            }
            OwnerState::Idle | OwnerState::Seeking => {}
        }
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<OwnerOutput> {
        if let Some(path_epoch) = self.out.cancel.take() {
            return Some(OwnerOutput::Cancel { path_epoch });
        }
        if let Some(floor) = self.out.release.take() {
            return Some(OwnerOutput::Release { floor });
        }
        if std::mem::take(&mut self.out.open) {
            return Some(OwnerOutput::Open { path_epoch: self.path_epoch });
        }
        if std::mem::take(&mut self.out.seek) {
            return Some(OwnerOutput::Seek { resume: self.resume });
        }
        let Position { incarnation, offset: after } = self.sent?;
        if std::mem::take(&mut self.out.start) {
            return Some(OwnerOutput::SendStart { incarnation, after });
        }
        std::mem::take(&mut self.out.touch).then_some(OwnerOutput::SendTouch { incarnation, after })
    }

    /// When `handle_timeout` is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let runs = match self.state {
            OwnerState::Opening | OwnerState::Faulted => true,
            OwnerState::Streaming => !self.unacked.is_empty() || self.is_unanswered(),
            OwnerState::Idle | OwnerState::Seeking => false,
        };
        self.deadline.filter(|_| runs)
    }

    /// How much may be sent; `None` when nothing.
    #[must_use]
    pub fn allowance(&self) -> Option<Allowance> {
        let waits = self.out.start || self.out.touch || self.out.awaits_start || self.unacked.is_full();
        if self.state != OwnerState::Streaming || waits {
            return None;
        }
        let (events, bytes) = self.spend.left();
        (events > 0).then(|| Allowance { events, bytes, overdraft: self.in_flight() == (0, 0) })
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> OwnerState {
        self.state
    }

    /// The owner epoch it was made with.
    #[must_use]
    pub fn owner_epoch(&self) -> u64 {
        self.owner_epoch
    }

    /// Whether the shard can be read again from any position, as the driver said.
    #[must_use]
    pub fn is_replayable(&self) -> bool {
        self.replayable
    }

    /// The path epoch of the last Open; 0 before the first.
    #[must_use]
    pub fn path_epoch(&self) -> u32 {
        self.path_epoch
    }

    /// The end of the chain as sent on this path: `prev` of the next batch. `None` unless streaming.
    #[must_use]
    pub fn sent(&self) -> Option<Position> {
        self.sent
    }

    /// What the destination has, as far as it said so and nothing since has put it in doubt. The floor of the shard is the lowest of
    /// these; a flow that has none holds the floor back.
    #[must_use]
    pub fn acked(&self) -> Option<Position> {
        self.acked
    }

    /// Events and bytes that were sent and are not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> (u64, u64) {
        self.unacked.in_flight()
    }

    /// Since when the oldest unacknowledged batch is under way.
    #[must_use]
    pub fn oldest_unacked_since(&self) -> Option<Duration> {
        self.unacked.oldest()
    }

    /// Since when there is no credit.
    #[must_use]
    pub fn credit_exhausted_since(&self) -> Option<Duration> {
        self.blocked.since
    }

    /// For how long there was no credit, in all.
    #[must_use]
    pub fn credit_exhausted_total(&self, now: Duration) -> Duration {
        self.blocked.total + self.blocked.since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Why the flow last stopped; a later success does not clear it.
    #[must_use]
    pub fn last_fault(&self) -> Option<Fault> {
        self.last_fault
    }

    /// No acknowledgement has reached the START or the touch with which this path began.
    fn is_unanswered(&self) -> bool {
        self.acked.is_none_or(|acked| self.resume.is_some_and(|resume| ordinal(acked.offset) < ordinal(resume.offset)))
    }

    fn step(&mut self, event: OwnerEvent) -> bool {
        self.state.next(event).map(|state| self.state = state).is_ok()
    }

    /// A new path: everything of the old one is stale from now on.
    fn open(&mut self, now: Duration) {
        self.path_epoch = self.path_epoch.saturating_add(1);
        self.deadline = Some(now + OPEN_TIMEOUT);
        self.out.open = true;
    }

    /// Ends the path. What was sent and not acknowledged is forgotten: the next Accept says what of it must be read again.
    fn abandon(&mut self, now: Duration) {
        let cancel = (self.state == OwnerState::Streaming).then_some(self.path_epoch).or(self.out.cancel);
        self.out = Outbox { cancel, release: self.out.release, ..Outbox::default() };
        self.unblock(now);
        self.unacked.clear();
        self.sent = None;
        self.resume = None;
    }

    fn fault(&mut self, now: Duration, event: OwnerEvent, fault: Fault, retry: Duration) -> bool {
        let path = self.state;
        if !self.step(event) {
            return false;
        }
        if path == OwnerState::Streaming {
            self.out.cancel = Some(self.path_epoch);
        }
        self.abandon(now);
        self.last_fault = Some(fault);
        self.deadline = Some(now + self.back_off.fault().max(retry));
        true
    }

    fn progress(&mut self, now: Duration, durable: Position) {
        self.acked = Some(durable);
        self.unacked.ack(durable.offset);
        // Before the first offset there is nothing to release.
        self.out.release = (ordinal(durable.offset) > 0).then_some(durable.offset);
        self.out.awaits_start = false;
        self.back_off.reset();
        self.stalls = 0;
        self.expect_progress(now);
    }

    fn expect_progress(&mut self, now: Duration) {
        self.deadline = Some(now + STALL_TIMEOUT * (1 << self.stalls));
    }

    fn unblock(&mut self, now: Duration) {
        if let Some(since) = self.blocked.since.take() {
            self.blocked.total += now.saturating_sub(since);
        }
    }
}

/// What is still known to be durable when the destination says where it stands: it may have lost its tail.
fn lower(acked: Option<Position>, resume: Option<Position>) -> Option<Position> {
    let (acked, resume) = acked.zip(resume)?;
    (acked.incarnation == resume.incarnation)
        .then(|| if ordinal(resume.offset) < ordinal(acked.offset) { resume } else { acked })
}

const _: () = assert!(size_of::<Owner>() - size_of::<Unacked>() < 256, "100,000 flows: every owner is small");
