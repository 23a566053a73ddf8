//! `kill -9` of either router, again and again, while events pass at full speed: nothing is lost, order per key holds, and what comes
//! twice is the same event under the same identity.

#![expect(clippy::print_stdout, reason = "figures are part of what a scenario shows")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Embedded, Kafka, Nats};
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const KEYS: usize = 100;
const PAYLOAD_BYTES: usize = 200;
/// Without any further event.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two kills: a router starts, links, and moves at least something.
const PROGRESS: Duration = Duration::from_secs(60);
const REGIONS: [&str; 2] = ["eu-west", "us-east"];

/// From Kafka to Kafka and, as a second destination of the same route, to JetStream.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn real_brokers() {
    const EVENTS: usize = 100_000;
    const KILLS: usize = 20;
    let (kafka_a, kafka_b, nats) = tokio::join!(started::kafka(), started::kafka(), started::nats());
    let source = Arc::new(Client::Kafka(Kafka::new(&kafka_a)));
    let (kafka, nats) = (Client::Kafka(Kafka::new(&kafka_b)), Client::Nats(Nats::new(&nats)));
    for client in [&source, &kafka, &nats] {
        client.prepare(&["orders.placed"]).await;
    }
    let mut mesh = Mesh::new(&REGIONS)
        .broker("eu-west", "orders", "kafka: {}", &source.access())
        .broker("us-east", "copies", "kafka: {}", &kafka.access())
        .broker("us-east", "analytics", "nats: {}", &nats.access())
        .route(
            "name: orders\nfrom: {region: eu-west, broker: orders, topics: [\"orders.>\"]}\nstart: earliest\n\
             to:\n  - {region: us-east, broker: copies}\n  - {region: us-east, broker: analytics}",
        );
    mesh.start().await;
    mesh.wait_streaming("eu-west").await;
    let samples = Arc::new(Sample::plain_many("orders.placed", EVENTS, KEYS, PAYLOAD_BYTES));
    let begin = Instant::now();
    let producing = tokio::spawn({
        let (source, samples) = (Arc::clone(&source), Arc::clone(&samples));
        async move { source.produce(&samples).await }
    });
    // The slower of both decides when to kill: so no kill comes when nothing moves any more.
    let kills = kill_in_turn(&mut mesh, EVENTS, KILLS, async || {
        kafka.count("orders.placed").await.min(nats.count("orders.placed").await)
    })
    .await;
    assert_eq!(kills, KILLS);
    producing.await.expect("producing works");
    for sink in [&kafka, &nats] {
        let arrived = sink.consume("orders.placed", EVENTS, PATIENCE).await;
        let seconds = begin.elapsed().as_secs_f64();
        let compare = if sink.kind() == "kafka" { Compare::Exact } else { Compare::Content };
        let verdict = judge(&format!("kafka to {}", sink.kind()), &samples, &arrived, compare);
        println!("kafka to {}: {verdict:?} over {kills} kills in {seconds:.1} s", sink.kind());
    }
    assert_audits(&mesh, &REGIONS).await;
}

/// Embedded brokers live in the routers and crash with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded_brokers() {
    const EVENTS: usize = 30_000;
    const KILLS: usize = 6;
    let (mesh, from) = Mesh::new(&REGIONS).embedded("eu-west", "local");
    let (mut mesh, to) = mesh.embedded("us-east", "local");
    mesh.start().await;
    let (source, sink) = (Client::Embedded(Embedded::new(&from)), Client::Embedded(Embedded::new(&to)));
    let samples = Sample::plain_many("orders.placed", EVENTS, KEYS, PAYLOAD_BYTES);
    // Before there is a route: a publisher whose broker is killed does not know what was stored, and would have to repeat.
    source.produce(&samples).await;
    mesh.set_routes(
        "  - name: orders\n    from: {region: eu-west, broker: local, topics: [\"orders.>\"]}\n    start: earliest\n    \
         to: [{region: us-east, broker: local}]\n",
    );
    let begin = Instant::now();
    let kills = kill_in_turn(&mut mesh, EVENTS, KILLS, async || sink.count("orders.placed").await).await;
    assert_eq!(kills, KILLS);
    for region in REGIONS {
        mesh.wait_ready(region).await;
    }
    let arrived = sink.consume("orders.placed", EVENTS, PATIENCE).await;
    let verdict = judge("embedded to embedded", &samples, &arrived, Compare::Exact);
    println!("embedded to embedded: {verdict:?} over {kills} kills in {:.1} s", begin.elapsed().as_secs_f64());
    assert_audits(&mesh, &REGIONS).await;
}

/// Kills the routers in turn, spread evenly over the first two thirds of the events that arrive, each started again at once: behind the
/// last kill there must be more left than comes between two looks. Returns how many kills fell
/// between the first and the last event.
async fn kill_in_turn(mesh: &mut Mesh, events: usize, kills: usize, arrived: impl AsyncFn() -> usize) -> usize {
    let mut during = 0;
    for kill in 1..=kills {
        let threshold = events * kill / (kills + kills / 2);
        let region = REGIONS[kill % REGIONS.len()];
        let count = until(&format!("{threshold} events have arrived at kill {kill}"), PROGRESS, async || {
            Some(arrived().await).filter(|&count| count >= threshold)
        })
        .await;
        mesh.kill(region);
        during += usize::from(count < events);
        println!("kill {kill}: {region}, at {count} of {events}");
        mesh.start_router(region);
    }
    during
}
