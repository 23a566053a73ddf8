//! Shards that come and go: what was given to this router too often in too short a time is left alone for a while.
//!
//! Pure: time is an argument. Who owns a shard is not decided here, only when this router begins to work on it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Most times within [`WITHIN`] that a shard is taken up at once.
const GAINS_MAX: u32 = 3;
const WITHIN: Duration = Duration::from_secs(60);
/// How long one that came more often rests.
const REST: Duration = Duration::from_secs(30);

/// What becomes of a shard that is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It may be worked on.
    Begins,
    /// It came too often, and rests from now on.
    Rests,
    /// It still rests.
    Waits,
}

/// When shards were given to this router.
#[derive(Debug, Default)]
pub(crate) struct Gains(HashMap<String, Gain>);

#[derive(Debug)]
struct Gain {
    /// It is ours now.
    present: bool,
    /// When counting began, and how often it came since.
    since: Instant,
    count: u32,
    held_until: Option<Instant>,
}

impl Gains {
    /// These are ours, and no others.
    pub(crate) fn retain(&mut self, names: &HashSet<&str>) {
        for (name, gain) in &mut self.0 {
            gain.present &= names.contains(name.as_str());
        }
    }

    /// Whether a shard that is ours may be worked on. What was gone for long is forgotten.
    pub(crate) fn turn(&mut self, name: &str, now: Instant) -> Turn {
        if !self.0.contains_key(name) {
            self.0.retain(|_, gain| gain.present || now < gain.since + WITHIN);
            self.0.insert(name.to_owned(), Gain { present: false, since: now, count: 0, held_until: None });
        }
        let Some(gain) = self.0.get_mut(name) else { return Turn::Begins };
        if !gain.present {
            gain.present = true;
            if now >= gain.since + WITHIN {
                (gain.since, gain.count) = (now, 0);
            }
            gain.count += 1;
            if gain.count > GAINS_MAX {
                tracing::warn!(shard = name, times = gain.count, "a shard comes and goes; it rests");
                gain.held_until = Some(now + REST);
                return Turn::Rests;
            }
        }
        gain.held_until = gain.held_until.filter(|until| now < *until);
        if gain.held_until.is_none() { Turn::Begins } else { Turn::Waits }
    }

    /// How long until the next one that rests may begin.
    #[must_use]
    pub(crate) fn next_begin(&self, now: Instant) -> Option<Duration> {
        let held = self.0.values().filter(|gain| gain.present).filter_map(|gain| gain.held_until);
        held.min().map(|until| until.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn come_and_go(gains: &mut Gains, now: Instant) -> Turn {
        let turn = gains.turn("a", now);
        gains.retain(&HashSet::new());
        turn
    }

    #[test]
    fn the_fourth_time_within_a_minute_it_rests() {
        let (mut gains, start) = (Gains::default(), Instant::now());
        for second in 0..3 {
            assert_eq!(come_and_go(&mut gains, start + Duration::from_secs(second)), Turn::Begins);
        }
        let fourth = start + Duration::from_secs(4);
        assert_eq!(gains.turn("a", fourth), Turn::Rests);
        assert_eq!(gains.turn("a", fourth), Turn::Waits);
        assert_eq!(gains.turn("b", fourth), Turn::Begins, "another one is none of its business");
        assert_eq!(gains.next_begin(fourth), Some(REST));
        assert_eq!(gains.turn("a", fourth + REST - Duration::from_millis(1)), Turn::Waits);
        assert_eq!(gains.turn("a", fourth + REST), Turn::Begins);
        assert_eq!(gains.next_begin(fourth + REST), None);
    }

    #[test]
    fn a_shard_that_stays_or_comes_seldom_never_rests() {
        let (mut gains, start) = (Gains::default(), Instant::now());
        for minute in 0..20 {
            let now = start + WITHIN * minute;
            assert_eq!(gains.turn("a", now), Turn::Begins);
            assert_eq!(gains.turn("a", now + Duration::from_secs(1)), Turn::Begins);
            gains.retain(&HashSet::new());
        }
    }

    #[test]
    fn what_was_gone_for_long_is_forgotten() {
        let (mut gains, start) = (Gains::default(), Instant::now());
        for name in 0..100 {
            gains.turn(&name.to_string(), start);
        }
        gains.retain(&HashSet::from(["7"]));
        gains.turn("new", start + WITHIN);
        assert_eq!(gains.0.len(), 2);
    }
}
