//! How fast counters grow: differences over the last ten seconds, so that what people look at is calm. Pure: time comes in.
//!
//! A counter that is new, or that fell because its link was made anew, has no rate until it was seen twice.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// Samples that a rate reaches back over, at one a second.
const SAMPLES_MAX: usize = 11;
/// Samples that are further apart than this do not belong together: nobody looked in between.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// Counters by name, as they were at some time.
type Sample = HashMap<String, u64>;

/// The last samples.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    samples: VecDeque<(Duration, Sample)>,
}

impl Rates {
    /// Takes a sample that was taken at that time.
    pub(crate) fn add(&mut self, now: Duration, sample: Sample) {
        if self.samples.back().is_some_and(|(last, _)| now.saturating_sub(*last) > PAUSE_MAX) {
            self.samples.clear();
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, sample));
    }

    /// By how much a counter has grown, and in what time.
    pub(crate) fn growth(&self, name: &str) -> Option<(u64, Duration)> {
        let (now, newest) = self.samples.back()?;
        let newest = *newest.get(name)?;
        let (then, oldest) = self.samples.iter().find_map(|(at, sample)| Some((*at, *sample.get(name)?)))?;
        let took = now.saturating_sub(then);
        Some((newest.checked_sub(oldest)?, took)).filter(|(_, took)| !took.is_zero())
    }

    /// What a counter grows by in a second.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub(crate) fn per_second(&self, name: &str) -> Option<f64> {
        self.growth(name).map(|(grown, took)| grown as f64 / took.as_secs_f64())
    }

    /// How much of one counter's growth another one's is, from 0 to 1. Nothing of nothing is nothing.
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    pub(crate) fn share(&self, part: &str, whole: &str) -> Option<f64> {
        let ((part, _), (whole, _)) = (self.growth(part)?, self.growth(whole)?);
        Some(if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(samples: &[(u64, u64)]) -> Rates {
        let mut rates = Rates::default();
        for &(second, count) in samples {
            rates.add(
                Duration::from_secs(second),
                HashMap::from([("sent".to_owned(), count), ("lost".to_owned(), count / 4)]),
            );
        }
        rates
    }

    #[test]
    fn a_rate_is_the_growth_over_the_samples() {
        assert_eq!(after(&[(1, 100)]).per_second("sent"), None, "one look tells nothing");
        assert_eq!(after(&[(1, 100), (2, 100)]).per_second("sent"), Some(0.0));
        assert_eq!(after(&[(1, 100), (2, 110), (3, 140)]).per_second("sent"), Some(20.0));
        assert_eq!(after(&[(1, 0), (2, 40)]).share("lost", "sent"), Some(0.25));
        assert_eq!(after(&[(1, 0), (2, 0)]).share("lost", "sent"), Some(0.0));
        assert_eq!(after(&[(1, 0), (2, 40)]).per_second("nobody"), None);
    }

    #[test]
    fn counters_that_fell_and_times_without_a_look_give_none() {
        assert_eq!(after(&[(1, 100), (2, 10)]).per_second("sent"), None);
        assert_eq!(after(&[(1, 100), (4, 400)]).per_second("sent"), Some(100.0), "just inside the pause");
        assert_eq!(after(&[(1, 100), (5, 400)]).per_second("sent"), None, "just outside");
    }

    #[test]
    fn the_window_is_ten_seconds() {
        let samples: Vec<_> =
            (0..30).map(|second| (second, if second < 20 { 0 } else { (second - 19) * 10 })).collect();
        assert_eq!(after(&samples).per_second("sent"), Some(10.0));
    }
}
