//! Reload and drain while events move.

use longhaul_topology::OnPoison;

use super::broker::Broker;
use super::mesh::{TestMesh, events, route, wait_for, without_repeats};

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_other_routes_repeats_nothing() {
    let (source, sink) = (Broker::new(90, true, &["a"]), Broker::new(91, true, &[]));
    let mut mesh = TestMesh::new(source, vec![sink], vec![route("stays", &[0]), route("goes", &[0])]).start().await;
    for step in 0..10 {
        mesh.source.publish("a", step * 100..(step + 1) * 100);
        mesh.routes = vec![route("stays", &[0])];
        if step % 2 == 0 {
            mesh.routes.push(route("comes", &[0]));
        }
        mesh.reload();
    }
    mesh.routes = vec![route("stays", &[0]), route("comes", &[0])];
    mesh.reload();
    wait_for("all of it", &mesh, || mesh.sinks[0].written("stays", "a").len() >= 1_000).await;
    assert_eq!(mesh.sinks[0].written("stays", "a"), events("a", 1_000));
    let comes = || without_repeats(&mesh.sinks[0].written("comes", "a"));
    wait_for("all of it", &mesh, || comes().len() >= 1_000).await;
    assert_eq!(comes(), events("a", 1_000));
    wait_for("the end of what is gone", &mesh, || mesh.eu().flows().len() == 2).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_reloads_of_one_route_leave_its_last_life_serving() {
    let (source, sink) = (Broker::new(101, true, &["a", "b"]), Broker::new(102, true, &[]));
    let mut mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0])]).start().await;
    for step in 0..30 {
        mesh.source.publish("a", step * 10..(step + 1) * 10);
        for policy in [OnPoison::Drop, OnPoison::Halt, OnPoison::Drop] {
            mesh.routes[0].on_poison = policy;
            mesh.reload();
        }
        let there = || without_repeats(&mesh.sinks[0].written("r", "a")).len();
        wait_for("all so far", &mesh, || there() >= (step + 1) * 10).await;
        mesh.routes[0].on_poison = OnPoison::Halt;
        mesh.reload();
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_route_says_about_poison_is_taken_up() {
    let (source, sink) = (Broker::new(92, true, &["a"]), Broker::new(93, true, &[]));
    sink.faults(|faults| faults.poison.extend(["a:5".to_owned()]));
    let mut mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0])]).start().await;
    mesh.source.publish("a", 0..10);
    wait_for("the halt", &mesh, || mesh.us().flows().iter().any(|flow| flow.fault.is_some())).await;
    mesh.routes[0].on_poison = OnPoison::Drop;
    mesh.reload();
    wait_for("the rest", &mesh, || mesh.sinks[0].written("r", "a").len() >= 9).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_route_over_a_queue_loses_nothing() {
    let (source, sinks) = (Broker::new(94, false, &["q"]), [Broker::new(95, true, &[]), Broker::new(96, true, &[])]);
    source.witness(&[&sinks[0], &sinks[1]]);
    sinks[1].faults(|faults| faults.write_takes = std::time::Duration::from_millis(10));
    let mut mesh = TestMesh::new(source, sinks.to_vec(), vec![route("r", &[0, 1])]).start().await;
    for step in 0..10 {
        mesh.source.publish("q", step * 100..(step + 1) * 100);
        wait_for("some of it", &mesh, || mesh.sinks[0].written("r", "q").len() > step * 80).await;
        let policies = [OnPoison::Halt, OnPoison::Drop];
        mesh.routes[0].on_poison = policies[step % 2];
        mesh.reload();
    }
    for sink in &mesh.sinks {
        wait_for("all of it", &mesh, || without_repeats(&sink.written("r", "q")).len() >= 1_000).await;
        assert_eq!(without_repeats(&sink.written("r", "q")), events("q", 1_000));
    }
    assert_eq!(mesh.source.violations(), Vec::<String>::new());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_far_end_of_a_route_that_is_gone_lets_go() {
    let (source, sink) = (Broker::new(97, true, &["a"]), Broker::new(98, true, &[]));
    let mut mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0]), route("s", &[0])]).start().await;
    mesh.source.publish("a", 0..10);
    wait_for("all of it", &mesh, || mesh.sinks[0].written("s", "a").len() >= 10).await;
    mesh.routes.truncate(1);
    mesh.reload();
    let flows_of_links = || mesh.us().links().r#in.iter().map(|session| session.flows).sum::<usize>();
    wait_for("one flow to be closed", &mesh, || flows_of_links() == 1).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_and_a_restart_repeat_nothing() {
    let (source, sink) = (Broker::new(99, true, &["a", "b"]), Broker::new(100, true, &[]));
    let mut mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0])]).start().await;
    for step in 0..4 {
        ["a", "b"].into_iter().for_each(|shard| mesh.source.publish(shard, step * 500..(step + 1) * 500));
        wait_for("some of it", &mesh, || mesh.sinks[0].written("r", "a").len() > step * 400).await;
        if step % 2 == 0 {
            assert!(mesh.eu().drain().await, "what is under way is finished");
            mesh.start_eu().await;
        } else {
            assert!(mesh.us().drain().await, "what is under way is finished");
            mesh.eu().drain().await;
            mesh.start_us().await;
            mesh.start_eu().await;
        }
    }
    for shard in ["a", "b"] {
        wait_for("all of it", &mesh, || mesh.sinks[0].written("r", shard).len() >= 2_000).await;
        assert_eq!(mesh.sinks[0].written("r", shard), events(shard, 2_000));
    }
    mesh.stop().await;
}
