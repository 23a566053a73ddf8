//! Events that the destination refuses for good.

use longhaul_topology::OnPoison;

use super::broker::Broker;
use super::mesh::{TestMesh, balanced, events, route, wait_for, without_repeats};

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

/// Between the refusal and the next try, ten seconds later, the destination loses what came before.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_lost_while_a_refused_event_waits_is_written_again() {
    for keep in [0, 10] {
        let mesh = start(OnPoison::Halt).await;
        wait_for("the refusal", &mesh, || mesh.us().flows().iter().any(|flow| flow.phase == crate::Phase::Faulted))
            .await;
        assert_eq!(mesh.sinks[0].written("r", "a"), events("a", 30));
        mesh.sinks[0].lose_tail("r", "a", keep);
        mesh.sinks[0].faults(|faults| faults.poison.clear());
        wait_for("all of it", &mesh, || mesh.sinks[0].written("r", "a").len() >= 200).await;
        assert_eq!(mesh.sinks[0].written("r", "a"), events("a", 200), "with {keep} left");
        mesh.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_events_are_left_out_where_the_route_says_so() {
    let mesh = start(OnPoison::Drop).await;
    wait_for("the rest", &mesh, || mesh.sinks[0].written("r", "a").len() >= 198).await;
    let mut expected = events("a", 200);
    expected.drain(30..32);
    assert_eq!(mesh.sinks[0].written("r", "a"), expected);
    wait_for("balanced books", &mesh, || balanced(&mesh)).await;
    assert_eq!(mesh.us().flows().pop().expect("a flow").audit.dropped, 2);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_events_are_parked_whole_and_can_be_redriven_or_discarded() {
    let mesh = start(OnPoison::Park).await;
    let there = || mesh.sinks[0].written("r", "a").len();
    wait_for("the rest", &mesh, || there() >= 198 && balanced(&mesh)).await;
    let mut expected = events("a", 200);
    expected.drain(30..32);
    assert_eq!(mesh.sinks[0].written("r", "a"), expected);

    let parked = mesh.us().parked().await.expect("a list");
    let about: Vec<_> =
        parked.iter().map(|parked| (parked.offset, parked.kind.as_str(), parked.reason.as_str())).collect();
    assert_eq!(about, [(30, "refused", "as the test wants it"), (31, "refused", "as the test wants it")]);
    let shown = mesh.us().parked_event(&parked[0].id).await.expect("an event");
    assert_eq!((shown.text.as_deref().map(str::trim_end), shown.about.topic.as_str()), (Some("a:30"), "taken.a"));
    let flow = mesh.us().flows().pop().expect("a flow");
    assert_eq!((flow.audit.read, flow.audit.delivered, flow.audit.parked), (200, 198, 2));

    // Refused again, it stays; mended, it goes where it should have gone.
    let refused = mesh.us().redrive(&parked[0].id).await.expect_err("still refused");
    assert!(refused.to_string().contains("as the test wants it"), "{refused}");
    mesh.sinks[0].faults(|faults| faults.poison.clear());
    mesh.us().redrive(&parked[0].id).await.expect("taken");
    assert_eq!(mesh.sinks[0].written("r", "a#redriven"), ["a:30"]);
    mesh.us().discard(&parked[1].id).await.expect("gone");
    assert_eq!((mesh.us().parked().await.expect("a list").len(), mesh.sinks[0].parked()), (0, 0));
    assert!(mesh.us().discard(&parked[1].id).await.is_err());
    assert!(mesh.us().parked_event("../x").await.is_err());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_passes_before_it_is_parked_and_failures_park_nothing_twice() {
    let (source, sink) = (Broker::new(82, true, &["a"]), Broker::new(83, true, &[]));
    sink.faults(|faults| {
        faults.poison.extend((0..20).map(|number| format!("a:{}", number * 13)));
        (faults.write, faults.commit, faults.park_fails) = (10, 5, 3);
    });
    let mut route = route("r", &[0]);
    route.on_poison = OnPoison::Park;
    let mesh = TestMesh::new(source, vec![sink], vec![route]).start().await;
    mesh.source.publish("a", 0..500);
    wait_for("all of it", &mesh, || {
        without_repeats(&mesh.sinks[0].written("r", "a")).len() >= 480
            && balanced(&mesh)
            && mesh.sinks[0].parked() == 20
    })
    .await;
    let expected = events("a", 500).into_iter().enumerate().filter(|(at, _)| at % 13 != 0 || *at >= 260);
    let expected: Vec<_> = expected.map(|(_, name)| name).collect();
    assert_eq!(without_repeats(&mesh.sinks[0].written("r", "a")), expected);
    let audit = mesh.us().flows().pop().expect("a flow").audit;
    assert_eq!((audit.read, audit.delivered, audit.parked), (500, 480, 20));
    mesh.stop().await;
}
