//! Events that their destination refuses are parked there, whole and with the reason, and everything else goes on, also over kills of the
//! applying router; then they are listed, shown, redriven and discarded by the command.

use std::process::{Command, Output};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use longhaul_router::{End, ParkedEvent, ParkedView};
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Embedded, Kafka};
use longhaul_tests::mesh::{Mesh, program};
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS: usize = 600;
/// Two that follow each other, one alone, and the last.
const LARGE: [usize; 4] = [100, 101, 350, EVENTS - 1];
/// More than either destination takes, and less than a link does.
const LARGE_BYTES: usize = 100_000;

/// One event in a few is large, of bytes that no compression makes fit.
fn samples() -> Vec<Sample> {
    let mut state = 7_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u8::try_from(state >> 56).expect("eight bits")
    };
    let mut sample = |number| {
        let mut sample = Sample::plain("orders.new", number, 1, 100);
        if LARGE.contains(&number) {
            sample.payload = (0..LARGE_BYTES).map(|_| noise()).collect();
            sample.headers.push(("correlation_id".to_owned(), format!("order-{number}").into_bytes()));
        }
        sample
    };
    (0..EVENTS).map(&mut sample).collect()
}

fn admin(client: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", client).create().expect("good options")
}

/// Runs `longhaul parked` against the router of `b`.
fn parked(mesh: &Mesh, token: Option<&str>, arguments: &[&str]) -> Output {
    let mut command = Command::new(program());
    command.arg("parked").args(arguments).args(["--admin", &mesh.admin_url("b"), "--output", "json"]);
    command.env_remove("LONGHAUL_ADMIN_TOKEN");
    if let Some(token) = token {
        command.env("LONGHAUL_ADMIN_TOKEN", token);
    }
    tokio::task::block_in_place(|| command.output()).expect("the command runs")
}

fn list(mesh: &Mesh) -> Vec<ParkedView> {
    let output = parked(mesh, None, &["list"]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

async fn wait_parked(mesh: &Mesh, count: usize) -> Vec<ParkedView> {
    until(&format!("{count} events are parked"), PATIENCE, async || Some(list(mesh)).filter(|all| all.len() == count))
        .await
}

fn kill_and_start(mesh: &mut Mesh) {
    mesh.kill("b");
    mesh.start_router("b");
}

async fn assert_all_but_large(what: &str, client: &Client, topic: &str) {
    let small = EVENTS - LARGE.len();
    let arrived = client.consume(topic, small, PATIENCE).await;
    let mut numbers: Vec<_> = arrived.iter().filter_map(|arrived| arrived.event.number()).collect();
    // After a kill a suffix may come again, in order.
    let mut seen = std::collections::HashSet::new();
    numbers.retain(|number| seen.insert(*number));
    let expected: Vec<_> = (0..EVENTS).filter(|number| !LARGE.contains(number)).collect();
    assert_eq!(numbers, expected, "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_events_are_parked_and_the_rest_flows() {
    let broker = started::kafka().await;
    let kafka = Client::Kafka(Kafka::new(&broker));
    kafka.prepare(&["orders.new"]).await;
    let copies = NewTopic::new("copies.orders.new", 4, TopicReplication::Fixed(1)).set("max.message.bytes", "65536");
    let admin = admin(broker.bootstrap());
    admin.create_topics([&copies], &AdminOptions::new()).await.expect("Kafka answers");
    let (mesh, local) = Mesh::new(&["a", "b"]).event_max("64KiB").embedded("b", "local");
    let mut mesh = mesh
        .broker("a", "orders", "kafka: {}", &kafka.access())
        .broker("b", "copies", "kafka: {}", &kafka.access())
        .route(
            "name: orders\nfrom: {region: a, broker: orders, topics: [\"orders.>\"]}\nstart: earliest\non_poison: park\n\
             to:\n  - {region: b, broker: local}\n  - {region: b, broker: copies, topic: \"copies.{topic}\"}",
        );
    mesh.start().await;
    mesh.wait_streaming("a").await;
    let sent = samples();
    kafka.produce(&sent[..200]).await;
    // The applying router is killed while it parks, and again when it has.
    let _some = until("something is parked", PATIENCE, async || Some(list(&mesh)).filter(|all| !all.is_empty())).await;
    kill_and_start(&mut mesh);
    mesh.wait_ready("b").await;
    kafka.produce(&sent[200..400]).await;
    wait_parked(&mesh, 6).await;
    kill_and_start(&mut mesh);
    mesh.wait_ready("b").await;
    kafka.produce(&sent[400..]).await;
    let all = wait_parked(&mesh, 2 * LARGE.len()).await;
    let embedded = Client::Embedded(Embedded::new(&local));
    assert_all_but_large("embedded", &embedded, "orders.new").await;
    assert_all_but_large("Kafka", &kafka, "copies.orders.new").await;
    assert_audits(&mesh, &["a", "b"]).await;
    until("the parked are counted", PATIENCE, async || {
        (mesh.metric("b", "longhaul_parked_events", &["route=\"orders\""]).await == 8.0).then_some(())
    })
    .await;

    // What was parked is whole, and says where it comes from and why it is here.
    for one in &all {
        assert_eq!(
            (one.route.as_str(), one.kind.as_str(), one.from.0.as_str()),
            ("orders", "too_large", "a"),
            "{one:?}"
        );
        assert!(one.reason.contains("large") || one.reason.contains("bytes"), "{one:?}");
        let shown = parked(&mesh, None, &["show", &one.id]);
        let shown: ParkedEvent = serde_json::from_slice(&shown.stdout).unwrap_or_else(|_| panic!("{shown:?}"));
        let number = shown.headers.iter().find(|(name, _)| name == "n").map(|(_, number)| number.clone());
        let sent = &sent[number.and_then(|number| number.parse::<usize>().ok()).expect("its number")];
        let payload = STANDARD.decode(shown.payload.expect("a payload")).expect("Base64");
        assert!(payload == sent.payload && shown.about.key.as_deref() == Some("key-0"), "{one:?}");
    }

    // By its correlation id one finds each in the log, with the name that it is parked under.
    let log = mesh.log("b");
    for one in &all {
        let line = log.lines().find(|line| line.contains("parked an event") && line.contains(&one.id));
        let line = line.unwrap_or_else(|| panic!("{one:?} is in no line"));
        assert!(line.contains("correlation_id=\"order-") && line.contains(&one.event), "{line}");
    }

    // Nothing is changed without the token, and what is refused again stays.
    let (in_kafka, in_local): (Vec<_>, Vec<_>) = all.iter().partition(|one| one.to.1 == "copies");
    assert_eq!((in_kafka.len(), in_local.len()), (LARGE.len(), LARGE.len()));
    for (token, says) in [(None, "token"), (Some("wrong"), "token"), (Some("test-token"), "larger than")] {
        let refused = parked(&mesh, token, &["redrive", &in_local[0].id]);
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && stderr.contains(says), "{token:?}: {refused:?}");
    }
    assert_eq!(list(&mesh).len(), 8);

    // Mended at the destination, they go where they should have gone. A router believes for a minute what a topic takes: it is killed.
    let larger = AlterConfig::new(ResourceSpecifier::Topic("copies.orders.new")).set("max.message.bytes", "1000000");
    admin.alter_configs([&larger], &AdminOptions::new()).await.expect("Kafka answers");
    kill_and_start(&mut mesh);
    mesh.wait_ready("b").await;
    let ids: Vec<_> = in_kafka.iter().map(|one| one.id.as_str()).collect();
    let redriven = parked(&mesh, Some("test-token"), &[&["redrive"], &ids[..]].concat());
    assert!(redriven.status.success(), "{redriven:?}");
    let arrived = kafka.consume("copies.orders.new", EVENTS, PATIENCE).await;
    for number in LARGE {
        let found = arrived.iter().filter(|arrived| arrived.event.number() == Some(number)).collect::<Vec<_>>();
        assert!(found.len() == 1 && found[0].event.payload == sent[number].payload, "{number}");
    }
    assert_eq!(list(&mesh).len(), LARGE.len());
    let discarded = parked(&mesh, Some("test-token"), &["discard", "--all", "--route", "orders"]);
    assert!(discarded.status.success(), "{discarded:?}");
    assert_eq!(list(&mesh).len(), 0);
    let streaming =
        mesh.flows("a").await.into_iter().filter(|flow| flow.end == End::Out && flow.fault.is_none()).count();
    assert!(streaming >= 2, "the flows go on");
}
