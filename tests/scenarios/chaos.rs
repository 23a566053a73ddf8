//! Chaos on the full mesh: Kafka, RabbitMQ and NATS JetStream in three regions, two routers for each, every region sends to the two others,
//! and every five seconds something is killed, paused, cut, made to lose packets, or reloaded: one of each kind first, then what the dice
//! say. One pause is long enough for the other router to take over, so that a zombie wakes. After healing: nothing lost, order per key
//! kept, no repeat at all on effectively-once routes and others only under an identity already seen, memory inside the budget, every audit
//! balanced, no panic; and a table of what was done and what was seen.
//!
//! `LONGHAUL_CHAOS_SECONDS` says for how long (120), `LONGHAUL_CHAOS_SEED` with which dice (the clock).

#![expect(clippy::print_stdout, reason = "figures are part of what a scenario shows")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use longhaul_router::{End, FlowView};
use longhaul_test_brokers::{kafka, nats, rabbitmq};
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Kafka, Nats, RabbitMq};
use longhaul_tests::dice::{Dice, number};
use longhaul_tests::judge::{Compare, judge};
use longhaul_tests::mesh::Mesh;
use longhaul_tests::relay::Relay;
use longhaul_tests::sample::Sample;
use longhaul_tests::started;
use longhaul_tests::wait::until;

const REGIONS: [&str; 3] = ["ap", "eu", "us"];
const ROUTERS: [&str; 6] = ["ap", "ap/2", "eu", "eu/2", "us", "us/2"];
/// Each region to each router of the others.
const LINKS: usize = 12;
/// One fault per step; it is undone at the step's end.
const STEP: Duration = Duration::from_secs(5);
/// Longer than Kafka's session and NATS's leases, which are six seconds: whoever stands still that long has lost what it owned.
const ZOMBIE_PAUSE: Duration = Duration::from_secs(12);
const BURST_EVERY: Duration = Duration::from_millis(500);
const PER_BURST: usize = 50;
const KEYS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(90);
const BUDGET: f64 = 64.0 * 1024.0 * 1024.0;
const TOPICS: [&str; 3] = ["insights.daily", "orders.placed", "invoices.sent"];

const ROUTES: [&str; 4] = [
    "name: from-eu
from: {region: eu, broker: events, topics: [\"orders.>\"]}
guarantee: effectively-once
to: [{region: ap, broker: events, topic: \"eu.{topic}\"}]",
    "name: from-eu-to-us
from: {region: eu, broker: events, topics: [\"orders.>\"]}
to: [{region: us, broker: events, exchange: events, topic: \"eu.{topic}\"}]",
    "name: from-us
from: {region: us, broker: events, exchange: events, topics: [\"invoices.>\"]}
to:
  - {region: eu, broker: events, topic: \"us.{topic}\"}
  - {region: ap, broker: events, topic: \"us.{topic}\"}",
    "name: from-ap
from: {region: ap, broker: events, topics: [\"insights.>\"]}
guarantee: effectively-once
to: [{region: eu, broker: events, topic: \"ap.{topic}\"}]",
];
const FROM_AP_TO_US: &str = "name: from-ap-to-us
from: {region: ap, broker: events, topics: [\"insights.>\"]}
to: [{region: us, broker: events, exchange: events, topic: \"ap.{topic}\"}]";
/// Comes and goes with reloads.
const EXTRA: &str = "name: extra
from: {region: eu, broker: events, topics: [\"nothing.>\"]}
to: [{region: ap, broker: events, topic: \"eu.{topic}\"}]";

/// What is done to the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillRouter(usize),
    PauseRouter(usize),
    /// The router that owns most in this region stands still until the other one has it all.
    MakeZombie(usize),
    CutLink(usize),
    LossyLink(usize),
    KillBroker(usize),
    Reload,
}

/// One of each kind, and of each broker, in any order.
fn one_of_each(dice: &mut Dice) -> Vec<Fault> {
    let mut faults = vec![
        Fault::KillRouter(dice.below(ROUTERS.len())),
        Fault::PauseRouter(dice.below(ROUTERS.len())),
        // Of RabbitMQ (us), a frozen consumer keeps its queue for as long as its heartbeats are waited for.
        Fault::MakeZombie(dice.below(2)),
        Fault::CutLink(dice.below(LINKS)),
        Fault::LossyLink(dice.below(LINKS)),
        Fault::KillBroker(0),
        Fault::KillBroker(1),
        Fault::KillBroker(2),
        Fault::Reload,
    ];
    dice.shuffle(&mut faults);
    faults
}

fn any(dice: &mut Dice) -> Fault {
    match dice.below(10) {
        0 | 1 => Fault::KillRouter(dice.below(ROUTERS.len())),
        2 => Fault::PauseRouter(dice.below(ROUTERS.len())),
        3 => Fault::MakeZombie(dice.below(2)),
        4 | 5 => Fault::CutLink(dice.below(LINKS)),
        6 => Fault::LossyLink(dice.below(LINKS)),
        7 | 8 => Fault::KillBroker(dice.below(3)),
        _ => Fault::Reload,
    }
}

/// What a router owns.
fn owned(flows: Vec<FlowView>) -> Vec<(String, String, String)> {
    let owned = flows.into_iter().filter(|flow| flow.end == End::Out);
    owned.map(|flow| (flow.route, flow.shard, flow.to)).collect()
}

struct Brokers {
    nats: nats::Nats,
    kafka: kafka::Kafka,
    rabbitmq: rabbitmq::RabbitMq,
}

impl Brokers {
    /// Kills the broker of a region as a crash would, and starts it again.
    fn crash(&mut self, region: usize) {
        match REGIONS[region] {
            "ap" => {
                self.nats.kill();
                self.nats.restart().expect("NATS starts again");
            }
            "eu" => {
                self.kafka.kill();
                self.kafka.restart().expect("Kafka starts again");
            }
            _ => {
                self.rabbitmq.kill().expect("RabbitMQ dies");
                self.rabbitmq.restart().expect("RabbitMQ starts again");
            }
        }
    }
}

struct Chaos {
    mesh: Mesh,
    brokers: Brokers,
    clients: [Client; 3],
    relays: Vec<Relay>,
    sent: [Vec<Sample>; 3],
    routes: String,
    has_extra: bool,
    /// The most that any router had of its budget in use.
    used_most: f64,
}

/// From region, to region, and the topic there.
fn ways() -> impl Iterator<Item = (usize, usize, String)> {
    let pairs = (0..3).flat_map(|from| (0..3).filter(move |to| *to != from).map(move |to| (from, to)));
    pairs.map(|(from, to)| (from, to, format!("{}.{}", REGIONS[from], TOPICS[from])))
}

impl Chaos {
    async fn start() -> Self {
        let (kafka, rabbitmq, nats) = tokio::join!(started::kafka(), started::rabbitmq(), started::nats());
        let clients = [
            Client::Nats(Nats::new(&nats)),
            Client::Kafka(Kafka::new(&kafka)),
            Client::RabbitMq(RabbitMq::new(&rabbitmq)),
        ];
        clients[0].prepare(&["insights.>", "eu.>", "us.>"]).await;
        clients[1].prepare(&["orders.placed", "us.invoices.sent", "ap.insights.daily"]).await;
        clients[2].prepare(&["eu.orders.placed", "ap.insights.daily"]).await;
        let mut mesh = Mesh::new(&REGIONS).memory("64MiB");
        for (region, client) in REGIONS.iter().zip(&clients) {
            let declared = format!("{}: {{}}", client.kind());
            mesh = mesh.broker(region, "events", &declared, &client.access()).replicas(region, 2);
        }
        for route in ROUTES.into_iter().chain([FROM_AP_TO_US]) {
            mesh = mesh.route(route);
        }
        let mut relays = Vec::new();
        for from in REGIONS {
            for to in ROUTERS.into_iter().filter(|to| !to.starts_with(from)) {
                let relay = Relay::start(&mesh.link_address(to)).await;
                mesh = mesh.via(from, to, &relay.address());
                relays.push(relay);
            }
        }
        assert_eq!(relays.len(), LINKS);
        mesh.start().await;
        // Four partitions of one topic for each of two routes, one stream for each of two, and two spools.
        mesh.wait_shared_out(12).await;
        let (brokers, routes) = (Brokers { nats, kafka, rabbitmq }, mesh.routes().to_owned());
        let sent = <[Vec<Sample>; 3]>::default();
        Self { mesh, brokers, clients, relays, sent, routes, has_extra: false, used_most: 0.0 }
    }

    /// A few events into every region.
    async fn produce(&mut self) {
        for ((client, sent), topic) in self.clients.iter().zip(&mut self.sent).zip(TOPICS) {
            let first = sent.len() + 1;
            let sample = |number: usize| Sample {
                topic: topic.to_owned(),
                key: Some(format!("key-{}", number % KEYS).into_bytes()),
                headers: Vec::new(),
                payload: number.to_string().into_bytes(),
            };
            let fresh: Vec<_> = (first..first + PER_BURST).map(sample).collect();
            client.produce(&fresh).await;
            sent.extend(fresh);
        }
    }

    /// The mesh runs when the faults begin: everything that Longhaul declares at the brokers is there.
    async fn warm_up(&mut self) {
        self.produce().await;
        for (from, to, topic) in ways() {
            let what = format!("{} to {}", REGIONS[from], REGIONS[to]);
            let there = async || (self.clients[to].count(&topic).await >= PER_BURST).then_some(());
            until(&what, PATIENCE, there).await;
        }
        // RabbitMQ (3.10) puts a new quorum queue's own record on disk every half second, whatever it confirmed meanwhile; of a queue that
        // is killed before, nothing comes back, and nothing answers in its name. That is no fault of the mesh, and is not what is tried here.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    async fn step(&mut self, fault: Fault) {
        let lost = |chaos: &Self| chaos.relays.iter().map(Relay::lost).sum::<u64>();
        let before = lost(self);
        match fault {
            Fault::MakeZombie(region) => self.make_zombie(region).await,
            fault => {
                self.begin(fault);
                self.pass(STEP).await;
                self.undo(fault);
            }
        }
        let needs_loss = matches!(fault, Fault::CutLink(_) | Fault::LossyLink(_));
        assert!(!needs_loss || lost(self) > before, "{fault:?} has lost nothing");
        for router in ROUTERS {
            if let Some(used) = self.mesh.try_metric(router, "longhaul_memory_budget_used_bytes").await {
                self.used_most = self.used_most.max(used);
            }
        }
    }

    /// Lets time pass with events that come all the time, not in one heap.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.produce().await;
            tokio::time::sleep(BURST_EVERY).await;
        }
    }

    async fn make_zombie(&mut self, region: usize) {
        let routers = [ROUTERS[2 * region], ROUTERS[2 * region + 1]];
        for router in routers {
            self.mesh.wait_ready(router).await;
        }
        let owns = [owned(self.mesh.flows(routers[0]).await), owned(self.mesh.flows(routers[1]).await)];
        let most = usize::from(owns[1].len() > owns[0].len());
        println!("        {} with {} flows", routers[most], owns[most].len());
        self.mesh.process(routers[most]).signal("STOP");
        self.pass(ZOMBIE_PAUSE).await;
        let heir = routers[1 - most];
        until(&format!("{heir} has what {} had", routers[most]), PATIENCE, async || {
            let has = owned(self.mesh.flows(heir).await);
            owns[most].iter().all(|flow| has.contains(flow)).then_some(())
        })
        .await;
        self.mesh.process(routers[most]).signal("CONT");
    }

    fn begin(&mut self, fault: Fault) {
        match fault {
            Fault::KillRouter(router) => {
                self.mesh.kill(ROUTERS[router]);
                self.mesh.start_router(ROUTERS[router]);
            }
            Fault::PauseRouter(router) => self.mesh.process(ROUTERS[router]).signal("STOP"),
            // It takes its whole step by itself.
            Fault::MakeZombie(_) => {}
            Fault::CutLink(link) => self.relays[link].cut(),
            Fault::LossyLink(link) => self.relays[link].lose_one_of(20),
            Fault::KillBroker(region) => tokio::task::block_in_place(|| self.brokers.crash(region)),
            Fault::Reload => {
                self.has_extra = !self.has_extra;
                let extra = if self.has_extra { longhaul_tests::mesh::item(EXTRA) } else { String::new() };
                self.mesh.set_routes(&format!("{}{extra}", self.routes));
            }
        }
    }

    fn undo(&mut self, fault: Fault) {
        match fault {
            Fault::PauseRouter(router) => self.mesh.process(ROUTERS[router]).signal("CONT"),
            Fault::CutLink(link) => self.relays[link].heal(),
            Fault::LossyLink(link) => self.relays[link].lose_one_of(0),
            Fault::KillRouter(_) | Fault::MakeZombie(_) | Fault::KillBroker(_) | Fault::Reload => {}
        }
    }

    /// Everything is at its destinations.
    async fn judge(&self) {
        for (from, to, topic) in ways() {
            let arrived = self.clients[to].consume(&topic, self.sent[from].len(), PATIENCE).await;
            let what = format!("{} to {}", self.clients[from].kind(), self.clients[to].kind());
            let verdict = judge(&what, &self.sent[from], &arrived, Compare::Content);
            let once = [(0, 1), (1, 0)].contains(&(from, to));
            assert!(!once || verdict.duplicates == 0, "{what} is effectively once: {verdict:?}");
            println!("  {what:<22} {:>7} events  0 lost  {:>6} repeated", verdict.events, verdict.duplicates);
        }
    }
}

impl Drop for Chaos {
    /// What the routers saw, where the verdict is bad.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for router in ROUTERS {
                eprintln!("== log of {router}\n{}", self.mesh.log(router));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn chaos() {
    let length = Duration::from_secs(number("LONGHAUL_CHAOS_SECONDS").unwrap_or(120));
    let mut dice = Dice::new("LONGHAUL_CHAOS_SEED");
    let mut chaos = Chaos::start().await;
    chaos.warm_up().await;
    let (begin, mut done) = (Instant::now(), BTreeMap::<Fault, usize>::new());
    let mut first = one_of_each(&mut dice).into_iter();
    while let Some(fault) = first.next().or_else(|| (begin.elapsed() < length).then(|| any(&mut dice))) {
        println!("{:>5.1} s {fault:?}", begin.elapsed().as_secs_f64());
        chaos.step(fault).await;
        *done.entry(fault).or_default() += 1;
    }
    println!("what was done: {done:?}");
    println!("what was seen:");
    let healed = Instant::now();
    chaos.judge().await;
    println!(
        "  all was there {:.1} s after the last fault; at most {:.1} MiB of the budget in use",
        healed.elapsed().as_secs_f64(),
        chaos.used_most / f64::from(1 << 20)
    );
    assert!(chaos.used_most <= BUDGET, "{} bytes of a budget of {BUDGET}", chaos.used_most);
    assert_audits(&chaos.mesh, &ROUTERS).await;
    for router in ROUTERS {
        assert!(!chaos.mesh.log(router).contains("panicked"), "{}", chaos.mesh.log(router));
        assert_eq!(chaos.mesh.terminate(router), Some(0), "{}", chaos.mesh.log(router));
    }
}
