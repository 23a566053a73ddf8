//! `longhaul tap` beside real routers, from Kafka to RabbitMQ and back: by its correlation id, whichever way it is spelt, one event is found in both
//! regions and no other; what can never come is refused; and a tap that is stopped holds nothing up.
#![expect(clippy::print_stdout, reason = "figures are part of what a scenario shows")]

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use longhaul_router::{End, Outcome, TapEvent, TapLine};
use longhaul_tests::client::{Client, EXCHANGE, Kafka, RabbitMq};
use longhaul_tests::http::call;
use longhaul_tests::mesh::{Mesh, program};
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const PATIENCE: Duration = Duration::from_secs(90);
/// What `Mesh` writes into every router document.
const TOKEN: &str = "test-token";
const EVENTS: usize = 40;
/// Number of the event, header in Kafka, and where it is found again: in RabbitMQ.
const FROM_KAFKA: [(usize, &str, &str); 3] = [
    (3, "ce_correlationid", "cloudEvents_correlationid"),
    (14, "correlation_id", "correlation_id"),
    (15, "amqp.correlation_id", "amqp.correlation_id"),
];
/// The same from RabbitMQ to Kafka; the last one is the property.
const FROM_RABBITMQ: [(usize, &str, &str); 3] = [
    (4, "cloudEvents_correlationid", "ce_correlationid"),
    (16, "correlation_id", "correlation_id"),
    (17, "amqp.correlation_id", "amqp.correlation_id"),
];
const FLOOD: usize = 10_000;

/// A running `longhaul tap`; killed when dropped.
struct Tapping {
    child: Child,
    output: PathBuf,
}

impl Drop for Tapping {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Tapping {
    /// Starts one that prints JSON, and waits until the router has it.
    async fn start(mesh: &Mesh, region: &str, name: &str, arguments: &[&str]) -> Self {
        let opened = || mesh.log(region).matches("a tap was opened").count();
        let (before, output) = (opened(), mesh.folder().join(format!("tap-{region}-{name}")));
        let file = File::create(&output).expect("a file");
        let mut command = tap(mesh, region, arguments);
        let child = command.arg("--json").stdout(file).spawn().expect("the program starts");
        until("the tap is open", PATIENCE, async || (opened() > before).then_some(())).await;
        Self { child, output }
    }

    /// What it has printed so far, whole lines.
    fn lines(&self) -> Vec<TapLine> {
        let text = std::fs::read_to_string(&self.output).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    fn events(&self) -> Vec<TapEvent> {
        let event = |line| match line {
            TapLine::Event(event) => Some(*event),
            TapLine::Missed { .. } => None,
        };
        self.lines().into_iter().filter_map(event).collect()
    }

    /// How many events it has shown, and how many it says that it has not.
    fn counted(&self) -> (usize, u64) {
        let missed = self.lines().into_iter().map(|line| match line {
            TapLine::Event(_) => 0,
            TapLine::Missed { missed, .. } => missed,
        });
        (self.events().len(), missed.sum())
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }
}

fn tap(mesh: &Mesh, region: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("tap").args(arguments).args(["--admin", &mesh.admin_url(region)]).env("LONGHAUL_ADMIN_TOKEN", TOKEN);
    command.env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

fn run(mut command: Command) -> Output {
    tokio::task::block_in_place(|| command.output()).expect("the program runs")
}

/// Not only letters, so that whoever changes a byte of it is noticed.
fn correlation(topic: &str, number: usize) -> String {
    format!("{topic} #{number}/ü%20")
}

fn samples(topic: &str, correlated: &[(usize, &str, &str)]) -> Vec<Sample> {
    let mut samples = Sample::plain_many(topic, EVENTS, 1, 100);
    for (number, header, _) in correlated {
        let headers = &mut samples[*number].headers;
        headers.push(((*header).to_owned(), correlation(topic, *number).into_bytes()));
        // Without it the attribute of a CloudEvent is a header like any other.
        if let Some(prefix) = header.strip_suffix("correlationid") {
            headers.push((format!("{prefix}specversion"), b"1.0".to_vec()));
        }
    }
    samples
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_event_is_found_by_its_correlation_id_in_both_regions() {
    let (kafka, rabbitmq) = tokio::join!(started::kafka(), started::rabbitmq());
    let (orders, billing) = (Client::Kafka(Kafka::new(&kafka)), Client::RabbitMq(RabbitMq::new(&rabbitmq)));
    orders.prepare(&["orders.new", "in.bills.new"]).await;
    billing.prepare(&["in.orders.new"]).await;
    let mut mesh = Mesh::new(&["a", "b"])
        .broker("a", "orders", "kafka: {}", &orders.access())
        .broker("b", "billing", "rabbitmq: {}", &billing.access())
        .route(&format!(
            "name: orders\nfrom: {{region: a, broker: orders, topics: [\"orders.>\"]}}\nstart: earliest\n\
             to: [{{region: b, broker: billing, exchange: {EXCHANGE}, topic: \"in.{{topic}}\"}}]"
        ))
        .route(&format!(
            "name: bills\nfrom: {{region: b, broker: billing, exchange: {EXCHANGE}, topics: [\"bills.>\"]}}\n\
             to: [{{region: a, broker: orders, topic: \"in.{{topic}}\"}}]"
        ));
    mesh.start().await;
    mesh.wait_streaming("a").await;
    mesh.wait_streaming("b").await;

    for (topic, route, [source, sink], [from, to], forms) in [
        ("orders.new", "orders", [&orders, &billing], ["a", "b"], FROM_KAFKA),
        ("bills.new", "bills", [&billing, &orders], ["b", "a"], FROM_RABBITMQ),
    ] {
        let mut taps = Vec::new();
        for (number, ..) in forms {
            let id = correlation(topic, number);
            for region in [from, to] {
                taps.push(Tapping::start(&mesh, region, &format!("{route}-{number}"), &["--correlation", &id]).await);
            }
        }
        let arguments = ["--route", route, "--topic", "in.*.new", "--to", to, "--count", "2"];
        let mut two = Tapping::start(&mesh, to, &format!("{route}-two"), &arguments).await;
        source.produce(&samples(topic, &forms)).await;

        let arrived = sink.consume(&format!("in.{topic}"), EVENTS, PATIENCE).await;
        assert_eq!(arrived.len(), EVENTS);
        for (at, (number, _, header_there)) in forms.iter().enumerate() {
            let id = correlation(topic, *number);
            let one = arrived.iter().find(|one| one.event.number() == Some(*number)).expect("it arrived");
            assert_eq!(one.header(header_there), Some(&*id), "{one:?}");
            for (tap, end) in taps[2 * at..].iter().zip([End::Out, End::In]) {
                let what = format!("{} shows {id}", tap.output.display());
                until(&what, PATIENCE, async || (!tap.events().is_empty()).then_some(())).await;
                let events = tap.events();
                let [event] = &events[..] else { panic!("more than one is shown: {events:?}") };
                let (outcome, topic) = match end {
                    End::Out => (Outcome::Sent, topic.to_owned()),
                    End::In => (Outcome::Delivered, format!("in.{topic}")),
                };
                assert_eq!((event.end, event.outcome, &event.topic), (end, outcome, &topic));
                assert_eq!((event.correlation_id.as_deref(), event.route.as_str()), (Some(&*id), route));
                assert_eq!(event.key.as_deref(), Some("key-0"));
                // The identity that the consumer sees, and that traces and logs have.
                assert_eq!(Some(&event.event), one.id.as_ref());
            }
        }
        drop(taps);
        let ended = until("it ends by itself", PATIENCE, async || two.child.try_wait().expect("a child")).await;
        assert!(ended.success() && two.counted() == (2, 0), "{ended:?} {:?}", two.lines());
    }

    assert_refusals(&mesh).await;
    assert_columns(&mesh, &orders).await;
    assert_holds_nothing_up(&mesh, &orders, &billing).await;
    for region in ["a", "b"] {
        assert_eq!(mesh.terminate(region), Some(0), "{}", mesh.log(region));
    }
}

/// What is wrong is said at once, instead of waiting for what never comes.
async fn assert_refusals(mesh: &Mesh) {
    for (arguments, code, says) in [
        (&["--topic", "a.>.b"][..], 2, "`>` takes the rest of a topic"),
        (&["--route", "nope"], 1, "there is no route called \"nope\"; there are "),
        (&["--from", "b", "--route", "orders"], 1, "the route orders does not go from b to anywhere"),
        (&["--outcome", "lost"], 1, "there is no \"lost\"; there are sent, "),
        (&["--event", "4711"], 1, "an identity is 32 hex digits"),
    ] {
        let output = run(tap(mesh, "a", arguments));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(code) && said.contains(says), "{arguments:?}: {output:?}");
    }
    let mut without = tap(mesh, "a", &[]);
    without.env_remove("LONGHAUL_ADMIN_TOKEN");
    let output = run(without);
    assert!(String::from_utf8_lossy(&output.stderr).contains("this needs the bearer token"), "{output:?}");
    let authorization = [("authorization", "Bearer test-token")];
    let (status, said) = call("GET", &format!("{}/v1/tap?rout=orders", mesh.admin_url("a")), &authorization, "")
        .await
        .expect("the router answers");
    assert!(status == 400 && said.contains("unknown field `rout`"), "{status} {said}");
}

/// For people: headings, then a line.
async fn assert_columns(mesh: &Mesh, source: &Client) {
    let opened = mesh.log("a").matches("a tap was opened").count();
    let mut command = tap(mesh, "a", &["--count", "1", "--key", "of-its-own"]);
    let child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
    let is_open = || mesh.log("a").matches("a tap was opened").count() > opened;
    until("the tap is open", PATIENCE, async || is_open().then_some(())).await;
    let mut sample = Sample::plain("orders.new", EVENTS, 1, 100);
    sample.key = Some(b"of-its-own".to_vec());
    source.produce(&[sample]).await;
    let output = tokio::task::block_in_place(|| child.wait_with_output()).expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = text.lines().collect();
    let [headings, line] = lines[..] else { panic!("{text}") };
    assert!(headings.starts_with("TIME ") && headings.contains("CORRELATION ID"), "{text}");
    for part in [" sent ", " orders ", "a/orders/orders.new", "b/billing", " of-its-own "] {
        assert!(line.contains(part), "{part}: {text}");
    }
}

/// Everything goes its way while taps of both routers are stopped; what they have not shown, they say: together it is what the routers count.
async fn assert_holds_nothing_up(mesh: &Mesh, source: &Client, sink: &Client) {
    sink.consume("in.orders.new", 1, PATIENCE).await;
    let flood: Vec<_> = (0..FLOOD).map(|at| Sample::plain("orders.new", 1_000 + at, 100, 200)).collect();
    let send = async |there: usize| {
        let began = Instant::now();
        source.produce(&flood).await;
        until("everything is there", PATIENCE, async || (sink.count("in.orders.new").await >= there).then_some(()))
            .await;
        began.elapsed()
    };
    let untapped = send(FLOOD).await;
    wait_at_rest(mesh).await;
    let ends = [("a", "sent", "longhaul_sent_events_total"), ("b", "delivered", "longhaul_delivered_events_total")];
    let mut taps = Vec::new();
    for (region, outcome, metric) in ends {
        let before = mesh.metric(region, metric, &["route=\"orders\""]).await;
        let tap = Tapping::start(mesh, region, "stopped", &["--route", "orders", "--outcome", outcome]).await;
        tap.signal("-STOP");
        taps.push((tap, region, metric, before));
    }
    let tapped = send(2 * FLOOD).await;
    wait_at_rest(mesh).await;
    println!("{FLOOD} events took {untapped:?} untapped, {tapped:?} while taps were stopped");
    for (tap, region, metric, before) in taps {
        tap.signal("-CONT");
        // Repeats, after a link was cut on a busy machine, are counted and shown alike.
        let passed = (mesh.metric(region, metric, &["route=\"orders\""]).await - before) as u64;
        let sum = |(shown, missed)| u64::try_from(shown).expect("fits") + missed;
        until("every event is shown or counted", PATIENCE, async || (sum(tap.counted()) >= passed).then_some(())).await;
        let (shown, missed) = tap.counted();
        println!("{region}: {shown} shown, {missed} not, of {passed}");
        assert!(sum((shown, missed)) == passed && shown >= 1_000 && missed > 0, "{shown} {missed} {passed}");
    }
}

/// Waits until nothing is under way on any flow.
async fn wait_at_rest(mesh: &Mesh) {
    until("nothing is under way", PATIENCE, async || {
        let flows = [mesh.flows("a").await, mesh.flows("b").await].concat();
        flows.iter().all(|flow| flow.audit.under_way == 0).then_some(())
    })
    .await;
}
