//! Kafka in eu-west, RabbitMQ in us-east, NATS JetStream in ap-south: what `kcat`, a RabbitMQ client and the `nats` client produce in any
//! region arrives in the two others, while every router is killed and started again.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use longhaul_test_brokers::debian;
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, EXCHANGE, Kafka, Nats, RabbitMq};
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;

const REGIONS: [&str; 3] = ["eu-west", "us-east", "ap-south"];
/// One before, one after the death of each router.
const ROUNDS: usize = 4;
const PER_ROUND: usize = 500;
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
        tokio::task::block_in_place(|| kcat(&bootstrap, &eu));
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
    }
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

/// Produces with `kcat`: a line of a file is an event, its key before the colon.
fn kcat(bootstrap: &str, samples: &[Sample]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    for sample in samples {
        let key = sample.key.as_deref().expect("every order has a key");
        let line = [key, b":", &sample.payload, b"\n"].concat();
        file.write_all(&line).expect("the file takes it");
    }
    file.flush().expect("the file takes it");
    let arguments = ["-P", "-b", bootstrap, "-t", "orders.placed", "-K", ":", "-H", "made-by=kcat", "-l"];
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
