//! Figures of repetitions, and how they are said.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

/// Median, least and most of some repetitions.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// Of at least one figure.
    ///
    /// # Panics
    /// For none.
    #[must_use]
    pub fn of(figures: &[f64]) -> Self {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Self { median, least: sorted[0], most: sorted[sorted.len() - 1] }
    }

    /// The figure in the middle.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.median
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let Self { median, least, most } = self;
        write!(f, "{median:>9.digits$} ({least:.digits$} to {most:.digits$})")
    }
}

/// The value below which that share of the samples lies, in milliseconds. Sorts them.
///
/// # Panics
/// For no samples.
#[must_use]
pub fn percentile_ms(samples: &mut [Duration], share: f64) -> f64 {
    samples.sort_unstable();
    let at = ((samples.len() - 1) as f64 * share).round() as usize;
    samples[at].as_secs_f64() * 1000.0
}

/// Whether a requirement is met, in words.
#[must_use]
pub fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

/// SplitMix64: the same numbers in every run.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    #[must_use]
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Bytes without a pattern, a multiple of 8.
    #[must_use]
    pub fn bytes(&mut self, len: usize) -> Bytes {
        (0..len / 8).flat_map(|_| self.draw().to_le_bytes()).collect::<Vec<u8>>().into()
    }
}
