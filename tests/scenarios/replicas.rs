//! Two routers for each of three regions, which share Kafka, RabbitMQ and NATS: every shard has one owner; whoever is killed or frozen, while
//! events move, has its shards and its flows taken over by the other within ten seconds, and gets its share again when it is back. Nothing is lost,
//! the order per key is kept, and nothing comes twice where the route says so.

#![expect(clippy::print_stdout, reason = "figures are part of what a scenario shows")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use longhaul_router::{End, FlowView, Phase};
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Kafka, Nats, RabbitMq};
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const REGIONS: [&str; 3] = ["ap", "eu", "us"];
/// By region: what is produced there.
const TOPICS: [&str; 3] = ["insights.daily", "orders.placed", "invoices.sent"];
const PER_BURST: usize = 50;
const BURST_EVERY: Duration = Duration::from_millis(200);
const KEYS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(90);
/// What is promised for the shards of a router that is gone.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(10);

/// From, to, and whether nothing may come twice.
const WAYS: [(usize, usize, bool); 4] = [(1, 0, true), (0, 1, true), (1, 2, false), (2, 1, false)];

const ROUTES: [&str; 3] = [
    "name: from-eu
from: {region: eu, broker: events, topics: [\"orders.>\"]}
guarantee: effectively-once
to: [{region: ap, broker: events, topic: \"eu.{topic}\"}]",
    "name: from-ap
from: {region: ap, broker: events, topics: [\"insights.>\"]}
guarantee: effectively-once
to: [{region: eu, broker: events, topic: \"ap.{topic}\"}]",
    "name: from-us
from: {region: us, broker: events, exchange: events, topics: [\"invoices.>\"]}
to: [{region: eu, broker: events, topic: \"us.{topic}\"}]",
];
const ROUTE_TO_RABBITMQ: &str = "name: to-us
from: {region: eu, broker: events, topics: [\"orders.>\"]}
to: [{region: us, broker: events, exchange: events, topic: \"eu.{topic}\"}]";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas() {
    let (kafka, rabbitmq, nats) = tokio::join!(started::kafka(), started::rabbitmq(), started::nats());
    let clients = Arc::new([
        Client::Nats(Nats::new(&nats)),
        Client::Kafka(Kafka::new(&kafka)),
        Client::RabbitMq(RabbitMq::new(&rabbitmq)),
    ]);
    clients[0].prepare(&["insights.>", "eu.>"]).await;
    clients[1].prepare(&["orders.placed", "us.invoices.sent", "ap.insights.daily"]).await;
    clients[2].prepare(&["eu.orders.placed"]).await;
    let mut mesh = Mesh::new(&REGIONS);
    for (region, client) in REGIONS.iter().zip(&*clients) {
        let declared = format!("{}: {{}}", client.kind());
        mesh = mesh.broker(region, "events", &declared, &client.access()).replicas(region, 2);
    }
    for route in ROUTES.into_iter().chain([ROUTE_TO_RABBITMQ]) {
        mesh = mesh.route(route);
    }
    mesh.start().await;
    let shards = shared_out(&mesh).await;
    println!("shards: {shards:?}");

    let producing = Producing::start(&clients);
    for victim in ["eu", "ap/2", "us", "eu/2", "ap", "us/2"] {
        mesh.kill(victim);
        taken_over(&mesh, victim, &shards).await;
        mesh.start_router(victim);
        mesh.wait_ready(victim).await;
        assert_eq!(shared_out(&mesh).await, shards);
    }
    // A frozen one has lost its shards when it wakes up, and goes on as if nothing had happened.
    for victim in ["eu", "ap", "ap/2"] {
        mesh.process(victim).signal("STOP");
        taken_over(&mesh, victim, &shards).await;
        mesh.process(victim).signal("CONT");
        assert_eq!(shared_out(&mesh).await, shards);
    }
    // A clean end gives its shards to the other one, too.
    assert_eq!(mesh.terminate("us"), Some(0));
    assert_eq!(mesh.terminate("ap/2"), Some(0));
    let sent = producing.stop().await;
    for (from, to, once) in WAYS {
        let what = format!("{} to {}", clients[from].kind(), clients[to].kind());
        let topic = format!("{}.{}", REGIONS[from], TOPICS[from]);
        let arrived = clients[to].consume(&topic, sent[from].len(), PATIENCE).await;
        let verdict = judge(&what, &sent[from], &arrived, Compare::Content);
        println!("{what}: {} events, 0 lost, {} repeated", verdict.events, verdict.duplicates);
        assert!(!once || verdict.duplicates == 0, "{what}: {verdict:?}");
    }
    let left: Vec<_> = mesh.routers().into_iter().filter(|router| router != "us" && router != "ap/2").collect();
    assert_audits(&mesh, &left.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for router in left {
        assert!(!mesh.log(&router).contains("panicked"), "{}", mesh.log(&router));
        assert_eq!(mesh.terminate(&router), Some(0), "{}", mesh.log(&router));
    }
}

/// Waits until the other router of the region has all that this one had.
async fn taken_over(mesh: &Mesh, victim: &str, shards: &BTreeMap<String, usize>) {
    let begin = Instant::now();
    let region = &victim[..2];
    let heir = if victim.contains('/') { region.to_owned() } else { format!("{region}/2") };
    until(&format!("{heir} has what {victim} had"), PATIENCE, async || {
        let flows = mesh.flows(&heir).await;
        let owned = owned(&flows);
        (owned.len() == shards[region] && owned.iter().all(|flow| flow.phase == Phase::Streaming)).then_some(())
    })
    .await;
    let took = begin.elapsed();
    println!("{victim} is gone; {heir} had all {} shards after {:.1} s", shards[region], took.as_secs_f64());
    assert!(took <= TAKEN_OVER_WITHIN, "{heir} took {took:?} to take over");
}

fn owned(flows: &[FlowView]) -> Vec<&FlowView> {
    flows.iter().filter(|flow| flow.end == End::Out).collect()
}

/// Waits until every shard has one owner, and each of Kafka's routers something; returns how many a region has.
async fn shared_out(mesh: &Mesh) -> BTreeMap<String, usize> {
    let owners = until("Kafka gives something to each", PATIENCE, async || {
        // Four partitions of one topic for each of two routes, and one stream, and one queue.
        let owners = mesh.wait_shared_out(10).await;
        ["eu", "eu/2"].iter().all(|router| owners.iter().any(|owner| owner == router)).then_some(owners)
    })
    .await;
    let mut shards = BTreeMap::new();
    for owner in owners {
        *shards.entry(owner[..2].to_owned()).or_insert(0) += 1;
    }
    shards
}

/// Events into every region, a few at a time, until it is told to stop.
struct Producing {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Sample>>>,
}

impl Producing {
    fn start(clients: &Arc<[Client; 3]>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let task = |of: usize| {
            let (clients, stop) = (Arc::clone(clients), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut sent: Vec<Sample> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let first = sent.len() + 1;
                    let fresh: Vec<_> = (first..first + PER_BURST).map(|number| sample(of, number)).collect();
                    clients[of].produce(&fresh).await;
                    sent.extend(fresh);
                    // Events come all the time, not in one heap.
                    tokio::time::sleep(BURST_EVERY).await;
                }
                sent
            })
        };
        Self { tasks: (0..3).map(task).collect(), stop }
    }

    async fn stop(self) -> Vec<Vec<Sample>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sent = Vec::new();
        for task in self.tasks {
            sent.push(task.await.expect("producing works"));
        }
        sent
    }
}

fn sample(of: usize, number: usize) -> Sample {
    Sample {
        topic: TOPICS[of].to_owned(),
        key: Some(format!("key-{}", number % KEYS).into_bytes()),
        headers: Vec::new(),
        payload: number.to_string().into_bytes(),
    }
}
