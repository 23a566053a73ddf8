//! `guarantee: effectively-once` under `kill -9` of either router, again and again, at full speed: every event arrives once, in order per
//! key. Not one duplicate: that is what the guarantee adds.

#![expect(clippy::print_stdout, reason = "figures are part of what a scenario shows")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Embedded, Kafka};
use longhaul_tests::judge::{Compare, Verdict, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const EVENTS: usize = 50_000;
const KEYS: usize = 100;
const PAYLOAD_BYTES: usize = 200;
const KILLS: usize = 8;
/// Without any further event.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two kills: a router starts, links, takes over what the dead one had open, and moves at least something.
const PROGRESS: Duration = Duration::from_secs(60);
const REGIONS: [&str; 2] = ["eu-west", "us-east"];
const TOPIC: &str = "orders.placed";

/// From Kafka to Kafka and, as a second destination of the same route, into the embedded broker of the router that is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn kafka_to_kafka_and_to_the_embedded_broker() {
    let (kafka_a, kafka_b) = tokio::join!(started::kafka(), started::kafka());
    let source = Arc::new(Client::Kafka(Kafka::new(&kafka_a)));
    let kafka = Client::Kafka(Kafka::new(&kafka_b));
    for client in [&source, &kafka] {
        client.prepare(&[TOPIC]).await;
    }
    let (mesh, local) = Mesh::new(&REGIONS).embedded("us-east", "local");
    let embedded = Client::Embedded(Embedded::new(&local));
    let mut mesh = mesh
        .broker("eu-west", "orders", "kafka: {}", &source.access())
        .broker("us-east", "copies", "kafka: {}", &kafka.access())
        .route(
            "name: orders\nfrom: {region: eu-west, broker: orders, topics: [\"orders.>\"]}\nstart: earliest\n\
             guarantee: effectively-once\n\
             to:\n  - {region: us-east, broker: copies}\n  - {region: us-east, broker: local}",
        );
    mesh.start().await;
    mesh.wait_streaming("eu-west").await;
    let samples = Arc::new(Sample::plain_many(TOPIC, EVENTS, KEYS, PAYLOAD_BYTES));
    let begin = Instant::now();
    let producing = tokio::spawn({
        let (source, samples) = (Arc::clone(&source), Arc::clone(&samples));
        async move { source.produce(&samples).await }
    });
    // The slower of both decides when to kill: so no kill comes when nothing moves any more. (Offsets of Kafka count a few markers too.)
    kill_in_turn(&mut mesh, async || kafka.count(TOPIC).await.min(embedded.count(TOPIC).await)).await;
    producing.await.expect("producing works");
    for region in REGIONS {
        mesh.wait_ready(region).await;
    }
    for sink in [&kafka, &embedded] {
        let arrived = sink.consume(TOPIC, EVENTS, PATIENCE).await;
        let seconds = begin.elapsed().as_secs_f64();
        let compare = if sink.kind() == "kafka" { Compare::Exact } else { Compare::Content };
        let verdict = judge(&format!("kafka to {}", sink.kind()), &samples, &arrived, compare);
        println!("kafka to {}: {verdict:?} over {KILLS} kills in {seconds:.1} s", sink.kind());
        assert_eq!(verdict, Verdict { events: EVENTS, duplicates: 0 }, "kafka to {}", sink.kind());
    }
    assert_audits(&mesh, &REGIONS).await;
}

/// Kills the routers in turn, spread evenly over the events that arrive, each started again at once.
async fn kill_in_turn(mesh: &mut Mesh, arrived: impl AsyncFn() -> usize) {
    for kill in 1..=KILLS {
        let threshold = EVENTS * kill / (KILLS + 4);
        let region = REGIONS[kill % REGIONS.len()];
        let count = until(&format!("{threshold} events have arrived at kill {kill}"), PROGRESS, async || {
            Some(arrived().await).filter(|&count| count >= threshold)
        })
        .await;
        mesh.kill(region);
        assert!(count < EVENTS, "kill {kill} comes while events pass");
        println!("kill {kill}: {region}, at {count} of {EVENTS}");
        mesh.start_router(region);
    }
}
