//! What a destination broker refuses: an event that is too large for it, a topic that is not there, a login that is wrong. Each shows in
//! the log, in a metric and in the API; the data stays in its source; other flows do not notice; and all of it can be mended.

use std::time::Duration;

use longhaul_router::{End, FlowView, Phase};
use longhaul_test_brokers::{kafka, nats, rabbitmq};
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Embedded, Kafka, Nats, RabbitMq};
use longhaul_tests::http::{assert_exactly, count, get_status, numbers, publish_numbers, wait_count};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::{Arrived, Sample};
use longhaul_tests::wait::until;

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "hunter2-not-the-password";
/// More than the NATS server of these tests takes, and less than a link does.
const TOO_LARGE: usize = 200_000;
const OVERSIZE: usize = 50;

fn route(name: &str, topics: &str, to: &str, more: &str) -> String {
    format!(
        "name: {name}\nfrom: {{region: a, broker: events, topics: [\"{topics}\"]}}\n\
         to: [{{region: b, {to}}}]\nstart: earliest\n{more}"
    )
}

/// A route that nobody disturbs, to an embedded broker of the same region.
fn healthy() -> String {
    route("returns", "returns.>", "broker: returns, topic: \"{topic}\"", "")
}

async fn flow(mesh: &Mesh, region: &str, end: End, route: &str) -> Option<FlowView> {
    mesh.flows(region).await.into_iter().find(|flow| flow.end == end && flow.route == route)
}

/// Waits until the flow's fault says this, at both ends.
async fn wait_fault(mesh: &Mesh, route: &str, says: &str) -> String {
    let mut last = None;
    let what = format!("the fault of {route} says {says}");
    until(&what, PATIENCE, async || {
        let fault = async |region, end| flow(mesh, region, end, route).await.and_then(|flow| flow.fault);
        let found = (fault("a", End::Out).await, fault("b", End::In).await);
        if last.as_ref() != Some(&found) {
            eprintln!("{route}: {found:?}");
            last = Some(found.clone());
        }
        let (Some(out), Some(into)) = found else { return None };
        (out.contains(says) && into.contains(says)).then_some(into)
    })
    .await
}

/// In order, each once.
fn assert_all(arrived: &[Arrived], expected: impl Iterator<Item = usize>) {
    let numbers: Vec<_> = arrived.iter().filter_map(|arrived| arrived.event.number()).collect();
    assert_eq!(numbers, expected.collect::<Vec<_>>());
}

fn samples() -> Vec<Sample> {
    let size = |number| if number == OVERSIZE { TOO_LARGE } else { 100 };
    (0..2 * OVERSIZE).map(|number| Sample::plain("orders.new", number, 1, size(number))).collect()
}

async fn mesh_to_nats(server: &nats::Nats, policy: &str) -> (Mesh, String, String, Client) {
    let client = Client::Nats(Nats::new(server));
    client.prepare(&["orders.new"]).await;
    let (mesh, source) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, returned) = mesh.embedded("b", "returns");
    let mesh = mesh.broker("b", "small", "nats: {}", &client.access()).route(&healthy()).route(&route(
        "orders",
        "orders.>",
        "broker: small, topic: \"{topic}\"",
        policy,
    ));
    (mesh, source, returned, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_too_large_halts_its_flow_alone() {
    let server = nats::Nats::start_with("max_payload: 64KB").expect("NATS");
    let (mut mesh, source, returned, client) = mesh_to_nats(&server, "").await;
    mesh.start().await;
    mesh.wait_streaming("a").await;
    Client::Embedded(Embedded::new(&source)).produce(&samples()).await;

    wait_fault(&mesh, "orders", "").await;
    let halted = flow(&mesh, "b", End::In, "orders").await.expect("the flow");
    let fault = halted.fault.expect("a fault");
    assert!(fault.contains("large") || fault.contains("payload"), "{fault}");
    assert!(
        mesh.metric("b", "longhaul_poison_events_total", &["route=\"orders\"", "reason=\"too_large\""]).await >= 1.0
    );
    assert!(mesh.log("b").contains("the destination does not take a flow"), "{}", mesh.log("b"));
    // What stands before it has arrived; it and what stands behind it have not.
    assert_all(&client.consume("orders.new", OVERSIZE, PATIENCE).await, 0..OVERSIZE);
    assert_eq!(count(&source).await, 2 * OVERSIZE as u64, "all is still in the source");
    // The other flow goes on while this one is halted.
    publish_numbers(&source, "returns.new", 0..500).await;
    wait_count(&returned, 500, PATIENCE).await;
    assert_exactly(&numbers(&returned).await, 0..500);
    assert!(flow(&mesh, "a", End::Out, "orders").await.expect("the flow").fault.is_some(), "it stays halted");
    assert_eq!(client.count("orders.new").await, OVERSIZE);

    // Mended by policy: the rest arrives, and what is left out is counted.
    let dropping = mesh.routes().replace("- name: orders\n", "- name: orders\n    on_poison: drop\n");
    assert_ne!(dropping, mesh.routes());
    mesh.set_routes(&dropping);
    let others = || (0..2 * OVERSIZE).filter(|number| *number != OVERSIZE);
    assert_all(&client.consume("orders.new", 2 * OVERSIZE - 1, PATIENCE).await, others());
    assert_left_out(&mesh).await;
}

async fn assert_left_out(mesh: &Mesh) {
    let labels = ["route=\"orders\"", "reason=\"too_large\""];
    until("one event was left out", PATIENCE, async || {
        (mesh.metric("b", "longhaul_refused_events_total", &labels).await == 1.0).then_some(())
    })
    .await;
    until("the flow is well again", PATIENCE, async || {
        let flow = flow(mesh, "a", End::Out, "orders").await?;
        (flow.phase == Phase::Streaming && flow.fault.is_none() && flow.lag_events.unwrap_or(0) == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_too_large_is_left_out_where_the_route_says_so() {
    let server = nats::Nats::start_with("max_payload: 64KB").expect("NATS");
    let (mut mesh, source, returned, client) = mesh_to_nats(&server, "on_poison: drop").await;
    mesh.start().await;
    mesh.wait_streaming("a").await;
    Client::Embedded(Embedded::new(&source)).produce(&samples()).await;
    let others = (0..2 * OVERSIZE).filter(|number| *number != OVERSIZE);
    assert_all(&client.consume("orders.new", 2 * OVERSIZE - 1, PATIENCE).await, others);
    assert_left_out(&mesh).await;
    assert!(mesh.metric("b", "longhaul_poison_events_total", &["route=\"orders\""]).await >= 1.0);
    assert_eq!(count(&returned).await, 0);
    assert_audits(&mesh, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_is_said_and_heals_when_it_is_made() {
    let broker = kafka::Kafka::start().expect("Kafka");
    let client = Client::Kafka(Kafka::new(&broker));
    let (mesh, source) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, returned) = mesh.embedded("b", "returns");
    let mut mesh = mesh.broker("b", "orders", "kafka: {}", &client.access()).route(&healthy()).route(&route(
        "orders",
        "orders.>",
        "broker: orders, topic: \"{topic}\"",
        "",
    ));
    mesh.start().await;
    let sent = Sample::plain_many("orders.new", 200, 1, 100);
    Client::Embedded(Embedded::new(&source)).produce(&sent).await;
    publish_numbers(&source, "returns.new", 0..300).await;

    let fault = wait_fault(&mesh, "orders", "orders.new").await;
    assert!(mesh.log("b").contains("orders.new"), "{}", mesh.log("b"));
    assert!(mesh.metric("a", "longhaul_flow_resets_total", &["route=\"orders\""]).await >= 1.0);
    let labels = ["route=\"orders\"", "reason=\"destination_config\""];
    assert!(mesh.metric("b", "longhaul_flow_faults_total", &labels).await >= 1.0, "the metric says so too");
    eprintln!("said: {fault}");
    wait_count(&returned, 300, PATIENCE).await;
    assert_exactly(&numbers(&returned).await, 0..300);
    assert_eq!(count(&source).await, 500, "all is still in the source");

    client.prepare(&["orders.new"]).await;
    assert_all(&client.consume("orders.new", 200, PATIENCE).await, 0..200);
    until("the flow is well again", PATIENCE, async || {
        let flow = flow(&mesh, "a", End::Out, "orders").await?;
        (flow.phase == Phase::Streaming && flow.fault.is_none()).then_some(())
    })
    .await;
    assert_audits(&mesh, &["a", "b"]).await;
}

/// Starts a mesh of which one broker does not let its router in: ready is what nobody waits for.
async fn start_locked_out(mesh: &mut Mesh) {
    mesh.write_all();
    for region in ["a", "b"] {
        mesh.start_router(region);
    }
    mesh.wait_ready("a").await;
    let url = format!("{}/livez", mesh.admin_url("b"));
    until("the router of b answers", PATIENCE, async || (get_status(&url).await == Some(200)).then_some(())).await;
}

/// The broker shows down with a reason that does not give the password away, and everything else goes on.
async fn locked_out(mesh: &mut Mesh, broker: &str, source: &str, returned: &str) {
    start_locked_out(mesh).await;
    let error = until(&format!("{broker} shows down"), PATIENCE, async || {
        let brokers = mesh.brokers("b").await;
        brokers.into_iter().find(|view| view.name == broker && view.state == "down")?.error
    })
    .await;
    eprintln!("{broker}: {error}");
    let lower = error.to_lowercase();
    let words = ["auth", "refused", "login", "credential", "access"];
    assert!(words.iter().any(|word| lower.contains(word)), "the sentence says what is wrong: {error}");
    assert_eq!(mesh.metric("b", "longhaul_broker_up", &[&format!("broker=\"{broker}\"")]).await, 0.0);
    let ready = format!("{}/readyz", mesh.admin_url("b"));
    let (status, body) = longhaul_tests::mesh::get(&ready).await.expect("the API answers");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains(broker), "{body}");

    let sent = Sample::plain_many("orders.new", 100, 1, 100);
    Client::Embedded(Embedded::new(source)).produce(&sent).await;
    publish_numbers(source, "returns.new", 0..300).await;
    wait_count(returned, 300, PATIENCE).await;
    assert_exactly(&numbers(returned).await, 0..300);
    assert_eq!(count(source).await, 400, "all is still in the source");

    let mut shown = mesh.log("a") + &mesh.log("b");
    // Quotes and line ends look different in a log.
    let said = error.split(['"', '\\', '\n']).max_by_key(|part| part.len()).unwrap_or_default();
    assert!(mesh.log("b").contains(said), "the log says {said}: {shown}");
    for region in ["a", "b"] {
        for path in ["metrics", "v1/brokers", "v1/flows", "v1/links", "v1/routes", "v1/mesh", "readyz"] {
            let url = format!("{}/{path}", mesh.admin_url(region));
            shown += &longhaul_tests::mesh::get(&url).await.expect("the API answers").1;
        }
    }
    assert!(!shown.contains(SECRET), "the password is given away");
}

/// The right password in the router document, and a restart: what was left in the source arrives.
async fn let_in(mesh: &mut Mesh, right: &str) {
    let document = mesh.router_document("b");
    let text = std::fs::read_to_string(&document).expect("the router document");
    std::fs::write(&document, text.replace(SECRET, right)).expect("the router document");
    assert_eq!(tokio::task::block_in_place(|| mesh.terminate("b")), Some(0), "{}", mesh.log("b"));
    mesh.start_router("b");
    mesh.wait_ready("b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_for_nats_keeps_one_broker_out() {
    let server = nats::Nats::start_with("authorization { user: mesh, password: right-password }").expect("NATS");
    let (mesh, source) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, returned) = mesh.embedded("b", "returns");
    let access = format!("nats: {{servers: [\"{}\"], user: mesh, password: {SECRET}}}", server.url());
    let mut mesh = mesh.broker("b", "locked", "nats: {}", &access).route(&healthy()).route(&route(
        "orders",
        "orders.>",
        "broker: locked, topic: \"{topic}\"",
        "",
    ));
    locked_out(&mut mesh, "locked", &source, &returned).await;

    let options = async_nats::ConnectOptions::with_user_and_password("mesh".into(), "right-password".into());
    let client = options.connect(server.url()).await.expect("NATS lets the right one in");
    let context = async_nats::jetstream::new(client);
    let stream = async_nats::jetstream::stream::Config {
        name: "O".into(),
        subjects: vec!["orders.>".into()],
        ..Default::default()
    };
    let mut stream = context.create_stream(stream).await.expect("a stream");
    let_in(&mut mesh, "right-password").await;
    until("what was left in the source arrives", PATIENCE, async || {
        (stream.info().await.expect("NATS answers").state.messages == 100).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_for_kafka_keeps_one_broker_out() {
    let user = kafka::SaslUser { name: "mesh", password: "right-password" };
    let broker = kafka::Kafka::start_sasl(user).expect("Kafka");
    let client = Client::Kafka(Kafka::new(&broker));
    client.prepare(&["orders.new"]).await;
    let (mesh, source) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, returned) = mesh.embedded("b", "returns");
    let access = format!(
        "kafka: {{bootstrap: [\"{}\"], sasl: {{mechanism: PLAIN, username: mesh, password: {SECRET}}}}}",
        broker.sasl_bootstrap()
    );
    let mut mesh = mesh.broker("b", "locked", "kafka: {}", &access).route(&healthy()).route(&route(
        "orders",
        "orders.>",
        "broker: locked, topic: \"{topic}\"",
        "",
    ));
    locked_out(&mut mesh, "locked", &source, &returned).await;
    let_in(&mut mesh, "right-password").await;
    assert_all(&client.consume("orders.new", 100, PATIENCE).await, 0..100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_for_rabbitmq_keeps_one_broker_out() {
    let broker = rabbitmq::RabbitMq::start().expect("RabbitMQ");
    let client = Client::RabbitMq(RabbitMq::new(&broker));
    client.prepare(&["orders.new"]).await;
    let (mesh, source) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, returned) = mesh.embedded("b", "returns");
    let access = client.access().replace("guest:guest", &format!("guest:{SECRET}"));
    let to = format!("broker: locked{}, topic: \"{{topic}}\"", client.place());
    let mut mesh = mesh
        .broker("b", "locked", "rabbitmq: {}", &access)
        .route(&healthy())
        .route(&route("orders", "orders.>", &to, ""));
    locked_out(&mut mesh, "locked", &source, &returned).await;
    let_in(&mut mesh, "guest").await;
    assert_all(&client.consume("orders.new", 100, PATIENCE).await, 0..100);
}
