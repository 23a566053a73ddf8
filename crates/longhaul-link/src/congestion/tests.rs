//! The model over paths in made-up time: what it keeps of the rate, what it loses, how long it lets the queue get. Targets come in pairs.

use std::time::Duration;

use super::path::{Control, Got, MTU, Net, Path};
use super::rate::{Largest, Sampler};
use super::*;

/// A tenth of the bandwidth that the controller was made for: everything in proportion, in a tenth of the time.
const MBIT: f64 = 100.0;
const RTT_MS: f64 = 80.0;
const QUEUE_MS: f64 = 100.0;

fn path() -> Path {
    Path::new(MBIT, RTT_MS, QUEUE_MS)
}

fn seconds(count: f64) -> Duration {
    Duration::from_secs_f64(count)
}

/// What one flow gets of a path once settled.
fn alone(path: Path) -> Got {
    let mut net = Net::new(path, 7);
    net.model();
    net.run(seconds(4.0));
    net.run(seconds(6.0))[0]
}

/// Halves its window at each loss, as TCP did for long.
struct Halving {
    window: f64,
    threshold: f64,
    cut_at: Option<Instant>,
}

impl Halving {
    fn boxed() -> Box<dyn Control> {
        Box::new(Self { window: 10.0 * MTU as f64, threshold: f64::MAX, cut_at: None })
    }
}

impl Control for Halving {
    fn sent(&mut self, _: Instant, _: u64) {}

    fn acknowledged(&mut self, _: Instant, _: Instant, bytes: u64, _: bool, _: Duration) {
        let slow_start = self.window < self.threshold;
        self.window += if slow_start { bytes as f64 } else { MTU as f64 * bytes as f64 / self.window };
    }

    fn end_acknowledged(&mut self, _: Instant, _: u64, _: bool) {}

    fn lost(&mut self, now: Instant, sent: Instant, _: bool, _: u64) {
        if self.cut_at.is_none_or(|cut| sent > cut) {
            self.cut_at = Some(now);
            self.window = (self.window / 2.0).max(2.0 * MTU as f64);
            self.threshold = self.window;
        }
    }

    fn window(&self) -> u64 {
        self.window as u64
    }
}

/// What most servers that know BBR have, its first version: asks for what the path has delivered at most, keeps twice the path's content in
/// flight, and takes no notice of losses ("BBR: Congestion-Based Congestion Control", ACM Queue 14, 2016).
struct Bbr {
    sampler: Sampler,
    rates: Largest,
    min_rtt: Duration,
    min_rtt_at: Instant,
    rounds: u64,
    /// The rate that Startup has seen, and rounds in which it grew no more; then none.
    startup: Option<(f64, u32)>,
    phase: usize,
    phase_at: Instant,
    probe_until: Option<Instant>,
    /// Of the path's content that it keeps in flight.
    gain: f64,
}

impl Bbr {
    const GAINS: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
    const STARTUP_GAIN: f64 = 2.89;
    const ROUNDS: usize = 10;

    fn boxed(now: Instant, gain: f64) -> Box<dyn Control> {
        Box::new(Self {
            gain,
            sampler: Sampler::new(now),
            rates: Largest::default(),
            min_rtt: Duration::MAX,
            min_rtt_at: now,
            rounds: 0,
            startup: Some((0.0, 0)),
            phase: 2,
            phase_at: now,
            probe_until: None,
        })
    }

    fn rate(&self) -> f64 {
        self.rates.of(Self::ROUNDS)
    }

    fn product(&self) -> f64 {
        self.rate() * self.min_rtt.as_secs_f64()
    }
}

impl Control for Bbr {
    fn sent(&mut self, now: Instant, bytes: u64) {
        self.sampler.sent(now, bytes);
    }

    fn acknowledged(&mut self, _: Instant, sent: Instant, bytes: u64, _: bool, _: Duration) {
        self.sampler.acknowledged(sent, bytes);
    }

    fn end_acknowledged(&mut self, now: Instant, in_flight: u64, limited: bool) {
        let Some(sample) = self.sampler.sample(now, in_flight, limited) else { return };
        let expired = now - self.min_rtt_at > seconds(10.0);
        if sample.rtt <= self.min_rtt || expired {
            (self.min_rtt, self.min_rtt_at) = (sample.rtt, now);
        }
        if expired && self.startup.is_none() {
            self.probe_until = Some(now + seconds(0.2) + self.min_rtt);
        }
        if self.probe_until.is_some_and(|until| now > until) {
            self.probe_until = None;
        }
        if let Some(rate) = sample.rate {
            self.rates.take(rate, sample.limited);
        }
        if sample.round_ended {
            self.rates.next_round();
            self.rounds += 1;
            if let Some((best, flat)) = self.startup {
                let rate = self.rate();
                self.startup = match rate > best * 1.25 {
                    true => Some((rate, 0)),
                    false => Some((best, flat + 1)).filter(|_| flat < 3),
                };
            }
        }
        // It lets go of what it asked for in excess, and no longer.
        let over =
            if self.phase == 1 { in_flight as f64 <= self.product() } else { now - self.phase_at > self.min_rtt };
        if over {
            (self.phase, self.phase_at) = ((self.phase + 1) % 8, now);
        }
    }

    fn lost(&mut self, _: Instant, _: Instant, _: bool, _: u64) {}

    fn window(&self) -> u64 {
        let window = match (self.probe_until, self.startup) {
            (Some(_), _) => 0.0,
            (None, Some(_)) => Self::STARTUP_GAIN * self.product(),
            (None, None) => self.gain * self.product(),
        };
        (window as u64).max(if self.rounds == 0 { 10 } else { 4 } * MTU)
    }

    fn pace(&self) -> Option<f64> {
        let gain = if self.startup.is_some() { Self::STARTUP_GAIN } else { Self::GAINS[self.phase] };
        Some(self.rate() * gain).filter(|rate| *rate > 0.0)
    }
}

/// Between a flow of ours and another that comes at the same time: ours, and the other's, of the path's rate.
fn beside(path: Path, other: Option<Box<dyn Control>>) -> (f64, f64) {
    let mut net = Net::new(path, 7);
    net.model();
    match other {
        Some(other) => net.sender(other),
        None => net.model(),
    };
    net.run(seconds(10.0));
    let got = net.run(seconds(30.0));
    (got[0].mbit() / path.mbit, got[1].mbit() / path.mbit)
}

#[test]
fn random_loss_costs_no_more_than_itself() {
    for loss in [0.0, 0.001, 0.01, 0.03] {
        let got = alone(Path { loss, ..path() });
        assert!(got.mbit() > 0.9 * MBIT, "at {loss}: {:.1} Mbit/s", got.mbit());
        assert!(got.lost_share() < loss + 0.01, "at {loss}: {:.4} lost", got.lost_share());
        assert!(got.rtt_ms() < 110.0, "at {loss}: {:.0} ms", got.rtt_ms());
    }
}

#[test]
fn the_path_of_these_tests_ruins_who_halves() {
    let mut net = Net::new(Path { loss: 0.01, ..path() }, 7);
    net.sender(Halving::boxed());
    net.run(seconds(4.0));
    let got = net.run(seconds(6.0))[0];
    assert!(got.mbit() < 0.1 * MBIT, "{:.1} Mbit/s", got.mbit());
}

#[test]
fn a_short_queue_is_not_beaten() {
    let got = alone(Path { queue_ms: 5.0, ..path() });
    assert!(got.mbit() > 0.8 * MBIT, "{:.1} Mbit/s", got.mbit());
    assert!(got.lost_share() < 0.02, "{:.4} lost", got.lost_share());
}

#[test]
fn losses_of_a_policer_are_not_taken_for_random_ones() {
    // With room for two bursts of the pacer only, what is sent too fast is lost at once; the experiment must show that sending less helps.
    let got = alone(Path { queue_ms: 2.5, ..path() });
    assert!(got.lost_share() < 0.04, "{:.4} lost", got.lost_share());
}

#[test]
fn two_of_us_share() {
    let (one, other) = beside(path(), None);
    let jain = (one + other).powi(2) / 2.0 / (one * one + other * other);
    assert!(jain > 0.95, "{one:.2} and {other:.2}");
    assert!(one + other > 0.9, "{one:.2} and {other:.2}");
}

#[test]
fn a_loss_based_flow_and_we_live_beside_each_other() {
    let (ours, theirs) = beside(path(), Some(Halving::boxed()));
    assert!(ours > 0.2 && theirs > 0.2, "ours {ours:.2}, theirs {theirs:.2}");
}

#[test]
fn a_flow_of_bbr_does_not_starve_us() {
    // Twice the path's content, and what it keeps where acknowledgements come in heaps; it comes while we have the path for ourselves.
    for gain in [2.0, 3.25] {
        let mut net = Net::new(path(), 7);
        net.model();
        net.run(seconds(3.0));
        let now = net.now;
        net.sender(Bbr::boxed(now, gain));
        // Its start takes all that it can get, and we find our way back.
        net.run(seconds(3.0));
        for (time, least) in [(9.0, 0.14), (30.0, 0.25)] {
            let got = net.run(seconds(time));
            let (ours, theirs) = (got[0].mbit() / MBIT, got[1].mbit() / MBIT);
            assert!(ours > least && theirs > 0.25, "beside {gain}: ours {ours:.2}, theirs {theirs:.2}");
        }
    }
}

#[test]
fn a_rate_that_falls_and_rises_is_followed() {
    let mut net = Net::new(path(), 7);
    net.model();
    net.run(seconds(5.0));
    net.path.mbit = MBIT / 5.0;
    net.run(seconds(2.0));
    let low = net.run(seconds(3.0))[0];
    assert!(low.lost_share() < 0.02, "{:.4} lost", low.lost_share());
    assert!(low.mbit() > 0.17 * MBIT, "{:.1} Mbit/s", low.mbit());
    net.path.mbit = MBIT;
    net.run(seconds(2.0));
    let high = net.run(seconds(3.0))[0];
    assert!(high.mbit() > 0.85 * MBIT, "{:.1} Mbit/s", high.mbit());
}

#[test]
fn after_an_outage_the_rate_comes_back() {
    for outage in [1.0, 3.0] {
        let mut net = Net::new(path(), 7);
        net.model();
        net.run(seconds(4.0));
        net.path.cut = true;
        net.run(seconds(outage));
        net.path.cut = false;
        // What is probed less and less often during the outage is probed again after as long at most.
        net.run(seconds(outage + 2.0));
        let got = net.run(seconds(2.0))[0];
        assert!(got.mbit() > 0.85 * MBIT, "after {outage} s: {:.1} Mbit/s", got.mbit());
    }
}

#[test]
fn jitter_that_overtakes_costs_little_when_losses_are_judged_late() {
    let jitter = Path { jitter_ms: 5.0, ..path() };
    let late = alone(Path { packet_threshold: 1024, ..jitter });
    assert!(late.mbit() > 0.85 * MBIT, "{:.1} Mbit/s", late.mbit());
    assert!(late.lost_share() < 0.02, "{:.4} taken for lost", late.lost_share());
    let soon = alone(jitter);
    assert!(soon.lost_share() > 0.05, "the path of this test reorders: {:.4}", soon.lost_share());
}

#[test]
fn a_trickle_keeps_a_window_that_is_ready() {
    let mut net = Net::new(path(), 7);
    let flow = net.model();
    net.run(seconds(3.0));
    net.limit(flow, Some(1.0));
    net.run(seconds(12.0));
    assert!(net.window(flow) > (MBIT * 125.0 * RTT_MS) as u64 / 2, "{} bytes", net.window(flow));
    net.limit(flow, None);
    net.run(seconds(1.0));
    let got = net.run(seconds(1.0))[0];
    assert!(got.mbit() > 0.85 * MBIT, "{:.1} Mbit/s", got.mbit());
}

#[test]
fn a_long_and_a_short_path_are_filled() {
    for (rtt_ms, least) in [(2.0, 0.85), (200.0, 0.85)] {
        let got = alone(Path { rtt_ms, loss: 0.001, ..path() });
        assert!(got.mbit() > least * MBIT, "{rtt_ms} ms: {:.1} Mbit/s", got.mbit());
    }
}
