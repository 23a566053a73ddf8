//! One Kafka source with three destinations; each destination's broker is stopped for 20 s, one after the other. Nothing is lost, and
//! the other two get at least 95 % of the rate that they had before. And JetStream to JetStream: a destination that is frozen for longer than
//! JetStream waits for an acknowledgement gets everything once and in order; the reader acknowledges nothing, so nothing comes again.

#![expect(clippy::print_stdout, reason = "figures are part of what a scenario shows")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use longhaul_test_brokers::{kafka, nats, rabbitmq};
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Kafka, Nats, RabbitMq};
use longhaul_tests::judge::{Compare, Verdict, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const TOPIC: &str = "orders.placed";
const KEYS: usize = 50;
const PAYLOAD_BYTES: usize = 200;
const PER_SECOND: usize = 1_000;
/// Of the rate before.
const KEPT_MIN: f64 = 0.95;
const BEFORE: Duration = Duration::from_secs(6);
const OUTAGE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(60);

/// A broker that can be stopped.
enum Broker {
    Kafka(kafka::Kafka),
    RabbitMq(rabbitmq::RabbitMq),
    Nats(nats::Nats),
}

impl Broker {
    fn stop(&mut self) {
        tokio::task::block_in_place(|| match self {
            Self::Kafka(broker) => broker.stop(),
            Self::RabbitMq(broker) => broker.stop().expect("it is ours"),
            Self::Nats(broker) => broker.stop(),
        });
    }

    fn start(&mut self) {
        let started = tokio::task::block_in_place(|| match self {
            Self::Kafka(broker) => broker.restart(),
            Self::RabbitMq(broker) => broker.restart(),
            Self::Nats(broker) => broker.restart(),
        });
        started.expect("the broker comes back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn destination_broker_stopped() {
    let (source, kafka, rabbitmq, nats) =
        tokio::join!(started::kafka(), started::kafka(), started::rabbitmq(), started::nats());
    let producer = Client::Kafka(Kafka::new(&source));
    let mut sinks = [
        (Client::Kafka(Kafka::new(&kafka)), Broker::Kafka(kafka)),
        (Client::RabbitMq(RabbitMq::new(&rabbitmq)), Broker::RabbitMq(rabbitmq)),
        (Client::Nats(Nats::new(&nats)), Broker::Nats(nats)),
    ];
    producer.prepare(&[TOPIC]).await;
    let mut mesh = Mesh::new(&["eu-west", "us-east"]).broker("eu-west", "orders", "kafka: {}", &producer.access());
    let mut route = "name: orders\nfrom: {region: eu-west, broker: orders, topics: [\"orders.>\"]}\nto:".to_owned();
    for (sink, _) in &sinks {
        sink.prepare(&[TOPIC]).await;
        mesh = mesh.broker("us-east", sink.kind(), &format!("{}: {{}}", sink.kind()), &sink.access());
        route += &format!("\n  - {{region: us-east, broker: {}{}}}", sink.kind(), sink.place());
    }
    mesh = mesh.route(&route);
    mesh.start().await;
    mesh.wait_streaming("eu-west").await;

    let (stop, produced) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let producing = tokio::spawn(produce(Kafka::new(&source), Arc::clone(&stop), Arc::clone(&produced)));
    for stopped in 0..sinks.len() {
        outage(&mut sinks, stopped, &produced).await;
    }
    stop.store(true, Ordering::Relaxed);
    producing.await.expect("producing works");

    let total = produced.load(Ordering::Relaxed);
    let samples = Sample::plain_many(TOPIC, total, KEYS, PAYLOAD_BYTES);
    for (sink, _) in &sinks {
        let arrived = sink.consume(TOPIC, total, PATIENCE).await;
        let compare = if sink.kind() == "kafka" { Compare::Exact } else { Compare::Content };
        println!("{}: {:?}", sink.kind(), judge(sink.kind(), &samples, &arrived, compare));
    }
    assert_audits(&mesh, &["eu-west", "us-east"]).await;
}

/// Produces at a steady pace until told to stop.
async fn produce(producer: Kafka, stop: Arc<AtomicBool>, produced: Arc<AtomicUsize>) {
    const STEPS_PER_SECOND: usize = 20;
    let step = PER_SECOND / STEPS_PER_SECOND;
    // The pace is what is wanted here.
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(STEPS_PER_SECOND).expect("small"));
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let from = produced.load(Ordering::Relaxed);
        (from..from + step).for_each(|n| producer.send(&Sample::plain(TOPIC, n, KEYS, PAYLOAD_BYTES)));
        produced.fetch_add(step, Ordering::Relaxed);
    }
    producer.flush();
}

/// Stops one broker and starts it again; compares what the others got before and meanwhile, each as a share of what was produced, so
/// that a busy machine which slows the producer does not count.
async fn outage(sinks: &mut [(Client, Broker)], stopped: usize, produced: &AtomicUsize) {
    let name = sinks[stopped].0.kind();
    for (sink, _) in sinks.iter() {
        until(&format!("{} has caught up", sink.kind()), PATIENCE, async || {
            let lag = produced.load(Ordering::Relaxed).saturating_sub(sink.count(TOPIC).await);
            (lag < PER_SECOND / 4).then_some(())
        })
        .await;
    }
    let start = levels(sinks, stopped, produced).await;
    // A rate needs a time to be measured over.
    tokio::time::sleep(BEFORE).await;
    let before = levels(sinks, stopped, produced).await;
    let begin = Instant::now();
    sinks[stopped].1.stop();
    tokio::time::sleep(OUTAGE.saturating_sub(begin.elapsed())).await;
    let during = levels(sinks, stopped, produced).await;
    sinks[stopped].1.start();
    println!("{name} was stopped for {:.1} s", begin.elapsed().as_secs_f64());
    for ((start, before), during) in start.iter().zip(&before).zip(&during) {
        // Who still catches up when it begins gets more than is produced; nobody can keep that up.
        let (usual, kept) = (before.share_since(start).min(1.0), during.share_since(before));
        let rate = (during.arrived - before.arrived) as f64 / during.at.duration_since(before.at).as_secs_f64();
        println!("  {}: {rate:.0} events/s, {:.1} % of its rate before", during.kind, 100.0 * kept / usual);
        assert!(kept >= KEPT_MIN * usual, "while {name} was away, {} got {kept:.3} of what was produced", during.kind);
    }
}

/// How far a destination is.
struct Level {
    kind: &'static str,
    at: Instant,
    arrived: usize,
    produced: usize,
}

impl Level {
    /// Arrived for every event produced.
    fn share_since(&self, earlier: &Self) -> f64 {
        (self.arrived - earlier.arrived) as f64 / (self.produced - earlier.produced) as f64
    }
}

/// Of all destinations but one.
async fn levels(sinks: &[(Client, Broker)], but: usize, produced: &AtomicUsize) -> Vec<Level> {
    let mut levels = Vec::new();
    for (_, (sink, _)) in sinks.iter().enumerate().filter(|(at, _)| *at != but) {
        let arrived = sink.count(TOPIC).await;
        levels.push(Level {
            kind: sink.kind(),
            at: Instant::now(),
            arrived,
            produced: produced.load(Ordering::Relaxed),
        });
    }
    levels
}

/// JetStream's own `ack_wait`.
const ACK_WAIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_destination_that_is_frozen_longer_than_jetstream_waits() {
    let (from, to) = tokio::join!(started::nats(), started::nats());
    let (source, sink) = (Arc::new(Client::Nats(Nats::new(&from))), Client::Nats(Nats::new(&to)));
    for client in [&*source, &sink] {
        client.prepare(&["orders.>"]).await;
    }
    let mut mesh = Mesh::new(&["eu-west", "us-east"])
        .broker("eu-west", "orders", "nats: {}", &source.access())
        .broker("us-east", "orders", "nats: {}", &sink.access())
        .route(
            "name: orders\nfrom: {region: eu-west, broker: orders, topics: [\"orders.>\"]}\nguarantee: effectively-once\n\
             start: earliest\nto: [{region: us-east, broker: orders}]",
        );
    mesh.start().await;
    mesh.wait_streaming("eu-west").await;
    let (stop, produced) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let producing = tokio::spawn({
        let (source, stop, produced) = (Arc::clone(&source), Arc::clone(&stop), Arc::clone(&produced));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let first = produced.load(Ordering::Relaxed);
                let sample = |number| Sample::plain(TOPIC, number, KEYS, PAYLOAD_BYTES);
                source.produce(&(first..first + 20).map(sample).collect::<Vec<_>>()).await;
                produced.fetch_add(20, Ordering::Relaxed);
                // A steady load.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    });
    until("events arrive", PATIENCE, async || (sink.count(TOPIC).await > 200).then_some(())).await;
    to.freeze();
    // In the middle of the load, so that something is under way that nobody acknowledges.
    tokio::time::sleep(ACK_WAIT + Duration::from_secs(3)).await;
    to.thaw();
    stop.store(true, Ordering::Relaxed);
    producing.await.expect("producing works");
    let total = produced.load(Ordering::Relaxed);
    let arrived = sink.consume(TOPIC, total, PATIENCE).await;
    let samples = Sample::plain_many(TOPIC, total, KEYS, PAYLOAD_BYTES);
    let verdict = judge("nats to nats", &samples, &arrived, Compare::Content);
    assert_eq!(verdict, Verdict { events: total, duplicates: 0 });
    let turned = arrived.windows(2).find(|pair| pair[0].event.number() > pair[1].event.number());
    assert!(turned.is_none(), "a stream is one order: {turned:?}");
    assert_audits(&mesh, &["eu-west", "us-east"]).await;
}
