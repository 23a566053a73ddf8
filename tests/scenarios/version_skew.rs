//! A region is upgraded router by router while events move both ways, and goes back again: the other region has today's program, this one begins
//! with the program that `LONGHAUL_PREVIOUS` names. Nothing is lost or repeated on effectively-once routes, whichever two programs meet, in
//! the region or over a link. Without the variable both are today's program, and this is a rolling restart. `make skew` names an older one.

#![expect(clippy::print_stdout, reason = "figures are part of what a scenario shows")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longhaul_tests::client::{Client, Embedded, Kafka};
use longhaul_tests::judge::{Compare, Verdict, judge};
use longhaul_tests::mesh::{Mesh, program};
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const VARIABLE: &str = "LONGHAUL_PREVIOUS";
/// For a router that takes over what another had, and for what is under way.
const PATIENCE: Duration = Duration::from_secs(90);
/// A load, not a flood: the debug build shares two cores with this test.
const BURST: usize = 20;
const BURST_EVERY: Duration = Duration::from_millis(50);
/// Events that must arrive at both ends between two changes.
const PROGRESS: usize = 400;
const KEYS: usize = 20;
const PAYLOAD_BYTES: usize = 200;
const ORDERS: &str = "orders.placed";
const RETURNS: &str = "returns.asked";

/// Two routers of a region share a Kafka, so that both programs take each other's partitions over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_routers_are_replaced_one_after_the_other_between_two_kafkas() {
    let (kafka_a, kafka_b) = tokio::join!(started::kafka(), started::kafka());
    let [a, b] = [&kafka_a, &kafka_b].map(|kafka| Arc::new(Client::Kafka(Kafka::new(kafka))));
    for client in [&a, &b] {
        client.prepare(&[ORDERS, RETURNS]).await;
    }
    let mesh = Mesh::new(&["a", "b"])
        .broker("a", "events", "kafka: {}", &a.access())
        .broker("b", "events", "kafka: {}", &b.access())
        .replicas("b", 2);
    let mut skewed = Skewed {
        mesh: mesh
            .route(&route("a", "events", "orders", "b", "events"))
            .route(&route("b", "events", "returns", "a", "events")),
        sinks: [b.clone(), a.clone()],
        begin: Instant::now(),
    };
    for router in ["b", "b/2"] {
        skewed.mesh.set_program(router, previous());
    }
    skewed.mesh.start().await;
    let (orders, returns) = (Load::start(&a, ORDERS, 0), Load::start(&b, RETURNS, 0));
    skewed.progress("both routers of b are of the previous program").await;
    for (router, program, what) in [
        ("b", program(), "one router of b is upgraded"),
        ("b/2", program(), "both routers of b are upgraded"),
        ("b", previous(), "one router of b went back"),
        ("b", program(), "both routers of b are upgraded again"),
    ] {
        skewed.stop(router);
        skewed.start(router, program).await;
        skewed.progress(what).await;
    }
    skewed.judge(ORDERS, 0, &orders.stop().await).await;
    skewed.judge(RETURNS, 1, &returns.stop().await).await;
}

/// An embedded broker lives in its router: it is away while that is replaced, and each program goes on with the store that the other left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_router_is_replaced_with_the_broker_in_it() {
    let (mesh, source_a) = Mesh::new(&["a", "b"]).embedded("a", "events");
    let (mesh, sink_a) = mesh.embedded("a", "copies");
    let (mesh, source_b) = mesh.embedded("b", "events");
    let (mesh, sink_b) = mesh.embedded("b", "copies");
    let [source_a, sink_a, source_b, sink_b] =
        [source_a, sink_a, source_b, sink_b].map(|url| Arc::new(Client::Embedded(Embedded::new(&url))));
    let mut skewed = Skewed {
        mesh: mesh
            .route(&route("a", "events", "orders", "b", "copies"))
            .route(&route("b", "events", "returns", "a", "copies")),
        sinks: [sink_b, sink_a],
        begin: Instant::now(),
    };
    skewed.mesh.set_program("b", previous());
    skewed.mesh.start().await;
    let (orders, mut all_returns) = (Load::start(&source_a, ORDERS, 0), Vec::new());
    for (program, what) in [
        (None, "b is of the previous program"),
        (Some(program()), "b is upgraded"),
        (Some(previous()), "b went back"),
        (Some(program()), "b is upgraded again"),
    ] {
        if let Some(program) = program {
            skewed.start("b", program).await;
        }
        let returns = Load::start(&source_b, RETURNS, all_returns.len());
        skewed.progress(what).await;
        // Nobody can publish to a broker that is away; what was published last is under way when it goes.
        all_returns.extend(returns.stop().await);
        skewed.stop("b");
    }
    skewed.start("b", program()).await;
    skewed.judge(ORDERS, 0, &orders.stop().await).await;
    skewed.judge(RETURNS, 1, &all_returns).await;
}

fn previous() -> PathBuf {
    let previous = std::env::var_os(VARIABLE).map_or_else(program, PathBuf::from);
    assert!(previous.is_file(), "{VARIABLE}: there is no program {}", previous.display());
    previous
}

fn route(from: &str, source: &str, topics: &str, to: &str, sink: &str) -> String {
    format!(
        "name: {topics}\nfrom: {{region: {from}, broker: {source}, topics: [\"{topics}.>\"]}}\nstart: earliest\n\
         guarantee: effectively-once\nto: [{{region: {to}, broker: {sink}, topic: \"{{topic}}\"}}]"
    )
}

/// The mesh, and where orders and returns arrive.
struct Skewed {
    mesh: Mesh,
    sinks: [Arc<Client>; 2],
    begin: Instant,
}

impl Skewed {
    /// Drains a router, as an upgrade does it.
    fn stop(&mut self, router: &str) {
        assert_eq!(self.mesh.terminate(router), Some(0), "{}", self.mesh.log(router));
    }

    async fn start(&mut self, router: &str, program: PathBuf) {
        self.mesh.set_program(router, program);
        self.mesh.start_router(router);
        self.mesh.wait_ready(router).await;
    }

    /// Waits until events have come through at both ends.
    async fn progress(&self, what: &str) {
        let (mut before, mut arrived) = (Vec::new(), Vec::new());
        for sink in [0, 1] {
            before.push(self.count(sink).await);
        }
        for sink in [0, 1] {
            let count = until(&format!("{PROGRESS} events arrive at each end while {what}"), PATIENCE, async || {
                Some(self.count(sink).await).filter(|count| *count >= before[sink] + PROGRESS)
            })
            .await;
            arrived.push(count);
        }
        println!(
            "{:5.1} s: {what}; {} and {} have arrived",
            self.begin.elapsed().as_secs_f64(),
            arrived[0],
            arrived[1]
        );
    }

    /// Offsets of Kafka count a few markers too, and are good enough to see that something moves.
    async fn count(&self, sink: usize) -> usize {
        self.sinks[sink].count([ORDERS, RETURNS][sink]).await
    }

    async fn judge(&self, topic: &str, sink: usize, sent: &[Sample]) {
        let arrived = self.sinks[sink].consume(topic, sent.len(), PATIENCE).await;
        let verdict = judge(topic, sent, &arrived, Compare::Content);
        println!("{topic}: {} sent, 0 lost, {} repeated", sent.len(), verdict.duplicates);
        assert_eq!(verdict, Verdict { events: sent.len(), duplicates: 0 }, "{topic}");
    }
}

/// Events, a few at a time, until it is told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Vec<Sample>>,
}

impl Load {
    fn start(client: &Arc<Client>, topic: &'static str, first: usize) -> Self {
        let (client, stop) = (Arc::clone(client), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut sent: Vec<Sample> = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let next = first + sent.len();
                let fresh: Vec<_> =
                    (next..next + BURST).map(|number| Sample::plain(topic, number, KEYS, PAYLOAD_BYTES)).collect();
                client.produce(&fresh).await;
                sent.extend(fresh);
                // Events come all the time, not in one heap.
                tokio::time::sleep(BURST_EVERY).await;
            }
            sent
        });
        Self { stop, task }
    }

    async fn stop(self) -> Vec<Sample> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("producing works")
    }
}
