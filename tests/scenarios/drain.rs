//! SIGTERM under load: a router finishes what is under way and ends well within 30 s, at either end of a flow; started again, nothing is
//! lost and nothing comes twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use longhaul_tests::audit::assert_audits;
use longhaul_tests::http::{assert_exactly, numbers, try_publish, wait_count};
use longhaul_tests::mesh::Mesh;

const BATCH: u64 = 50;

/// Publishes as fast as the broker takes it, in order; what was not confirmed is published again once somebody answers.
///
/// The broker is inside the router that is drained: one that takes a batch, ends, and does not say so, would show as a repeat.
async fn produce(broker: String, published: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let next = published.load(Ordering::Relaxed);
        if try_publish(&broker, "orders.new", next..next + BATCH, 200).await {
            published.store(next + BATCH, Ordering::Relaxed);
        } else {
            // Nobody answers while the router is away.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn drain_under_load(drained: &str) {
    let (mesh, source) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, destination) = mesh.embedded("b", "events");
    let mut mesh = mesh.route(
        "name: orders\nfrom: {region: a, broker: events, topics: [\"orders.>\"]}\n\
         to: [{region: b, broker: events, topic: \"{topic}\"}]\nstart: earliest",
    );
    mesh.start().await;
    mesh.wait_streaming("a").await;
    let (published, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let producer = tokio::spawn(produce(source, Arc::clone(&published), Arc::clone(&stop)));
    for round in 1..=3_u64 {
        wait_count(&destination, published.load(Ordering::Relaxed) + 300 * round, Duration::from_secs(60)).await;
        let began = Instant::now();
        // Waits for another process: not on a thread of this runtime, which the producer needs.
        let code = tokio::task::block_in_place(|| mesh.terminate(drained));
        let took = began.elapsed();
        eprintln!("{drained} drained in {took:?} with {code:?}, {} published", published.load(Ordering::Relaxed));
        assert_eq!(code, Some(0), "{}", mesh.log(drained));
        assert!(took < Duration::from_secs(30), "{took:?}");
        assert!(mesh.log(drained).contains("drained"), "{}", mesh.log(drained));
        mesh.start_router(drained);
        mesh.wait_ready(drained).await;
    }
    stop.store(true, Ordering::Relaxed);
    producer.await.expect("the producer ended well");
    let all = published.load(Ordering::Relaxed);
    wait_count(&destination, all, Duration::from_secs(60)).await;
    mesh.wait_streaming("a").await;
    assert_exactly(&numbers(&destination).await, 0..all);
    assert_audits(&mesh, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_router_of_the_source_drains() {
    drain_under_load("a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn the_router_of_the_destination_drains() {
    drain_under_load("b").await;
}
