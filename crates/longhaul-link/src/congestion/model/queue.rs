//! What round trips tell: whether a queue stands, and whether it is ours. Judged once a round, after [`Model::end_round`].

use std::time::Duration;

use super::{HOT_MARGIN, Instant, Model, Phase};

const EXTRA_MAX: f64 = 3.0;
const EXTRA_MIN: f64 = 0.25;
const LOW_RECOVERY: f64 = 1.02;
/// After an overload, how long the allowance may not grow beyond one.
const OVERLOAD_MEMORY: Duration = Duration::from_secs(3);
/// A queue of more than that many allowances, in each round, is not ours alone.
const WARM_ALLOWANCES: f64 = 1.1;
/// A queue of more than this share of the shortest round trip is surely not.
const HOT_SHARE: f64 = 0.2;
const HOT_STEP: u32 = 4;
const HOT_MAX: u32 = 28;
const YIELD_AT: [u32; 2] = [4, 12];
const YIELD_EVERY_ROUNDS: u32 = 40;

/// The least round trip of a quarter of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quarter {
    from: Instant,
    least: Duration,
    samples: u32,
}

impl Quarter {
    pub(super) fn new(now: Instant) -> Self {
        Self { from: now, least: Duration::MAX, samples: 0 }
    }
}

impl Model {
    pub(super) fn see_rtt(&mut self, now: Instant, rtt: Duration) {
        if self.min_rtt.is_none_or(|least| rtt < least) {
            self.min_rtt = Some(rtt);
        }
        let near = self.min_rtt().mul_f64(1.02) + Duration::from_micros(200);
        if rtt <= near {
            self.min_rtt_at = now;
        }
        self.round_rtt = self.round_rtt.min(rtt);
        if let Phase::Probe { least, .. } = &mut self.phase {
            *least = rtt.min(*least);
        }
        self.quarter.least = self.quarter.least.min(rtt);
        self.quarter.samples += 1;
    }

    /// Whether a quarter of a round trip passed without a short one. Begins the next quarter when one is over.
    pub(super) fn queue_shows(&mut self, now: Instant) -> bool {
        let quarter = self.quarter;
        if quarter.samples < 8 || now - quarter.from < self.min_rtt() / 4 {
            return false;
        }
        self.quarter = Quarter::new(now);
        let margin = (self.min_rtt() / 16).clamp(Duration::from_millis(2), Duration::from_millis(8));
        quarter.least > self.min_rtt() + margin
    }

    pub(super) fn end_round(&mut self, now: Instant, limited: bool) {
        let excess = self.losses.end_round(self.mtu);
        let queue = self.round_rtt.saturating_sub(self.min_rtt());
        let allowance = Duration::from_secs_f64(self.allowance().min(10.0));
        let cruise = matches!(self.phase, Phase::Cruise { .. });
        if queue < allowance / 4 {
            let calm = self.overload_at.is_none_or(|at| now - at > OVERLOAD_MEMORY);
            let most = if !limited && cruise && calm && excess < 0.015 { EXTRA_MAX } else { 1.0 };
            self.extra = (self.extra * 1.25).min(most);
        } else if excess > 0.001 {
            self.extra = (self.extra.min(1.0) * 0.9).max(EXTRA_MIN);
        } else {
            self.extra = (self.extra.min(1.0) * 1.02).min(1.0);
        }
        if !self.overload_round && self.sounding.is_none() {
            self.low = (self.low * LOW_RECOVERY).min(1.0);
        }
        if queue > allowance.mul_f64(WARM_ALLOWANCES) + HOT_MARGIN {
            let strong = queue > self.min_rtt().mul_f64(HOT_SHARE) + HOT_MARGIN;
            self.hot = (self.hot + if strong { HOT_STEP } else { 1 }).min(HOT_MAX);
        } else if matches!(self.phase, Phase::Yield { .. }) {
            self.hot = 0;
        } else {
            self.hot = self.hot.saturating_sub(HOT_STEP);
        }
        self.beside_rounds = if self.beside_others() { self.beside_rounds + 1 } else { 0 };
        if self.yield_is_due() {
            self.phase = Phase::Yield { rounds: 0 };
        }
        if !limited && !matches!(self.phase, Phase::Probe { .. }) {
            self.rates.next_round();
        }
        self.sound();
        self.rounds += 1;
        self.round_rtt = Duration::MAX;
        self.round_window = self.window;
        self.overload_round = false;
    }

    pub(super) fn yield_is_due(&self) -> bool {
        let due =
            YIELD_AT.contains(&self.beside_rounds) || self.beside_rounds % YIELD_EVERY_ROUNDS == YIELD_EVERY_ROUNDS - 1;
        due && matches!(self.phase, Phase::Cruise { .. } | Phase::Up { .. })
    }
}
