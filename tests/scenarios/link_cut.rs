//! A link cut for 30 s under a steady producer: the source is paused, memory stays inside the budget, people see why, and after healing
//! everything arrives, in order, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use longhaul_router::{End, FlowView};
use longhaul_tests::http::{assert_exactly, numbers, try_publish, wait_count};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::relay::Relay;
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

async fn owned(mesh: &Mesh) -> FlowView {
    let mut flows = mesh.flows("a").await;
    flows.retain(|flow| flow.end == End::Out);
    flows.pop().expect("one flow")
}

fn rss_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident size");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
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
    let producer = tokio::spawn(produce(source.clone(), Arc::clone(&published), Arc::clone(&stop)));
    until("events move", Duration::from_secs(20), async || (owned(&mesh).await.durable > Some(100)).then_some(()))
        .await;

    relay.cut();
    let cut = Instant::now();
    until("the link shows down, with a reason", Duration::from_secs(5), async || {
        let links = mesh.links("a").await.out;
        let down = links.iter().all(|link| !link.up && link.error.as_ref().is_some_and(|why| !why.is_empty()));
        (down && mesh.metric("a", "longhaul_link_up", &[]).await == 0.0).then_some(())
    })
    .await;
    assert!(mesh.log("a").contains("a link is down"), "{}", mesh.log("a"));
    let stopped = owned(&mesh).await;
    let (mut used_most, mut rss_most) = (0.0_f64, 0);
    while cut.elapsed() < CUT {
        used_most = used_most.max(mesh.metric("a", "longhaul_memory_budget_used_bytes", &[]).await);
        rss_most = rss_most.max(rss_bytes(mesh.process("a").id()));
        assert!(!producer.is_finished(), "the producer goes on");
        // The cut lasts as long as it lasts.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let still = owned(&mesh).await;
    let backlog = published.load(Ordering::Relaxed) * u64::try_from(PADDING).expect("fits");
    eprintln!(
        "backlog {} MiB, budget used {:.1} MiB, resident {} MiB",
        backlog >> 20,
        used_most / 1048576.0,
        rss_most >> 20
    );
    assert_eq!((stopped.position, stopped.durable), (still.position, still.durable), "the flow stands still");
    assert!(used_most <= BUDGET, "{used_most} bytes of a budget of {BUDGET}");
    assert!(rss_most < RSS_BESIDE + 32 * (1 << 20), "{} MiB resident", rss_most >> 20);
    assert!(
        backlog > 64 << 20,
        "the backlog of {backlog} bytes is larger than the budget, so that it had to be refused"
    );
    assert!(still.lag_events.is_none_or(|lag| lag > 100), "{still:?}");

    relay.heal();
    let healed = Instant::now();
    until("the link is up again", Duration::from_secs(20), async || mesh.links("a").await.out[0].up.then_some(()))
        .await;
    stop.store(true, Ordering::Relaxed);
    producer.await.expect("the producer ended well");
    let all = published.load(Ordering::Relaxed);
    wait_count(&destination, all, Duration::from_secs(120)).await;
    eprintln!("{all} events, healed and level after {:?}", healed.elapsed());
    mesh.wait_streaming("a").await;
    assert_exactly(&numbers(&destination).await, 0..all);
    assert!(mesh.metric("a", "longhaul_link_reconnects_total", &[]).await >= 1.0);
    assert_eq!(owned(&mesh).await.fault, None);
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
    for first in (0..2_000).step_by(100) {
        assert!(try_publish(&source, "orders.new", first..first + 100, 2_000).await);
    }
    wait_count(&destination, 2_000, Duration::from_secs(60)).await;
    assert!(relay.lost() > 50, "only {} datagrams were lost", relay.lost());
    assert_exactly(&numbers(&destination).await, 0..2_000);
}
