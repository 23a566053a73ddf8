//! The mesh document changes while events move: a route comes and goes, and the untouched one does not notice. A broken document changes
//! nothing, is seen, and a good one heals it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use longhaul_router::{End, FlowView, Phase};
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Kafka, Nats};
use longhaul_tests::http::{assert_exactly, call, count, numbers, publish_numbers, try_publish, wait_count};
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::{Mesh, get, item};
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const PATIENCE: Duration = Duration::from_secs(20);
const GENERATION: &str = "longhaul_config_generation";
const RELOAD_OK: &str = "longhaul_config_last_reload_successful";

fn route(name: &str, topics: &str, to: &str) -> String {
    format!(
        "name: {name}\nfrom: {{region: a, broker: events, topics: [\"{topics}\"]}}\n\
         to: [{{region: b, broker: {to}, topic: \"{{topic}}\"}}]\nstart: earliest"
    )
}

async fn produce(broker: String, published: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let next = published.load(Ordering::Relaxed);
        assert!(try_publish(&broker, "orders.new", next..next + 20, 100).await, "the source takes everything");
        published.store(next + 20, Ordering::Relaxed);
        // A load, not a flood: the debug build shares two cores with this test.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn flow(mesh: &Mesh, route: &str) -> Option<FlowView> {
    mesh.flows("a").await.into_iter().find(|flow| flow.end == End::Out && flow.route == route)
}

async fn wait_generation(mesh: &Mesh, region: &str, generation: f64) {
    until(&format!("{region} has taken up generation {generation}"), PATIENCE, async || {
        (mesh.metric(region, GENERATION, &[]).await >= generation).then_some(())
    })
    .await;
}

/// What must not change for the route that nobody touches: its flow was opened once, and its link never went.
async fn untouched(mesh: &Mesh) -> (String, u64, f64, u64, usize) {
    let flow = flow(mesh, "orders").await.expect("the untouched flow is there");
    assert_eq!(flow.phase, Phase::Streaming, "{flow:?}");
    let connects = mesh.links("a").await.out.iter().map(|link| link.connects).sum();
    let resets = mesh.metric("a", "longhaul_flow_resets_total", &["route=\"orders\""]).await;
    let dialled_in = mesh.log("b").matches("a router dialled in").count();
    (flow.id, flow.resets, resets, connects, dialled_in)
}

async fn wait_reload(mesh: &Mesh, region: &str, ok: bool) {
    let expected = if ok { 1.0 } else { 0.0 };
    until(&format!("the last reload of {region} went well: {ok}"), PATIENCE, async || {
        (mesh.metric(region, RELOAD_OK, &[]).await == expected).then_some(())
    })
    .await;
}

/// Why the documents on disk are not in force, as the API says.
async fn reload_error(mesh: &Mesh, region: &str) -> Option<String> {
    let (_, body) = get(&format!("{}/v1/mesh", mesh.admin_url(region))).await.expect("the API answers");
    let mesh: longhaul_router::MeshView = serde_json::from_str(&body).expect("the mesh");
    mesh.reload_error
}

async fn post_reload(mesh: &Mesh, authorization: &[(&str, &str)]) -> (u16, String) {
    call("POST", &format!("{}/v1/reload", mesh.admin_url("a")), authorization, "").await.expect("the API answers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_route_comes_and_goes_and_the_other_one_does_not_notice() {
    let (mesh, source) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, destination) = mesh.embedded("b", "events");
    let (mesh, returned) = mesh.embedded("b", "returns");
    let mut mesh = mesh.route(&route("orders", "orders.>", "events"));
    mesh.start().await;
    mesh.wait_streaming("a").await;
    let (published, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let producer = tokio::spawn(produce(source.clone(), Arc::clone(&published), Arc::clone(&stop)));
    wait_count(&destination, 200, PATIENCE).await;
    let (only_orders, before) = (mesh.routes().to_owned(), untouched(&mesh).await);

    // Added: seen by the watch alone.
    publish_numbers(&source, "returns.new", 0..100).await;
    mesh.set_routes(&format!("{only_orders}{}", item(&route("returns", "returns.>", "returns"))));
    for region in ["a", "b"] {
        wait_generation(&mesh, region, 2.0).await;
    }
    wait_count(&returned, 100, PATIENCE).await;
    assert_eq!(untouched(&mesh).await, before);

    // Removed, while it is used: its flow ends, and what is published then stays in the source.
    mesh.set_routes(&only_orders);
    for region in ["a", "b"] {
        wait_generation(&mesh, region, 3.0).await;
    }
    until("the removed flow is gone", PATIENCE, async || flow(&mesh, "returns").await.is_none().then_some(())).await;
    let left = count(&returned).await;
    publish_numbers(&source, "returns.new", 100..150).await;
    let seen = published.load(Ordering::Relaxed);
    wait_count(&destination, seen + 200, PATIENCE).await;
    assert_eq!(count(&returned).await, left, "a removed route carries nothing");
    assert_eq!(untouched(&mesh).await, before);

    // Added again: it goes on where it was, so that what was published meanwhile arrives and nothing comes twice.
    mesh.set_routes(&format!("{only_orders}{}", item(&route("returns", "returns.>", "returns"))));
    wait_count(&returned, 150, PATIENCE).await;
    assert_exactly(&numbers(&returned).await, 0..150);
    assert_eq!(untouched(&mesh).await, before);

    stop.store(true, Ordering::Relaxed);
    producer.await.expect("the producer ended well");
    let all = published.load(Ordering::Relaxed);
    wait_count(&destination, all, PATIENCE).await;
    assert_exactly(&numbers(&destination).await, 0..all);
    assert_eq!(untouched(&mesh).await, before);
    assert_audits(&mesh, &["a", "b"]).await;
}

/// The same between a real Kafka and a real NATS: four partitions, so four flows that must not notice.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_route_comes_and_goes_between_real_brokers() {
    let (kafka, nats) = tokio::join!(started::kafka(), started::nats());
    let source = Arc::new(Client::Kafka(Kafka::new(&kafka)));
    let destination = Client::Nats(Nats::new(&nats));
    source.prepare(&["orders.new", "returns.new"]).await;
    destination.prepare(&["orders.new", "returns.new"]).await;
    let mut mesh = Mesh::new(&["a", "b"])
        .broker("a", "events", "kafka: {}", &source.access())
        .broker("b", "events", "nats: {}", &destination.access())
        .route(&route("orders", "orders.>", "events"));
    mesh.start().await;
    mesh.wait_streaming("a").await;
    let (published, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let producer = tokio::spawn({
        let (source, published, stop) = (Arc::clone(&source), Arc::clone(&published), Arc::clone(&stop));
        async move {
            let mut sent = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let first = sent.len();
                let fresh: Vec<_> = (first..first + 20).map(|number| sample("orders.new", number)).collect();
                source.produce(&fresh).await;
                sent.extend(fresh);
                published.store(sent.len() as u64, Ordering::Relaxed);
                // A load, not a flood: the debug build shares two cores with this test.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            sent
        }
    });
    let arrived = async |topic: &str, count: usize| {
        until(&format!("{count} events of {topic} arrive"), PATIENCE, async || {
            (destination.count(topic).await >= count).then_some(())
        })
        .await;
    };
    arrived("orders.new", 200).await;
    let (only_orders, before) = (mesh.routes().to_owned(), untouched(&mesh).await);
    let both = format!("{only_orders}{}", item(&route("returns", "returns.>", "events")));
    let returns: Vec<_> = (0..300).map(|number| sample("returns.new", number)).collect();

    source.produce(&returns[..100]).await;
    mesh.set_routes(&both);
    arrived("returns.new", 100).await;
    mesh.set_routes(&only_orders);
    until("the removed flows are gone", PATIENCE, async || flow(&mesh, "returns").await.is_none().then_some(())).await;
    source.produce(&returns[100..]).await;
    let seen = published.load(Ordering::Relaxed);
    arrived("orders.new", usize::try_from(seen).unwrap_or(usize::MAX) + 200).await;
    assert_eq!(destination.count("returns.new").await, 100, "a removed route carries nothing");
    mesh.set_routes(&both);
    arrived("returns.new", 300).await;
    assert_eq!(untouched(&mesh).await, before);

    stop.store(true, Ordering::Relaxed);
    let sent = producer.await.expect("the producer ended well");
    for (what, sent) in [("the untouched route", sent), ("the route that came and went", returns)] {
        let arrived = destination.consume(&sent[0].topic, sent.len(), PATIENCE).await;
        let verdict = judge(what, &sent, &arrived, Compare::Content);
        assert_eq!(verdict.duplicates, 0, "{what}");
    }
    assert_eq!(untouched(&mesh).await, before);
}

fn sample(topic: &str, number: usize) -> Sample {
    Sample::plain(topic, number, 10, 100)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_broken_document_changes_nothing_and_a_good_one_heals_it() {
    let (mesh, source) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, destination) = mesh.embedded("b", "events");
    let mut mesh = mesh.route(&route("orders", "orders.>", "events"));
    mesh.start().await;
    mesh.wait_streaming("a").await;
    let (good, before) = (mesh.routes().to_owned(), untouched(&mesh).await);
    assert_eq!(mesh.metric("a", RELOAD_OK, &[]).await, 1.0);

    mesh.set_routes(&good.replace("broker: events, topics", "broker: evnets, topics"));
    wait_reload(&mesh, "a", false).await;
    wait_reload(&mesh, "b", false).await;
    assert_eq!(mesh.metric("a", GENERATION, &[]).await, 1.0);
    for region in ["a", "b"] {
        let log = mesh.log(region);
        assert!(log.contains("the documents were not taken up") && log.contains("evnets"), "{log}");
        assert!(reload_error(&mesh, region).await.is_some_and(|why| why.contains("evnets")));
    }
    publish_numbers(&source, "orders.new", 0..500).await;
    wait_count(&destination, 500, PATIENCE).await;
    assert_eq!(untouched(&mesh).await, before);
    let token = [("authorization", "Bearer test-token")];
    let (status, body) = post_reload(&mesh, &token).await;
    assert_eq!(status, 422, "{body}");
    assert!(body.contains("evnets"), "{body}");

    mesh.set_routes(&good);
    wait_reload(&mesh, "a", true).await;
    wait_reload(&mesh, "b", true).await;
    assert_eq!(reload_error(&mesh, "a").await, None);
    publish_numbers(&source, "orders.new", 500..600).await;
    wait_count(&destination, 600, PATIENCE).await;
    assert_exactly(&numbers(&destination).await, 0..600);
    assert_eq!(untouched(&mesh).await, before);

    // By signal and by request, which needs the token.
    let generation = mesh.metric("a", GENERATION, &[]).await;
    mesh.process("a").signal("HUP");
    wait_generation(&mesh, "a", generation + 1.0).await;
    for wrong in [&[][..], &[("authorization", "Bearer wrong-token")], &[("authorization", "test-token")]] {
        let (status, body) = post_reload(&mesh, wrong).await;
        assert_eq!(status, 401, "{body}");
        assert!(body.contains("bearer token"), "{body}");
    }
    let (status, body) = post_reload(&mesh, &token).await;
    assert_eq!(status, 200, "{body}");
    assert!(mesh.metric("a", GENERATION, &[]).await >= generation + 2.0);
    assert_eq!(untouched(&mesh).await, before);
}

/// A document that a running router cannot take up is refused as a whole, with a sentence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_a_restart_is_refused_with_a_sentence() {
    let (mesh, _) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mut mesh, _) = mesh.embedded("b", "events");
    mesh.start().await;
    let document = mesh.router_document("a");
    let text = std::fs::read_to_string(&document).expect("the router document");
    std::fs::write(&document, text.replace("memory: 256MiB", "memory: 128MiB")).expect("the router document");
    wait_reload(&mesh, "a", false).await;
    assert!(mesh.log("a").contains("the memory budget changed"), "{}", mesh.log("a"));
    std::fs::write(&document, text).expect("the router document");
    wait_reload(&mesh, "a", true).await;
}
