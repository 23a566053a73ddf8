//! How long events wait when something fails: the link in use, the router that writes, the router that reads, the broker that is written to.
//! Two routers on each side, Kafka to JetStream, effectively once; a time is from the fault (of the broker: from its return) until an
//! event that was produced after it is stored. Figures, with the bounds that the documents promise.
//!
//! `LONGHAUL_REPEATS` says how often each (1; twenty for figures worth showing).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use longhaul_router::{End, Phase};
use longhaul_test_brokers::nats;
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Kafka, Nats};
use longhaul_tests::judge::{Compare, Verdict, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::relay::Relay;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const TOPIC: &str = "orders.placed";
const PACE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);
const WRITERS: [&str; 2] = ["us", "us/2"];
const READERS: [&str; 2] = ["eu", "eu/2"];

/// What fails, and the longest that events may wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Link,
    Writer,
    Reader,
    Broker,
}

const FAULTS: [(Fault, &str, Duration); 4] = [
    (Fault::Link, "the link in use is cut", Duration::from_secs(10)),
    (Fault::Writer, "the router that writes is killed", Duration::from_secs(10)),
    (Fault::Reader, "the router that reads is killed", Duration::from_secs(10)),
    (Fault::Broker, "the broker that is written to is back", Duration::from_secs(15)),
];

struct FailOver {
    mesh: Mesh,
    nats: nats::Nats,
    sink: Client,
    relays: [Relay; 2],
    produced: Arc<AtomicUsize>,
}

impl FailOver {
    /// Which of these routers has all the flow's open ends of that kind.
    async fn in_use(&self, routers: [&'static str; 2], end: End) -> &'static str {
        until(&format!("one of {routers:?} has the flow"), PATIENCE, async || {
            let mut having = Vec::new();
            for router in routers {
                let flows = self.mesh.flows(router).await;
                let streams = flows.iter().any(|flow| flow.end == end && flow.phase == Phase::Streaming);
                having.extend(streams.then_some(router));
            }
            if let [one] = having[..] { Some(one) } else { None }
        })
        .await
    }

    /// Both readers have links to both writers, and each writer hears both.
    async fn wait_whole(&self) {
        for router in READERS {
            until(&format!("{router} has both links"), PATIENCE, async || {
                let links = self.mesh.links(router).await.out;
                (links.iter().filter(|link| link.up).count() == 2).then_some(())
            })
            .await;
        }
        // Flows go back to the router that everybody takes once its link has been up for five seconds; they are left in peace until then.
        tokio::time::sleep(Duration::from_secs(6)).await;
    }

    async fn fail(&mut self, fault: Fault) -> Duration {
        let writer = self.in_use(WRITERS, End::In).await;
        let reader = self.in_use(READERS, End::Out).await;
        let at = WRITERS.iter().position(|router| *router == writer).expect("one of them");
        match fault {
            Fault::Link => self.relays[at].cut(),
            Fault::Writer => self.mesh.kill(writer),
            Fault::Reader => self.mesh.kill(reader),
            Fault::Broker => tokio::task::block_in_place(|| {
                self.nats.kill();
                self.nats.restart().expect("NATS starts again");
            }),
        }
        let begin = Instant::now();
        // The next one is produced after the fault.
        let behind = self.produced.load(Ordering::Relaxed) + 2;
        until("an event that was produced after the fault", PATIENCE, async || {
            (self.sink.count(TOPIC).await >= behind).then_some(())
        })
        .await;
        let took = begin.elapsed();
        match fault {
            Fault::Link => self.relays[at].heal(),
            Fault::Writer => self.start(writer).await,
            Fault::Reader => self.start(reader).await,
            Fault::Broker => {}
        }
        self.wait_whole().await;
        took
    }

    async fn start(&mut self, router: &str) {
        self.mesh.start_router(router);
        self.mesh.wait_ready(router).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fail_over() {
    let repeats = std::env::var("LONGHAUL_REPEATS").map_or(1, |text| text.parse().expect("a number"));
    let (kafka, nats) = tokio::join!(started::kafka(), started::nats());
    let source = Arc::new(Client::Kafka(Kafka::new(&kafka)));
    let sink = Client::Nats(Nats::new(&nats));
    kafka.create_topic(TOPIC, 1).expect("a topic");
    sink.prepare(&["orders.>"]).await;
    let mut mesh = Mesh::new(&["eu", "us"])
        .replicas("eu", 2)
        .replicas("us", 2)
        .broker("eu", "events", "kafka: {}", &source.access())
        .broker("us", "events", "nats: {}", &sink.access())
        .route(
            "name: orders\nfrom: {region: eu, broker: events, topics: [\"orders.>\"]}\nguarantee: effectively-once\n\
             to: [{region: us, broker: events}]",
        );
    let relays = [Relay::start(&mesh.link_address("us")).await, Relay::start(&mesh.link_address("us/2")).await];
    for (writer, relay) in WRITERS.iter().zip(&relays) {
        mesh = mesh.via("eu", writer, &relay.address());
    }
    mesh.start().await;
    mesh.wait_shared_out(1).await;
    let (produced, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let producing = tokio::spawn({
        let (source, produced, stop) = (Arc::clone(&source), Arc::clone(&produced), Arc::clone(&stop));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let number = produced.load(Ordering::Relaxed);
                source.produce(&[Sample::plain(TOPIC, number, 10, 100)]).await;
                produced.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PACE).await;
            }
        }
    });
    let mut running = FailOver { mesh, nats, sink, relays, produced: Arc::clone(&produced) };
    running.wait_whole().await;
    for (fault, words, bound) in FAULTS {
        let mut took = Vec::new();
        for _ in 0..repeats {
            took.push(running.fail(fault).await);
        }
        took.sort_unstable();
        let at = |of_a_hundred: usize| took[(took.len() * of_a_hundred / 100).min(took.len() - 1)].as_secs_f64();
        println!("{words:<40} p50 {:>5.2} s  p99 {:>5.2} s  of {}", at(50), at(99), took.len());
        assert!(took.iter().all(|took| *took <= bound), "{words}: {took:?}, where {bound:?} is promised");
    }
    stop.store(true, Ordering::Relaxed);
    producing.await.expect("producing works");
    let samples = Sample::plain_many(TOPIC, produced.load(Ordering::Relaxed), 10, 100);
    let arrived = running.sink.consume(TOPIC, samples.len(), PATIENCE).await;
    let verdict = judge("kafka to nats", &samples, &arrived, Compare::Content);
    assert_eq!(verdict, Verdict { events: samples.len(), duplicates: 0 });
    assert_audits(&running.mesh, &[READERS, WRITERS].concat()).await;
}
