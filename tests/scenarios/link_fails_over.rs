//! Flows find their way: over a third region when their own link is cut and back when it has settled, and over two regions where there is
//! no link at all. Routers on the way are killed under load; a link works in one direction alone, and comes and goes every second. Nothing
//! is lost, nothing comes twice, nothing overtakes.
//!
//! `LONGHAUL_FLAP_SECONDS` says for how long it comes and goes (20).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use longhaul_router::End;
use longhaul_tests::audit::assert_audits;
use longhaul_tests::http::{assert_exactly, count, numbers, try_publish, wait_count};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::relay::Relay;
use longhaul_tests::wait::until;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(30);
const BATCH: u64 = 20;
/// How soon everything flows again after the last change of a link.
const RECOVERS_WITHIN: Duration = Duration::from_secs(10);

/// Publishes in order, some 400 events a second, until it is told to stop.
struct Producer {
    published: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Producer {
    fn start(broker: String) -> Self {
        let (published, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, ended) = (Arc::clone(&published), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(50));
            while !ended.load(Ordering::Relaxed) {
                tick.tick().await;
                let next = counter.load(Ordering::Relaxed);
                assert!(
                    try_publish(&broker, "orders.new", next..next + BATCH, 100).await,
                    "the source takes everything"
                );
                counter.store(next + BATCH, Ordering::Relaxed);
            }
        });
        Self { published, stop, task }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("the producer ended well");
        self.published.load(Ordering::Relaxed)
    }

    /// How long until what is published from now on arrives.
    async fn arrives(&self, destination: &str) -> Duration {
        let (now, all) = (Instant::now(), self.published.load(Ordering::Relaxed));
        wait_count(destination, all + BATCH, PATIENCE).await;
        now.elapsed()
    }
}

fn route(from: &str, to: &str) -> String {
    format!(
        "name: orders\nfrom: {{region: {from}, broker: events, topics: [\"orders.>\"]}}\n\
         to: [{{region: {to}, broker: events, topic: \"{{topic}}\"}}]\nstart: earliest\nguarantee: effectively-once"
    )
}

async fn wait_hop(mesh: &Mesh, hop: &str) {
    until(&format!("the flow goes over {hop}"), PATIENCE, async || {
        let flows = mesh.flows("a").await;
        let mut owned = flows.iter().filter(|flow| flow.end == End::Out);
        owned.all(|flow| flow.hop.as_deref() == Some(hop)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_is_gone_around_and_come_back_to() {
    let (mesh, source) = Mesh::new(&["a", "b", "c"]).embedded("a", "events");
    let (mesh, destination) = mesh.embedded("c", "events");
    let relay = Relay::start(&mesh.link_address("c")).await;
    let mut mesh = mesh.route(&route("a", "c")).via("a", "c", &relay.address());
    mesh.start().await;
    mesh.wait_streaming("a").await;
    wait_hop(&mesh, "c").await;
    let producer = Producer::start(source);
    producer.arrives(&destination).await;

    relay.cut();
    let gap = producer.arrives(&destination).await;
    wait_hop(&mesh, "b").await;
    assert!(mesh.metric("b", "longhaul_transit_flows_opened_total", &["from=\"a\"", "to=\"c\""]).await >= 1.0);
    eprintln!("the way around was found after {gap:?}");

    // The only way left dies and comes back.
    mesh.kill("b");
    mesh.start_router("b");
    let gap = producer.arrives(&destination).await;
    eprintln!("after the death of the router on the way it was found again after {gap:?}");

    relay.heal();
    wait_hop(&mesh, "c").await;
    let gap = producer.arrives(&destination).await;
    eprintln!("back on its own link after {gap:?}");
    let all = producer.end().await;
    wait_count(&destination, all, PATIENCE).await;
    assert_exactly(&numbers(&destination).await, 0..all);
    assert_audits(&mesh, &["a", "c"]).await;
    for region in ["a", "b", "c"] {
        assert_eq!(mesh.metric(region, "longhaul_task_panics_total", &[]).await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_regions_lie_between() {
    let (mesh, source) = Mesh::new(&["a", "b", "c", "d"]).embedded("a", "events");
    let (mesh, destination) = mesh.embedded("d", "events");
    let mut mesh = mesh.linked(&[("a", "b"), ("b", "c"), ("c", "d")]).route(&route("a", "d"));
    mesh.start().await;
    mesh.wait_streaming("a").await;
    let producer = Producer::start(source);
    producer.arrives(&destination).await;
    for region in ["b", "c", "d"] {
        mesh.kill(region);
        mesh.start_router(region);
        let gap = producer.arrives(&destination).await;
        eprintln!("after the death of {region} events arrive again after {gap:?}");
    }
    let all = producer.end().await;
    wait_count(&destination, all, PATIENCE).await;
    assert_eq!(count(&destination).await, all);
    assert_exactly(&numbers(&destination).await, 0..all);
    assert_audits(&mesh, &["a", "d"]).await;
}

/// What a sends reaches c, and nothing comes back: neither acknowledgements nor credit. Then the link is gone for half of every second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_works_one_way_and_then_flaps_is_gone_around() {
    let seconds = std::env::var("LONGHAUL_FLAP_SECONDS").map_or(20, |text| text.parse().expect("a number"));
    let (mesh, source) = Mesh::new(&["a", "b", "c"]).embedded("a", "events");
    let (mesh, destination) = mesh.embedded("c", "events");
    let relay = Relay::start(&mesh.link_address("c")).await;
    let mut mesh = mesh.route(&route("a", "c")).via("a", "c", &relay.address());
    mesh.start().await;
    mesh.wait_streaming("a").await;
    wait_hop(&mesh, "c").await;
    let producer = Producer::start(source);
    producer.arrives(&destination).await;

    let before = relay.lost();
    relay.cut_back();
    // What was under way still arrives, unacknowledged: only the way around brings what comes behind it.
    wait_hop(&mesh, "b").await;
    let gap = producer.arrives(&destination).await;
    assert!(relay.lost() > before, "nothing was lost on the way back");
    eprintln!("while nothing came back, everything was there {gap:?} after the way around was found");

    let before = relay.lost();
    for _ in 0..seconds {
        relay.cut();
        // A flapping link is a matter of time.
        tokio::time::sleep(Duration::from_millis(500)).await;
        relay.heal();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(relay.lost() > before, "nobody tried the link while it was away");
    let gap = producer.arrives(&destination).await;
    eprintln!("after {seconds} s of coming and going everything was there within {gap:?}");
    assert!(gap < RECOVERS_WITHIN, "{gap:?}");
    wait_hop(&mesh, "c").await;
    let all = producer.end().await;
    wait_count(&destination, all, PATIENCE).await;
    assert_exactly(&numbers(&destination).await, 0..all);
    assert_audits(&mesh, &["a", "c"]).await;
}
