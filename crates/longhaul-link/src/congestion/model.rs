//! Congestion control by a model of the path, in the family of BBR v3 (draft-ietf-ccwg-bbr): how fast it delivers and how long it takes
//! there and back give the window. Losses alone say little on long paths; a queue says much.
//!
//! Start with [`Model`] and [`Phase`]. It decides on a window only: quinn paces by 1.25 windows a round trip and asks for nothing else. It
//! reads no clock; every instant comes from quinn, and whatever is drawn comes from counted bytes.
//!
//! ```text
//!            the rate grows no more, or a queue shows
//!   Startup ------------------------------------------> Drain ----> Cruise <---> Up (only beside others)
//!      ^                                                              ^  |
//!      | persistent congestion                                        |  | 10 s without a short round trip
//!      +--- from anywhere                                             +--+ Probe
//! ```

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

use super::Instant;
use super::loss::Ledger;
use super::rate::{Largest, Sample, Sampler};

const INITIAL_WINDOW: u64 = 64 * 1024;
const WINDOW_MTUS_MIN: u64 = 4;
const WINDOW_MAX: u64 = 1 << 30;
/// Of the window in Startup, in bandwidth-delay products.
const STARTUP_GAIN: f64 = 2.5;
const STARTUP_GROWTH: f64 = 1.25;
const STARTUP_ROUNDS: u32 = 3;
/// Without a queue, so many losses in Startup are still taken for random ones.
const STARTUP_LOSS: f64 = 0.15;
const DRAIN_ROUNDS_MAX: u32 = 3;
/// Rounds of the largest rate that count, alone and beside others.
const ROUNDS_ALONE: usize = 4;
const ROUNDS_BESIDE: usize = 6;
/// The queue that a flow allows itself is this many seconds, over the root of its bytes per second: 6 ms at 1 Gbit/s.
const ALLOWANCE: f64 = 67.0;
const SLACK_MTUS_MIN: f64 = 8.0;
const EXTRA_MAX: f64 = 3.0;
const EXTRA_MIN: f64 = 0.25;
const OVERLOAD_LOSS: f64 = 0.02;
const OVERLOAD_LOSS_BESIDE: f64 = 0.04;
const OVERLOAD_MTUS: u64 = 8;
const OVERLOAD_CUT: f64 = 0.85;
const LOW_MIN: f64 = 0.5;
const LOW_RECOVERY: f64 = 1.02;
/// After an overload, how long the allowance may not grow beyond one.
const OVERLOAD_MEMORY: Duration = Duration::from_secs(3);
/// A queue of more than that many allowances, in each round, is not ours alone.
const WARM_ALLOWANCES: f64 = 1.1;
/// A queue of more than this share of the shortest round trip is surely not.
const HOT_SHARE: f64 = 0.2;
const HOT_MARGIN: Duration = Duration::from_millis(2);
/// Two rounds with a large queue, or eight with a small one, mean that we are beside others.
const HOT: u32 = 8;
const HOT_STEP: u32 = 4;
const HOT_MAX: u32 = 28;
/// Beside others, the window in products of rate and round trip, which counts up to twice the shortest one.
const BESIDE_GAIN: f64 = 0.97;
const BESIDE_RTTS: u32 = 2;
/// Flows like us that took each other for greedy ones find out by sending less at about the same time: soon, and then now and then.
const YIELD_GAIN: f64 = 0.75;
const YIELD_ROUNDS: u32 = 2;
const YIELD_AT: [u32; 2] = [4, 12];
const YIELD_EVERY_ROUNDS: u32 = 40;
const UP_GAIN: f64 = 1.25;
const UP_ROUNDS: u32 = 2;
const UP_GROWTH: f64 = 1.05;
const UP_EVERY_ROUNDS: u64 = 8;
const PROBE_AFTER: Duration = Duration::from_secs(10);
const PROBE_MIN: Duration = Duration::from_millis(200);
const PROBE_ROUNDS: u32 = 2;
/// What ends a sounding of the floor of losses before its time: the path has broken down.
const SOUNDING_LOSS: f64 = 0.5;
/// How long one may take.
const SOUNDING_ROUNDS_MAX: u32 = 8;
/// Losses while sending less that explain the losses before.
const SOUNDING_EXPLAINS: f64 = 0.6;

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

/// The least round trip of a quarter of one.
#[derive(Debug, Clone, Copy)]
struct Quarter {
    from: Instant,
    least: Duration,
    samples: u32,
}

impl Quarter {
    fn new(now: Instant) -> Self {
        Self { from: now, least: Duration::MAX, samples: 0 }
    }
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
        let most = (self.min_rtt() / 2).max(Duration::from_millis(5)).as_secs_f64();
        (ALLOWANCE / self.rate().max(1.0).sqrt()).min(most)
    }

    fn slack(&self) -> f64 {
        (self.rate() * self.allowance() * self.extra).max(SLACK_MTUS_MIN * self.mtu as f64)
    }

    /// Beside others a window for the shortest round trip would starve: the queue is theirs, and there is no getting past it.
    fn beside_window(&self) -> f64 {
        self.rate() * self.srtt.min(self.min_rtt() * BESIDE_RTTS).as_secs_f64() * BESIDE_GAIN
    }

    fn set_window(&mut self, acknowledged: u64) {
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

    fn see_rtt(&mut self, now: Instant, rtt: Duration) {
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
    fn queue_shows(&mut self, now: Instant) -> bool {
        let quarter = self.quarter;
        if quarter.samples < 8 || now - quarter.from < self.min_rtt() / 4 {
            return false;
        }
        self.quarter = Quarter::new(now);
        let margin = (self.min_rtt() / 16).clamp(Duration::from_millis(2), Duration::from_millis(8));
        quarter.least > self.min_rtt() + margin
    }

    fn end_round(&mut self, now: Instant, limited: bool) {
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

    fn yield_is_due(&self) -> bool {
        let due =
            YIELD_AT.contains(&self.beside_rounds) || self.beside_rounds % YIELD_EVERY_ROUNDS == YIELD_EVERY_ROUNDS - 1;
        due && matches!(self.phase, Phase::Cruise { .. } | Phase::Up { .. })
    }

    /// Judges the experiment on losses once enough is known.
    fn sound(&mut self) {
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

    fn step(&mut self, now: Instant, sample: &Sample, in_flight: u64) {
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

    fn step_round(&mut self, sample: &Sample) {
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

    fn leave_startup(&mut self, keep: usize) {
        self.rates.keep(keep);
        self.phase = Phase::Drain { rounds: 0 };
    }

    /// Whether what was lost in this round is too much. In Startup without a queue, much more may be.
    fn overloaded(&self) -> bool {
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

    fn overload(&mut self, now: Instant) {
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
                self.rates.keep(2);
                self.low = (self.low * OVERLOAD_CUT).max(LOW_MIN);
                self.extra *= 0.7;
                if !self.beside_others() && self.sounding.is_none() {
                    self.losses.begin_low();
                    self.sounding = Some(Sounding { from: now + self.srtt, before, rounds: 0 });
                }
            }
        }
    }

    fn is_low(&self, sent: Instant) -> bool {
        self.sounding.is_some_and(|sounding| sent >= sounding.from)
    }

    fn start_anew(&mut self, now: Instant) {
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
