//! The table of guarantees, every cell of it, with real brokers: six kinds of sources in one region, seven kinds of destinations in another,
//! a route for each pair that promises the most it can. Both routers and all six brokers are killed in turn while events move, so that a
//! round is four kills for every cell. In the end: what is effectively once is there exactly once, what is at least once is there and
//! repeats have the identity of the first, and of core NATS, which confirms nothing, it is counted what was lost.
//!
//! `LONGHAUL_KILL_ROUNDS` says how many rounds (1), `LONGHAUL_EVENTS` how many events of each source (4,000).

use std::collections::HashSet;
use std::time::Duration;

use futures::StreamExt;
use longhaul_test_brokers::{kafka, nats, rabbitmq};
use longhaul_tests::client::{Client, Embedded, Kafka, Listener, Nats, RabbitMq};
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::{Arrived, Sample};
use longhaul_tests::started;

const KEYS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(120);
/// How many destinations are read at the same time.
const READ_AT_ONCE: usize = 6;
const VICTIMS: usize = 8;

/// What a cell promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Promise {
    Once,
    AtLeastOnce,
    AtMostOnce,
}

use Promise::{AtLeastOnce, AtMostOnce, Once};

/// The sources: name, what a route says, and the most that it can promise.
const ROWS: [(&str, &str, Promise); 6] = [
    ("kafka", "broker: kafka, topics: [\"src.>\"]", Once),
    ("jetstream", "broker: jetstream, topics: [\"src.>\"]", Once),
    ("embedded", "broker: local, topics: [\"src.>\"]", Once),
    ("stream", "broker: rabbitmq, stream: log", Once),
    ("queue", "broker: rabbitmq, exchange: events, topics: [\"src.>\"]", AtLeastOnce),
    ("core", "broker: core, topics: [\"bare.>\"], core: true", AtMostOnce),
];
/// The destinations. `ROW` is the name of the source.
const COLUMNS: [(&str, &str, Promise); 7] = [
    ("kafka", "broker: kafka, topic: kafka.ROW", Once),
    ("atomic", "broker: atomic, topic: atomic.ROW", Once),
    ("ids", "broker: ids, topic: ids.ROW", Once),
    ("embedded", "broker: local, topic: embedded.ROW", Once),
    ("queue", "broker: rabbitmq, exchange: events, topic: queue.ROW", AtLeastOnce),
    ("stream", "broker: log, stream: log.ROW", AtLeastOnce),
    ("core", "broker: core, core: true, topic: core.ROW", AtMostOnce),
];

/// The weaker of the two ends.
fn promise(row: usize, column: usize) -> Promise {
    let ends = [ROWS[row].2, COLUMNS[column].2];
    [AtMostOnce, AtLeastOnce].into_iter().find(|weak| ends.contains(weak)).unwrap_or(Once)
}

fn routes(row: usize) -> Vec<String> {
    let (name, from, _) = ROWS[row];
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

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}: {text} is no number")))
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
    fn crash(&mut self, which: usize) {
        match which {
            0 => {
                self.kafka.kill();
                self.kafka.restart().expect("Kafka starts again");
            }
            1 => {
                self.nats.kill();
                self.nats.restart().expect("NATS starts again");
            }
            _ => {
                self.rabbitmq.kill().expect("RabbitMQ dies");
                self.rabbitmq.restart().expect("RabbitMQ starts again");
            }
        }
    }
}

struct Table {
    mesh: Mesh,
    brokers: [Brokers; 2],
    sources: [Client; 4],
    core_source: Nats,
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
        let log_source = RabbitMq::new(&a.rabbitmq);
        log_source.stream("log", true).await;
        for (at, column) in [(0, "kafka"), (4, "queue")] {
            sinks[at].prepare(&named(column).each_ref().map(String::as_str)).await;
        }
        sinks[1].prepare(&["atomic.>"]).await;
        sinks[2].prepare(&["ids.>"]).await;
        let log_sink = RabbitMq::new(&b.rabbitmq);
        for name in named("log") {
            log_sink.stream(&name, false).await;
        }
        for (region, name, client) in [
            ("a", "kafka", &sources[0]),
            ("a", "jetstream", &sources[1]),
            ("a", "core", &sources[1]),
            ("a", "rabbitmq", &sources[3]),
            ("b", "kafka", &sinks[0]),
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
        let (core_source, core_sink) = (Nats::new(&a.nats), Nats::new(&b.nats).listen("core.>").await);
        mesh.start().await;
        // Seven destinations for each of four partitions and five others.
        mesh.wait_shared_out(7 * (4 + 5)).await;
        // RabbitMQ (3.10) puts a new quorum queue's own record on disk every half second, whatever it confirmed meanwhile; of a queue that
        // is killed before, nothing comes back. That is no fault of the mesh, and is not what is tried here.
        tokio::time::sleep(Duration::from_secs(2)).await;
        Self { mesh, brokers, sources, core_source, sinks, log_source, log_sink, core_sink }
    }

    /// The next events, into all sources.
    async fn produce(&self, numbers: std::ops::Range<usize>) {
        let samples: Vec<_> = numbers.clone().map(|number| Sample::plain("src.t", number, KEYS, 100)).collect();
        let bare: Vec<_> = numbers.map(|number| Sample::plain("bare.t", number, KEYS, 100)).collect();
        let confirmed = futures::future::join_all(self.sources.iter().map(|source| source.produce(&samples)));
        tokio::join!(confirmed, self.core_source.produce_unconfirmed(&bare));
    }

    async fn kill(&mut self, victim: usize) {
        match victim {
            0 | 1 => {
                let region = ["a", "b"][victim];
                self.mesh.kill(region);
                self.mesh.start_router(region);
                // Its embedded broker is produced to.
                self.mesh.wait_ready(region).await;
            }
            _ => {
                let broker = victim - 2;
                tokio::task::block_in_place(|| self.brokers[broker / 3].crash(broker % 3));
            }
        }
    }

    /// What has arrived in a cell that loses nothing.
    async fn arrived(&self, row: usize, column: usize, events: usize) -> Vec<Arrived> {
        let topic = format!("{}.{}", COLUMNS[column].0, ROWS[row].0);
        match column {
            0..=4 => self.sinks[column].consume(&topic, events, PATIENCE).await,
            _ => self.log_sink.consume_stream(&format!("log.{}", ROWS[row].0), events, PATIENCE).await,
        }
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
    let (rounds, events) = (number("LONGHAUL_KILL_ROUNDS", 1), number("LONGHAUL_EVENTS", 4_000));
    let mut table = Table::start().await;
    let steps = rounds * VICTIMS;
    for step in 0..steps {
        table.produce(events * step / steps..events * (step + 1) / steps).await;
        // Any moment of what is under way.
        tokio::time::sleep(Duration::from_millis((step as u64 * 71) % 300)).await;
        println!("victim {} after {} events", step % VICTIMS, events * (step + 1) / steps);
        table.kill(step % VICTIMS).await;
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
    println!("{events} events of each source, {} kills of each cell; lost / repeated", rounds * 4);
    println!("{:<10}{}", "", COLUMNS.map(|(name, ..)| format!("{name:>14}")).concat());
    for (row, cells) in seen.iter().enumerate() {
        let cells = cells.map(|seen| format!("{:>14}", format!("{} / {}", seen.lost, seen.repeated)));
        println!("{:<10}{}", ROWS[row].0, cells.concat());
    }
    for router in ["a", "b"] {
        assert!(!table.mesh.log(router).contains("panicked"), "{}", table.mesh.log(router));
        assert_eq!(table.mesh.terminate(router), Some(0), "{}", table.mesh.log(router));
    }
}
