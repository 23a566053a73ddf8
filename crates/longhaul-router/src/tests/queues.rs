//! Shards that cannot be read again: one reader, several destinations, and never a release before all have it.

use std::time::Duration;

use super::broker::Broker;
use super::mesh::{TestMesh, events, route, wait_for, without_repeats};

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
