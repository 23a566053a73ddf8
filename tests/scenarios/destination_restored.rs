//! A destination comes back from a backup: a NATS server's store is copied, goes on, and the copy is put in its place.
//! What it lacks is sent again by itself, from the cursor that it has now, and nothing twice. Where the source has removed that meanwhile,
//! the flow halts, says from where to where, shows it in a metric, and writes nothing behind the gap.

use std::time::Duration;

use async_nats::jetstream;
use longhaul_router::{End, FlowView};
use longhaul_test_brokers::nats;
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Nats};
use longhaul_tests::judge::{Compare, Verdict, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;
use tokio::task::block_in_place;

const TOPIC: &str = "orders.placed";
const PART: usize = 500;
const KEYS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// For what must not come to have had time to come.
const QUIET: Duration = Duration::from_secs(3);

fn samples(parts: std::ops::Range<usize>) -> Vec<Sample> {
    (parts.start * PART..parts.end * PART).map(|number| Sample::plain(TOPIC, number, KEYS, 100)).collect()
}

async fn holds(sink: &Client, parts: usize) {
    until(&format!("the destination holds {} events", parts * PART), PATIENCE, async || {
        (sink.count(TOPIC).await >= parts * PART).then_some(())
    })
    .await;
}

fn restore(server: &mut nats::Nats, saved: &tempfile::TempDir) {
    block_in_place(|| {
        server.stop_and_restore(saved).expect("the copy is put back");
        server.restart().expect("NATS starts again");
    });
}

/// The flow as its owner has it.
async fn owned(mesh: &Mesh) -> Option<FlowView> {
    mesh.flows("a").await.into_iter().find(|flow| flow.end == End::Out)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_destination_that_is_restored_gets_what_it_lacks_or_halts_the_flow() {
    let (from, mut to) = tokio::join!(started::nats(), started::nats());
    let (source, sink) = (Client::Nats(Nats::new(&from)), Client::Nats(Nats::new(&to)));
    for client in [&source, &sink] {
        client.prepare(&["orders.>"]).await;
    }
    let mut mesh = Mesh::new(&["a", "b"])
        .broker("a", "events", "nats: {}", &source.access())
        .broker("b", "events", "nats: {}", &sink.access())
        .route(
            "name: orders\nfrom: {region: a, broker: events, topics: [\"orders.>\"]}\nstart: earliest\n\
             guarantee: effectively-once\nto: [{region: b, broker: events}]",
        );
    mesh.start().await;
    mesh.wait_streaming("a").await;
    source.produce(&samples(0..1)).await;
    holds(&sink, 1).await;
    assert_audits(&mesh, &["a", "b"]).await;
    let saved = block_in_place(|| to.stop_and_save()).expect("a copy");
    block_in_place(|| to.restart()).expect("NATS starts again");
    source.produce(&samples(1..2)).await;
    holds(&sink, 2).await;

    restore(&mut to, &saved);
    // Although nothing new is published.
    holds(&sink, 2).await;
    source.produce(&samples(2..3)).await;
    holds(&sink, 3).await;
    until("what the copy lacked is delivered a second time", PATIENCE, async || {
        (mesh.metric("b", "longhaul_delivered_events_total", &[]).await >= 4.0 * PART as f64).then_some(())
    })
    .await;
    let arrived = sink.consume(TOPIC, 3 * PART, PATIENCE).await;
    let verdict = judge("after the restore", &samples(0..3), &arrived, Compare::Content);
    assert_eq!(verdict, Verdict { events: 3 * PART, duplicates: 0 });
    assert_audits(&mesh, &["a", "b"]).await;

    // The same again, and the source has lost meanwhile what the copy lacks: its retention came by.
    // What a router still has in memory it sends all the same: so it has to forget.
    mesh.kill("a");
    block_in_place(|| to.stop());
    let client = async_nats::connect(from.url()).await.expect("NATS answers");
    let stream = jetstream::new(client).get_stream("EVENTS").await.expect("the stream");
    let kept_from = u64::try_from(2 * PART).expect("small");
    stream.purge().sequence(kept_from).await.expect("NATS purges");
    restore(&mut to, &saved);
    mesh.start_router("a");
    mesh.wait_ready("a").await;
    source.produce(&samples(3..4)).await;
    let halted = until("the flow halts at the gap", PATIENCE, async || {
        owned(&mesh).await.filter(|flow| flow.gaps.iter().any(|gap| gap.reason == "purged"))
    })
    .await;
    let gap = halted.gaps.last().expect("it was found");
    assert!(!gap.passed && halted.fault.is_some(), "{halted:?}");
    assert_eq!(gap.to, kept_from, "{gap:?}");
    assert!(mesh.metric("a", "longhaul_gaps_total", &["reason=\"purged\"", "route=\"orders\""]).await >= 1.0);
    assert!(mesh.log("a").contains(&gap.text), "{}", mesh.log("a"));
    tokio::time::sleep(QUIET).await;
    let arrived = sink.consume(TOPIC, PART, PATIENCE).await;
    judge("before the gap", &samples(0..1), &arrived, Compare::Content);
}
