//! A RabbitMQ stream as source, shared by two routers, and as destination, and RabbitMQ as a place for what it refuses, over kills of every
//! router: what is read from the stream arrives once where that is promised, all of it everywhere, and what no queue takes is parked.

use std::collections::HashSet;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul_router::{ParkedView, Phase};
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, EXCHANGE, Embedded, RabbitMq};
use longhaul_tests::judge::{Compare, Verdict, judge};
use longhaul_tests::mesh::{Mesh, program};
use longhaul_tests::sample::{Arrived, Sample};
use longhaul_tests::started;
use longhaul_tests::wait::until;

const EVENTS: usize = 30_000;
const KEYS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);
const TOPIC: &str = "orders.new";
/// One event in so many goes to a topic that no queue of the destination is bound to.
const LOST_EVERY: usize = 5_000;

fn is_lost(number: usize) -> bool {
    number % LOST_EVERY == 700
}

fn parked(mesh: &Mesh, arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.arg("parked").args(arguments).args(["--admin", &mesh.admin_url("b"), "--output", "json"]);
    command.env("LONGHAUL_ADMIN_TOKEN", "test-token");
    tokio::task::block_in_place(|| command.output()).expect("the command runs")
}

fn list(mesh: &Mesh) -> Vec<ParkedView> {
    // A router that was just started does not answer yet.
    serde_json::from_slice(&parked(mesh, &["list"]).stdout).unwrap_or_default()
}

/// The numbers as they came for the first time; a kill makes a suffix come again.
fn firsts(arrived: &[Arrived]) -> Vec<usize> {
    let mut seen = HashSet::new();
    arrived.iter().filter_map(|arrived| arrived.event.number()).filter(|number| seen.insert(*number)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_of_rabbitmq() {
    let (node_a, node_b) = tokio::join!(started::rabbitmq(), started::rabbitmq());
    let (from, to) = (RabbitMq::new(&node_a), RabbitMq::new(&node_b));
    let source = Arc::new(Client::RabbitMq(RabbitMq::new(&node_a)));
    let sink = Client::RabbitMq(RabbitMq::new(&node_b));
    source.prepare(&[]).await;
    from.stream("log", true).await;
    sink.prepare(&[TOPIC]).await;
    to.stream("copy", false).await;
    let (mesh, local) = Mesh::new(&["a", "b"]).embedded("b", "local");
    let embedded = Client::Embedded(Embedded::new(&local));
    let log = "from: {region: a, broker: source, stream: log}\nstart: earliest\n";
    let mut mesh = mesh
        .broker("a", "source", "rabbitmq: {}", &source.access())
        .broker("b", "sink", "rabbitmq: {}", &sink.access())
        .replicas("a", 2)
        .route(&format!("name: once\n{log}guarantee: effectively-once\nto:\n  - {{region: b, broker: local}}"))
        .route(&format!("name: copied\n{log}to:\n  - {{region: b, broker: sink, stream: copy}}"))
        .route(&format!(
            "name: sorted\n{log}on_poison: park\nto:\n  - {{region: b, broker: sink, exchange: {EXCHANGE}}}"
        ));
    mesh.start().await;
    until("one of the two reads the stream", PATIENCE, async || {
        let flows = [mesh.flows("a").await, mesh.flows("a/2").await].concat();
        (flows.iter().filter(|flow| flow.phase == Phase::Streaming).count() == 3).then_some(())
    })
    .await;

    let mut samples = Sample::plain_many(TOPIC, EVENTS, KEYS, 200);
    samples.iter_mut().enumerate().filter(|(number, _)| is_lost(*number)).for_each(|(_, sample)| {
        "orders.lost".clone_into(&mut sample.topic);
    });
    let begin = Instant::now();
    // A kill as soon as something of a part has arrived, and another part behind the last of them.
    let parts: Vec<Vec<Sample>> = samples.chunks(EVENTS / 5).map(<[Sample]>::to_vec).collect();
    for (kill, router) in [Some("b"), Some("a"), Some("b"), Some("a/2"), None].into_iter().enumerate() {
        let producing = tokio::spawn({
            let (source, part) = (Arc::clone(&source), parts[kill].clone());
            async move { source.produce(&part).await }
        });
        if let Some(router) = router {
            let before = kill * EVENTS / 5;
            until(&format!("more than {before} events have arrived"), PATIENCE, async || {
                (embedded.count(TOPIC).await > before).then_some(())
            })
            .await;
            mesh.kill(router);
            mesh.start_router(router);
        }
        producing.await.expect("producing works");
    }
    for router in ["a", "a/2", "b"] {
        mesh.wait_ready(router).await;
    }

    let arrived = embedded.consume("orders.*", EVENTS, PATIENCE).await;
    let verdict = judge("stream to embedded", &samples, &arrived, Compare::Content);
    println!("stream to embedded: {verdict:?} over 4 kills after {:.1} s", begin.elapsed().as_secs_f64());
    assert_eq!(verdict, Verdict { events: EVENTS, duplicates: 0 }, "effectively once");

    let arrived = to.consume_stream("copy", EVENTS, PATIENCE).await;
    println!("stream to stream: {} repeats", arrived.len() - EVENTS.min(arrived.len()));
    assert_eq!(firsts(&arrived), (0..EVENTS).collect::<Vec<_>>(), "all, in order");
    let payload =
        |arrived: &Arrived| samples[arrived.event.number().expect("a number")].payload == arrived.event.payload;
    assert!(arrived.iter().all(payload), "and as they were");

    let lost: Vec<usize> = (0..EVENTS).filter(|number| is_lost(*number)).collect();
    let arrived = sink.consume(TOPIC, EVENTS - lost.len(), PATIENCE).await;
    let expected: Vec<usize> = (0..EVENTS).filter(|number| !is_lost(*number)).collect();
    assert_eq!(firsts(&arrived), expected, "what has a queue, in order");
    let all =
        until("what has none is parked", PATIENCE, async || Some(list(&mesh)).filter(|all| all.len() == lost.len()))
            .await;
    assert!(all.iter().all(|one| one.route == "sorted" && one.kind == "unroutable"), "{all:?}");
    assert_audits(&mesh, &["a", "a/2", "b"]).await;

    // With a queue they go where they should have gone; the rest is discarded.
    sink.prepare(&["orders.lost"]).await;
    let redriven = parked(&mesh, &["redrive", &all[0].id]);
    assert!(redriven.status.success(), "{redriven:?}");
    assert_eq!(sink.consume("orders.lost", 1, PATIENCE).await.len(), 1);
    assert_eq!(list(&mesh).len(), lost.len() - 1);
    let discarded = parked(&mesh, &["discard", "--all", "--route", "sorted"]);
    assert!(discarded.status.success(), "{discarded:?}");
    assert_eq!(list(&mesh).len(), 0);
}
