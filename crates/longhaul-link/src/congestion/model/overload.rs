//! Which losses are too many, what follows, and the experiment that tells random losses from ours.

use std::time::Duration;

use super::{HOT, Instant, Model, Phase, Sounding};

/// Without a queue, so many losses in Startup are still taken for random ones.
const STARTUP_LOSS: f64 = 0.15;
const OVERLOAD_LOSS: f64 = 0.02;
const OVERLOAD_LOSS_BESIDE: f64 = 0.1;
const OVERLOAD_MTUS: u64 = 8;
const OVERLOAD_CUT: f64 = 0.85;
const LOW_MIN: f64 = 0.5;
/// Beside others the losses are theirs too: who takes no notice of losses would else press us against the wall, and its start did, for good.
const LOW_MIN_BESIDE: f64 = 0.9;
/// What ends a sounding of the floor of losses before its time: the path has broken down.
const SOUNDING_LOSS: f64 = 0.5;
/// How long one may take.
const SOUNDING_ROUNDS_MAX: u32 = 8;
/// Losses while sending less that explain the losses before.
const SOUNDING_EXPLAINS: f64 = 0.6;

impl Model {
    /// Whether what was lost in this round is too much. In Startup without a queue, much more may be.
    pub(super) fn overloaded(&self) -> bool {
        let base = self.round_window.min(self.sampler.in_flight());
        let excess = self.losses.excess(base);
        let most = match self.phase {
            Phase::Startup { .. } if self.round_rtt < self.min_rtt() + Duration::from_millis(2) => STARTUP_LOSS,
            _ if self.sounding.is_some() => SOUNDING_LOSS,
            _ if self.beside_others() => OVERLOAD_LOSS_BESIDE,
            _ => OVERLOAD_LOSS,
        };
        self.losses.round_lost() > OVERLOAD_MTUS * self.mtu && excess > most
    }

    pub(super) fn overload(&mut self, now: Instant) {
        let before = self.losses.excess(0) + self.losses.floor();
        self.overload_at = Some(now);
        self.overload_round = true;
        match self.phase {
            Phase::Startup { .. } => self.leave_startup(2),
            Phase::Up { .. } => {
                self.rates.keep(3);
                self.phase = Phase::Cruise { rounds: 0 };
            }
            _ => {
                let low_min = if self.beside_others() { LOW_MIN_BESIDE } else { LOW_MIN };
                self.low = (self.low * OVERLOAD_CUT).max(low_min);
                self.extra *= 0.7;
                if self.beside_others() {
                    return;
                }
                self.rates.keep(2);
                if self.sounding.is_none() {
                    self.losses.begin_low();
                    self.sounding = Some(Sounding { from: now + self.srtt, before, rounds: 0 });
                }
            }
        }
    }

    pub(super) fn is_low(&self, sent: Instant) -> bool {
        self.sounding.is_some_and(|sounding| sent >= sounding.from)
    }

    /// Judges the experiment on losses once enough is known.
    pub(super) fn sound(&mut self) {
        let Some(sounding) = &mut self.sounding else { return };
        sounding.rounds += 1;
        let (before, rounds) = (sounding.before, sounding.rounds);
        if self.hot >= HOT || rounds > SOUNDING_ROUNDS_MAX {
            // What others lose for us says nothing of the path.
            self.sounding = None;
            return;
        }
        if let Some(share) = self.losses.judge_low(self.mtu) {
            self.sounding = None;
            if share > SOUNDING_EXPLAINS * before {
                self.low = 1.0;
                self.overload_at = None;
            }
        }
    }
}
