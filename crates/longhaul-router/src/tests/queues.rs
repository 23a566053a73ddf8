//! Shards that cannot be read again: one reader, several destinations, and never a release before all have it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use longhaul_broker::Shard;
use longhaul_route::IngressContext;
use longhaul_telemetry::Metrics;

use super::broker::{Broker, BrokerHandle};
use super::mesh::{PATIENCE, TestMesh, events, route, wait_for, without_repeats};
use crate::budget::Budget;
use crate::shard::{Followers, RouteTo, ShardHandle};
use crate::supervise::Supervisor;

fn two_sinks(seed: u64) -> TestMesh {
    let sinks: Vec<_> = (1..3).map(|at| Broker::new(seed + at, true, &[])).collect();
    let source = Broker::new(seed, false, &["q"]);
    source.witness(&[&sinks[0], &sinks[1]]);
    TestMesh::new(source, sinks, vec![route("r", &[0, 1])])
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_links_repeat_nothing_of_a_queue() {
    let mesh = two_sinks(40).start().await;
    for step in 0..10 {
        mesh.source.publish("q", step * 200..(step + 1) * 200);
        wait_for("some of it", &mesh, || mesh.sinks[0].written("r", "q").len() > step * 150).await;
        mesh.cut_links().await;
    }
    for sink in &mesh.sinks {
        wait_for("all of it", &mesh, || sink.written("r", "q").len() >= 2_000).await;
        assert_eq!(sink.written("r", "q"), events("q", 2_000));
    }
    wait_for("the release", &mesh, || mesh.source.released("q") == 2_000).await;
    assert_eq!(mesh.source.violations(), Vec::<String>::new());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reader_of_a_queue_loses_nothing() {
    let mesh = two_sinks(50);
    mesh.source.faults(|faults| faults.read = 60);
    // Acknowledgements of the old life then come in when the new one has begun.
    mesh.sinks[1].faults(|faults| faults.write_takes = Duration::from_millis(20));
    let mesh = mesh.start().await;
    for step in 0..20 {
        mesh.source.publish("q", step * 50..(step + 1) * 50);
        // The faults of reading come as reading goes on.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    mesh.source.faults(|faults| faults.read = 0);
    for sink in &mesh.sinks {
        wait_for("all of it", &mesh, || without_repeats(&sink.written("r", "q")).len() >= 1_000).await;
        assert_eq!(without_repeats(&sink.written("r", "q")), events("q", 1_000));
    }
    wait_for("the release", &mesh, || mesh.source.released("q") == 1_000).await;
    assert_eq!(mesh.source.violations(), Vec::<String>::new());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_releases_only_what_all_destinations_have() {
    for seed in 0..5 {
        let mut mesh = two_sinks(60 + seed);
        mesh = mesh.start().await;
        mesh.source.publish("q", 0..300);
        wait_for("some of it", &mesh, || mesh.sinks[1].written("r", "q").len() >= 300).await;
        // The one that is behind has nothing under way, and so is the first to be drained.
        mesh.sinks[1].faults(|faults| (faults.write, faults.open) = (1000, 1000));
        mesh.source.publish("q", 300..4_000);
        wait_for("more of it", &mesh, || mesh.sinks[0].written("r", "q").len() >= 1_000).await;
        assert!(mesh.eu().drain().await, "what is under way is finished");
        assert_eq!(mesh.source.violations(), Vec::<String>::new());
        mesh.sinks[1].faults(|faults| (faults.write, faults.open) = (0, 0));
        mesh.start_eu().await;
        for sink in &mesh.sinks {
            wait_for("all of it", &mesh, || without_repeats(&sink.written("r", "q")).len() >= 4_000).await;
            assert_eq!(without_repeats(&sink.written("r", "q")), events("q", 4_000));
        }
        assert_eq!(mesh.source.violations(), Vec::<String>::new());
        mesh.stop().await;
    }
}

/// Taken away so fast that it may not be noticed everywhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_taken_away_and_comes_back_loses_nothing() {
    for seed in 0..10 {
        let mesh = two_sinks(90 + seed * 3);
        mesh.sinks[1].faults(|faults| faults.write_takes = Duration::from_millis(5));
        let mesh = mesh.start().await;
        for step in 0..3 {
            mesh.source.publish("q", step * 200..(step + 1) * 200);
            if step > 0 {
                let before = mesh.sinks[0].written("r", "q").len();
                wait_for("some of it", &mesh, || mesh.sinks[0].written("r", "q").len() > before).await;
                let shards = mesh.source.take_shards_away();
                // Between nothing and long enough for everybody to have noticed.
                tokio::time::sleep(Duration::from_millis(seed)).await;
                mesh.source.give_back(shards);
            }
        }
        for sink in &mesh.sinks {
            wait_for("all of it", &mesh, || without_repeats(&sink.written("r", "q")).len() >= 600).await;
            assert_eq!(without_repeats(&sink.written("r", "q")), events("q", 600));
        }
        wait_for("the release", &mesh, || mesh.source.released("q") == 600).await;
        assert_eq!(mesh.source.violations(), Vec::<String>::new());
        mesh.stop().await;
    }
}

/// Ownership that moves more than three times a minute rests, and that shows.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_comes_and_goes_too_often_rests_and_shows() {
    let mesh = two_sinks(95).start().await;
    let moves = |how: &str| {
        let metrics = mesh.eu().metrics_text();
        let series = format!("reason=\"{how}\",route=\"r\",to=\"us/sink0\"}}");
        let line = metrics.lines().find(|line| line.starts_with("longhaul_flow_moves_total") && line.contains(&series));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).unwrap_or(0)
    };
    wait_for("the start", &mesh, || moves("gained") == 1).await;
    for round in 1..=3 {
        let shards = mesh.source.take_shards_away();
        wait_for("the loss", &mesh, || moves("lost") == round).await;
        mesh.source.give_back(shards);
        if round < 3 {
            wait_for("the gain", &mesh, || moves("gained") == round + 1).await;
        }
    }
    wait_for("the rest", &mesh, || moves("held") == 1).await;
    assert_eq!(moves("gained"), 3, "the fourth time is not taken up at once");
    mesh.stop().await;
}

fn place(route: &str) -> RouteTo {
    (route.to_owned(), "us/sink0".to_owned())
}

/// A queue of ten events that is followed by two routes.
fn followed() -> (Arc<Broker>, Supervisor, Arc<ShardHandle>) {
    let source = Broker::new(130, false, &["q"]);
    source.publish("q", 0..10);
    let (followers, supervisor) = (Arc::new(Followers::default()), Supervisor::new(Metrics::new()));
    followers.set(HashSet::from([place("a"), place("b")]));
    let shard = Shard { name: "q".to_owned(), topic: None, partition: None, replayable: false };
    let (broker, context) = (BrokerHandle(Arc::clone(&source)), IngressContext::new("m", "eu", "b", "q"));
    let handle = ShardHandle::start(shard, Arc::new(broker), context, followers, &Budget::new(64 << 20), &supervisor);
    (source, supervisor, handle)
}

/// Until the source has released something.
async fn released(source: &Broker) -> usize {
    tokio::time::timeout(PATIENCE, async {
        while source.released("q") == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("something is released");
    source.released("q")
}

#[tokio::test]
async fn nothing_is_released_before_everybody_who_follows_has_joined() {
    let (source, supervisor, handle) = followed();
    let first = handle.join(place("a"));
    let (incarnation, _) = first.base().await;
    first.release(incarnation, 9);
    // For the pump to have seen it.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(source.released("q"), 0);
    let second = handle.join(place("b"));
    second.release(incarnation, 4);
    assert_eq!(released(&source).await, 5);
    supervisor.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn nothing_is_released_of_a_shard_that_was_given_up() {
    let (source, supervisor, handle) = followed();
    let (first, second) = (handle.join(place("a")), handle.join(place("b")));
    let (incarnation, _) = first.base().await;
    first.release(incarnation, 9);
    second.release(incarnation, 4);
    assert_eq!(released(&source).await, 5);
    handle.give_up();
    second.release(incarnation, 8);
    // For a release that must not come.
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(source.released("q"), 5);
    supervisor.stop(Duration::from_secs(1)).await;
}
