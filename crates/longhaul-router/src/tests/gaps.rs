//! Events that are missing at the source: said, and then halted before or passed over, as the route says.

use longhaul_topology::OnGap;

use super::broker::Broker;
use super::mesh::{TestMesh, balanced, events, route, wait_for};
use crate::GapView;

/// 100 events are delivered; then the source router is gone while something happens to its broker.
async fn with_a_gap(on_gap: OnGap, happens: impl FnOnce(&Broker)) -> TestMesh {
    let (source, sink) = (Broker::new(90, true, &["a"]), Broker::new(91, true, &[]));
    let mut route = route("r", &[0]);
    route.on_gap = on_gap;
    let mut mesh = TestMesh::new(source, vec![sink], vec![route]).start().await;
    mesh.source.publish("a", 0..100);
    wait_for("all of it", &mesh, || mesh.sinks[0].written("r", "a").len() >= 100 && balanced(&mesh)).await;
    let eu = mesh.eu.take().expect("eu runs");
    assert!(eu.drain().await);
    happens(&mesh.source);
    mesh.start_eu().await;
    mesh
}

fn gaps(mesh: &TestMesh) -> Vec<GapView> {
    mesh.eu().flows().pop().map(|flow| flow.gaps).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_overran_a_flow_halts_it() {
    let mesh = with_a_gap(OnGap::Halt, |source| {
        source.publish("a", 100..300);
        source.purge("a", 150);
    })
    .await;
    wait_for("the gap", &mesh, || !gaps(&mesh).is_empty()).await;
    let gap = gaps(&mesh).remove(0);
    assert_eq!((gap.reason.as_str(), gap.from, gap.to, gap.events, gap.passed), ("purged", 100, 150, 50, false));
    let flow = mesh.eu().flows().pop().expect("a flow");
    assert!(flow.fault.is_some_and(|fault| fault.contains("100..150")));
    assert_eq!(mesh.sinks[0].written("r", "a"), events("a", 100));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_overran_a_flow_is_passed_over_where_the_route_says_so() {
    let mesh = with_a_gap(OnGap::Continue, |source| {
        source.publish("a", 100..300);
        source.purge("a", 150);
    })
    .await;
    wait_for("the rest", &mesh, || mesh.sinks[0].written("r", "a").len() >= 250 && balanced(&mesh)).await;
    let mut expected = events("a", 300);
    expected.drain(100..150);
    assert_eq!(mesh.sinks[0].written("r", "a"), expected);
    let flow = mesh.eu().flows().pop().expect("a flow");
    assert_eq!((flow.audit.read, flow.audit.delivered, flow.audit.gaps), (200, 150, 50));
    assert_eq!((flow.gaps.len(), flow.gaps[0].passed, flow.fault), (1, true, None));
    let text = mesh.eu().metrics_text();
    assert!(text.contains("longhaul_gap_events_total") && text.contains("reason=\"purged\""), "{text}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recreated_shard_is_read_from_its_begin_where_the_route_says_so() {
    let happens = |source: &Broker| {
        source.recreate("a");
        source.publish("a", 500..560);
    };
    let mesh = with_a_gap(OnGap::Continue, happens).await;
    wait_for("the new ones", &mesh, || mesh.sinks[0].written("r", "a").len() >= 160 && balanced(&mesh)).await;
    let mut expected = events("a", 100);
    expected.extend(events("a", 560).drain(500..));
    assert_eq!(mesh.sinks[0].written("r", "a"), expected);
    assert_eq!(gaps(&mesh)[0].reason, "recreated");
    mesh.stop().await;
    let mesh = with_a_gap(OnGap::Halt, happens).await;
    wait_for("the gap", &mesh, || !gaps(&mesh).is_empty()).await;
    assert_eq!(mesh.sinks[0].written("r", "a"), events("a", 100));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_life_of_a_shard_in_which_nothing_is_missing_is_no_gap() {
    let mesh = with_a_gap(OnGap::Halt, |source| {
        source.renumber("a");
        source.publish("a", 100..150);
    })
    .await;
    wait_for("the rest", &mesh, || mesh.sinks[0].written("r", "a").len() >= 150 && balanced(&mesh)).await;
    assert_eq!(mesh.sinks[0].written("r", "a"), events("a", 150));
    assert_eq!(gaps(&mesh), []);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_is_read_on_from_its_end_where_the_route_says_so() {
    let mesh = with_a_gap(OnGap::Continue, |source| source.truncate("a", 60)).await;
    wait_for("the gap", &mesh, || !gaps(&mesh).is_empty()).await;
    assert_eq!((gaps(&mesh)[0].reason.as_str(), gaps(&mesh)[0].from, gaps(&mesh)[0].to), ("truncated", 60, 100));
    wait_for("a new chain", &mesh, || mesh.eu().flows().iter().all(|flow| flow.durable == Some(59))).await;
    mesh.source.publish("a", 700..720);
    wait_for("the new ones", &mesh, || mesh.sinks[0].written("r", "a").len() >= 120).await;
    let mut expected = events("a", 100);
    expected.extend(events("a", 720).drain(700..));
    assert_eq!(mesh.sinks[0].written("r", "a"), expected);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_overruns_a_reader_shows_as_a_gap_too() {
    let (source, sink) = (Broker::new(92, true, &["a"]), Broker::new(93, true, &[]));
    sink.faults(|faults| faults.hang_writes = true);
    source.set_event_bytes(10_000);
    let mut route = route("r", &[0]);
    route.on_gap = OnGap::Continue;
    let mut mesh = TestMesh::new(source, vec![sink], vec![route]);
    mesh.memory_bytes = 2 << 20;
    let mesh = mesh.start().await;
    mesh.source.publish("a", 0..1_000);
    wait_for("the first reads", &mesh, || mesh.source.read("a") >= 50).await;
    mesh.source.purge("a", 900);
    mesh.sinks[0].faults(|faults| faults.hang_writes = false);
    let last = || mesh.sinks[0].written("r", "a").last().map(String::as_str) == Some("a:999");
    wait_for("the last one", &mesh, || last() && balanced(&mesh)).await;
    let flow = mesh.eu().flows().pop().expect("a flow");
    assert_eq!(flow.audit.read, 1_000);
    assert_eq!(flow.audit.delivered + flow.audit.gaps, 1_000);
    assert!(flow.audit.gaps >= 400 && flow.audit.gaps <= 900, "{:?}", flow.audit);
    mesh.stop().await;
}
