//! A destination that takes a tenth of what there is, beside a fast one on the same link: the fast one keeps at least 95 % of its rate, no
//! connection ends, and the slow one gets everything in order once it is as fast as others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Embedded, Nats};
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::throttle::Throttle;
use longhaul_tests::wait::until;

const TOPIC: &str = "orders.placed";
const KEYS: usize = 50;
const PAYLOAD_BYTES: usize = 2_000;
/// Small, so that what is under way when a turn begins or ends does not count.
const BURST: usize = 10;
/// 500 events and 1 MB a second.
const PACE: Duration = Duration::from_millis(20);
/// A tenth of what is produced.
const SLOW_BYTES_PER_SECOND: u64 = 100_000;
const TURN: Duration = Duration::from_secs(10);
/// Of what is produced, what the slow one may have at most to be called slow.
const SLOW_SHARE_MAX: f64 = 0.3;
/// Of its share alone.
const KEPT_MIN: f64 = 0.95;
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn slow_sink() {
    let server = started::nats().await;
    let slow = Client::Nats(Nats::new(&server));
    slow.prepare(&["orders.>"]).await;
    let throttle = Throttle::start(server.url().trim_start_matches("nats://")).await;
    let (mesh, local) = Mesh::new(&["eu", "us"]).embedded("eu", "events");
    let (mesh, fast) = mesh.embedded("us", "fast");
    let (source, fast) = (Arc::new(Client::Embedded(Embedded::new(&local))), Client::Embedded(Embedded::new(&fast)));
    let mut mesh = mesh
        .broker("us", "slow", "nats: {}", &format!("nats: {{servers: [\"nats://{}\"]}}", throttle.address()))
        .route(
            "name: orders\nfrom: {region: eu, broker: events, topics: [\"orders.>\"]}\nstart: earliest\n\
             to: [{region: us, broker: fast}, {region: us, broker: slow}]",
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
                let sample = |number| Sample::plain(TOPIC, number, KEYS, PAYLOAD_BYTES);
                source.produce(&(first..first + BURST).map(sample).collect::<Vec<_>>()).await;
                produced.fetch_add(BURST, Ordering::Relaxed);
            }
        }
    });
    until("both have something", PATIENCE, async || {
        (fast.count(TOPIC).await.min(slow.count(TOPIC).await) > 20 * BURST).then_some(())
    })
    .await;
    // Shares of what is produced, so that a busy machine which slows the producer does not count.
    let turn = async |what: &str| {
        let levels = async || [produced.load(Ordering::Relaxed), fast.count(TOPIC).await, slow.count(TOPIC).await];
        let before = levels().await;
        // A rate needs a time to be measured over.
        tokio::time::sleep(TURN).await;
        let after = levels().await;
        let [all, fast, slow] = [0, 1, 2].map(|at| (after[at] - before[at]) as f64);
        println!("{what}: the fast one got {:.3}, the other one {:.3} of {all} events", fast / all, slow / all);
        (fast / all, slow / all)
    };
    let (alone, _) = turn("both fast").await;
    throttle.limit(SLOW_BYTES_PER_SECOND);
    let (beside, share) = turn("beside a slow one").await;
    assert!(share > 0.0 && share < SLOW_SHARE_MAX, "the slow one got {share:.3}: the test shows nothing");
    assert!(beside >= KEPT_MIN * alone.min(1.0), "{beside:.3} beside, {alone:.3} before");

    stop.store(true, Ordering::Relaxed);
    producing.await.expect("producing works");
    throttle.limit(0);
    let samples = Sample::plain_many(TOPIC, produced.load(Ordering::Relaxed), KEYS, PAYLOAD_BYTES);
    for (what, sink) in [("the fast one", &fast), ("the slow one", &slow)] {
        let arrived = sink.consume(TOPIC, samples.len(), PATIENCE).await;
        println!("{what}: {:?}", judge(what, &samples, &arrived, Compare::Content));
    }
    let links = mesh.links("eu").await.out;
    assert!(links.iter().all(|link| link.connects == 1), "a connection ended: {links:?}");
    for router in ["eu", "us"] {
        assert!(!mesh.log(router).contains("too many gaps"), "{}", mesh.log(router));
    }
    assert_audits(&mesh, &["eu", "us"]).await;
}
