//! Congestion control by a model of the path, in the family of BBR v3 (draft-ietf-ccwg-bbr): how fast it delivers and how long it takes
//! there and back give the window. Losses alone say little on long paths; a queue says much.
//!
//! Start with [`Model`] and [`Phase`]; what is judged by what is in the files below. It decides on a window only: quinn paces by 1.25 windows
//! a round trip and asks for nothing else. It reads no clock and draws no numbers; every instant comes from quinn.
//!
//! ```text
//!            the rate grows no more, or a queue shows
//!   Startup ------------------------------------------> Drain ----> Cruise <---> Up (only beside others)
//!      ^                                                              ^  |
//!      | persistent congestion                                        |  | 10 s without a short round trip
//!      +--- from anywhere                                             +--+ Probe
//! ```

mod overload;
mod phases;
mod queue;
mod window;

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

use super::Instant;
use super::loss::Ledger;
use super::rate::{Largest, Sampler};
use queue::Quarter;

const INITIAL_WINDOW: u64 = 64 * 1024;
/// Rounds of the largest rate that count, alone and beside others.
const ROUNDS_ALONE: usize = 4;
const ROUNDS_BESIDE: usize = 10;
/// The queue that a flow allows itself is this many seconds, over the root of its bytes per second: 6 ms at 1 Gbit/s.
const ALLOWANCE: f64 = 67.0;
const SLACK_MTUS_MIN: f64 = 8.0;
const HOT_MARGIN: Duration = Duration::from_millis(2);
/// Two rounds with a large queue, or eight with a small one, mean that we are beside others.
const HOT: u32 = 8;

/// What it is about.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Doubles each round, until the rate no longer follows or a queue shows.
    Startup { best: f64, flat: u32 },
    /// Lets go of the queue it made.
    Drain { rounds: u32 },
    /// Holds what the path carries, and a little.
    Cruise { rounds: u64 },
    /// Lets others show whether the queue is theirs: sends no more than the empty path holds.
    Yield { rounds: u32 },
    /// Asks for more where others hold a queue.
    Up { rounds: u32, before: f64 },
    /// Sends half, to see how short the path is.
    Probe { until: Instant, rounds: u32, least: Duration },
}

/// An experiment on losses: sends less, and looks whether less is lost.
#[derive(Debug, Clone, Copy)]
struct Sounding {
    /// Only what was sent from then on counts.
    from: Instant,
    /// The share that was lost before.
    before: f64,
    rounds: u32,
}

/// Makes [`Model`]s.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ModelConfig;

impl ControllerFactory for ModelConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Model::new(now, current_mtu))
    }
}

/// The controller.
#[derive(Debug, Clone)]
pub(super) struct Model {
    mtu: u64,
    window: u64,
    phase: Phase,
    sampler: Sampler,
    rates: Largest,
    losses: Ledger,
    sounding: Option<Sounding>,
    /// Shortest round trip, and when one as short was last seen.
    min_rtt: Option<Duration>,
    min_rtt_at: Instant,
    srtt: Duration,
    /// Least round trip of this round, and of a quarter of one.
    round_rtt: Duration,
    quarter: Quarter,
    rounds: u64,
    round_window: u64,
    /// Share of the allowance for a queue.
    extra: f64,
    /// Share of the window that overload leaves.
    low: f64,
    /// Rounds with a queue that is not ours.
    hot: u32,
    beside_rounds: u32,
    overload_at: Option<Instant>,
    overload_round: bool,
}

impl Model {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        Self {
            mtu: mtu.into(),
            window: INITIAL_WINDOW,
            phase: Phase::Startup { best: 0.0, flat: 0 },
            sampler: Sampler::new(now),
            rates: Largest::default(),
            losses: Ledger::default(),
            sounding: None,
            min_rtt: None,
            min_rtt_at: now,
            srtt: Duration::from_millis(100),
            round_rtt: Duration::MAX,
            quarter: Quarter::new(now),
            rounds: 0,
            round_window: INITIAL_WINDOW,
            extra: 1.0,
            low: 1.0,
            hot: 0,
            beside_rounds: 0,
            overload_at: None,
            overload_round: false,
        }
    }

    fn rate(&self) -> f64 {
        self.rates.of(if self.beside_others() { ROUNDS_BESIDE } else { ROUNDS_ALONE })
    }

    fn beside_others(&self) -> bool {
        self.hot >= HOT
    }

    fn min_rtt(&self) -> Duration {
        self.min_rtt.unwrap_or(self.srtt)
    }

    /// Bytes that the path holds without a queue; what will be lost anyway comes on top.
    fn product(&self) -> f64 {
        self.rate() * self.min_rtt().as_secs_f64() / (1.0 - self.losses.floor())
    }

    /// Seconds of queue that a flow of this rate allows itself.
    fn allowance(&self) -> f64 {
        let most = (self.min_rtt() / 4).max(Duration::from_millis(5)).as_secs_f64();
        (ALLOWANCE / self.rate().max(1.0).sqrt()).min(most)
    }

    fn slack(&self) -> f64 {
        (self.rate() * self.allowance() * self.extra).max(SLACK_MTUS_MIN * self.mtu as f64)
    }
}

/// What quinn tells, without the types that only quinn can make.
impl Model {
    pub(super) fn sent(&mut self, now: Instant, bytes: u64) {
        self.sampler.sent(now, bytes);
    }

    pub(super) fn acknowledged(&mut self, sent: Instant, bytes: u64, app_limited: bool, srtt: Duration) {
        self.srtt = srtt;
        self.sampler.acknowledged(sent, bytes);
        self.losses.acknowledged(bytes, self.is_low(sent));
        if matches!(self.phase, Phase::Startup { .. }) && !app_limited && self.sampler.in_flight() >= self.window / 2 {
            self.set_window(bytes);
        }
    }

    pub(super) fn end_acknowledged(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        let Some(sample) = self.sampler.sample(now, in_flight, app_limited) else { return };
        self.see_rtt(now, sample.rtt);
        if let Some(rate) = sample.rate {
            self.rates.take(rate, sample.limited);
        }
        if sample.round_ended {
            self.end_round(now, sample.limited);
        }
        self.step(now, &sample, in_flight);
        self.set_window(0);
    }

    pub(super) fn lost(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        if is_persistent_congestion {
            self.start_anew(now);
            return;
        }
        // What was sent before the last overload is part of it.
        if self.overload_at.is_some_and(|at| sent <= at) {
            return;
        }
        self.losses.lost(lost_bytes, self.is_low(sent));
        let marked = lost_bytes == 0;
        if !self.overload_round && (marked || self.overloaded()) {
            self.overload(now);
            self.set_window(0);
        }
    }
}

impl Controller for Model {
    fn on_sent(&mut self, now: Instant, bytes: u64, _last_packet_number: u64) {
        self.sent(now, bytes);
    }

    fn on_ack(&mut self, _now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.acknowledged(sent, bytes, app_limited, rtt.get());
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        self.end_acknowledged(now, in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.lost(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
