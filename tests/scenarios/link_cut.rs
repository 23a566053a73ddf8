//! A link cut for 30 s under a steady producer: the source is paused, memory stays inside the budget, people see why, and after healing
//! everything arrives, in order, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use longhaul_router::{End, FlowView};
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Embedded, Kafka};
use longhaul_tests::http::{assert_exactly, numbers, try_publish, wait_count};
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::relay::Relay;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const CUT: Duration = Duration::from_secs(30);
const BUDGET: f64 = 32.0 * 1024.0 * 1024.0;
/// What a router in a debug build needs beside its budget: code, threads, the store's cache, broker clients.
const RSS_BESIDE: u64 = 160 << 20;
/// Events of one request of the producer.
const BATCH: u64 = 25;
/// Makes the backlog of a cut larger than the budget.
const PADDING: usize = 32 << 10;
const ROUTE: &str = "name: orders\nfrom: {region: a, broker: events, topics: [\"orders.>\"]}\n\
    to: [{region: b, broker: events, topic: \"{topic}\"}]\nstart: earliest";

/// Publishes in order until it is told to stop; returns how many were taken.
async fn produce(broker: String, published: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        let next = published.load(Ordering::Relaxed);
        assert!(try_publish(&broker, "orders.new", next..next + BATCH, PADDING).await, "the source takes everything");
        published.store(next + BATCH, Ordering::Relaxed);
    }
}

/// The flows that are owned where the events come from: one per shard.
async fn owned(mesh: &Mesh) -> Vec<FlowView> {
    let mut flows = mesh.flows("a").await;
    flows.retain(|flow| flow.end == End::Out);
    assert!(!flows.is_empty(), "the route has flows");
    flows
}

/// Where each of them stands.
async fn positions(mesh: &Mesh) -> Vec<(String, Option<u64>, Option<u64>)> {
    owned(mesh).await.into_iter().map(|flow| (flow.shard, flow.position, flow.durable)).collect()
}

fn rss_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident size");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}

/// Cuts the link, sees to it that everything stands still within its bounds, and heals it.
async fn cut_and_heal(mesh: &Mesh, relay: &Relay, published: &AtomicU64) {
    until("events move", Duration::from_secs(30), async || {
        owned(mesh).await.iter().all(|flow| flow.durable.is_some_and(|durable| durable > 20)).then_some(())
    })
    .await;
    relay.cut();
    let (cut, before) = (Instant::now(), published.load(Ordering::Relaxed));
    until("the link shows down, with a reason", Duration::from_secs(5), async || {
        let links = mesh.links("a").await.out;
        let down = links.iter().all(|link| !link.up && link.error.as_ref().is_some_and(|why| !why.is_empty()));
        (down && mesh.metric("a", "longhaul_link_up", &[]).await == 0.0).then_some(())
    })
    .await;
    assert!(mesh.log("a").contains("a link is down"), "{}", mesh.log("a"));
    let stopped = positions(mesh).await;
    let (mut used_most, mut rss_most) = (0.0_f64, 0);
    while cut.elapsed() < CUT {
        used_most = used_most.max(mesh.metric("a", "longhaul_memory_budget_used_bytes", &[]).await);
        rss_most = rss_most.max(rss_bytes(mesh.process("a").id()));
        // The cut lasts as long as it lasts.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let backlog = (published.load(Ordering::Relaxed) - before) * u64::try_from(PADDING).expect("fits");
    let used = used_most / 1_048_576.0;
    eprintln!("backlog {} MiB, budget used {used:.1} MiB, resident {} MiB", backlog >> 20, rss_most >> 20);
    assert_eq!(stopped, positions(mesh).await, "the flows stand still");
    assert!(used_most <= BUDGET, "{used_most} bytes of a budget of {BUDGET}");
    assert!(rss_most < RSS_BESIDE + 32 * (1 << 20), "{} MiB resident", rss_most >> 20);
    assert!(
        backlog > 64 << 20,
        "a backlog of {backlog} bytes is more than the budget, so the source must have been paused"
    );
    relay.heal();
    until("the link is up again", Duration::from_secs(20), async || mesh.links("a").await.out[0].up.then_some(()))
        .await;
    assert!(mesh.metric("a", "longhaul_link_reconnects_total", &[]).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_pressure_reaches_the_source_and_all_arrives_after_healing() {
    let (mesh, source) = Mesh::new(&["a", "b"]).memory("32MiB").embedded("a", "events");
    let (mesh, destination) = mesh.embedded("b", "events");
    let relay = Relay::start(&mesh.link_address("b")).await;
    let mut mesh = mesh.route(ROUTE).via("a", "b", &relay.address());
    mesh.start().await;
    mesh.wait_streaming("a").await;
    let (published, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let producer = tokio::spawn(produce(source, Arc::clone(&published), Arc::clone(&stop)));
    cut_and_heal(&mesh, &relay, &published).await;
    let healed = Instant::now();
    stop.store(true, Ordering::Relaxed);
    producer.await.expect("the producer ended well");
    let all = published.load(Ordering::Relaxed);
    wait_count(&destination, all, Duration::from_secs(120)).await;
    eprintln!("{all} events, level {:?} after healing", healed.elapsed());
    mesh.wait_streaming("a").await;
    assert_exactly(&numbers(&destination).await, 0..all);
    assert!(owned(&mesh).await.iter().all(|flow| flow.fault.is_none()));
    assert_audits(&mesh, &["a", "b"]).await;
}

/// The same with Kafka as the source: four partitions, which are paused, and go on where they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_pressure_reaches_kafka() {
    const TOPIC: &str = "orders.new";
    let kafka = started::kafka().await;
    let source = Arc::new(Client::Kafka(Kafka::new(&kafka)));
    source.prepare(&[TOPIC]).await;
    let mesh = Mesh::new(&["a", "b"]).memory("32MiB").broker("a", "events", "kafka: {}", &source.access());
    let (mesh, destination) = mesh.embedded("b", "events");
    let relay = Relay::start(&mesh.link_address("b")).await;
    let mut mesh = mesh.route(ROUTE).via("a", "b", &relay.address());
    mesh.start().await;
    mesh.wait_streaming("a").await;
    let sample = |number: u64| Sample::plain(TOPIC, usize::try_from(number).expect("fits"), 16, PADDING);
    let (published, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let producer = tokio::spawn({
        let (source, published, stop) = (Arc::clone(&source), Arc::clone(&published), Arc::clone(&stop));
        async move {
            let mut tick = tokio::time::interval(Duration::from_millis(250));
            while !stop.load(Ordering::Relaxed) {
                tick.tick().await;
                let next = published.load(Ordering::Relaxed);
                source.produce(&(next..next + BATCH).map(sample).collect::<Vec<_>>()).await;
                published.store(next + BATCH, Ordering::Relaxed);
            }
        }
    });
    cut_and_heal(&mesh, &relay, &published).await;
    stop.store(true, Ordering::Relaxed);
    producer.await.expect("the producer ended well");
    let all = published.load(Ordering::Relaxed);
    wait_count(&destination, all, Duration::from_secs(120)).await;
    mesh.wait_streaming("a").await;
    let expected: Vec<_> = (0..all).map(sample).collect();
    let arrived = Client::Embedded(Embedded::new(&destination)).consume(TOPIC, expected.len(), CUT).await;
    let verdict = judge("Kafka over a link that was cut", &expected, &arrived, Compare::Content);
    assert_eq!(verdict.duplicates, 0, "a cut link is no crash");
    assert_audits(&mesh, &["a", "b"]).await;
}

/// A path that loses every twentieth datagram is slow and whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lossy_path_loses_no_event() {
    let (mesh, source) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, destination) = mesh.embedded("b", "events");
    let relay = Relay::start(&mesh.link_address("b")).await;
    let mut mesh = mesh.route(ROUTE).via("a", "b", &relay.address());
    mesh.start().await;
    mesh.wait_streaming("a").await;
    relay.lose_one_of(20);
    // Packets on loopback are large: 12 MB are some 2,700 datagrams, with what goes back.
    for first in (0..6_000).step_by(100) {
        assert!(try_publish(&source, "orders.new", first..first + 100, 2_000).await);
    }
    wait_count(&destination, 6_000, Duration::from_secs(60)).await;
    assert!(relay.lost() > 50, "only {} datagrams were lost", relay.lost());
    assert_exactly(&numbers(&destination).await, 0..6_000);
    assert_audits(&mesh, &["a", "b"]).await;
}
