//! A link over 80 ms with 1 % random loss keeps its rate, where one that takes losses for overload keeps next to nothing of it.

use std::time::Duration;

use longhaul_link::{Congestion, WindowHint};
use longhaul_test_wire::link::Load;
use longhaul_test_wire::{Shape, Wire, wire_or_skip};

/// What a busy machine carries beside everything else.
const MBIT: f64 = 40.0;
const WARM_UP: Duration = Duration::from_secs(4);
const WINDOW: Duration = Duration::from_secs(4);

async fn share_of_rate(wire: &Wire, congestion: Congestion) -> f64 {
    let load = Load::over(Some(wire), congestion, WindowHint::default()).await.expect("a link over a wire that stands");
    tokio::time::sleep(WARM_UP).await;
    load.mbit_over(WINDOW).await / MBIT
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_link_keeps_its_rate_under_random_loss() {
    let shape = Shape::new(MBIT, Duration::from_millis(40), Duration::from_millis(100)).with_loss(0.01);
    let Some(wire) = wire_or_skip("a_long_link_keeps_its_rate_under_random_loss", shape) else { return };
    let model = share_of_rate(&wire, Congestion::Model).await;
    let cubic = share_of_rate(&wire, Congestion::Cubic).await;
    eprintln!("of {MBIT} Mbit/s: model {model:.2}, Cubic {cubic:.2}");
    assert!(model > 0.75, "the model kept {model:.2}");
    assert!(cubic < 0.3, "Cubic kept {cubic:.2}: this path is no test");
}
