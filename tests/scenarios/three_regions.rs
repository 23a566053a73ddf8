//! Kafka in eu-west, RabbitMQ in us-east, NATS JetStream in ap-south: what `kcat`, a RabbitMQ client and the `nats` client produce in any
//! region arrives in the two others, while every router is killed and started again.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use longhaul_test_brokers::debian;
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, EXCHANGE, Kafka, Nats, RabbitMq};
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::{Mesh, get};
use longhaul_tests::sample::{Arrived, Sample};
use longhaul_tests::started;

const REGIONS: [&str; 3] = ["eu-west", "us-east", "ap-south"];
/// One before, one after the death of each router.
const ROUNDS: usize = 4;
const PER_ROUND: usize = 500;
/// Of the first numbers of a round, with a header that the route does not take.
const INTERNAL: usize = 20;
/// Between the numbers of two rounds: `nats pub` counts its events from 1, and puts another digit before.
const ROUND: usize = 1_000_000;
const KEYS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// As `topology/three-regions.yaml` has them: every destination gets the topic under a prefix that says where it comes from.
const ROUTES: [&str; 3] = [
    "name: from-eu-west
from: {region: eu-west, broker: orders, topics: [\"orders.>\"]}
where: {not: {exact: {x-internal: \"true\"}}}
to:
  - {region: us-east, broker: billing, exchange: events, topic: \"eu.{topic}\"}
  - {region: ap-south, broker: analytics, topic: \"eu.{topic}\"}",
    "name: from-us-east
from: {region: us-east, broker: billing, exchange: events, topics: [\"invoices.>\", \"payments.>\"]}
to:
  - {region: eu-west, broker: orders, topic: \"us.{topic}\"}
  - {region: ap-south, broker: analytics, topic: \"us.{topic}\"}",
    "name: from-ap-south
from: {region: ap-south, broker: analytics, topics: [\"insights.>\"]}
to:
  - {region: eu-west, broker: orders, topic: \"ap.{topic}\"}
  - {region: us-east, broker: billing, exchange: events, topic: \"ap.{topic}\"}",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_regions() {
    let (kafka, rabbitmq, nats) = tokio::join!(started::kafka(), started::rabbitmq(), started::nats());
    let (bootstrap, url) = (kafka.bootstrap().to_owned(), nats.url());
    let cli = tokio::task::spawn_blocking(longhaul_test_brokers::nats::cli_binary).await.expect("it works");
    let cli = cli.expect("the nats client");
    let orders = Client::Kafka(Kafka::new(&kafka));
    let billing = Client::RabbitMq(RabbitMq::new(&rabbitmq));
    let analytics = Client::Nats(Nats::new(&nats));
    orders.prepare(&["orders.placed", "us.invoices.sent", "ap.insights.daily"]).await;
    billing.prepare(&["eu.orders.placed", "ap.insights.daily"]).await;
    analytics.prepare(&["insights.>", "eu.>", "us.>"]).await;
    assert_eq!(EXCHANGE, "events", "the routes name the clients' exchange");
    let mut mesh = Mesh::new(&REGIONS)
        .broker("eu-west", "orders", "kafka: {}", &orders.access())
        .broker("us-east", "billing", "rabbitmq: {}", &billing.access())
        .broker("ap-south", "analytics", "nats: {}", &analytics.access());
    for route in ROUTES {
        mesh = mesh.route(route);
    }
    mesh.start().await;
    for region in REGIONS {
        mesh.wait_streaming(region).await;
    }

    let begin = Instant::now();
    let mut sent = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let numbers = (1..=PER_ROUND).map(|n| (round + 1) * ROUND + n);
        let fresh = |topic| numbers.clone().map(|n| sample(topic, n)).collect::<Vec<_>>();
        let [eu, us, ap] = [fresh("orders.placed"), fresh("invoices.sent"), fresh("insights.daily")];
        tokio::task::block_in_place(|| kcat(&bootstrap, "made-by=kcat", &eu));
        // What the route's predicate leaves out.
        tokio::task::block_in_place(|| kcat(&bootstrap, "x-internal=true", &fresh("orders.placed")[..INTERNAL]));
        // The dead router comes back while the others produce.
        if let Some(region) = REGIONS.get(round) {
            mesh.kill(region);
        }
        billing.produce(&us).await;
        tokio::task::block_in_place(|| nats_pub(&cli.to_string_lossy(), &url, &ap));
        if let Some(region) = REGIONS.get(round) {
            mesh.start_router(region);
        }
        for (all, fresh) in sent.iter_mut().zip([eu, us, ap]) {
            all.extend(fresh);
        }
    }
    let [eu, us, ap] = &sent;
    for (what, client, topic, samples) in [
        ("Kafka to RabbitMQ", &billing, "eu.orders.placed", eu),
        ("Kafka to NATS", &analytics, "eu.orders.placed", eu),
        ("RabbitMQ to Kafka", &orders, "us.invoices.sent", us),
        ("RabbitMQ to NATS", &analytics, "us.invoices.sent", us),
        ("NATS to Kafka", &orders, "ap.insights.daily", ap),
        ("NATS to RabbitMQ", &billing, "ap.insights.daily", ap),
    ] {
        let arrived = client.consume(topic, samples.len(), PATIENCE).await;
        let verdict = judge(what, samples, &arrived, Compare::Content);
        println!("{what}: {verdict:?} after {:.1} s", begin.elapsed().as_secs_f64());
        // Without a key it is the stream that orders events, as long as they come into one queue; a Kafka topic has many partitions.
        if what == "NATS to RabbitMQ" {
            assert_in_order(what, &arrived);
        }
    }
    for (region, from, out) in [("eu-west", "Kafka", "from-eu-west"), ("us-east", "RabbitMQ", "from-us-east")] {
        println!("{region} reads {from}");
        assert_metrics(&mesh, region, out).await;
    }
    let labels = ["route=\"from-eu-west\"", "to=\"us-east/billing\"", "reason=\"predicate\""];
    let left_out = mesh.metric("eu-west", "longhaul_refused_events_total", &labels).await;
    assert!(left_out >= ((ROUNDS - 1) * INTERNAL) as f64, "{left_out} since the router was started again");
    assert_audits(&mesh, &REGIONS).await;
    for region in REGIONS {
        assert_eq!(mesh.terminate(region), Some(0), "{}", mesh.log(region));
    }
}

/// An event that all three clients can send: the payload is its number.
fn sample(topic: &str, number: usize) -> Sample {
    let key = (topic != "insights.daily").then(|| format!("key-{}", number % KEYS).into_bytes());
    Sample { topic: topic.to_owned(), key, headers: Vec::new(), payload: number.to_string().into_bytes() }
}

/// Each behind the ones that were published before it; repeats do not count.
fn assert_in_order(what: &str, arrived: &[Arrived]) {
    let mut newest = 0;
    let first = arrived.iter().filter_map(|arrival| arrival.event.number());
    let mut seen = std::collections::HashSet::new();
    for number in first.filter(|number| seen.insert(*number)) {
        assert!(number > newest, "{what}: {number} comes behind {newest}");
        newest = number;
    }
}

/// What a router that reads and writes must show, by the figures of a mesh in which events have moved.
async fn assert_metrics(mesh: &Mesh, region: &str, out: &str) {
    let out = format!("route=\"{out}\"");
    let moved = [
        ("longhaul_read_events_total", &*out),
        ("longhaul_read_bytes_total", &out),
        ("longhaul_sent_events_total", &out),
        ("longhaul_sent_bytes_total", &out),
        ("longhaul_received_events_total", ""),
        ("longhaul_received_bytes_total", ""),
        ("longhaul_delivered_events_total", ""),
        ("longhaul_delivered_bytes_total", ""),
        ("longhaul_end_to_end_seconds_count", ""),
        ("longhaul_flows_streaming", &out),
        ("longhaul_link_up", ""),
        ("longhaul_link_rtt_seconds", ""),
        ("longhaul_link_congestion_window_bytes", ""),
        ("longhaul_link_connects_total", ""),
        ("longhaul_broker_up", ""),
        ("longhaul_config_generation", ""),
        ("longhaul_certificate_expiry_timestamp_seconds", ""),
        ("longhaul_memory_budget_bytes", ""),
    ];
    for (name, label) in moved {
        assert!(mesh.metric(region, name, &[label]).await > 0.0, "{region}: {name} {label}");
    }
    let (_, text) = get(&format!("{}/metrics", mesh.admin_url(region))).await.expect("the API answers");
    // Nothing is behind any more, so these are there and may be 0.
    for name in [
        "longhaul_flow_lag_events",
        "longhaul_flow_lag_seconds",
        "longhaul_flow_oldest_unacknowledged_seconds",
        "longhaul_flow_credit_exhausted_seconds",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name) && line.contains(&out)), "{region}: {name}");
    }
    assert_eq!(mesh.metric(region, "longhaul_flows_unbalanced", &[]).await, 0.0, "{region}");
}

/// Produces with `kcat`: a line of a file is an event, its key before the colon.
fn kcat(bootstrap: &str, header: &str, samples: &[Sample]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    for sample in samples {
        let key = sample.key.as_deref().expect("every order has a key");
        let line = [key, b":", &sample.payload, b"\n"].concat();
        file.write_all(&line).expect("the file takes it");
    }
    file.flush().expect("the file takes it");
    let arguments = ["-P", "-b", bootstrap, "-t", "orders.placed", "-K", ":", "-H", header, "-l"];
    debian::provide("kcat", || debian::on_path("kcat").then_some(())).expect("kcat");
    let mut command = Command::new("kcat");
    run(command.args(arguments).arg(file.path()));
}

/// Produces with `nats pub`, which waits for JetStream. `insights.daily` has no key: the stream is what orders it.
fn nats_pub(cli: &str, url: &str, samples: &[Sample]) {
    let mut command = Command::new(cli);
    command.args(["--server", url, "--no-context", "pub", "insights.daily"]);
    command.args(["--jetstream", "--quiet", "--count", &samples.len().to_string()]);
    let round = samples[0].number().expect("every event has a number") / ROUND;
    command.arg(format!("{{{{printf \"{round}%06d\" Count}}}}"));
    run(&mut command);
}

fn run(command: &mut Command) {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.output().unwrap_or_else(|error| panic!("`{program}` is missing: install its package ({error})"));
    assert!(out.status.success(), "{program}: {}", String::from_utf8_lossy(&out.stderr));
}
