//! Every ordered pair of Kafka, RabbitMQ, JetStream and the embedded broker, all in one mesh of two regions: 10,000 odd events of each
//! source arrive complete, in order per key, once, and exactly as they were where the kinds are equal.

use std::time::{Duration, Instant};

use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, EXCHANGE, Embedded, Kafka, Nats, RabbitMq, TYPED};
use longhaul_tests::judge::{Compare, Verdict, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::{NUMBER, Sample};
use longhaul_tests::started;

const EVENTS: usize = 10_000;
const KEYS: usize = 64;
const MIB: usize = 1 << 20;
/// Without any further event.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_pair() {
    let ((kafka_a, kafka_b), (rabbit_a, rabbit_b), (nats_a, nats_b)) = tokio::join!(
        async { tokio::join!(started::kafka(), started::kafka()) },
        async { tokio::join!(started::rabbitmq(), started::rabbitmq()) },
        async { tokio::join!(started::nats(), started::nats()) },
    );
    let mesh = Mesh::new(&["eu-west", "us-east"]).event_max("2MiB");
    let (mesh, embedded_a) = mesh.embedded("eu-west", "embedded");
    let (mut mesh, embedded_b) = mesh.embedded("us-east", "embedded");
    let sources = clients(&kafka_a, &rabbit_a, &nats_a, &embedded_a);
    let sinks = clients(&kafka_b, &rabbit_b, &nats_b, &embedded_b);
    for source in &sources {
        source.prepare(&[&produced(source)]).await;
    }
    let arrivals: Vec<String> = sources.iter().map(arrival).collect();
    let arrivals: Vec<&str> = arrivals.iter().map(String::as_str).collect();
    for sink in &sinks {
        sink.prepare(&arrivals).await;
    }
    for (region, clients) in [("eu-west", &sources), ("us-east", &sinks)] {
        for client in clients.iter().filter(|client| client.kind() != "embedded") {
            mesh = mesh.broker(region, client.kind(), &format!("{}: {{}}", client.kind()), &client.access());
        }
    }
    for source in &sources {
        mesh = mesh.route(&route(source, &sinks));
    }
    mesh.start().await;
    mesh.wait_streaming("eu-west").await;

    let begin = Instant::now();
    let samples: Vec<Vec<Sample>> =
        sources.iter().map(|source| (0..EVENTS).map(|n| odd(source, n)).collect()).collect();
    let produce = sources.iter().zip(&samples).map(|(source, samples)| source.produce(samples));
    futures::future::join_all(produce).await;
    println!("produced {} events in {:.1} s", EVENTS * sources.len(), begin.elapsed().as_secs_f64());

    for (source, samples) in sources.iter().zip(&samples) {
        // What an ordinary client reads at the source is what a destination of that kind must give back.
        let restored = source.consume(&produced(source), EVENTS, PATIENCE).await;
        let restored: Vec<Sample> = restored.into_iter().map(|arrived| arrived.event).collect();
        assert_eq!(restored.len(), EVENTS, "the source {} holds what was produced", source.kind());
        for sink in &sinks {
            let what = format!("{} to {}", source.kind(), sink.kind());
            let arrived = sink.consume(&arrival(source), EVENTS, PATIENCE).await;
            let (expected, compare) = match source.kind() == sink.kind() {
                true => (&restored, Compare::Exact),
                false => (samples, Compare::Content),
            };
            let verdict = judge(&what, expected, &arrived, compare);
            assert_eq!(
                verdict,
                Verdict { events: EVENTS, duplicates: 0 },
                "{what}: nothing crashed, nothing is repeated"
            );
            println!("{what}: complete after {:.1} s", begin.elapsed().as_secs_f64());
        }
    }
    assert_audits(&mesh, &["eu-west", "us-east"]).await;
    for region in ["eu-west", "us-east"] {
        assert_eq!(mesh.terminate(region), Some(0), "{}", mesh.log(region));
    }
}

fn clients(
    kafka: &longhaul_test_brokers::kafka::Kafka,
    rabbitmq: &longhaul_test_brokers::rabbitmq::RabbitMq,
    nats: &longhaul_test_brokers::nats::Nats,
    embedded: &str,
) -> [Client; 4] {
    [
        Client::Kafka(Kafka::new(kafka)),
        Client::RabbitMq(RabbitMq::new(rabbitmq)),
        Client::Nats(Nats::new(nats)),
        Client::Embedded(Embedded::new(embedded)),
    ]
}

fn produced(source: &Client) -> String {
    format!("pairs.{}", source.kind())
}

fn arrival(source: &Client) -> String {
    format!("in.{}", source.kind())
}

fn route(source: &Client, sinks: &[Client]) -> String {
    let kind = source.kind();
    let exchange = if kind == "rabbitmq" { format!(", exchange: {EXCHANGE}") } else { String::new() };
    let mut text =
        format!("name: from-{kind}\nfrom: {{region: eu-west, broker: {kind}{exchange}, topics: [pairs.{kind}]}}\nto:");
    for sink in sinks {
        text += &format!("\n  - {{region: us-east, broker: {}{}, topic: in.{kind}}}", sink.kind(), sink.place());
    }
    text
}

/// Event `n` with whatever the source's own clients can say.
fn odd(source: &Client, n: usize) -> Sample {
    let mut sample = Sample::plain(&produced(source), n, KEYS, 100);
    match n % 2_000 {
        3 => sample.payload = vec![b'x'; MIB],
        7 | 1_007 => sample.payload = (0..=255).cycle().take(MIB - 1 - n).collect(),
        _ if n % 50 == 11 => sample.payload.clear(),
        _ if n % 3 == 1 => sample.payload.extend(0..=255),
        _ => {}
    }
    if n % 100 == 99 {
        sample.key = None;
    }
    let headers = &mut sample.headers;
    let mut push = |name: &str, value: &[u8]| headers.push((name.to_owned(), value.to_vec()));
    if n % 5 == 2 {
        push("empty", b"");
    }
    if n % 7 == 3 {
        push("text", "größer, 大きい; \"quoted\" = yes".as_bytes());
    }
    if n % 1_000 == 501 {
        push("large", &vec![b'h'; 16 << 10]);
    }
    match source.kind() {
        "kafka" => {
            if n % 11 == 4 {
                push("binary", &(0..=255).collect::<Vec<u8>>());
            }
            if n % 13 == 5 {
                push("Repeat", b"1");
                push("between", b"\0");
                push("Repeat", b"2");
                push("repeat", b"3");
                push("", b"no name");
            }
        }
        "rabbitmq" => {
            if n % 11 == 4 {
                push("binary", &(0..=255).collect::<Vec<u8>>());
            }
            if n % 13 == 5 {
                push(TYPED, (n as i64 - 5_000).to_string().as_bytes());
            }
        }
        "nats" if n % 13 == 5 => {
            push("Repeat", b"1");
            push("between", b"x");
            push("Repeat", b"2");
            push("repeat", b"3");
        }
        "embedded" => {
            if n % 11 == 4 {
                push("binary", &(0x80..=0xff).collect::<Vec<u8>>());
            }
            if n % 13 == 5 {
                push("repeat", b"1");
                push("between", b"x");
                push("repeat", b"2");
            }
        }
        _ => {}
    }
    debug_assert_eq!(sample.headers[0].0, NUMBER);
    sample
}
