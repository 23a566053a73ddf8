//! Routers of one region come and go all the time: three share a Kafka topic of many partitions, and every ten seconds one is killed and
//! starts again, or leaves and joins again at the next turn. One route is effectively once, one at least once. In the end nothing is lost,
//! order per key is kept, nothing comes twice where that is promised and little elsewhere, and all three own something again.
//!
//! `LONGHAUL_STORM_SECONDS` says for how long (40), `LONGHAUL_STORM_PARTITIONS` how many partitions (60).

#![expect(clippy::print_stdout, reason = "figures are part of what a scenario shows")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Embedded, Kafka, Nats};
use longhaul_tests::dice::number;
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const TOPIC: &str = "orders.placed";
const TURN: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(100);
/// 400 events a second.
const BURST: usize = 40;
/// More than partitions, so that each has some.
const KEYS: usize = 2_000;
/// What may come again after a turn: what was produced within this time.
const REPEATED_MAX: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(120);
const ROUTERS: [&str; 3] = ["eu", "eu/2", "eu/3"];

fn route(name: &str, guarantee: &str, broker: &str) -> String {
    format!(
        "name: {name}\nfrom: {{region: eu, broker: events, topics: [\"orders.>\"]}}\nstart: earliest\nguarantee: {guarantee}\n\
         to: [{{region: us, broker: {broker}}}]"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rebalance_storm() {
    let setting = |name, default| number(name).unwrap_or(default);
    let partitions = u32::try_from(setting("LONGHAUL_STORM_PARTITIONS", 60)).expect("it fits");
    let turns = setting("LONGHAUL_STORM_SECONDS", 40).div_ceil(TURN.as_secs());
    let (kafka, nats) = tokio::join!(started::kafka(), started::nats());
    let source = Arc::new(Client::Kafka(Kafka::new(&kafka)));
    kafka.create_topic(TOPIC, partitions).expect("a topic");
    let once = Client::Nats(Nats::new(&nats));
    once.prepare(&["orders.>"]).await;
    let (mesh, local) = Mesh::new(&["eu", "us"]).replicas("eu", ROUTERS.len()).embedded("us", "local");
    let often = Client::Embedded(Embedded::new(&local));
    let mut mesh = mesh
        .broker("eu", "events", "kafka: {}", &source.access())
        .broker("us", "stream", "nats: {}", &once.access())
        .route(&route("once", "effectively-once", "stream"))
        .route(&route("often", "at-least-once", "local"));
    mesh.start().await;
    let flows = 2 * usize::try_from(partitions).expect("it fits");
    all_own_some(&mesh, flows).await;

    let (produced, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let producing = tokio::spawn({
        let (source, produced, stop) = (Arc::clone(&source), Arc::clone(&produced), Arc::clone(&stop));
        async move {
            let mut next = tokio::time::interval(PACE);
            while !stop.load(Ordering::Relaxed) {
                // A steady load.
                next.tick().await;
                let first = produced.load(Ordering::Relaxed);
                let sample = |number| Sample::plain(TOPIC, number, KEYS, 100);
                source.produce(&(first..first + BURST).map(sample).collect::<Vec<_>>()).await;
                produced.fetch_add(BURST, Ordering::Relaxed);
            }
        }
    });
    let mut away: Option<&str> = None;
    for turn in 0..turns {
        if let Some(router) = away.take() {
            mesh.start_router(router);
            println!("{router} joins");
        } else {
            let router = ROUTERS[usize::try_from(turn).expect("it fits") % ROUTERS.len()];
            if turn % 4 == 2 {
                assert_eq!(mesh.terminate(router), Some(0), "{}", mesh.log(router));
                away = Some(router);
                println!("{router} leaves");
            } else {
                mesh.kill(router);
                mesh.start_router(router);
                println!("{router} is killed");
            }
        }
        // The pace of the storm.
        tokio::time::sleep(TURN).await;
    }
    if let Some(router) = away {
        mesh.start_router(router);
    }
    for router in ROUTERS {
        mesh.wait_ready(router).await;
    }
    stop.store(true, Ordering::Relaxed);
    producing.await.expect("producing works");
    let samples = Sample::plain_many(TOPIC, produced.load(Ordering::Relaxed), KEYS, 100);
    for (what, sink, is_once) in [("effectively once", &once, true), ("at least once", &often, false)] {
        let arrived = sink.consume(TOPIC, samples.len(), PATIENCE).await;
        let verdict = judge(what, &samples, &arrived, Compare::Content);
        println!(
            "{what}: {} events of {partitions} partitions, 0 lost, {} repeated",
            verdict.events, verdict.duplicates
        );
        let windows = usize::try_from(turns * REPEATED_MAX.as_secs()).expect("it fits");
        let most = if is_once { 0 } else { windows * BURST * 10 };
        assert!(verdict.duplicates <= most, "{what}: {verdict:?}, at most {most}");
    }
    all_own_some(&mesh, flows).await;
    assert_audits(&mesh, &["eu", "eu/2", "eu/3", "us"]).await;
}

/// Every flow has one owner, and every router a share.
async fn all_own_some(mesh: &Mesh, flows: usize) {
    let owned = until("each of the three owns some", PATIENCE, async || {
        let mut owned = BTreeMap::<String, usize>::new();
        mesh.wait_shared_out(flows).await.into_iter().for_each(|router| *owned.entry(router).or_default() += 1);
        (owned.len() == ROUTERS.len()).then_some(owned)
    })
    .await;
    println!("{owned:?}");
}
