//! How large the window is, in each phase. Reads the model and changes nothing else.

use super::{INITIAL_WINDOW, Model, Phase};

const WINDOW_MTUS_MIN: u64 = 4;
const WINDOW_MAX: u64 = 1 << 30;
/// Of the window in Startup, in bandwidth-delay products.
const STARTUP_GAIN: f64 = 2.5;
/// Beside others, the window is the product of rate and round trip, which counts up to that many of the shortest ones.
const BESIDE_RTTS: u32 = 2;
/// Flows like us that took each other for greedy ones find out by sending less at about the same time: soon, and then now and then.
const YIELD_GAIN: f64 = 0.75;
const UP_GAIN: f64 = 1.5;

impl Model {
    pub(super) fn set_window(&mut self, acknowledged: u64) {
        let (product, slack) = (self.product(), self.slack());
        let held = product + slack;
        let window = match self.phase {
            Phase::Startup { .. } => {
                let most = if product > 0.0 { STARTUP_GAIN * product + slack } else { f64::MAX };
                let grown = self.window as f64 + acknowledged as f64;
                grown.min(most.max(INITIAL_WINDOW as f64))
            }
            Phase::Drain { .. } => 0.9 * product + 0.5 * slack,
            Phase::Yield { .. } => YIELD_GAIN * product,
            Phase::Cruise { .. } if self.beside_others() => self.low * held.max(self.beside_window()),
            Phase::Cruise { .. } => self.low * held,
            Phase::Up { .. } => UP_GAIN * held.max(self.beside_window()),
            Phase::Probe { .. } => 0.5 * product,
        };
        // Nothing is known yet after a loss of everything: stay where we are.
        if self.rate() > 0.0 || matches!(self.phase, Phase::Startup { .. }) {
            self.window = window as u64;
        }
        self.window = self.window.clamp(WINDOW_MTUS_MIN * self.mtu, WINDOW_MAX);
    }

    /// Beside others a window for the shortest round trip would starve: the queue is theirs, and there is no getting past it.
    pub(super) fn beside_window(&self) -> f64 {
        self.rate() * self.srtt.min(self.min_rtt() * BESIDE_RTTS).as_secs_f64()
    }
}
