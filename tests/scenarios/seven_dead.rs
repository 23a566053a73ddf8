//! One source with eight destinations of which seven are dead: three brokers that nobody can reach, two brokers that hang, and two behind a
//! router that hangs, in the middle of its work. The living one keeps at least 95 % of its rate, from that moment on, what it gets comes
//! about as soon as before, and both routers on its way stay inside their memory budget. What hangs is left behind within seconds, and gets
//! everything once it goes on.
//!
//! Turns alternate: the living destination alone, then beside the seven. `LONGHAUL_SEVEN_DEAD_SECONDS` says how long all turns together
//! last (30).

#![expect(clippy::print_stdout, reason = "figures are part of what a scenario shows")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use longhaul_router::{End, Phase};
use longhaul_test_brokers::{free_port, nats};
use longhaul_tests::audit::assert_audits;
use longhaul_tests::client::{Client, Nats};
use longhaul_tests::http::{call, count};
use longhaul_tests::mesh::{Mesh, item};
use longhaul_tests::started;
use longhaul_tests::wait::until;

const TOPIC: &str = "orders.placed";
const PER_SECOND: u64 = 1_000;
const STEPS_PER_SECOND: u64 = 20;
/// Fills the ring of the source, half of the budget, within three seconds: before anybody can know that what hangs is dead.
const PAYLOAD_BYTES: usize = 6_000;
/// Of the rate alone.
const KEPT_MIN: f64 = 0.95;
/// What one event in a hundred may come later than alone: a few turns of a busy scheduler, far less than any patience of the mesh.
const LATER_MAX: Duration = Duration::from_millis(250);
/// From when it hangs until its flow reads by itself, or not at all: the ring of the source is full after three seconds.
const LEFT_BEHIND_WITHIN: Duration = Duration::from_secs(15);
/// Turns of each kind.
const TURNS: u32 = 3;
const LENGTH: Duration = Duration::from_secs(30);
/// For a changed document to be in force and what it starts to have started.
const SETTLE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(120);
const BUDGET: f64 = 32.0 * 1024.0 * 1024.0;
/// What a router in a debug build needs beside its budget: code, threads, the store's cache, broker clients, and what the allocator keeps
/// of four destinations that catch up at once. That rises with every time they do, by ever less.
const RSS_BESIDE: u64 = 224 << 20;
/// What is resident may grow by that while the seven are dead, however long: the ring of the source, which fills once.
const RSS_GROWN_MAX: u64 = 16 << 20;
const WATCHED: [&str; 2] = ["eu", "us"];

const LIVING: &str = "name: living\nfrom: {region: eu, broker: events, topics: [\"orders.>\"]}\n\
    to: [{region: us, broker: events}]\nstart: earliest";
const DEAD: &str = "name: dead\nfrom: {region: eu, broker: events, topics: [\"orders.>\"]}\nto:\n\
    \x20 - {region: us, broker: away-1}\n  - {region: us, broker: away-2}\n  - {region: us, broker: away-3}\n\
    \x20 - {region: us, broker: hangs-1}\n  - {region: us, broker: hangs-2}\n\
    \x20 - {region: ap, broker: first}\n  - {region: ap, broker: second}\nstart: earliest";

/// Everything that the scenario is made of.
struct Scene {
    mesh: Mesh,
    hanging: [nats::Nats; 2],
    living: String,
    behind: [String; 2],
    produced: Arc<AtomicU64>,
    patience: Duration,
    used_most: [f64; 2],
    rss_most: [u64; 2],
    /// Of this turn: how long it took until what was in the source was at the living destination.
    waits: Vec<Duration>,
}

impl Scene {
    async fn start() -> (Self, String) {
        let (first, second) = tokio::join!(started::nats(), started::nats());
        let (mesh, source) = Mesh::new(&["ap", "eu", "us"]).memory("32MiB").embedded("eu", "events");
        let (mesh, living) = mesh.linked(&[("eu", "us"), ("eu", "ap")]).embedded("us", "events");
        let (mesh, one) = mesh.embedded("ap", "first");
        let (mut mesh, two) = mesh.embedded("ap", "second");
        for name in ["away-1", "away-2", "away-3"] {
            let nobody = format!("nats: {{servers: [\"nats://127.0.0.1:{}\"]}}", free_port());
            mesh = mesh.broker("us", name, "nats: {}", &nobody);
        }
        for (name, server) in [("hangs-1", &first), ("hangs-2", &second)] {
            let client = Client::Nats(Nats::new(server));
            client.prepare(&[TOPIC]).await;
            mesh = mesh.broker("us", name, "nats: {}", &client.access());
        }
        let mut mesh = mesh.route(LIVING).route(DEAD);
        // The router in us is never ready: three of its brokers cannot be reached.
        mesh.write_all();
        for region in ["ap", "eu", "us"] {
            mesh.start_router(region);
        }
        for region in ["ap", "eu"] {
            mesh.wait_ready(region).await;
        }
        let scene = Self {
            mesh,
            hanging: [first, second],
            living,
            behind: [one, two],
            produced: Arc::default(),
            patience: PATIENCE + 2 * length(),
            used_most: [0.0; 2],
            rss_most: [0; 2],
            waits: Vec::new(),
        };
        (scene, source)
    }

    /// Waits until each of the four that can hang lacks no more than so many events.
    async fn caught_up(&self, lag: u64) {
        let [a, b] = &self.hanging;
        let nats = async |server| Client::Nats(Nats::new(server)).count(TOPIC).await as u64;
        until("four of the seven have caught up", self.patience, async || {
            let has = [nats(a).await, nats(b).await, count(&self.behind[0]).await, count(&self.behind[1]).await];
            let all = self.produced.load(Ordering::Relaxed);
            has.iter().all(|has| has + lag >= all && *has > 0).then_some(())
        })
        .await;
    }

    fn hang(&self) {
        self.hanging.iter().for_each(nats::Nats::freeze);
        self.mesh.process("ap").signal("STOP");
    }

    fn go_on(&self) {
        self.hanging.iter().for_each(nats::Nats::thaw);
        self.mesh.process("ap").signal("CONT");
    }

    /// Lets some time pass, and watches memory meanwhile.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            for (at, region) in WATCHED.into_iter().enumerate() {
                let used = self.mesh.metric(region, "longhaul_memory_budget_used_bytes", &[]).await;
                self.used_most[at] = self.used_most[at].max(used);
                self.rss_most[at] = self.rss_most[at].max(self.resident()[at]);
            }
            // Time is what is to pass.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let (begin, there) = (Instant::now(), self.produced.load(Ordering::Relaxed));
            while count(&self.living).await < there && Instant::now() < end {
                // Finer than what is measured.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.waits.push(begin.elapsed());
        }
    }

    /// What hangs is not in the way any more: it reads by itself, or nothing is sent to it.
    async fn left_behind(&self, since: Instant) {
        until("what hangs is left behind", LEFT_BEHIND_WITHIN.saturating_sub(since.elapsed()), async || {
            let flows = self.mesh.flows("eu").await;
            let mut dead = flows.iter().filter(|flow| flow.end == End::Out && flow.route == "dead");
            dead.all(|flow| flow.detached || flow.phase != Phase::Streaming).then_some(())
        })
        .await;
    }

    /// Puts these routes in force, and waits until so many flows are there.
    async fn set_routes(&mut self, routes: &[&str], flows: usize) {
        self.mesh.set_routes(&routes.iter().map(|route| item(route)).collect::<String>());
        until(&format!("{flows} flows"), PATIENCE, async || {
            let all = self.mesh.flows("eu").await;
            (all.iter().filter(|flow| flow.end == End::Out).count() == flows).then_some(())
        })
        .await;
        self.pass(SETTLE).await;
    }

    /// What arrived at the living destination during one turn, as a share of what was produced, so that a busy machine which slows the
    /// producer does not count.
    async fn turn(&mut self, what: &str, length: Duration) -> (f64, Vec<Duration>) {
        self.waits.clear();
        let before = (count(&self.living).await, self.produced.load(Ordering::Relaxed), Instant::now());
        let spent = self.cpu_ticks();
        let resident = self.resident();
        self.pass(length).await;
        let after = (count(&self.living).await, self.produced.load(Ordering::Relaxed));
        let (arrived, produced) = ((after.0 - before.0) as f64, (after.1 - before.1) as f64);
        let seconds = before.2.elapsed().as_secs_f64();
        let share = arrived / produced;
        let [eu, us] = [0, 1].map(|at| 10.0 * 1e3 * (self.cpu_ticks()[at] - spent[at]) as f64 / arrived);
        println!(
            "  {what:<18} {:>6.0} events/s of {:>6.0}, {share:.3}; {eu:>4.1} and {us:>4.1} us of CPU for each event in eu and us, \
             {:?} to {:?} MiB",
            arrived / seconds,
            produced / seconds,
            resident.map(|bytes| bytes >> 20),
            self.resident().map(|bytes| bytes >> 20)
        );
        (share, std::mem::take(&mut self.waits))
    }

    /// What each watched router holds.
    fn resident(&self) -> [u64; 2] {
        WATCHED.map(|region| rss_bytes(self.mesh.process(region).id()))
    }

    /// What each watched router has spent, in hundredths of a second.
    fn cpu_ticks(&self) -> [u64; 2] {
        WATCHED.map(|region| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.mesh.process(region).id()));
            let stat = stat.expect("a running process");
            // Behind the program's name, which may hold anything: user and system time are the 12th and 13th.
            let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
            fields.map(|field| field.parse::<u64>().expect("a number")).sum()
        })
    }
}

fn rss_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident size");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") << 10
}

/// Produces at a steady pace until told to stop.
async fn produce(source: String, produced: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / u32::try_from(STEPS_PER_SECOND).expect("small"));
    let (url, padding) = (format!("{source}/v1/topics/{TOPIC}/events"), ".".repeat(PAYLOAD_BYTES));
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let from = produced.load(Ordering::Relaxed);
        let step = from..from + PER_SECOND / STEPS_PER_SECOND;
        let event = |n| {
            format!(
                r#"{{"specversion":"1.0","id":"{n}","source":"/test","type":"t","partitionkey":"{}","data":"{padding}"}}"#,
                n % 50
            )
        };
        let body = format!("[{}]", step.clone().map(event).collect::<Vec<_>>().join(","));
        let answer = call("POST", &url, &[("content-type", "application/cloudevents-batch+json")], body).await;
        assert_eq!(answer.map(|(status, _)| status), Some(200), "the source takes everything");
        produced.store(step.end, Ordering::Relaxed);
    }
}

fn median(mut shares: Vec<f64>) -> f64 {
    shares.sort_by(f64::total_cmp);
    shares[shares.len() / 2]
}

fn p99(mut waits: Vec<Duration>) -> Duration {
    waits.sort_unstable();
    waits[waits.len() * 99 / 100]
}

fn length() -> Duration {
    let text = std::env::var("LONGHAUL_SEVEN_DEAD_SECONDS").ok();
    text.map_or(LENGTH, |text| Duration::from_secs(text.parse().expect("LONGHAUL_SEVEN_DEAD_SECONDS is a number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn seven_dead() {
    let (mut scene, source) = Scene::start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let producing = tokio::spawn(produce(source, Arc::clone(&scene.produced), Arc::clone(&stop)));
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    let (mut waits_alone, mut waits_beside) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        scene.set_routes(&[LIVING], 1).await;
        let (share, waits) = scene.turn("alone", length() / (2 * TURNS)).await;
        alone.push(share);
        waits_alone.extend(waits);
        scene.go_on();
        scene.set_routes(&[LIVING, DEAD], 8).await;
        scene.caught_up(PER_SECOND / 2).await;
        scene.hang();
        let hung = Instant::now();
        let before = scene.resident();
        let (share, waits) = scene.turn("beside seven dead", length() / (2 * TURNS)).await;
        scene.left_behind(hung).await;
        beside.push(share);
        waits_beside.extend(waits);
        for (before, after) in before.into_iter().zip(scene.resident()) {
            assert!(after < before + RSS_GROWN_MAX, "{} MiB resident, {} MiB after a turn", before >> 20, after >> 20);
        }
    }
    // Who still catches up when a turn begins gets more than is produced; nobody can keep that up.
    let kept = median(beside) / median(alone).min(1.0);
    println!("seven dead: the living one keeps {:.1} % of its rate", 100.0 * kept);
    let (alone, beside) = (p99(waits_alone), p99(waits_beside));
    println!("  p99 of its waits: {alone:?} alone, {beside:?} beside seven dead");
    assert!(beside <= alone + LATER_MAX, "p99 of {beside:?} beside seven dead, {alone:?} alone");
    for (at, region) in WATCHED.into_iter().enumerate() {
        let (used, rss) = (scene.used_most[at], scene.rss_most[at]);
        println!("  {region}: at most {:.1} MiB of its budget, {} MiB resident", used / f64::from(1 << 20), rss >> 20);
        assert!(used <= BUDGET, "{region}: {used} bytes of a budget of {BUDGET}");
        assert!(rss < RSS_BESIDE + 32 * (1 << 20), "{region}: {} MiB resident", rss >> 20);
    }
    assert!(scene.used_most[0] > BUDGET / 4.0, "the source's ring was never full: the test shows nothing about memory");
    assert!(kept >= KEPT_MIN, "beside seven dead ones it keeps {kept:.3} of its rate");

    stop.store(true, Ordering::Relaxed);
    producing.await.expect("producing works");
    scene.go_on();
    let healed = Instant::now();
    scene.caught_up(0).await;
    let all = scene.produced.load(Ordering::Relaxed);
    println!("what hung had all {all} events {:.1} s after it went on", healed.elapsed().as_secs_f64());
    assert_eq!(count(&scene.living).await, all, "nothing is missing or twice where nothing went wrong");
    assert_audits(&scene.mesh, &["ap", "eu", "us"]).await;
}
