//! Events that the destination refuses for good.

use longhaul_topology::OnPoison;

use super::broker::Broker;
use super::mesh::{TestMesh, events, route, wait_for};

async fn start(on_poison: OnPoison) -> TestMesh {
    let (source, sink) = (Broker::new(80, true, &["a"]), Broker::new(81, true, &[]));
    sink.faults(|faults| faults.poison.extend(["a:30".to_owned(), "a:31".to_owned()]));
    let mut route = route("r", &[0]);
    route.on_poison = on_poison;
    let mesh = TestMesh::new(source, vec![sink], vec![route]).start().await;
    mesh.source.publish("a", 0..200);
    mesh
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_event_halts_its_flow_and_says_so() {
    let mesh = start(OnPoison::Halt).await;
    let is_said = || mesh.us().flows().iter().any(|flow| flow.fault.as_ref().is_some_and(|text| text.contains("30")));
    wait_for("the fault", &mesh, is_said).await;
    assert_eq!(mesh.sinks[0].written("r", "a"), events("a", 30));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_events_are_left_out_where_the_route_says_so() {
    let mesh = start(OnPoison::Drop).await;
    wait_for("the rest", &mesh, || mesh.sinks[0].written("r", "a").len() >= 198).await;
    let mut expected = events("a", 200);
    expected.drain(30..32);
    assert_eq!(mesh.sinks[0].written("r", "a"), expected);
    mesh.stop().await;
}
