//! The applier of a flow: opens the sink, restores the order of the chain, has it written and its cursor committed, acknowledges
//! what is durable, grants credit.
//!
//! ```text
//!            open            sink open
//!   Closed --------> Opening <--------> Serving --------> Draining --------> Drained
//!     ^               ^   |   path        ^  | path   drain        flushed
//!     | sink failed   |   | lost     open |  | lost, violated
//!     | (from any)    |   v               |  v
//!                open +- Abandoned ----> Severed
//!                            sink open
//! ```
//!
//! Contract with the driver. A flow has one applier, whatever the connections over which it is opened. After every `handle_*` call the
//! driver takes [`poll_output`](Applier::poll_output) until `None`, in order, then [`poll_deliver`](Applier::poll_deliver) as far as it
//! wants to have writes under way.
//!
//! | output | what the driver does |
//! | --- | --- |
//! | `OpenSink` | drops the writer if there is one, opens the sink, then `handle_sink_open` or `handle_sink_failed` |
//! | `Accept`, `Ack`, `Reset` | sends the frame over the connection of the last `handle_open` that was not refused |
//! | `Commit` | has the writer commit that cursor, then `handle_committed`; the next `Commit` comes after that |
//!
//! What `poll_deliver` gives is written in that order; `handle_written` says up to which offset **all** of it is confirmed (also within a
//! batch). Any error of the writer is `handle_sink_failed`, after which no completion of that writer is reported any more.
//!
//! A batch is handed in only if it came over the connection of the last `handle_open` that was not refused: path epochs tell the paths
//! of one owner apart, connections tell its lives apart. When that connection is lost: `handle_flow_closed`.
//! `handle_open` refused with [`StaleEpoch`] is answered with `Reset` of that code, by the driver. `handle_timeout` is due at
//! [`poll_timeout`](Applier::poll_timeout).
//!
//! An Open that is not the next path of the same owner makes an applier with nothing to write read the cursor again: others may have
//! served in between. Empty batches are never delivered: they only move the cursor. What was accepted is never dropped while its writer lives, also not when
//! the path is lost or a new chain begins; it bounds what the next path is granted.

mod status;

use std::time::Duration;

use longhaul_event::Position;

use crate::credit::Grant;
use crate::driver::{ApplierConfig, ApplierOutput, Offer, StaleEpoch};
use crate::reset::{Reset, ResetCode};
use crate::span::{Span, ordinal};
use crate::state::{ApplierEvent, ApplierState};
use crate::timer::AckPace;
use crate::window::{Start, Unwritten};

/// How long an owner should wait before it opens again after a Reset that is not the sink's doing.
const RETRY: Duration = Duration::from_millis(100);

/// The machine. Under 256 B beside its window.
#[derive(Debug)]
pub struct Applier<B> {
    owner_epoch: u64,
    path_epoch: u32,
    state: ApplierState,
    /// The first batch of this path epoch was accepted: the chain is known, so acknowledgements mean it.
    begun: bool,
    /// A path to the owner is open.
    path: bool,
    open_sink: bool,
    accept: bool,
    /// Of the current path epoch, not yet fetched.
    reset: Option<Reset>,
    accepted: Option<Position>,
    /// Offsets of the incarnation of `accepted`; without meaning while that is `None`.
    written: u64,
    durable: Option<u64>,
    committing: Option<u64>,
    pace: AckPace,
    grant: Grant,
    window: Unwritten<B>,
}

impl<B> Applier<B> {
    /// A flow that nobody has opened yet.
    #[must_use]
    pub fn new(config: ApplierConfig) -> Self {
        Self {
            owner_epoch: 0,
            path_epoch: 0,
            state: ApplierState::Closed,
            begun: false,
            path: false,
            open_sink: false,
            accept: false,
            reset: None,
            accepted: None,
            written: 0,
            durable: None,
            committing: None,
            pace: AckPace::default(),
            grant: Grant::new(Duration::ZERO, config.bytes_cap),
            window: Unwritten::default(),
        }
    }

    /// An owner opens the flow, over whatever connection. From now on every batch of an older path is stale.
    ///
    /// # Errors
    /// [`StaleEpoch`] unless the pair of epochs is higher than every one before.
    pub fn handle_open(&mut self, now: Duration, owner_epoch: u64, path_epoch: u32) -> Result<(), StaleEpoch> {
        if (owner_epoch, path_epoch) <= (self.owner_epoch, self.path_epoch) {
            return Err(StaleEpoch { owner_epoch: self.owner_epoch, path_epoch: self.path_epoch });
        }
        // Another applier of the same destination may have served the paths between: its cursor is the truth again. What is not written yet
        // is finished first; it was accepted behind a cursor that nobody may have moved.
        let is_next = owner_epoch == self.owner_epoch && path_epoch == self.path_epoch.saturating_add(1);
        let event = if is_next || !self.is_flushed() { ApplierEvent::Open } else { ApplierEvent::OpenAnew };
        (self.owner_epoch, self.path_epoch) = (owner_epoch, path_epoch);
        let was = self.state;
        let refused = !self.step(event) || matches!(was, ApplierState::Draining | ApplierState::Drained);
        self.close_path();
        self.path = true;
        if refused {
            self.give_up(ResetCode::Draining, RETRY);
            return Ok(());
        }
        self.grant.restart(now);
        self.accept = self.state.has_sink();
        self.open_sink |= self.state == ApplierState::Opening && !was.is_opening();
        Ok(())
    }

    /// The sink is open, and this is the cursor that the destination has.
    pub fn handle_sink_open(&mut self, now: Duration, cursor: Option<Position>) {
        if !self.step(ApplierEvent::SinkOpened) {
            return;
        }
        self.forget(now);
        self.accepted = cursor;
        self.written = cursor.map_or(0, |cursor| cursor.offset);
        self.durable = cursor.map(|cursor| cursor.offset);
        self.accept = self.path;
    }

    /// The sink could not be opened, or its writer failed. What was accepted and not committed is void.
    pub fn handle_sink_failed(&mut self, now: Duration, code: ResetCode, retry: Duration) {
        if !self.step(ApplierEvent::SinkFailed) {
            return;
        }
        self.forget(now);
        self.open_sink = false;
        self.give_up(code, retry);
    }

    /// The connection of the last Open is lost.
    pub fn handle_flow_closed(&mut self, _now: Duration) {
        if self.step(ApplierEvent::PathLost) {
            self.close_path();
        }
    }

    /// Take nothing more; write, commit and acknowledge what there is, then give the path up.
    pub fn handle_drain(&mut self, _now: Duration) {
        if !self.step(ApplierEvent::Drain) {
            return;
        }
        self.drop_held();
        if self.state == ApplierState::Drained {
            self.open_sink = false;
            self.give_up(ResetCode::Draining, RETRY);
        }
    }

    /// A batch came.
    pub fn handle_batch(
        &mut self,
        now: Duration,
        path_epoch: u32,
        start: bool,
        incarnation: u64,
        span: Span,
        batch: B,
    ) -> Offer {
        if path_epoch != self.path_epoch || self.state != ApplierState::Serving || !self.path {
            return Offer::Stale;
        }
        // Only events weigh: an empty batch is dropped, and so costs nothing.
        let span = Span { bytes: if span.events == 0 { 0 } else { span.bytes }, ..span };
        let offer = if !self.grant.admits(span.events, span.bytes) {
            Err(ResetCode::Limits)
        } else if span.is_broken() {
            Err(ResetCode::BadChain)
        } else if start {
            self.offer_start(now, Start { incarnation, span, batch })
        } else {
            self.offer(now, incarnation, span, batch)
        };
        offer.unwrap_or_else(|code| {
            self.violated(code);
            Offer::Refused(code)
        })
    }

    /// Everything that was delivered is confirmed by the sink up to that offset.
    pub fn handle_written(&mut self, now: Duration, last: u64) {
        if !self.state.has_sink() {
            return;
        }
        while let Some(done) = self.window.pop_written(last) {
            self.written = done.covers;
            self.grant.written(now, done.since, done.events, done.bytes);
            self.pace.count(done.events, done.bytes);
        }
        if self.window.write_part(last) {
            self.written = last;
        }
        self.adopt_start(now);
        if self.grant.is_short() {
            self.pace.news(now, self.window.is_empty());
        }
    }

    /// The cursor is durable.
    pub fn handle_committed(&mut self, now: Duration, cursor: Position) {
        let incarnation = self.accepted.map(|accepted| accepted.incarnation);
        if self.committing != Some(cursor.offset) || incarnation != Some(cursor.incarnation) {
            return;
        }
        self.committing = None;
        self.durable = Some(cursor.offset);
        let idle = self.is_flushed() && self.window.held() == 0;
        self.pace.news(now, idle);
        self.adopt_start(now);
    }

    /// The round trip of the link.
    pub fn handle_rtt(&mut self, rtt: Duration) {
        self.grant.set_rtt(rtt);
    }

    /// The router divides its budget anew. What was granted before stays granted.
    pub fn set_bytes_cap(&mut self, bytes_cap: u64) {
        self.grant.set_cap(bytes_cap);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.pace.handle_timeout(now);
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<ApplierOutput> {
        if let Some(reset) = self.reset.take() {
            return Some(ApplierOutput::Reset { path_epoch: self.path_epoch, reset });
        }
        if std::mem::take(&mut self.open_sink) {
            return Some(ApplierOutput::OpenSink);
        }
        if std::mem::take(&mut self.accept) {
            let credit = self.grant.tell();
            return Some(ApplierOutput::Accept { path_epoch: self.path_epoch, resume: self.accepted, credit });
        }
        self.poll_commit().or_else(|| self.poll_ack()).or_else(|| self.poll_drained())
    }

    /// The next batch to be written.
    pub fn poll_deliver(&mut self) -> Option<(Span, B)> {
        self.window.deliver()
    }

    /// When `handle_timeout` is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.pace.deadline().filter(|_| self.can_ack())
    }

    fn step(&mut self, event: ApplierEvent) -> bool {
        self.state.next(event).map(|state| self.state = state).is_ok()
    }

    /// A batch that goes on with a chain.
    fn offer(&mut self, now: Duration, incarnation: u64, span: Span, batch: B) -> Result<Offer, ResetCode> {
        match self.accepted.filter(|accepted| accepted.incarnation == incarnation) {
            Some(accepted) if accepted.offset == span.prev && self.window.start.is_none() => {
                self.grant.keep(now, span.events, span.bytes);
                self.accept(now, span, batch);
                self.begin(now);
                self.take_held(now)?;
                Ok(Offer::Accepted)
            }
            Some(accepted) if ordinal(span.last) <= ordinal(accepted.offset) && self.window.start.is_none() => {
                self.grant.pass(span.events, span.bytes);
                Ok(Offer::Duplicate)
            }
            // It begins within what was accepted: two batches contradict each other.
            Some(accepted) if ordinal(span.prev) < ordinal(accepted.offset) && self.window.start.is_none() => {
                Err(ResetCode::BadChain)
            }
            // The chain is known and is another one.
            None if self.begun => Err(ResetCode::BadChain),
            _ => self.hold(now, incarnation, span, batch),
        }
    }

    /// The first batch of a new chain. It waits until the chain before it is written, so that completions of the two are never mixed up.
    fn offer_start(&mut self, now: Duration, start: Start<B>) -> Result<Offer, ResetCode> {
        if self.begun || self.window.start.is_some() || !self.holds_only(start.incarnation) {
            return Err(ResetCode::BadChain);
        }
        self.grant.keep(now, start.span.events, start.span.bytes);
        self.window.start = Some(start);
        self.adopt_start(now);
        Ok(if self.window.start.is_none() { Offer::Accepted } else { Offer::Held })
    }

    fn hold(&mut self, now: Duration, incarnation: u64, span: Span, batch: B) -> Result<Offer, ResetCode> {
        if !self.holds_only(incarnation) {
            return Err(ResetCode::BadChain);
        }
        if self.window.holds(span) {
            self.grant.pass(span.events, span.bytes);
            return Ok(Offer::Duplicate);
        }
        // A touch covers nothing: there is nothing to hold.
        if !span.is_point() {
            if !self.window.hold(span, batch) {
                return Err(ResetCode::Limits);
            }
            self.window.incarnation = Some(incarnation);
            self.grant.keep(now, span.events, span.bytes);
        }
        Ok(Offer::Held)
    }

    fn holds_only(&self, incarnation: u64) -> bool {
        let start = self.window.start.as_ref().map(|start| start.incarnation);
        self.window.incarnation.or(start).is_none_or(|held| held == incarnation)
    }

    /// Begins the new chain, once nothing of the old one is under way.
    fn adopt_start(&mut self, now: Duration) {
        if !self.window.is_empty() || self.committing.is_some() {
            return;
        }
        let Some(Start { incarnation, span, batch }) = self.window.start.take() else { return };
        self.accepted = Some(Position { incarnation, offset: span.prev });
        self.written = span.prev;
        self.durable = None;
        self.accept(now, span, batch);
        self.begin(now);
        if let Err(code) = self.take_held(now) {
            self.violated(code);
        }
    }

    /// Accepts what was held and follows now.
    fn take_held(&mut self, now: Duration) -> Result<(), ResetCode> {
        while let Some(accepted) = self.accepted
            && let Some((span, batch)) = self.window.take_held(accepted.offset)
        {
            if span.prev != accepted.offset {
                // As in `offer`: they contradict each other.
                self.grant.drop_kept(span.events, span.bytes);
                return Err(ResetCode::BadChain);
            }
            self.accept(now, span, batch);
        }
        Ok(())
    }

    /// Moves the chain on by one batch that follows it.
    fn accept(&mut self, now: Duration, span: Span, batch: B) {
        debug_assert_eq!(self.accepted.map(|accepted| accepted.offset), Some(span.prev), "the chain has no gap");
        if let Some(accepted) = &mut self.accepted {
            accepted.offset = span.last;
        }
        if span.events > 0 {
            self.window.push(now, span, batch);
        } else if !self.window.cover(span.last) {
            self.written = span.last;
        }
    }

    /// The chain of this path epoch is known from here: what is durable of it is news to the owner.
    fn begin(&mut self, now: Duration) {
        if !std::mem::replace(&mut self.begun, true) {
            let flushed = self.is_flushed();
            self.pace.news(now, flushed);
        }
    }

    fn violated(&mut self, code: ResetCode) {
        if self.step(ApplierEvent::Violated) {
            self.give_up(code, RETRY);
        }
    }

    /// Gives the path up, and says so.
    fn give_up(&mut self, code: ResetCode, retry: Duration) {
        let told = self.path.then_some(Reset { code, retry }).or(self.reset);
        self.close_path();
        self.reset = told;
    }

    /// Forgets the path; what was accepted stays.
    fn close_path(&mut self) {
        self.drop_held();
        (self.path, self.begun, self.accept) = (false, false, false);
        self.pace = AckPace::default();
        self.reset = None;
    }

    fn drop_held(&mut self) {
        for span in self.window.drop_held() {
            self.grant.drop_kept(span.events, span.bytes);
        }
    }

    /// Forgets what belongs to a writer.
    fn forget(&mut self, now: Duration) {
        self.window = Unwritten::default();
        self.grant.clear(now);
        (self.accepted, self.durable, self.committing) = (None, None, None);
    }

    fn poll_commit(&mut self) -> Option<ApplierOutput> {
        let cursor = self.written().filter(|cursor| self.durable != Some(cursor.offset))?;
        if !self.state.has_sink() || self.committing.is_some() {
            return None;
        }
        self.committing = Some(cursor.offset);
        Some(ApplierOutput::Commit(cursor))
    }

    fn poll_ack(&mut self) -> Option<ApplierOutput> {
        let durable = self.durable.filter(|_| self.can_ack())?;
        // While draining, the last word before the Reset.
        let last_word = self.state == ApplierState::Draining && self.is_flushed();
        if !self.pace.take() && !last_word {
            return None;
        }
        let credit = if self.state == ApplierState::Serving { self.grant.tell() } else { self.grant.told() };
        if last_word {
            self.begun = false;
        }
        Some(ApplierOutput::Ack { path_epoch: self.path_epoch, durable, credit })
    }

    fn can_ack(&self) -> bool {
        self.path && self.begun && self.durable.is_some()
    }

    fn poll_drained(&mut self) -> Option<ApplierOutput> {
        if self.state != ApplierState::Draining || !self.is_flushed() {
            return None;
        }
        self.step(ApplierEvent::Flushed);
        self.give_up(ResetCode::Draining, RETRY);
        self.reset.take().map(|reset| ApplierOutput::Reset { path_epoch: self.path_epoch, reset })
    }
}

const _: () = assert!(
    size_of::<Applier<Vec<u8>>>() - size_of::<Unwritten<Vec<u8>>>() < 256,
    "100,000 flows: every applier is small"
);
