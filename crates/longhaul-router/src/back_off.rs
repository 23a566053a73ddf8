//! Jittered exponential back-off.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Doubling delays with jitter, from a least to a most.
#[derive(Debug)]
pub(crate) struct BackOff {
    least: Duration,
    most: Duration,
    current: Duration,
    draws: u64,
    jitter: RandomState,
}

impl BackOff {
    /// Starts at the least delay.
    #[must_use]
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, current: least, draws: 0, jitter: RandomState::new() }
    }

    /// The next delay: between half of the current step and all of it.
    pub(crate) fn next(&mut self) -> Duration {
        self.draws = self.draws.wrapping_add(1);
        let draw = self.jitter.hash_one(self.draws) % 1024;
        let delay = self.current / 2 + self.current / 2 * u32::try_from(draw).unwrap_or(0) / 1024;
        self.current = (self.current * 2).min(self.most);
        delay
    }

    /// It worked: starts over.
    pub(crate) fn reset(&mut self) {
        self.current = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_most_and_start_over() {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut back_off = BackOff::new(least, most);
        for step in [100, 200, 400, 800, 1000, 1000] {
            let (delay, step) = (back_off.next(), Duration::from_millis(step));
            assert!(delay >= step / 2 && delay <= step, "{delay:?} for {step:?}");
        }
        back_off.reset();
        assert!(back_off.next() <= least);
    }
}
