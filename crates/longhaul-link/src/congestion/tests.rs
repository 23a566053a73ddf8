//! The model over paths in made-up time: what it keeps of the rate, what it loses, how long it lets the queue get. Targets come in pairs.

use std::time::Duration;

use super::path::{Control, Got, MTU, Net, Path};
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
