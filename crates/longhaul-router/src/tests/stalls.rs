//! A source that says it has more and gives nothing: the flow is shown as stalled, and begins again by itself.

use super::broker::Broker;
use super::mesh::{TestMesh, balanced, events, route, wait_for};

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_gives_nothing_is_replaced_and_nothing_is_lost_or_repeated() {
    let (source, sink) = (Broker::new(95, true, &["a"]), Broker::new(96, true, &[]));
    source.faults(|faults| faults.hang_readers = 2);
    let mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0])]).start().await;
    mesh.source.publish("a", 0..100);
    wait_for("the flow is stalled", &mesh, || mesh.eu().flows().iter().any(|flow| flow.stalled)).await;
    // Gauges are collected once a second, so they come to show it.
    let shown = |line: &str| line.starts_with("longhaul_flows_stalled{") && line.ends_with(" 1");
    wait_for("the metric says so", &mesh, || mesh.eu().metrics_text().lines().any(shown)).await;
    wait_for("all of it", &mesh, || mesh.sinks[0].written("r", "a").len() >= 100 && balanced(&mesh)).await;
    assert_eq!(mesh.sinks[0].written("r", "a"), events("a", 100));
    let text = mesh.eu().metrics_text();
    let restarts = text.lines().find(|line| line.starts_with("longhaul_flow_restarts_total{"));
    assert!(restarts.is_some_and(|line| line.ends_with(" 2")), "one for each reader: {restarts:?}");
    assert!(mesh.eu().flows().iter().all(|flow| !flow.stalled && flow.fault.is_none()));
    mesh.stop().await;
}
