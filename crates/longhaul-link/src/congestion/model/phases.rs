//! When a phase ends, and which one follows; see the drawing in the parent.

use std::time::Duration;

use super::{HOT, HOT_MARGIN, INITIAL_WINDOW, Instant, Model, Phase, ROUNDS_BESIDE};
use crate::congestion::rate::Sample;

const STARTUP_GROWTH: f64 = 1.25;
const STARTUP_ROUNDS: u32 = 3;
const DRAIN_ROUNDS_MAX: u32 = 3;
const YIELD_ROUNDS: u32 = 2;
const UP_ROUNDS: u32 = 2;
const UP_GROWTH: f64 = 1.05;
const UP_EVERY_ROUNDS: u64 = 8;
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_MIN: Duration = Duration::from_millis(200);
const PROBE_ROUNDS: u32 = 2;

impl Model {
    pub(super) fn step(&mut self, now: Instant, sample: &Sample, in_flight: u64) {
        let queue_shows = self.queue_shows(now);
        if sample.round_ended {
            self.step_round(sample);
        }
        match self.phase {
            Phase::Startup { .. } if queue_shows && self.rounds >= STARTUP_ROUNDS.into() => self.leave_startup(2),
            Phase::Drain { rounds } => {
                let drained = 0.95 * self.product() + 0.001 * self.rate();
                if (in_flight as f64) < drained || rounds >= DRAIN_ROUNDS_MAX {
                    self.phase = Phase::Cruise { rounds: 0 };
                }
            }
            Phase::Probe { until, rounds, least } if now >= until && rounds >= PROBE_ROUNDS => {
                if least <= self.min_rtt().mul_f64(1.02) + HOT_MARGIN {
                    // The queue was ours, or is gone.
                    self.hot = 0;
                }
                if least < Duration::MAX {
                    self.min_rtt = Some(least);
                }
                self.min_rtt_at = now;
                self.phase = Phase::Cruise { rounds: 0 };
            }
            Phase::Cruise { .. } | Phase::Up { .. } if now - self.min_rtt_at > PROBE_AFTER => {
                let until = now + PROBE_MIN.max(self.srtt);
                self.phase = Phase::Probe { until, rounds: 0, least: Duration::MAX };
            }
            _ => {}
        }
    }

    pub(super) fn step_round(&mut self, sample: &Sample) {
        let rate = self.rate();
        match &mut self.phase {
            Phase::Startup { best, flat } if !sample.limited => {
                if rate >= *best * STARTUP_GROWTH {
                    (*best, *flat) = (rate, 0);
                } else {
                    *flat += 1;
                    if *flat >= STARTUP_ROUNDS {
                        self.leave_startup(ROUNDS_BESIDE);
                    }
                }
            }
            Phase::Startup { .. } => {}
            Phase::Drain { rounds } | Phase::Probe { rounds, .. } => *rounds += 1,
            Phase::Yield { rounds } => {
                *rounds += 1;
                if *rounds >= YIELD_ROUNDS {
                    self.phase = Phase::Cruise { rounds: 0 };
                }
            }
            Phase::Cruise { rounds } => {
                *rounds += 1;
                // Not all at once.
                let due = UP_EVERY_ROUNDS + self.rounds % 3;
                if *rounds >= due && self.hot >= HOT && !sample.limited {
                    self.low = 1.0;
                    self.phase = Phase::Up { rounds: 0, before: rate };
                }
            }
            Phase::Up { rounds, before } => {
                *rounds += 1;
                if *rounds >= UP_ROUNDS {
                    if rate > *before * UP_GROWTH && self.hot >= HOT {
                        (*rounds, *before) = (0, rate);
                    } else {
                        self.phase = Phase::Cruise { rounds: 0 };
                    }
                }
            }
        }
    }

    pub(super) fn leave_startup(&mut self, keep: usize) {
        self.rates.keep(keep);
        self.phase = Phase::Drain { rounds: 0 };
    }

    pub(super) fn start_anew(&mut self, now: Instant) {
        self.rates.forget();
        self.min_rtt = None;
        self.min_rtt_at = now;
        self.window = INITIAL_WINDOW;
        self.phase = Phase::Startup { best: 0.0, flat: 0 };
        (self.low, self.extra, self.hot, self.rounds) = (1.0, 1.0, 0, 0);
        self.sounding = None;
        self.overload_at = Some(now);
    }
}
