//! Whether a flow moves while its source does: the judgement behind `stalled`.
//!
//! Pure: time is an argument. A flow that has everything of its source is level, and never stalled. One that is behind must move its durable
//! position, or it is stalled after [`STALLED_AFTER`], whatever the reason, and asked to begin again: at once, then after twice that time,
//! and so on, up to [`DOUBLINGS_MAX`] doublings. It says nothing about what is wrong; faults and refusals do.

use std::time::{Duration, Instant};

/// How long a flow may be behind without moving. Longer than the flow protocol takes to notice that nothing is acknowledged (30 s), so that
/// what it mends by itself is mended before anybody is told.
pub(crate) const STALLED_AFTER: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(60) };
/// Doublings between two beginnings at most (16 minutes).
const DOUBLINGS_MAX: u32 = 4;

/// When a flow last moved, and when it last had everything.
#[derive(Debug)]
pub(crate) struct Progress {
    durable: Option<u64>,
    level_at: Instant,
    moved_at: Instant,
    begin_again_at: Instant,
    begun_again: u32,
    /// Whether the source had more when it last told its end.
    had_more: bool,
}

/// What a look finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Since it was last seen to have everything; zero while it has.
    pub lag: Duration,
    /// Since it last moved or had everything.
    pub idle: Duration,
    /// Whether it is stalled.
    pub stalled: bool,
    /// Whether it is time to begin again. Said once each time.
    pub begin_again: bool,
}

impl Progress {
    /// Of a flow that begins now.
    #[must_use]
    pub(crate) fn new(now: Instant) -> Self {
        let begin_again_at = now + STALLED_AFTER;
        Self { durable: None, level_at: now, moved_at: now, begin_again_at, begun_again: 0, had_more: false }
    }

    /// Looks at a flow: how far it is durable, how many events it is behind if that is known, and whether something is under way. A source that
    /// does not tell its end now, as while its reader is replaced, is taken to have what it had.
    pub(crate) fn look(&mut self, now: Instant, durable: Option<u64>, lag: Option<u64>, under_way: bool) -> Look {
        self.had_more = lag.map_or(self.had_more, |lag| lag > 0);
        let (level, behind) = (lag == Some(0), self.had_more || (lag.is_none() && under_way));
        if level {
            self.level_at = now;
        }
        if !behind || self.durable != durable {
            (self.durable, self.moved_at, self.begun_again) = (durable, now, 0);
            self.begin_again_at = now + STALLED_AFTER;
        }
        let idle = now.saturating_duration_since(self.moved_at);
        let begin_again = now >= self.begin_again_at;
        if begin_again {
            self.begun_again = (self.begun_again + 1).min(DOUBLINGS_MAX);
            self.begin_again_at = now + STALLED_AFTER * (1 << self.begun_again);
        }
        let lag = now.saturating_duration_since(self.level_at);
        Look { lag, idle, stalled: idle >= STALLED_AFTER, begin_again }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    fn began() -> (Progress, Instant) {
        let now = Instant::now();
        (Progress::new(now), now)
    }

    #[test]
    fn a_flow_that_is_behind_and_does_not_move_is_stalled_after_a_while() {
        let (mut progress, start) = began();
        progress.look(start, Some(5), Some(3), false);
        let before = progress.look(start + STALLED_AFTER - MOMENT, Some(5), Some(9), false);
        assert_eq!((before.stalled, before.begin_again), (false, false));
        let after = progress.look(start + STALLED_AFTER, Some(5), Some(9), false);
        assert_eq!((after.stalled, after.begin_again, after.idle), (true, true, STALLED_AFTER));
        let moved = progress.look(start + STALLED_AFTER + MOMENT, Some(6), Some(9), false);
        assert_eq!((moved.stalled, moved.idle), (false, Duration::ZERO), "one event is enough");
        assert_eq!(moved.lag, STALLED_AFTER + MOMENT, "and it lags all the same");
    }

    #[test]
    fn a_flow_that_has_everything_is_never_stalled() {
        let (mut progress, start) = began();
        let later = progress.look(start + STALLED_AFTER * 100, Some(5), Some(0), false);
        assert_eq!((later.stalled, later.begin_again, later.lag), (false, false, Duration::ZERO));
        let behind = progress.look(start + STALLED_AFTER * 101 - MOMENT, Some(5), Some(1), false);
        assert!(!behind.stalled, "it has as long as any other from then on");
    }

    #[test]
    fn where_nobody_knows_the_end_of_the_source_what_is_under_way_counts() {
        let (mut progress, start) = began();
        assert!(!progress.look(start + STALLED_AFTER, None, None, false).stalled);
        assert!(progress.look(start + STALLED_AFTER * 2, None, None, true).stalled);
    }

    #[test]
    fn a_source_that_stops_telling_its_end_is_no_sign_of_life() {
        let (mut progress, start) = began();
        progress.look(start, Some(5), Some(3), false);
        assert!(progress.look(start + STALLED_AFTER, Some(5), Some(3), false).begin_again);
        let replaced = progress.look(start + STALLED_AFTER + MOMENT, Some(5), None, false);
        assert_eq!((replaced.stalled, replaced.begin_again), (true, false));
        assert!(progress.look(start + STALLED_AFTER * 2, Some(5), Some(3), false).stalled);
        assert!(!progress.look(start + STALLED_AFTER * 2 + MOMENT, Some(8), None, false).stalled, "it moved");
        progress.look(start + STALLED_AFTER * 3, Some(8), Some(0), false);
        assert!(!progress.look(start + STALLED_AFTER * 9, Some(8), None, false).stalled, "it had everything");
    }

    #[test]
    fn it_is_asked_to_begin_again_ever_more_rarely() {
        let (mut progress, start) = began();
        let mut asked = Vec::new();
        for step in 0..80 {
            if progress.look(start + STALLED_AFTER * step, Some(1), Some(1), false).begin_again {
                asked.push(step);
            }
        }
        assert_eq!(asked, [1, 3, 7, 15, 31, 47, 63, 79]);
    }
}
