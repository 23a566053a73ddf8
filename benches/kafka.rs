//! What do two routers cost between two Kafkas?
//!
//! A topic of 1 KiB events on 4 partitions is carried from one real Kafka to another: through two routers and QUIC, and by one process
//! that pipes librdkafka to librdkafka, in turns. The routers are the program itself (`make bench` builds it first), the pipe is what anybody
//! would write. Both promise the same: `acks=all`, idempotent. Required: 70 % of the pipe's rate, and
//! at most 1.6 times its CPU time per event, of both routers together. `LONGHAUL_BENCH_EVENTS` says how many events (1,500,000; fewer
//! leave the pipe no time to come to its steady state).
//!
//! With the argument `guarantees`: the same through two routers, at least once and effectively once in turns. Required: effectively
//! once keeps 75 % of the rate. Every event is read back and counted: a transaction leaves markers, which offsets count too.
#![expect(clippy::print_stdout, reason = "printing its figures is what a benchmark is for")]

use std::time::{Duration, Instant};

use longhaul_benches::child::Child;
use longhaul_benches::figures::{Spread, verdict};
use longhaul_benches::pipe::{self, PARTITIONS, SOURCE_TOPIC};
use longhaul_test_brokers::kafka::Kafka;
use longhaul_tests::mesh::{Mesh, program};

const REPETITIONS: usize = 3;
const EVENTS: u64 = 1_500_000;
const REQUIRED_RATE: f64 = 0.7;
const REQUIRED_CPU: f64 = 1.6;
const REQUIRED_ONCE: f64 = 0.75;
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(25);

struct Run {
    rate: f64,
    cpu_us: f64,
    /// Of each process.
    parts_us: Vec<f64>,
    peak_bytes: u64,
}

struct Clusters {
    from: Kafka,
    to: Kafka,
    events: u64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["pipe", from, to, topic] => pipe::run(from, to, topic),
        ["guarantees"] => compare_guarantees(),
        _ => compare(),
    }
}

fn compare() {
    let clusters = Clusters::fill();
    let events = clusters.events;
    let (mut piped, mut routed) = (Vec::new(), Vec::new());
    for nth in 0..REPETITIONS {
        piped.push(clusters.run_pipe(nth));
        routed.push(clusters.run_routers("at-least-once", nth));
    }
    println!("Kafka to Kafka, {events} events of 1 KiB, {PARTITIONS} partitions, {REPETITIONS} times each, in turns:");
    print_runs("pipe", &[], &piped);
    print_runs("two routers", &["far", "near"], &routed);
    let ratio = |figure: &dyn Fn(&Run) -> f64| {
        Spread::of(&routed.iter().zip(&piped).map(|(a, b)| figure(a) / figure(b)).collect::<Vec<_>>())
    };
    let (rate, cpu) = (ratio(&|run| run.rate), ratio(&|run| run.cpu_us));
    let met = verdict(rate.median() >= REQUIRED_RATE);
    println!("  ratio of rates  {rate:.2}   required at least {REQUIRED_RATE}: {met}");
    println!("  ratio of CPU    {cpu:.2}   required at most {REQUIRED_CPU}: {}", verdict(cpu.median() <= REQUIRED_CPU));
}

fn compare_guarantees() {
    let clusters = Clusters::fill();
    let (mut least, mut once) = (Vec::new(), Vec::new());
    for nth in 0..REPETITIONS {
        least.push(clusters.run_routers("at-least-once", nth));
        once.push(clusters.run_routers("effectively-once", nth));
    }
    let events = clusters.events;
    println!("Kafka to Kafka, {events} events of 1 KiB, {PARTITIONS} partitions, {REPETITIONS} times each, in turns:");
    print_runs("at least once", &["far", "near"], &least);
    print_runs("effectively once", &["far", "near"], &once);
    let ratios: Vec<f64> = once.iter().zip(&least).map(|(once, least)| once.rate / least.rate).collect();
    let rate = Spread::of(&ratios);
    println!(
        "  ratio of rates  {rate:.2}   required at least {REQUIRED_ONCE}: {}",
        verdict(rate.median() >= REQUIRED_ONCE)
    );
}

fn print_runs(name: &str, parts: &[&str], runs: &[Run]) {
    let spread = |figure: &dyn Fn(&Run) -> f64| Spread::of(&runs.iter().map(figure).collect::<Vec<_>>());
    println!("  {name:<14}  {:.0} events/s", spread(&|run| run.rate));
    println!("    CPU           {:.2} us/event", spread(&|run| run.cpu_us));
    for (part, name) in parts.iter().enumerate() {
        println!("      {name:<11} {:.2}", spread(&|run| run.parts_us[part]));
    }
    println!(
        "    peak memory   {:.0} MiB, the largest process",
        spread(&|run| run.peak_bytes as f64 / f64::from(1 << 20))
    );
}

impl Clusters {
    /// Both, and the source holds everything.
    fn fill() -> Self {
        let events =
            std::env::var("LONGHAUL_BENCH_EVENTS").map_or(EVENTS, |text| text.parse().expect("a number of events"));
        let start = || Kafka::start().expect("a Kafka");
        let clusters = Self { from: start(), to: start(), events };
        clusters.from.create_topic(SOURCE_TOPIC, PARTITIONS).expect("a topic");
        pipe::fill(clusters.from.bootstrap(), events);
        clusters
    }

    fn run_pipe(&self, nth: usize) -> Run {
        let topic = self.destination("piped", nth);
        let (pipe, _) = Child::start(&["pipe", self.from.bootstrap(), self.to.bootstrap(), &topic]);
        self.measure(&topic, &[pipe])
    }

    fn run_routers(&self, guarantee: &str, nth: usize) -> Run {
        let topic = self.destination(guarantee, nth);
        let access = |kafka: &Kafka| format!("kafka: {{bootstrap: [\"{}\"]}}", kafka.bootstrap());
        let mesh = Mesh::new(&["near", "far"])
            .broker("near", "orders", "kafka: {}", &access(&self.from))
            .broker("far", "copies", "kafka: {}", &access(&self.to))
            .route(&format!(
                "name: {topic}\nfrom: {{region: near, broker: orders, topics: [\"{SOURCE_TOPIC}\"]}}\n\
                 to: [{{region: far, broker: copies, topic: \"{topic}\"}}]\nstart: earliest\nguarantee: {guarantee}"
            ));
        mesh.write_all();
        let program = program();
        let router = |region: &str| {
            let document = mesh.router_document(region);
            let document = document.to_str().expect("a plain name");
            Child::start_program(&program, &["--log", "warn", "run", "--config", document])
        };
        let routers = [router("far"), router("near")];
        self.measure(&topic, &routers)
    }

    fn destination(&self, what: &str, nth: usize) -> String {
        let topic = format!("{what}-{nth}");
        self.to.create_topic(&topic, PARTITIONS).expect("a topic");
        topic
    }

    /// From a twentieth on, when everybody is under way, to the end.
    fn measure(&self, topic: &str, children: &[Child]) -> Run {
        let consumer = pipe::consumer(self.to.bootstrap());
        let cpu = || children.iter().map(Child::cpu).collect::<Vec<_>>();
        let started = Instant::now();
        let wait_for = |events: u64| loop {
            let count = pipe::count(&consumer, topic).unwrap_or_default();
            if count >= events {
                return (Instant::now(), count, cpu());
            }
            assert!(
                started.elapsed() < PATIENCE,
                "{count} of {} have arrived on {topic} after {PATIENCE:?}",
                self.events
            );
            // Other processes move when they move; looking takes some of their time.
            std::thread::sleep(LOOK_EVERY);
        };
        let (before, after) = (wait_for(self.events / 20), wait_for(self.events));
        let events = (after.1 - before.1) as f64;
        // Something sent twice would show by now.
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(pipe::read_to_end(&consumer, topic), self.events, "every event arrives once");
        let part = |(after, before): (&Duration, &Duration)| (*after - *before).as_secs_f64() * 1e6 / events;
        let parts_us: Vec<f64> = after.2.iter().zip(&before.2).map(part).collect();
        Run {
            rate: events / (after.0 - before.0).as_secs_f64(),
            cpu_us: parts_us.iter().sum(),
            parts_us,
            peak_bytes: children.iter().map(Child::peak_bytes).max().unwrap_or_default(),
        }
    }
}
