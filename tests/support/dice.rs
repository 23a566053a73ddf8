//! Dice that fall the same way again: a test that draws its moments prints its seed, and takes it from the environment to repeat them.

#![expect(clippy::print_stdout, reason = "a seed that nobody sees repeats nothing")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Numbers by chance, from a seed.
pub struct Dice(u64);

impl Dice {
    /// With the seed in that variable, else with one from the clock; prints which.
    ///
    /// # Panics
    /// When the variable is no number.
    #[must_use]
    pub fn new(variable: &str) -> Self {
        let clock = || SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let seed = number(variable).unwrap_or_else(clock);
        println!("{variable}={seed} falls the same way again");
        Self(seed)
    }

    /// Below that end.
    ///
    /// # Panics
    /// When there is nothing below it.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % end as u64).expect("a small number")
    }

    /// A time from `least` until before `end`.
    pub fn between(&mut self, least: Duration, end: Duration) -> Duration {
        let range = usize::try_from((end - least).as_millis()).expect("a short time");
        least + Duration::from_millis(self.below(range) as u64)
    }

    /// Puts them in any order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }
}

/// A number from the environment.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}: {text} is no number")))
}
