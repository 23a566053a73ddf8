//! Exact delivery while links are cut, sinks and readers fail, and one destination hangs.

use std::time::Duration;

use super::broker::Broker;
use super::mesh::{TestMesh, balanced, events, route, wait_for, without_repeats};

const COUNT: usize = 3_000;

#[tokio::test(flavor = "multi_thread")]
async fn cut_links_lose_repeat_and_reorder_nothing() {
    let (source, sink) = (Broker::new(1, true, &["a", "b"]), Broker::new(2, true, &[]));
    let mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0])]).start().await;
    for step in 0..15 {
        ["a", "b"].into_iter().for_each(|shard| mesh.source.publish(shard, step * 200..(step + 1) * 200));
        wait_for("some of it", &mesh, || mesh.sinks[0].written("r", "a").len() > step * 150).await;
        mesh.cut_links().await;
    }
    for shard in ["a", "b"] {
        wait_for("all of it", &mesh, || mesh.sinks[0].written("r", shard).len() >= COUNT).await;
        assert_eq!(mesh.sinks[0].written("r", shard), events(shard, COUNT));
    }
    wait_for("balanced books", &mesh, || balanced(&mesh)).await;
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_sinks_and_readers_lose_nothing() {
    let (source, sink) = (Broker::new(3, true, &["a", "b", "c"]), Broker::new(4, true, &[]));
    source.faults(|faults| faults.read = 20);
    sink.faults(|faults| (faults.write, faults.commit, faults.open) = (20, 10, 200));
    let mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0]), route("s", &[0])]).start().await;
    ["a", "b", "c"].into_iter().for_each(|shard| mesh.source.publish(shard, 0..800));
    for (name, shard) in ["r", "s"].into_iter().flat_map(|name| ["a", "b", "c"].map(|shard| (name, shard))) {
        let there = || without_repeats(&mesh.sinks[0].written(name, shard));
        wait_for("all of it", &mesh, || there().len() >= 800).await;
        assert_eq!(there(), events(shard, 800));
    }
    wait_for("balanced books", &mesh, || balanced(&mesh)).await;
    for flow in mesh.eu().flows().iter().chain(&mesh.us().flows()) {
        assert_eq!((flow.audit.read, flow.audit.delivered), (800, 800), "{flow:#?}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hanging_destination_holds_nobody_else() {
    let sinks: Vec<_> = (0..3).map(|at| Broker::new(10 + at, true, &[])).collect();
    let source = Broker::new(5, true, &["a", "b"]);
    sinks[1].faults(|faults| faults.hang_writes = true);
    source.set_event_bytes(2_000);
    let mut mesh = TestMesh::new(source, sinks, vec![route("r", &[0, 1, 2]), route("s", &[0, 1])]);
    mesh.memory_bytes = 4 << 20;
    let mesh = mesh.start().await;
    // Far more than the rings hold.
    ["a", "b"].into_iter().for_each(|shard| mesh.source.publish(shard, 0..COUNT));
    for (sink, name, shard) in [(0, "r", "a"), (2, "r", "b"), (0, "s", "b")] {
        wait_for("all of it", &mesh, || mesh.sinks[sink].written(name, shard).len() >= COUNT).await;
        assert_eq!(mesh.sinks[sink].written(name, shard), events(shard, COUNT));
    }
    assert!(mesh.sinks[1].written("r", "a").is_empty());
    for router in [mesh.eu(), mesh.us()] {
        let view = router.mesh();
        assert!(view.memory_used_bytes <= view.memory_budget_bytes, "{view:?}");
    }
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_stuck_destination_pauses_its_reader() {
    let (source, sink) = (Broker::new(6, true, &["a"]), Broker::new(7, true, &[]));
    sink.faults(|faults| faults.hang_writes = true);
    source.set_event_bytes(10_000);
    let mut mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0])]);
    mesh.memory_bytes = 2 << 20;
    let mesh = mesh.start().await;
    mesh.source.publish("a", 0..COUNT);
    wait_for("the first reads", &mesh, || mesh.source.read("a") >= 100).await;
    // Long enough for a reader that does not pause to read all 30 MB.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(mesh.source.read("a") < 400, "it read {} events of 10 kB within 2 MiB", mesh.source.read("a"));
    let view = mesh.eu().mesh();
    assert!(view.memory_used_bytes <= view.memory_budget_bytes, "{view:?}");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_flow_comes_back_to_the_ring() {
    let sinks: Vec<_> = (0..2).map(|at| Broker::new(20 + at, true, &[])).collect();
    let source = Broker::new(8, true, &["a"]);
    source.set_event_bytes(4_000);
    sinks[1].faults(|faults| faults.write_takes = Duration::from_millis(10));
    let mut mesh = TestMesh::new(source, sinks, vec![route("r", &[0, 1])]);
    mesh.memory_bytes = 2 << 20;
    let mesh = mesh.start().await;
    mesh.source.publish("a", 0..2_000);
    wait_for("the fast one", &mesh, || mesh.sinks[0].written("r", "a").len() >= 2_000).await;
    mesh.sinks[1].faults(|faults| faults.write_takes = Duration::ZERO);
    let mut next = 2_000;
    let until = std::time::Instant::now() + super::mesh::PATIENCE;
    loop {
        // A trickle, so that both ways of reading see every event at the same time.
        mesh.source.publish("a", next..next + 1);
        next += 1;
        for sink in &mesh.sinks {
            wait_for("all of it", &mesh, || sink.written("r", "a").len() >= next).await;
        }
        if mesh.eu().flows().iter().all(|flow| !flow.detached) {
            break;
        }
        assert!(std::time::Instant::now() < until, "it still reads alone: {:#?}", mesh.eu().flows());
    }
    mesh.sinks.iter().for_each(|sink| assert_eq!(sink.written("r", "a"), events("a", next)));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_never_answers_is_opened_again() {
    let (source, sink) = (Broker::new(30, true, &["a"]), Broker::new(31, true, &[]));
    sink.faults(|faults| faults.hang_opens = 1);
    let mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0])]).start().await;
    mesh.source.publish("a", 0..10);
    wait_for("all of it", &mesh, || mesh.sinks[0].written("r", "a").len() >= 10).await;
    mesh.sinks[0].faults(|faults| faults.hang_writes = true);
    mesh.source.publish("a", 10..20);
    wait_for("the flow to be opened again", &mesh, || mesh.sinks[0].opens() > 1).await;
    mesh.sinks[0].faults(|faults| faults.hang_writes = false);
    wait_for("all of it", &mesh, || mesh.sinks[0].written("r", "a").len() >= 20).await;
    assert_eq!(mesh.sinks[0].written("r", "a"), events("a", 20));
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn skipped_events_cost_no_time_while_the_link_is_down() {
    let (source, sink) = (Broker::new(32, true, &["a~"]), Broker::new(33, true, &[]));
    let mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0])]).start().await;
    wait_for("the flow", &mesh, || mesh.eu().flows().iter().any(|flow| flow.phase == crate::Phase::Streaming)).await;
    mesh.source.publish("a~", 0..10);
    wait_for("the skipped ones to be seen", &mesh, || mesh.eu().flows()[0].refused_events == 10).await;
    mesh.us().shared.supervisor.stop(Duration::from_secs(5)).await;
    wait_for("the link to go", &mesh, || mesh.eu().flows()[0].phase == crate::Phase::Waiting).await;
    // Beyond the time after which progress is due, which cannot be reported now.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let metrics = tokio::runtime::Handle::current().metrics();
    let busy = || (0..metrics.num_workers()).map(|at| metrics.worker_total_busy_duration(at)).sum::<Duration>();
    let before = busy();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let busy = busy() - before;
    assert!(busy < Duration::from_millis(250), "it worked for {busy:?} of half a second, for nothing");
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_holds_before_the_destination_has_noted_it() {
    let (source, sink) = (Broker::new(34, true, &["a"]), Broker::new(35, true, &[]));
    sink.faults(|faults| faults.commit = 1_000);
    let mut latest = route("r", &[0]);
    latest.start = longhaul_topology::RouteStart::Latest;
    source.publish("a", 0..5);
    let mesh = TestMesh::new(source, vec![sink], vec![latest]).start().await;
    wait_for("the flow to be opened", &mesh, || mesh.sinks[0].opens() > 0).await;
    mesh.sinks[0].faults(|faults| faults.open = 1_000);
    // It is opened again because its start could not be noted, in vain.
    let opens = mesh.sinks[0].opens();
    wait_for("the flow to be opened again", &mesh, || mesh.sinks[0].opens() > opens + 1).await;
    mesh.source.publish("a", 5..100);
    mesh.sinks[0].faults(|faults| (faults.commit, faults.open) = (0, 0));
    wait_for("all of it", &mesh, || mesh.sinks[0].written("r", "a").len() >= 95).await;
    assert_eq!(mesh.sinks[0].written("r", "a"), events("a", 100)[5..]);
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_loses_everything_gets_everything_again() {
    for keep in [0, 40] {
        let (source, sink) = (Broker::new(36, true, &["a"]), Broker::new(37, true, &[]));
        let mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0])]).start().await;
        mesh.source.publish("a", 0..100);
        let durable = || mesh.eu().flows().iter().any(|flow| flow.durable >= Some(99));
        wait_for("the first part", &mesh, durable).await;
        mesh.sinks[0].lose_tail("r", "a", keep);
        mesh.source.publish("a", 100..110);
        wait_for("all of it again", &mesh, || mesh.sinks[0].written("r", "a").len() >= 110).await;
        assert_eq!(mesh.sinks[0].written("r", "a"), events("a", 110), "with {keep} left");
        mesh.stop().await;
    }
}

/// What was sent is not sent again, whatever becomes of it; and the books say so.
#[tokio::test(flavor = "multi_thread")]
async fn at_most_once_repeats_nothing() {
    let (source, sink) = (Broker::new(38, true, &["a"]), Broker::new(39, true, &[]));
    sink.faults(|faults| (faults.write, faults.commit, faults.open) = (30, 30, 30));
    let mut once = route("r", &[0]);
    once.guarantee = longhaul_topology::Guarantee::AtMostOnce;
    let mesh = TestMesh::new(source, vec![sink], vec![once]).start().await;
    let arrived = |number: usize| mesh.sinks[0].written("r", "a").contains(&format!("a:{number}"));
    for step in 0..10 {
        mesh.source.publish("a", step * 100..(step + 1) * 100);
        wait_for("it to be read", &mesh, || mesh.source.read("a") >= (step + 1) * 100).await;
        mesh.cut_links().await;
    }
    mesh.sinks[0].faults(|faults| (faults.write, faults.commit, faults.open) = (0, 0, 0));
    // Some may still go into a link that is gone.
    let mut last = 1_000;
    while !arrived(last - 1) {
        assert!(last < 1_500, "nothing comes any more");
        mesh.source.publish("a", last..last + 1);
        last += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let written = mesh.sinks[0].written("r", "a");
    assert_eq!(without_repeats(&written), written);
    let at_rest = || mesh.eu().flows().iter().all(|flow| flow.audit.under_way == 0);
    wait_for("the books to be closed", &mesh, at_rest).await;
    let flow = mesh.eu().flows().pop().expect("a flow");
    assert!(flow.audit_balanced && flow.audit.read == last as u64, "{last} were published: {flow:#?}");
    mesh.stop().await;
}
