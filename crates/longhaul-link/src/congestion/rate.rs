//! How fast a path delivers: rate samples after "Delivery Rate Estimation" (draft-cheng-iccrg-delivery-rate-estimation), and the largest of
//! recent rounds.
//!
//! Start with [`Sampler`]. It knows bytes and instants only: no windows, no losses, no clock of its own.

use std::collections::VecDeque;
use std::time::Duration;

use super::Instant;

/// Departures that are remembered; more than a window of 64 MiB ever has, one for each instant of sending.
const DEPARTURES_MAX: usize = 1 << 16;
/// Rounds over which the largest rate counts.
const ROUNDS: usize = 10;

/// What was known when something was sent.
#[derive(Debug, Clone, Copy)]
struct Departure {
    sent: Instant,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    limited: bool,
}

/// What one batch of acknowledgements says of the path.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Bytes per second; `None` while it cannot be told.
    pub(super) rate: Option<f64>,
    /// Of the newest packet that was acknowledged.
    pub(super) rtt: Duration,
    /// The application had too little to send: the path may be faster.
    pub(super) limited: bool,
    /// The first of a new round: what was sent when the last one began has arrived.
    pub(super) round_ended: bool,
}

/// Counts what arrives against what was known when it left.
#[derive(Debug, Clone)]
pub(super) struct Sampler {
    departures: VecDeque<Departure>,
    delivered: u64,
    delivered_at: Instant,
    first_sent: Instant,
    in_flight: u64,
    /// What is sent before this much is delivered was sent by an application that had too little.
    limited_until: u64,
    round_begins: u64,
    newest: Option<Departure>,
}

impl Sampler {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            departures: VecDeque::new(),
            delivered: 0,
            delivered_at: now,
            first_sent: now,
            in_flight: 0,
            limited_until: 0,
            round_begins: 0,
            newest: None,
        }
    }

    pub(super) fn sent(&mut self, now: Instant, bytes: u64) {
        if self.in_flight == 0 {
            self.first_sent = now;
            self.delivered_at = now;
        }
        self.in_flight += bytes;
        if self.departures.back().is_some_and(|last| last.sent == now) {
            return;
        }
        if self.departures.len() == DEPARTURES_MAX {
            self.departures.pop_front();
        }
        let Self { delivered, delivered_at, first_sent, .. } = *self;
        let limited = self.limited_until > delivered;
        self.departures.push_back(Departure { sent: now, delivered, delivered_at, first_sent, limited });
    }

    pub(super) fn acknowledged(&mut self, sent: Instant, bytes: u64) {
        self.delivered += bytes;
        while self.departures.front().is_some_and(|first| first.sent < sent) {
            self.departures.pop_front();
        }
        // Late ones, whose departure is forgotten, count as delivered and say nothing of the rate.
        if let Some(first) = self.departures.front().filter(|first| first.sent == sent) {
            self.newest = Some(*first);
        }
    }

    /// After a batch of acknowledgements. `in_flight` is the truth of the connection, which also counts what was sent untold.
    pub(super) fn sample(&mut self, now: Instant, in_flight: u64, limited: bool) -> Option<Sample> {
        self.in_flight = in_flight;
        if limited {
            self.limited_until = self.delivered + in_flight.max(1);
        }
        let newest = self.newest.take()?;
        let took = (now - newest.delivered_at).max(newest.sent - newest.first_sent);
        let bytes = self.delivered - newest.delivered;
        let round_ended = newest.delivered >= self.round_begins;
        if round_ended {
            self.round_begins = self.delivered;
        }
        self.delivered_at = now;
        self.first_sent = newest.sent;
        let rate = (!took.is_zero()).then(|| bytes as f64 / took.as_secs_f64());
        Some(Sample { rate, rtt: now - newest.sent, limited: newest.limited, round_ended })
    }

    /// Bytes under way, as far as is known.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }
}

/// The largest rate of recent rounds.
#[derive(Debug, Clone, Default)]
pub(super) struct Largest {
    /// Newest last.
    rounds: VecDeque<f64>,
}

impl Largest {
    /// Takes a sample. What a limited application reached counts only if it is more than was known.
    pub(super) fn take(&mut self, rate: f64, limited: bool) {
        if limited && rate <= self.of(ROUNDS) {
            return;
        }
        match self.rounds.back_mut() {
            Some(last) => *last = last.max(rate),
            None => self.rounds.push_back(rate),
        }
    }

    /// Begins a new round; rounds of limited applications make nothing older.
    pub(super) fn next_round(&mut self) {
        if self.rounds.back().is_some_and(|last| *last > 0.0) {
            self.rounds.push_back(0.0);
        }
        self.keep(ROUNDS);
    }

    /// Forgets all but that many rounds, the one that runs included.
    pub(super) fn keep(&mut self, rounds: usize) {
        while self.rounds.len() > rounds {
            self.rounds.pop_front();
        }
    }

    /// Bytes per second over that many rounds, zero if nothing is known.
    pub(super) fn of(&self, rounds: usize) -> f64 {
        // A round without a sample must not hide the one before it.
        self.rounds.iter().rev().take(rounds.max(2)).fold(0.0, |most, rate| most.max(*rate))
    }

    pub(super) fn forget(&mut self) {
        self.rounds.clear();
    }
}
