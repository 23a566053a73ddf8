//! Credit: absolute counters, so that a lost or repeated grant is harmless.
//!
//! The applier grants ([`Grant`]), the owner spends ([`Spend`]); both count from 0 at the Accept of a path epoch. A grant is never
//! taken back: a smaller window only grants nothing more until enough is written. What an applier holds is therefore bounded by the
//! largest window it had, plus one event: one event may overdraw, alone, so that an event larger than the window does not deadlock.

use std::time::Duration;

/// How far an owner may send, counted since the Accept of the path epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credit {
    /// Number of events.
    pub events_limit: u64,
    /// Number of bytes.
    pub bytes_limit: u64,
}

/// Window in bytes that a flow starts with.
pub const BYTES_START: u64 = 256 << 10;
/// Window in events that a flow starts with, and the least it has.
pub const EVENTS_START: u64 = 512;
/// Largest window in bytes of one flow.
pub const BYTES_CAP_MAX: u64 = 16 << 20;
/// Bytes of window per event of window: 512 events for 256 KiB.
const BYTES_PER_EVENT: u64 = BYTES_START / EVENTS_START;
/// A sink that takes longer than this from accepted to written has fallen behind.
const SINK_TARGET: Duration = Duration::from_millis(200);
/// Round trip assumed until one was measured.
const RTT_START: Duration = Duration::from_millis(50);

/// The owner's side: what was granted and what was spent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spend {
    limit: Credit,
    events: u64,
    bytes: u64,
}

impl Spend {
    /// A new path epoch begins with this credit.
    pub(crate) fn restart(&mut self, credit: Credit) {
        *self = Self { limit: credit, events: 0, bytes: 0 };
    }

    /// Takes a grant; an older or repeated one changes nothing. Returns whether there is more than before.
    pub(crate) fn grant(&mut self, credit: Credit) -> bool {
        let before = self.limit;
        self.limit.events_limit = before.events_limit.max(credit.events_limit);
        self.limit.bytes_limit = before.bytes_limit.max(credit.bytes_limit);
        self.limit != before
    }

    pub(crate) fn spend(&mut self, events: u32, bytes: u32) {
        self.events += u64::from(events);
        self.bytes += u64::from(bytes);
    }

    /// Events and bytes left; both are 0 when either is.
    pub(crate) fn left(&self) -> (u64, u64) {
        let events = self.limit.events_limit.saturating_sub(self.events);
        let bytes = self.limit.bytes_limit.saturating_sub(self.bytes);
        if events == 0 || bytes == 0 { (0, 0) } else { (events, bytes) }
    }
}

/// The applier's side: a window that follows the sink, and the grants made from it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grant {
    /// What was told to the owner.
    told: Credit,
    received_events: u64,
    received_bytes: u64,
    /// Accepted or held, not yet written; carried over from path to path.
    outstanding_events: u64,
    outstanding_bytes: u64,
    /// At most [`BYTES_CAP_MAX`], as is `cap`.
    window: u32,
    cap: u32,
    rtt_micros: u32,
    /// From accepted to written, smoothed.
    sink_micros: u32,
    round: Round,
    /// When the window last shrank.
    shrank: Duration,
}

/// One window's worth of received data: how long it takes says whether the window is what limits.
#[derive(Debug, Clone, Copy)]
struct Round {
    began: Duration,
    events: u32,
    bytes: u32,
}

impl Grant {
    pub(crate) fn new(now: Duration, cap: u64) -> Self {
        let mut grant = Self {
            told: Credit::default(),
            received_events: 0,
            received_bytes: 0,
            outstanding_events: 0,
            outstanding_bytes: 0,
            window: BYTES_START as u32,
            cap: 0,
            rtt_micros: micros(RTT_START),
            sink_micros: 0,
            round: Round { began: now, events: 0, bytes: 0 },
            shrank: now,
        };
        grant.set_cap(cap);
        grant
    }

    /// The largest window from now on; at least one byte, so that there is always something to overdraw.
    pub(crate) fn set_cap(&mut self, cap: u64) {
        self.cap = cap.clamp(1, BYTES_CAP_MAX) as u32;
        self.window = self.window.min(self.cap);
    }

    pub(crate) fn set_rtt(&mut self, rtt: Duration) {
        self.rtt_micros = micros(rtt);
    }

    /// A new path epoch: both sides count from 0; the window and what is still to be written stay.
    pub(crate) fn restart(&mut self, now: Duration) {
        self.told = Credit::default();
        (self.received_events, self.received_bytes) = (0, 0);
        self.round = Round { began: now, events: 0, bytes: 0 };
    }

    /// A new sink: nothing is outstanding, and the window starts again.
    pub(crate) fn clear(&mut self, now: Duration) {
        *self = Self { rtt_micros: self.rtt_micros, ..Self::new(now, u64::from(self.cap)) };
    }

    /// Whether a batch lies within what was told. One event may overdraw while there is credit left.
    pub(crate) fn admits(&self, events: u32, bytes: u32) -> bool {
        let fits = self.received_events + u64::from(events) <= self.told.events_limit
            && self.received_bytes + u64::from(bytes) <= self.told.bytes_limit;
        let overdraws =
            events == 1 && self.received_events < self.told.events_limit && self.received_bytes < self.told.bytes_limit;
        (events == 0 && bytes == 0) || fits || overdraws
    }

    /// A batch came and is kept.
    pub(crate) fn keep(&mut self, now: Duration, events: u32, bytes: u32) {
        self.pass(events, bytes);
        self.outstanding_events += u64::from(events);
        self.outstanding_bytes += u64::from(bytes);
        self.round.events = self.round.events.saturating_add(events);
        self.round.bytes = self.round.bytes.saturating_add(bytes);
        let full = self.round.bytes >= self.window || u64::from(self.round.events) >= self.events_window();
        if full {
            self.end_round(now);
        }
    }

    /// A batch came and is not kept (a duplicate): the owner has counted it, so it is counted here.
    pub(crate) fn pass(&mut self, events: u32, bytes: u32) {
        self.received_events += u64::from(events);
        self.received_bytes += u64::from(bytes);
    }

    /// A batch that was kept is dropped unwritten.
    pub(crate) fn drop_kept(&mut self, events: u32, bytes: u32) {
        self.outstanding_events -= u64::from(events);
        self.outstanding_bytes -= u64::from(bytes);
    }

    /// A batch that was kept since `since` is written.
    pub(crate) fn written(&mut self, now: Duration, since: Duration, events: u32, bytes: u32) {
        self.drop_kept(events, bytes);
        let took = now.saturating_sub(since);
        self.sink_micros = self.sink_micros - self.sink_micros / 8 + micros(took) / 8;
        // Only what was accepted after the window shrank says something about the smaller one.
        if took > SINK_TARGET && since >= self.shrank {
            self.window = (self.window / 2).max(self.cap.min(BYTES_START as u32));
            self.shrank = now;
            self.round = Round { began: now, events: 0, bytes: 0 };
        }
    }

    /// A window was received. If that took less than two round trips (link and sink together), the window is what limits, and
    /// it doubles, unless the sink is on its way to fall behind.
    fn end_round(&mut self, now: Duration) {
        let took = now.saturating_sub(self.round.began);
        let round_trip = Duration::from_micros(u64::from(self.rtt_micros) + u64::from(self.sink_micros));
        if took < 2 * round_trip && self.sink_micros < micros(SINK_TARGET / 2) {
            self.window = (self.window * 2).min(self.cap);
        }
        self.round = Round { began: now, events: 0, bytes: 0 };
    }

    fn events_window(&self) -> u64 {
        (self.window() / BYTES_PER_EVENT).max(EVENTS_START)
    }

    /// What could be told now.
    fn limit(&self) -> Credit {
        let events = self.events_window().saturating_sub(self.outstanding_events);
        let bytes = self.window().saturating_sub(self.outstanding_bytes);
        Credit {
            events_limit: self.told.events_limit.max(self.received_events + events),
            bytes_limit: self.told.bytes_limit.max(self.received_bytes + bytes),
        }
    }

    /// Tells it.
    pub(crate) fn tell(&mut self) -> Credit {
        self.told = self.limit();
        self.told
    }

    /// Whether the owner runs short of credit that it could have.
    pub(crate) fn is_short(&self) -> bool {
        let could = self.limit();
        let short_of_events = self.told.events_limit.saturating_sub(self.received_events) <= self.events_window() / 2;
        let short_of_bytes = self.told.bytes_limit.saturating_sub(self.received_bytes) <= self.window() / 2;
        (short_of_events && could.events_limit > self.told.events_limit)
            || (short_of_bytes && could.bytes_limit > self.told.bytes_limit)
    }

    pub(crate) fn told(&self) -> Credit {
        self.told
    }

    pub(crate) fn window(&self) -> u64 {
        u64::from(self.window)
    }

    pub(crate) fn outstanding(&self) -> (u64, u64) {
        (self.outstanding_events, self.outstanding_bytes)
    }

    /// Bytes that are held or may still come.
    pub(crate) fn committed_bytes(&self) -> u64 {
        self.outstanding_bytes + self.told.bytes_limit.saturating_sub(self.received_bytes)
    }
}

/// In 32 bits a duration is capped at 71 minutes, far above what makes a difference here.
fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn grant(cap: u64) -> Grant {
        let mut grant = Grant::new(MS, cap);
        grant.set_rtt(MS * 100);
        grant.tell();
        grant
    }

    /// Receives and writes `bytes`, the sink taking `took`; returns the time after it.
    fn pass(grant: &mut Grant, now: Duration, bytes: u32, took: Duration) -> Duration {
        grant.keep(now, 1, bytes);
        grant.written(now + took, now, 1, bytes);
        grant.tell();
        now + took
    }

    #[test]
    fn a_window_that_limits_doubles_up_to_its_cap() {
        let mut grant = grant(BYTES_CAP_MAX);
        let mut now = MS;
        let mut windows = Vec::new();
        for _ in 0..8 {
            let window = grant.window;
            now = pass(&mut grant, now, window, MS);
            windows.push(grant.window() >> 10);
        }
        assert_eq!(windows, [512, 1_024, 2_048, 4_096, 8_192, 16_384, 16_384, 16_384]);
        assert_eq!(grant.events_window(), 32_768);
    }

    #[test]
    fn a_window_that_does_not_limit_stays() {
        let mut grant = grant(BYTES_CAP_MAX);
        pass(&mut grant, MS * 1_000, 256 << 10, MS);
        assert_eq!(grant.window(), BYTES_START);
    }

    #[test]
    fn a_long_link_needs_a_larger_window() {
        let mut grant = grant(BYTES_CAP_MAX);
        grant.set_rtt(MS * 1_000);
        pass(&mut grant, MS * 1_500, 256 << 10, MS);
        assert_eq!(grant.window(), 2 * BYTES_START, "a window in less than two round trips");
    }

    #[test]
    fn nothing_overdraws_when_either_credit_is_spent() {
        let mut events = grant(BYTES_CAP_MAX);
        events.keep(MS, EVENTS_START as u32, 10);
        assert!(!events.admits(1, 1));
        let mut bytes = grant(BYTES_CAP_MAX);
        bytes.keep(MS, 1, BYTES_START as u32);
        assert!(!bytes.admits(1, 1));
    }

    #[test]
    fn a_sink_that_falls_behind_halves_it_once_per_window() {
        let mut grant = grant(BYTES_CAP_MAX);
        let mut now = MS;
        for _ in 0..3 {
            let window = grant.window;
            now = pass(&mut grant, now, window, MS);
        }
        assert_eq!(grant.window(), 2_048 << 10);
        for _ in 0..4 {
            grant.keep(now, 1, 1_000);
        }
        for late in 1..5 {
            grant.written(now + SINK_TARGET + MS * late, now, 1, 1_000);
        }
        assert_eq!(grant.window(), 1_024 << 10, "all four were accepted under the larger window");
    }

    #[test]
    fn the_time_of_the_sink_is_smoothed_over_eight_writes() {
        let mut grant = grant(BYTES_CAP_MAX);
        let mut smoothed = Vec::new();
        for took in [80, 80, 0] {
            grant.keep(MS, 1, 10);
            grant.written(MS + MS * took, MS, 1, 10);
            smoothed.push(grant.sink_micros);
        }
        assert_eq!(smoothed, [10_000, 18_750, 16_407]);
    }

    #[test]
    fn a_grant_is_never_taken_back_and_never_exceeds_the_window() {
        let mut grant = grant(BYTES_CAP_MAX);
        let told = grant.told();
        grant.keep(MS, 1, 100 << 10);
        assert_eq!(grant.tell(), told);
        grant.set_cap(1_000);
        assert_eq!(grant.tell(), told);
        assert_eq!(grant.committed_bytes(), BYTES_START);
        grant.written(MS, MS, 1, 100 << 10);
        assert_eq!(grant.tell().bytes_limit, told.bytes_limit, "more than a window is still to come");
    }

    #[test]
    fn the_smallest_cap_still_lets_one_event_through() {
        let mut grant = grant(0);
        assert!(grant.admits(1, 1 << 20));
        assert!(!grant.admits(2, 1 << 20));
        grant.keep(MS, 1, 1 << 20);
        grant.tell();
        assert!(!grant.admits(1, 1));
        grant.written(MS, MS, 1, 1 << 20);
        grant.tell();
        assert!(grant.admits(1, 1));
    }

    #[test]
    fn what_is_outstanding_is_taken_off_the_next_path() {
        let mut grant = grant(BYTES_CAP_MAX);
        grant.keep(MS, 5, 6 << 10);
        grant.restart(MS);
        assert_eq!(grant.tell(), Credit { events_limit: EVENTS_START - 5, bytes_limit: 250 << 10 });
    }

    #[test]
    fn spending_stops_at_whichever_limit_comes_first() {
        let mut spend = Spend::default();
        spend.restart(Credit { events_limit: 2, bytes_limit: 100 });
        spend.spend(1, 99);
        assert_eq!(spend.left(), (1, 1));
        spend.spend(1, 0);
        assert_eq!(spend.left(), (0, 0));
        assert!(!spend.grant(Credit { events_limit: 1, bytes_limit: 90 }));
        assert!(spend.grant(Credit { events_limit: 3, bytes_limit: 90 }));
        assert_eq!(spend.left(), (1, 1));
    }
}
