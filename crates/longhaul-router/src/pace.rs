//! How often a router may open flows: as many at once as a large one has, then at a pace. Whoever opens faster waits, and only itself.
//! Counted for each router and not for each link, so that dialling again wins nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Opens at once.
const BURST: f64 = 10_000.0;
/// Opens a second after that.
const PER_SECOND: f64 = 1_000.0;
/// Routers that are remembered; beyond that, those that have not opened anything of late are forgotten.
const ROUTERS_MAX: usize = 1024;

/// The paces of all routers that dial in, by region and name.
#[derive(Debug, Default)]
pub(crate) struct Paces(Mutex<HashMap<(String, String), Pace>>);

#[derive(Debug)]
struct Pace {
    left: f64,
    at: Instant,
}

impl Paces {
    /// Counts one opening; says how long it must wait.
    pub(crate) fn open(&self, region: &str, router: &str, now: Instant) -> Option<Duration> {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if paces.len() >= ROUTERS_MAX {
            paces.retain(|_, pace| pace.refill(now) < BURST);
        }
        let pace = paces.entry((region.to_owned(), router.to_owned())).or_insert(Pace { left: BURST, at: now });
        let left = pace.refill(now) - 1.0;
        (pace.left, pace.at) = (left, now);
        (left < 0.0).then(|| Duration::from_secs_f64(-left / PER_SECOND))
    }
}

impl Pace {
    fn refill(&self, now: Instant) -> f64 {
        (self.left + now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND).min(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_then_everybody_has_a_pace_of_his_own() {
        let (paces, now) = (Paces::default(), Instant::now());
        for _ in 0..10_000 {
            assert_eq!(paces.open("eu", "one", now), None);
        }
        assert_eq!(paces.open("eu", "one", now), Some(Duration::from_millis(1)));
        assert_eq!(paces.open("eu", "one", now), Some(Duration::from_millis(2)));
        assert_eq!(paces.open("eu", "two", now), None);
        assert_eq!(paces.open("eu", "one", now + Duration::from_secs(1)), None);
    }
}
