//! A loop through somebody else's bridge: a route carries orders from A to B, and a program that knows nothing of the mesh copies them, with
//! all headers, from B's broker back to A's, or over a third cluster. Events go round once at most, wherever they entered and whoever was
//! there first. A program that makes new events of what it reads, and copies all headers too, is no bridge: what it makes goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use futures::StreamExt;
use longhaul_test_brokers::nats::Nats;
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Kafka};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};

const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS: u64 = 200;

async fn orders(server: &Nats) -> (jetstream::Context, jetstream::stream::Stream) {
    stream(server, "ORDERS", "orders.>").await
}

async fn stream(server: &Nats, name: &str, subjects: &str) -> (jetstream::Context, jetstream::stream::Stream) {
    let client = async_nats::connect(server.url()).await.expect("NATS answers");
    let context = jetstream::new(client);
    let config = jetstream::stream::Config { name: name.into(), subjects: vec![subjects.into()], ..Default::default() };
    let stream = context.create_stream(config).await.expect("a stream");
    (context, stream)
}

async fn messages(context: &jetstream::Context) -> u64 {
    messages_in(context, "ORDERS").await
}

async fn messages_in(context: &jetstream::Context, stream: &str) -> u64 {
    let mut stream = context.get_stream(stream).await.expect("the stream");
    stream.info().await.expect("NATS answers").state.messages
}

async fn publish(context: &jetstream::Context, first: u64) {
    for number in first..first + EVENTS {
        let subject = format!("orders.{}", number % 4);
        let acknowledged = context.publish(subject, number.to_string().into()).await.expect("NATS takes it");
        acknowledged.await.expect("NATS has it");
    }
}

/// Copies whatever is in `from`, now and later, with its headers as they are.
async fn bridge(from: jetstream::stream::Stream, to: jetstream::Context, copied: Arc<AtomicU64>) {
    let config = jetstream::consumer::pull::Config { durable_name: Some("bridge".into()), ..Default::default() };
    let consumer = from.create_consumer(config).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("a reader");
    while let Some(Ok(message)) = messages.next().await {
        let (subject, payload) = (message.subject.clone(), message.payload.clone());
        let published = match message.headers.clone() {
            Some(headers) => to.publish_with_headers(subject, headers, payload).await,
            None => to.publish(subject, payload).await,
        };
        published.expect("NATS takes it").await.expect("NATS has it");
        message.ack().await.expect("NATS answers");
        copied.fetch_add(1, Ordering::Relaxed);
    }
}

/// Every payload of a stream with how often it is there.
async fn copies(stream: &jetstream::stream::Stream, expected: u64) -> std::collections::BTreeMap<String, u64> {
    let config = jetstream::consumer::pull::OrderedConfig::default();
    let consumer = stream.create_consumer(config).await.expect("a consumer");
    let messages = consumer.messages().await.expect("a reader").take(usize::try_from(expected).expect("fits"));
    let counted = messages.fold(std::collections::BTreeMap::new(), async |mut counted, message| {
        let payload = String::from_utf8_lossy(&message.expect("a message").payload).into_owned();
        *counted.entry(payload).or_insert(0) += 1;
        counted
    });
    tokio::time::timeout(PATIENCE, counted).await.expect("the stream is read in time")
}

/// Waits until nothing has moved for some seconds: what goes round would move.
async fn wait_still<T: PartialEq + Copy>(mut counts: impl AsyncFnMut() -> T) -> T {
    let (mut last, mut since) = (None, std::time::Instant::now());
    until("all brokers stand still", PATIENCE, async || {
        let now = counts().await;
        if last != Some(now) {
            (last, since) = (Some(now), std::time::Instant::now());
        }
        (since.elapsed() > Duration::from_secs(4)).then_some(now)
    })
    .await
}

async fn refused(mesh: &Mesh) -> f64 {
    mesh.metric("a", "longhaul_refused_events_total", &["reason=\"loop\"", "route=\"orders\""]).await
}

async fn wait_refused(mesh: &Mesh, events: f64) {
    until("every event was seen to be a loop", PATIENCE, async || (refused(mesh).await >= events).then_some(())).await;
}

/// A refused event is passed over, and does not hold up what comes behind it.
async fn wait_level(mesh: &Mesh) {
    until("nothing is left behind", PATIENCE, async || {
        let flows = mesh.flows("a").await;
        let mut out = flows.iter().filter(|flow| flow.end == longhaul_router::End::Out);
        out.all(|flow| flow.lag_events.unwrap_or(0) == 0 && flow.fault.is_none()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_bridge_between_two_brokers_makes_no_loop() {
    let (nats_a, nats_b) = (Nats::start().expect("NATS"), Nats::start().expect("NATS"));
    let ((a, stream_a), (b, stream_b)) = (orders(&nats_a).await, orders(&nats_b).await);
    let access = |server: &Nats| format!("nats: {{servers: [\"{}\"]}}", server.url());
    let mut mesh = Mesh::new(&["a", "b"])
        .broker("a", "events", "nats: {}", &access(&nats_a))
        .broker("b", "events", "nats: {}", &access(&nats_b))
        .route(
            "name: orders\nfrom: {region: a, broker: events, topics: [\"orders.>\"]}\n\
             to: [{region: b, broker: events, topic: \"{topic}\"}]\nstart: earliest",
        );
    mesh.start().await;
    mesh.wait_streaming("a").await;
    let copied = Arc::new(AtomicU64::new(0));
    let foreign = tokio::spawn(bridge(stream_b.clone(), a.clone(), Arc::clone(&copied)));
    let counts = async || (messages(&a).await, messages(&b).await);

    // Entered at A: to B by the route, back to A by the bridge, and no further.
    publish(&a, 0).await;
    wait_refused(&mesh, EVENTS as f64).await;
    assert_eq!(wait_still(counts).await, (2 * EVENTS, EVENTS), "one extra copy in A, none in B");
    assert_eq!(copied.load(Ordering::Relaxed), EVENTS);

    // Entered at B: to A by the bridge first, to B by the route, back to A by the bridge, and no further.
    publish(&b, EVENTS).await;
    wait_refused(&mesh, 2.0 * EVENTS as f64).await;
    let (in_a, in_b) = wait_still(counts).await;
    assert_eq!((in_a, in_b), (4 * EVENTS, 3 * EVENTS), "at most one extra copy of each on each side");
    for (name, stream, all) in [("a", &stream_a, in_a), ("b", &stream_b, in_b)] {
        let counted = copies(stream, all).await;
        assert_eq!(counted.len() as u64, 2 * EVENTS, "every event is in {name}");
        let most = counted.values().max().copied().unwrap_or_default();
        assert!(most <= 2, "an event is {most} times in {name}");
    }
    assert!(!foreign.is_finished(), "the bridge runs");
    foreign.abort();
    wait_level(&mesh).await;
    assert_audits(&mesh, &["a", "b"]).await;
}

/// Copies what is in a topic, now and later, with key and headers as they are, until it is told to stop.
fn bridge_kafka(from: &str, to: &str, copied: &AtomicU64, stop: &AtomicBool) {
    let config = |bootstrap: &str| {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("log_level", "3");
        config
    };
    let mut reading = config(from);
    reading.set("group.id", "bridge").set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = reading.create().expect("good options");
    let producer: ThreadedProducer<DefaultProducerContext> = config(to).create().expect("good options");
    consumer.subscribe(&[TOPIC]).expect("a topic");
    while !stop.load(Ordering::Relaxed) {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.expect("Kafka answers").detach();
        let mut record = BaseRecord::to(TOPIC);
        record.key = message.key();
        record.payload = message.payload();
        record.headers = message.headers().cloned();
        assert!(producer.send(record).is_ok(), "librdkafka has room for a few hundred records");
        copied.fetch_add(1, Ordering::Relaxed);
    }
    producer.flush(PATIENCE).expect("Kafka has it");
}

const TOPIC: &str = "orders.new";

/// The same between two Kafka clusters, as a mirror of somebody else's would run there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_mirror_between_two_kafka_clusters_makes_no_loop() {
    let (kafka_a, kafka_b) = tokio::join!(started::kafka(), started::kafka());
    let (a, b) = (Client::Kafka(Kafka::new(&kafka_a)), Client::Kafka(Kafka::new(&kafka_b)));
    for client in [&a, &b] {
        client.prepare(&[TOPIC]).await;
    }
    let mut mesh = Mesh::new(&["a", "b"])
        .broker("a", "events", "kafka: {}", &a.access())
        .broker("b", "events", "kafka: {}", &b.access())
        .route(
            "name: orders\nfrom: {region: a, broker: events, topics: [\"orders.>\"]}\n\
             to: [{region: b, broker: events, topic: \"{topic}\"}]\nstart: earliest",
        );
    mesh.start().await;
    mesh.wait_streaming("a").await;
    let (copied, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let foreign = tokio::task::spawn_blocking({
        let (from, to) = (kafka_b.bootstrap().to_owned(), kafka_a.bootstrap().to_owned());
        let (copied, stop) = (Arc::clone(&copied), Arc::clone(&stop));
        move || bridge_kafka(&from, &to, &copied, &stop)
    });
    let counts = async || (a.count(TOPIC).await as u64, b.count(TOPIC).await as u64);
    let sample = |number| Sample::plain(TOPIC, number, 16, 100);
    let events = usize::try_from(EVENTS).expect("small");

    a.produce(&(0..events).map(sample).collect::<Vec<_>>()).await;
    wait_refused(&mesh, EVENTS as f64).await;
    assert_eq!(wait_still(counts).await, (2 * EVENTS, EVENTS), "one extra copy in A, none in B");
    b.produce(&(events..2 * events).map(sample).collect::<Vec<_>>()).await;
    wait_refused(&mesh, 2.0 * EVENTS as f64).await;
    let (in_a, in_b) = wait_still(counts).await;
    assert_eq!((in_a, in_b), (4 * EVENTS, 3 * EVENTS), "at most one extra copy of each on each side");
    for (name, client) in [("a", &a), ("b", &b)] {
        let mut times = vec![0; 2 * events];
        for arrived in client.consume(TOPIC, 2 * events, PATIENCE).await {
            times[arrived.event.number().expect("a number")] += 1;
        }
        assert!(times.iter().all(|times| (1..=2).contains(times)), "in {name}: {times:?}");
    }
    stop.store(true, Ordering::Relaxed);
    foreign.await.expect("the bridge ran to its end");
    wait_level(&mesh).await;
    assert_audits(&mesh, &["a", "b"]).await;
}

fn nats_route(from: &str, to: &str, topics: &str) -> String {
    format!(
        "name: {from}-to-{to}\nfrom: {{region: {from}, broker: events, topics: [\"{topics}\"]}}\n\
         to: [{{region: {to}, broker: events, topic: \"{{topic}}\"}}]\nstart: earliest"
    )
}

fn nats_mesh(servers: &[(&str, &Nats)]) -> Mesh {
    let regions: Vec<_> = servers.iter().map(|(region, _)| *region).collect();
    servers.iter().fold(Mesh::new(&regions), |mesh, (region, server)| {
        mesh.broker(region, "events", "nats: {}", &format!("nats: {{servers: [\"{}\"]}}", server.url()))
    })
}

/// Routes from A to B and from B to C, and somebody else's bridge from C to A.
async fn a_cycle_through_three_clusters(bridge_first: bool) {
    let servers = [(); 3].map(|()| Nats::start().expect("NATS"));
    let [nats_a, nats_b, nats_c] = &servers;
    let ((a, stream_a), (b, stream_b), (c, stream_c)) =
        (orders(nats_a).await, orders(nats_b).await, orders(nats_c).await);
    let mut mesh = nats_mesh(&[("a", nats_a), ("b", nats_b), ("c", nats_c)])
        .route(&nats_route("a", "b", "orders.>"))
        .route(&nats_route("b", "c", "orders.>"));
    let bridged = || tokio::spawn(bridge(stream_c.clone(), a.clone(), Arc::default()));
    let foreign = if bridge_first {
        let foreign = bridged();
        publish(&c, 0).await;
        until("the bridge has copied", PATIENCE, async || (messages(&a).await >= EVENTS).then_some(())).await;
        mesh.start().await;
        foreign
    } else {
        mesh.start().await;
        publish(&c, 0).await;
        bridged()
    };
    publish(&a, EVENTS).await;
    publish(&b, 2 * EVENTS).await;
    let counts = async || [messages(&a).await, messages(&b).await, messages(&c).await];
    until("every event is everywhere", PATIENCE, async || {
        counts().await.iter().all(|count| *count >= 3 * EVENTS).then_some(())
    })
    .await;
    let all = wait_still(counts).await;
    for (name, stream, all) in [("a", &stream_a, all[0]), ("b", &stream_b, all[1]), ("c", &stream_c, all[2])] {
        let counted = copies(stream, all).await;
        let most = counted.values().max().copied().unwrap_or_default();
        eprintln!(
            "{name}, bridge first {bridge_first}: {all} copies of {} events, at most {most} of one",
            counted.len()
        );
        assert_eq!(counted.len() as u64, 3 * EVENTS, "every event is in {name}");
        assert!(most <= 2, "an event is {most} times in {name}");
    }
    let refused = mesh.metric("a", "longhaul_refused_events_total", &["reason=\"loop\""]).await
        + mesh.metric("b", "longhaul_refused_events_total", &["reason=\"loop\""]).await;
    assert!(refused >= 3.0 * EVENTS as f64, "each event was seen to go round: {refused}");
    assert!(!foreign.is_finished(), "the bridge runs");
    foreign.abort();
    assert_audits(&mesh, &["a", "b", "c"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_through_three_clusters_ends_with_the_bridge_there_first() {
    a_cycle_through_three_clusters(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_through_three_clusters_ends_with_the_mesh_there_first() {
    a_cycle_through_three_clusters(false).await;
}

/// Makes a new event of each order, with all its headers.
async fn transform(from: jetstream::stream::Stream, to: jetstream::Context) {
    let config = jetstream::consumer::pull::Config { durable_name: Some("transform".into()), ..Default::default() };
    let consumer = from.create_consumer(config).await.expect("a consumer");
    let mut messages = consumer.messages().await.expect("a reader");
    while let Some(Ok(message)) = messages.next().await {
        let subject = message.subject.replace("orders.", "derived.");
        let payload = format!("made of {}", String::from_utf8_lossy(&message.payload));
        let headers = message.headers.clone().expect("Longhaul brought it, with headers");
        assert!(
            headers.iter().any(|(name, _)| name.to_string().to_lowercase().starts_with("longhaul-")),
            "{headers:?}"
        );
        let published = to.publish_with_headers(subject, headers, payload.into()).await;
        published.expect("NATS takes it").await.expect("NATS has it");
        message.ack().await.expect("NATS answers");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_copies_all_headers_makes_new_events() {
    let (nats_a, nats_b) = (Nats::start().expect("NATS"), Nats::start().expect("NATS"));
    let ((a, _), (b, stream_b)) = (orders(&nats_a).await, orders(&nats_b).await);
    let (_, derived_a) = stream(&nats_a, "DERIVED", "derived.>").await;
    stream(&nats_b, "DERIVED", "derived.>").await;
    let mut mesh = nats_mesh(&[("a", &nats_a), ("b", &nats_b)])
        .route(&nats_route("a", "b", "orders.>"))
        .route(&nats_route("b", "a", "derived.>"));
    mesh.start().await;
    let application = tokio::spawn(transform(stream_b, b.clone()));
    publish(&a, 0).await;
    let counts = async || {
        [messages(&a).await, messages(&b).await, messages_in(&b, "DERIVED").await, messages_in(&a, "DERIVED").await]
    };
    until("what was made has arrived", PATIENCE, async || (counts().await[3] >= EVENTS).then_some(())).await;
    assert_eq!(wait_still(counts).await, [EVENTS; 4], "each order and what was made of it, once on each side");
    let counted = copies(&derived_a, EVENTS).await;
    assert!(
        counted.len() as u64 == EVENTS && counted.keys().all(|payload| payload.starts_with("made of ")),
        "{counted:?}"
    );
    let refused = mesh.metric("b", "longhaul_refused_events_total", &["route=\"b-to-a\""]).await;
    assert_eq!(refused, 0.0, "what was made is no loop");
    assert!(!application.is_finished(), "the application runs");
    application.abort();
    assert_audits(&mesh, &["a", "b"]).await;
}
