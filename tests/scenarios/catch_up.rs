//! One of two destinations is away and comes back: how fast it catches up, and what that costs the other, which goes on all the time.
//! Kafka to two NATS servers, a steady load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Kafka, Nats};
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const TOPIC: &str = "orders.placed";
const BURST: usize = 100;
const PACE: Duration = Duration::from_millis(50);
const AWAY: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);
/// What may be under way of a load that goes on.
const UNDER_WAY: usize = 4 * BURST;
/// Of its rate, what the other destination keeps at least.
const LIVE_SHARE_MIN: f64 = 0.95;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn catch_up() {
    let (kafka, live, mut late) = tokio::join!(started::kafka(), started::nats(), started::nats());
    let source = Arc::new(Client::Kafka(Kafka::new(&kafka)));
    let sinks = [Client::Nats(Nats::new(&live)), Client::Nats(Nats::new(&late))];
    kafka.create_topic(TOPIC, 1).expect("a topic");
    let mut mesh = Mesh::new(&["eu", "us"]).broker("eu", "events", "kafka: {}", &source.access());
    for (name, sink) in ["live", "late"].into_iter().zip(&sinks) {
        sink.prepare(&["orders.>"]).await;
        mesh = mesh.broker("us", name, "nats: {}", &sink.access());
    }
    mesh = mesh.route(
        "name: orders\nfrom: {region: eu, broker: events, topics: [\"orders.>\"]}\nstart: earliest\n\
         to: [{region: us, broker: live}, {region: us, broker: late}]",
    );
    mesh.start().await;
    mesh.wait_streaming("eu").await;
    let (produced, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let producing = tokio::spawn({
        let (source, produced, stop) = (Arc::clone(&source), Arc::clone(&produced), Arc::clone(&stop));
        async move {
            let mut next = tokio::time::interval(PACE);
            while !stop.load(Ordering::Relaxed) {
                // A steady load.
                next.tick().await;
                let first = produced.load(Ordering::Relaxed);
                let burst: Vec<_> =
                    (first..first + BURST).map(|number| Sample::plain(TOPIC, number, 20, 200)).collect();
                source.produce(&burst).await;
                produced.fetch_add(BURST, Ordering::Relaxed);
            }
        }
    });
    until("both have something", PATIENCE, async || {
        (sinks[0].count(TOPIC).await > 1_000 && sinks[1].count(TOPIC).await > 1_000).then_some(())
    })
    .await;
    late.kill();
    // For as long as it is away.
    tokio::time::sleep(AWAY).await;
    late.restart().expect("NATS starts again");

    let begin = Instant::now();
    let (there, live_before) = (sinks[1].count(TOPIC).await, sinks[0].count(TOPIC).await);
    let produced_before = produced.load(Ordering::Relaxed);
    let caught = until("the late one has caught up", PATIENCE, async || {
        let (is, should) = (sinks[1].count(TOPIC).await, produced.load(Ordering::Relaxed));
        (is + UNDER_WAY >= should).then_some(is)
    })
    .await;
    let took = begin.elapsed();
    let (live_gained, fresh) =
        (sinks[0].count(TOPIC).await - live_before, produced.load(Ordering::Relaxed) - produced_before);
    let share = live_gained as f64 / fresh.max(1) as f64;
    println!(
        "{} events were behind; caught up at {:.0} events/s in {:.1} s, beside {:.0} events/s of live load; the other kept {share:.2}",
        produced_before - there,
        (caught - there) as f64 / took.as_secs_f64(),
        took.as_secs_f64(),
        fresh as f64 / took.as_secs_f64(),
    );
    assert!(live_gained + UNDER_WAY >= (fresh as f64 * LIVE_SHARE_MIN) as usize, "{live_gained} of {fresh} came");
    stop.store(true, Ordering::Relaxed);
    producing.await.expect("producing works");
    let samples = Sample::plain_many(TOPIC, produced.load(Ordering::Relaxed), 20, 200);
    for sink in &sinks {
        judge("kafka to nats", &samples, &sink.consume(TOPIC, samples.len(), PATIENCE).await, Compare::Content);
    }
    assert_audits(&mesh, &["eu", "us"]).await;
}
