//! The table of guarantees, every cell of it, with real brokers: seven kinds of sources in one region, eight kinds of destinations in
//! another, a route for each pair that promises the most it can. Both routers, twice in each round, and all six brokers are killed in turn,
//! each at a drawn moment while events of all other sources are published; how many kills a cell saw is counted by whose end they were.
//! In the end: what is effectively once is there exactly once, what is at least once is there and repeats have the identity of the first,
//! of core NATS, which confirms nothing, it is counted what was lost, and the books of every flow balance.
//!
//! `LONGHAUL_KILL_ROUNDS` says how many rounds (1), `LONGHAUL_EVENTS` how many events of each source (4,000), `LONGHAUL_KILL_SEED` with
//! which dice (the clock).

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use longhaul_test_brokers::{kafka, nats, rabbitmq};
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Embedded, Kafka, Listener, Nats, RabbitMq};
use longhaul_tests::dice::{Dice, number};
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::{Arrived, Sample};
use longhaul_tests::started;

const KEYS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(120);
/// How many destinations are read at the same time.
const READ_AT_ONCE: usize = 6;
/// A kill comes within this time, in which the events of its step are published a few at a time.
const STEP: Duration = Duration::from_millis(800);
const BURST: usize = 50;
/// For each cell and round: the routers twice, its brokers once.
const KILLS_MIN: usize = 4;

/// Who is killed: a router or a broker, of region a or b.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Router(usize),
    Kafka(usize),
    Nats(usize),
    RabbitMq(usize),
}

use Victim::{Kafka as KafkaOf, Nats as NatsOf, RabbitMq as RabbitMqOf, Router};

/// In the order of a round.
const VICTIMS: [Victim; 10] = [
    Router(0),
    KafkaOf(0),
    NatsOf(0),
    RabbitMqOf(0),
    Router(1),
    KafkaOf(1),
    NatsOf(1),
    RabbitMqOf(1),
    Router(0),
    Router(1),
];

/// What a cell promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    Once,
    AtLeastOnce,
    AtMostOnce,
}

use Promise::{AtLeastOnce, AtMostOnce, Once};

/// The sources: name, what a route says, the most that it can promise, and who holds its events.
const ROWS: [(&str, &str, Promise, Victim); 7] = [
    ("kafka", "broker: kafka, topics: [\"src.>\"]", Once, KafkaOf(0)),
    ("jetstream", "broker: jetstream, topics: [\"src.>\"]", Once, NatsOf(0)),
    ("captured", "broker: core, topics: [\"caught.>\"], capture: true", Once, NatsOf(0)),
    ("embedded", "broker: local, topics: [\"src.>\"]", Once, Router(0)),
    ("stream", "broker: rabbitmq, stream: log", Once, RabbitMqOf(0)),
    ("queue", "broker: rabbitmq, exchange: events, topics: [\"src.>\"]", AtLeastOnce, RabbitMqOf(0)),
    ("core", "broker: core, topics: [\"bare.>\"], core: true", AtMostOnce, NatsOf(0)),
];
/// The destinations. `ROW` is the name of the source.
const COLUMNS: [(&str, &str, Promise, Victim); 8] = [
    ("kafka", "broker: kafka, topic: kafka.ROW", Once, KafkaOf(1)),
    ("alo", "broker: alo, topic: alo.ROW", AtLeastOnce, KafkaOf(1)),
    ("atomic", "broker: atomic, topic: atomic.ROW", Once, NatsOf(1)),
    ("ids", "broker: ids, topic: ids.ROW", Once, NatsOf(1)),
    ("embedded", "broker: local, topic: embedded.ROW", Once, Router(1)),
    ("queue", "broker: rabbitmq, exchange: events, topic: queue.ROW", AtLeastOnce, RabbitMqOf(1)),
    ("stream", "broker: log, stream: log.ROW", AtLeastOnce, RabbitMqOf(1)),
    ("core", "broker: core, core: true, topic: core.ROW", AtMostOnce, NatsOf(1)),
];

/// How many of these kills a cell saw: of its routers, and of what holds its events at either end.
fn kills(row: usize, column: usize, killed: &[Victim]) -> usize {
    let ends = [Router(0), Router(1), ROWS[row].3, COLUMNS[column].3];
    killed.iter().filter(|victim| ends.contains(victim)).count()
}

/// The weaker of the two ends.
fn promise(row: usize, column: usize) -> Promise {
    let ends = [ROWS[row].2, COLUMNS[column].2];
    [AtMostOnce, AtLeastOnce].into_iter().find(|weak| ends.contains(weak)).unwrap_or(Once)
}

fn routes(row: usize) -> Vec<String> {
    let (name, from, ..) = ROWS[row];
    let route = |(wanted, word): (Promise, &str)| {
        let to: Vec<_> = (0..COLUMNS.len())
            .filter(|column| promise(row, *column) == wanted)
            .map(|column| format!("  - {{region: b, {}}}", COLUMNS[column].1.replace("ROW", name)))
            .collect();
        let head = format!("name: {name}-{word}\nfrom: {{region: a, {from}}}\nguarantee: {word}\nto:\n");
        (!to.is_empty()).then(|| head + &to.join("\n"))
    };
    let words = [(Once, "effectively-once"), (AtLeastOnce, "at-least-once"), (AtMostOnce, "at-most-once")];
    words.into_iter().filter_map(route).collect()
}

/// The brokers of a region.
struct Brokers {
    kafka: kafka::Kafka,
    nats: nats::Nats,
    rabbitmq: rabbitmq::RabbitMq,
}

impl Brokers {
    async fn start() -> Self {
        let (kafka, rabbitmq, nats) = tokio::join!(started::kafka(), started::rabbitmq(), started::nats());
        Self { kafka, nats, rabbitmq }
    }

    /// Kills one as a crash would, and starts it again.
    fn crash(&mut self, victim: Victim) {
        match victim {
            KafkaOf(_) => {
                self.kafka.kill();
                self.kafka.restart().expect("Kafka starts again");
            }
            NatsOf(_) => {
                self.nats.kill();
                self.nats.restart().expect("NATS starts again");
            }
            RabbitMqOf(_) => {
                self.rabbitmq.kill().expect("RabbitMQ dies");
                self.rabbitmq.restart().expect("RabbitMQ starts again");
            }
            Router(_) => {}
        }
    }
}

/// Where events come from.
struct Sources {
    /// With who holds what they publish.
    confirming: [(Victim, Client); 4],
    core: Nats,
}

impl Sources {
    /// The next events, a few at a time, into all sources but, or into none but, those that this victim holds.
    async fn produce(&self, numbers: Range<usize>, victim: Victim, of_victim: bool) {
        let some = |topic: &str, from: usize, to: usize| -> Vec<Sample> {
            (from..to).map(|number| Sample::plain(topic, number, KEYS, 100)).collect()
        };
        let confirming = self.confirming.iter().filter(|(holder, _)| (*holder == victim) == of_victim);
        let confirming: Vec<&Client> = confirming.map(|(_, source)| source).collect();
        let bursts = numbers.len().div_ceil(BURST).max(1);
        let mut from = numbers.start;
        while from < numbers.end {
            let to = (from + BURST).min(numbers.end);
            let samples = some("src.t", from, to);
            let confirmed: Vec<_> = confirming.iter().map(|source| source.produce(&samples)).collect();
            futures::future::join_all(confirmed).await;
            if (victim == NatsOf(0)) == of_victim {
                self.core.produce_unconfirmed(&some("bare.t", from, to)).await;
                self.core.produce_captured(&some("caught.t", from, to)).await;
            }
            if !of_victim {
                // Spread over the step, so that something is under way whenever the kill comes.
                tokio::time::sleep(STEP / u32::try_from(bursts).expect("few")).await;
            }
            from = to;
        }
    }
}

struct Table {
    mesh: Mesh,
    brokers: [Brokers; 2],
    sources: Arc<Sources>,
    /// Kafka, atomic, ids, embedded, queue.
    sinks: [Client; 5],
    log_source: RabbitMq,
    log_sink: RabbitMq,
    core_sink: Listener,
}

impl Table {
    async fn start() -> Self {
        let brokers: [Brokers; 2] = tokio::join!(Brokers::start(), Brokers::start()).into();
        let [a, b] = &brokers;
        let (mesh, local_a) = Mesh::new(&["a", "b"]).memory("512MiB").embedded("a", "local");
        let (mut mesh, local_b) = mesh.embedded("b", "local");
        let sources = [
            Client::Kafka(Kafka::new(&a.kafka)),
            Client::Nats(Nats::new(&a.nats)),
            Client::Embedded(Embedded::new(&local_a)),
            Client::RabbitMq(RabbitMq::new(&a.rabbitmq)),
        ];
        let sinks = [
            Client::Kafka(Kafka::new(&b.kafka)),
            Client::Nats(Nats::new(&b.nats).atomic("ATOMIC")),
            Client::Nats(Nats::new(&b.nats)),
            Client::Embedded(Embedded::new(&local_b)),
            Client::RabbitMq(RabbitMq::new(&b.rabbitmq)),
        ];
        let named = |column: &str| ROWS.map(|(row, ..)| format!("{column}.{row}"));
        for (client, topics) in [(&sources[0], "src.t"), (&sources[1], "src.>"), (&sources[3], "src.t")] {
            client.prepare(&[topics]).await;
        }
        let [from_kafka, from_jetstream, _, from_rabbitmq] = &sources;
        let log_source = RabbitMq::new(&a.rabbitmq);
        log_source.stream("log", true).await;
        for (at, column) in [(0, "kafka"), (0, "alo"), (4, "queue")] {
            sinks[at].prepare(&named(column).each_ref().map(String::as_str)).await;
        }
        sinks[1].prepare(&["atomic.>"]).await;
        sinks[2].prepare(&["ids.>"]).await;
        let log_sink = RabbitMq::new(&b.rabbitmq);
        for name in named("log") {
            log_sink.stream(&name, false).await;
        }
        for (region, name, client) in [
            ("a", "kafka", from_kafka),
            ("a", "jetstream", from_jetstream),
            ("a", "core", from_jetstream),
            ("a", "rabbitmq", from_rabbitmq),
            ("b", "kafka", &sinks[0]),
            // A route names a broker once.
            ("b", "alo", &sinks[0]),
            ("b", "atomic", &sinks[1]),
            ("b", "ids", &sinks[2]),
            ("b", "core", &sinks[2]),
            ("b", "rabbitmq", &sinks[4]),
            ("b", "log", &sinks[4]),
        ] {
            mesh = mesh.broker(region, name, &format!("{}: {{}}", client.kind()), &client.access());
        }
        for route in (0..ROWS.len()).flat_map(routes) {
            mesh = mesh.route(&route);
        }
        let core_sink = Nats::new(&b.nats).listen("core.>").await;
        let [from_kafka, from_jetstream, from_embedded, from_rabbitmq] = sources;
        let confirming = [
            (KafkaOf(0), from_kafka),
            (NatsOf(0), from_jetstream),
            (Router(0), from_embedded),
            (RabbitMqOf(0), from_rabbitmq),
        ];
        let sources = Arc::new(Sources { confirming, core: Nats::new(&a.nats) });
        mesh.start().await;
        // For each of four partitions and of all other sources.
        mesh.wait_shared_out(COLUMNS.len() * (4 + ROWS.len() - 1)).await;
        // RabbitMQ (3.10) puts a new quorum queue's own record on disk every half second, whatever it confirmed meanwhile; of a queue that
        // is killed before, nothing comes back. That is no fault of the mesh, and is not what is tried here.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Self { mesh, brokers, sources, sinks, log_source, log_sink, core_sink }
    }

    /// Publishes these events and kills the victim in the middle of it. What the victim itself holds is published before.
    async fn step(&mut self, numbers: Range<usize>, victim: Victim, at: Duration) {
        self.sources.produce(numbers.clone(), victim, true).await;
        let sources = Arc::clone(&self.sources);
        let producing = tokio::spawn(async move { sources.produce(numbers, victim, false).await });
        // Any moment of what is under way.
        tokio::time::sleep(at).await;
        self.kill(victim).await;
        producing.await.expect("all sources but the victim take everything");
    }

    async fn kill(&mut self, victim: Victim) {
        match victim {
            Router(region) => {
                let router = ["a", "b"][region];
                self.mesh.kill(router);
                self.mesh.start_router(router);
                // Its embedded broker is produced to.
                self.mesh.wait_ready(router).await;
            }
            KafkaOf(region) | NatsOf(region) | RabbitMqOf(region) => {
                tokio::task::block_in_place(|| self.brokers[region].crash(victim));
            }
        }
    }

    /// What has arrived in a cell that loses nothing.
    async fn arrived(&self, row: usize, column: usize, events: usize) -> Vec<Arrived> {
        let topic = format!("{}.{}", COLUMNS[column].0, ROWS[row].0);
        let sink = match COLUMNS[column].0 {
            "kafka" | "alo" => 0,
            "atomic" => 1,
            "ids" => 2,
            "embedded" => 3,
            "queue" => 4,
            _ => return self.log_sink.consume_stream(&format!("log.{}", ROWS[row].0), events, PATIENCE).await,
        };
        self.sinks[sink].consume(&topic, events, PATIENCE).await
    }
}

/// What became of the events in a cell.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    lost: usize,
    repeated: usize,
}

impl Drop for Table {
    /// What the routers saw, where the verdict is bad.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for router in ["a", "b"] {
                eprintln!("== log of {router}\n{}", self.mesh.log(router));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn guarantees() {
    let setting = |name, default| number(name).map_or(default, |number| usize::try_from(number).expect("it fits"));
    let (rounds, events) = (setting("LONGHAUL_KILL_ROUNDS", 1), setting("LONGHAUL_EVENTS", 4_000));
    let mut dice = Dice::new("LONGHAUL_KILL_SEED");
    let mut table = Table::start().await;
    let killed: Vec<_> = VICTIMS.into_iter().cycle().take(rounds * VICTIMS.len()).collect();
    for (step, victim) in killed.iter().enumerate() {
        let numbers = events * step / killed.len()..events * (step + 1) / killed.len();
        let at = dice.between(Duration::ZERO, STEP);
        println!("{victim:?} is killed {} ms into {numbers:?}", at.as_millis());
        table.step(numbers, *victim, at).await;
    }
    let samples: Vec<_> = (0..events).map(|number| Sample::plain("src.t", number, KEYS, 100)).collect();
    let held = table.log_source.consume_stream("log", events, Duration::from_secs(10)).await;
    let held: HashSet<_> = held.iter().filter_map(|arrived| arrived.event.number()).collect();
    let in_stream: Vec<_> =
        samples.iter().filter(|sample| sample.number().is_some_and(|number| held.contains(&number))).cloned().collect();
    println!("RabbitMQ itself lost {} events that it had confirmed into the source stream", events - in_stream.len());
    let mut seen = [[Seen::default(); COLUMNS.len()]; ROWS.len()];
    let cells = || (0..ROWS.len()).flat_map(|row| (0..COLUMNS.len()).map(move |column| (row, column)));
    let firm = cells().filter(|(row, column)| promise(*row, *column) != AtMostOnce);
    let sent = |row: usize| if ROWS[row].0 == "stream" { &in_stream } else { &samples };
    let reading = firm.map(|(row, column)| {
        let (table, sent) = (&table, sent(row).len());
        async move { (row, column, table.arrived(row, column, sent).await) }
    });
    let mut reading = futures::stream::iter(reading).buffer_unordered(READ_AT_ONCE);
    while let Some((row, column, arrived)) = reading.next().await {
        let what = format!("{} to {}", ROWS[row].0, COLUMNS[column].0);
        let verdict = judge(&what, sent(row), &arrived, Compare::Content);
        let once = promise(row, column) == Once;
        assert!(!once || verdict.duplicates == 0, "{what} is effectively once: {verdict:?}");
        seen[row][column].repeated = verdict.duplicates;
    }
    drop(reading);
    let core = table.core_sink.heard();
    for (row, column) in cells().filter(|(row, column)| promise(*row, *column) == AtMostOnce) {
        let what = format!("{} to {}", ROWS[row].0, COLUMNS[column].0);
        let subject = format!("core.{}", ROWS[row].0);
        let arrived = match COLUMNS[column].0 {
            "core" => core.iter().filter(|arrived| arrived.event.topic == subject).cloned().collect(),
            // Nothing more comes: it is not waited for.
            _ => table.arrived(row, column, 0).await,
        };
        let numbers: Vec<_> = arrived.iter().filter_map(|arrived| arrived.event.number()).collect();
        let distinct: HashSet<_> = numbers.iter().collect();
        // A router that is killed after it published and before that is noted begins there again, where its source can.
        let may_repeat = ROWS[row].0 != "core";
        let mut once = HashSet::new();
        let twice: Vec<_> = numbers.iter().filter(|number| !once.insert(**number)).collect();
        assert!(may_repeat || twice.is_empty(), "{what}: {} come twice: {twice:?}", twice.len());
        assert!(!numbers.is_empty() && numbers.iter().all(|number| *number < events), "{what}: {}", numbers.len());
        seen[row][column] = Seen { lost: events - distinct.len(), repeated: numbers.len() - distinct.len() };
    }
    let fewest = cells().map(|(row, column)| kills(row, column, &killed)).min().expect("there are cells");
    assert!(fewest >= rounds * KILLS_MIN, "a cell saw {fewest} kills in {rounds} rounds");
    println!("{events} events of each source, {fewest} kills of a cell or more; lost / repeated / kills");
    println!("{:<10}{}", "", COLUMNS.map(|(name, ..)| format!("{name:>14}")).concat());
    for (row, cells) in seen.iter().enumerate() {
        let cell = |(column, seen): (usize, &Seen)| {
            format!("{:>14}", format!("{} / {} / {}", seen.lost, seen.repeated, kills(row, column, &killed)))
        };
        println!("{:<10}{}", ROWS[row].0, cells.iter().enumerate().map(cell).collect::<String>());
    }
    assert_audits(&table.mesh, &["a", "b"]).await;
    for router in ["a", "b"] {
        assert!(!table.mesh.log(router).contains("panicked"), "{}", table.mesh.log(router));
        assert_eq!(table.mesh.terminate(router), Some(0), "{}", table.mesh.log(router));
    }
}
