//! What a wire does to packets on one way, and what became of them.

use std::time::Duration;

/// How one way of a wire is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Megabits per second.
    pub rate_mbit: f64,
    /// How long a packet travels.
    pub delay: Duration,
    /// How long the queue before it may get; what comes then is dropped.
    pub queue: Duration,
    /// Share of packets that is lost at random, from 0 to 1.
    pub loss: f64,
    /// Every packet is late by up to this much more.
    pub jitter: Duration,
    /// Whether jitter lets packets overtake each other.
    pub reorder: bool,
    /// Nothing gets through.
    pub cut: bool,
}

impl Shape {
    /// A faultless way.
    #[must_use]
    pub fn new(rate_mbit: f64, delay: Duration, queue: Duration) -> Self {
        Self { rate_mbit, delay, queue, loss: 0.0, jitter: Duration::ZERO, reorder: false, cut: false }
    }

    /// The same with random loss.
    #[must_use]
    pub fn with_loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    /// The same, cut.
    #[must_use]
    pub fn cut(self) -> Self {
        Self { cut: true, ..self }
    }
}

/// What became of the packets of one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// They arrived.
    pub carried: u64,
    /// Their bytes, with their IP headers.
    pub bytes: u64,
    /// Lost at random, or by a cut.
    pub lost: u64,
    /// Dropped because the queue was full.
    pub dropped: u64,
}
