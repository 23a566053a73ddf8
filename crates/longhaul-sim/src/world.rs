//! The whole mesh: what happens next, who is up, who owns what; the end of the faults and of the run.

use std::time::Duration;

use bytes::Bytes;

use crate::core::{Core, Message, Process, What};
use crate::coverage::Coverage;
use crate::fault::Fault;
use crate::ledger::{Content, Uid, Violation};
use crate::owner::OwnerFlow;
use crate::plan::{FAULTS_END, Plan, Work};
use crate::router::Router;

/// How long everything may take to drain once the faults have ended.
const DRAIN_MAX: Duration = Duration::from_secs(600);
/// More steps than this is a storm.
const STEPS_MAX: u64 = 500_000;
const LOOK_EVERY: Duration = Duration::from_millis(500);
const REDIAL: Duration = Duration::from_millis(500);

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The first violated check.
    pub violation: Option<Violation>,
    /// What was seen.
    pub cover: Coverage,
    /// What happened, if it was asked for.
    pub log: Option<String>,
}

/// Runs a plan to its end.
#[must_use]
pub fn run(plan: Plan, logged: bool) -> Outcome {
    let mut world = World::new(plan, logged);
    let mut steps = 0;
    while !world.done && world.core.ledger.violation().is_none() {
        steps += 1;
        let Some(what) = world.core.next() else { break };
        if steps > STEPS_MAX {
            world.core.ledger.violate("liveness", format!("more than {STEPS_MAX} steps"));
        }
        world.happen(what);
    }
    let Core { mut cover, ledger, log, .. } = world.core;
    cover.runs = 1;
    Outcome { violation: ledger.violation().cloned(), cover, log }
}

struct World {
    core: Core,
    routers: Vec<Router>,
    /// Who owns the shards of a region, and under which epoch last.
    owner_of: Vec<(Option<Process>, u64)>,
    healed: Option<Duration>,
    done: bool,
}

impl World {
    fn new(plan: Plan, logged: bool) -> Self {
        let cap = plan.bytes_cap;
        let routers: Vec<Router> =
            plan.routers.iter().enumerate().map(|(number, region)| Router::new(number, *region, cap)).collect();
        let regions = plan.kinds.len();
        let mut core = Core::new(plan, logged);
        core.set_up_logs();
        for nth in 0..core.plan.faults.len() {
            core.at(core.plan.faults[nth].0, What::Fault(nth));
        }
        for nth in 0..core.plan.work.len() {
            core.at(core.plan.work[nth].0, What::Work(nth));
        }
        core.at(FAULTS_END, What::Heal);
        let mut world = Self { core, routers, owner_of: vec![(None, 0); regions], healed: None, done: false };
        for router in 0..world.routers.len() {
            world.start_router(router);
        }
        world
    }

    fn start_router(&mut self, router: usize) {
        let found = &mut self.routers[router];
        (found.up, found.paused, found.stopping) = (true, false, false);
        found.started = self.core.now;
        let (process, region) = (found.process(), found.region);
        for region in self.core.plan.neighbours(region) {
            let delay = self.core.rng.ms(0, 50);
            self.core.after(delay, What::To(process, Message::Dial { region }));
        }
        self.core.at(self.core.now, What::Elect(region));
    }

    fn happen(&mut self, what: What) {
        match what {
            What::To(process, message) => self.reach(process, message),
            What::AtBroker { session, ask } => self.core.serve(session, ask),
            What::Fault(nth) => self.fault(self.core.plan.faults[nth].1),
            What::Work(nth) => self.work(self.core.plan.work[nth].1),
            What::BrokerUp(broker) => self.core.brokers[broker].up = true,
            What::RouterUp(router) => {
                if !self.routers[router].up {
                    self.start_router(router);
                }
            }
            What::Wake(router) => self.wake(router),
            What::Elect(region) => self.elect(region, false),
            What::CutLink { a, b } => self.cut_link(a, b, (0, 1_500)),
            What::Heal => self.heal(),
            What::Look => self.look(),
        }
    }

    fn reach(&mut self, process: Process, message: Message) {
        let router = &mut self.routers[process.0];
        if router.process() != process || !router.up {
            if let Message::Answer { session, answer, .. } = &message {
                self.core.unheard(*session, answer);
            }
            return;
        }
        if router.paused {
            return router.inbox.push(message);
        }
        match message {
            Message::Dial { region } => self.dial(process, region),
            Message::Owns => self.own(process),
            Message::Exit => self.end_router(process.0),
            // It has got them back meanwhile.
            Message::OwnsNoMore if self.owner_of[router.region].0 == Some(process) => {}
            Message::Declared { flow } => self.own_again(process, flow),
            message => {
                router.handle(&mut self.core, message);
                if router.is_at_rest() {
                    self.end_router(process.0);
                }
            }
        }
    }

    fn dial(&mut self, process: Process, region: usize) {
        let here = self.routers[process.0].region;
        for peer in 0..self.routers.len() {
            let there = &self.routers[peer];
            let reachable = there.region == region && there.up && !there.paused && !there.stopping;
            if reachable && !self.routers[process.0].is_linked(peer) && !self.routers[process.0].stopping {
                self.core.dial(process, here, there.process(), region);
            }
        }
        self.core.after(REDIAL, What::To(process, Message::Dial { region }));
    }

    // Ownership.

    /// The broker's coordinator chooses who owns the shards of a region.
    fn elect(&mut self, region: usize, another: bool) {
        let is_able = |router: &&Router| router.region == region && router.up && !router.paused && !router.stopping;
        let (current, _) = self.owner_of[region];
        let stays = self.routers.iter().filter(is_able).any(|router| Some(router.process()) == current);
        if stays && !another {
            return;
        }
        let next = self.routers.iter().filter(is_able).find(|router| Some(router.process()) != current);
        let Some(next) = next.map(Router::process) else { return };
        let (epoch, now) = (self.owner_of[region].1, self.core.now.as_millis() as u64);
        self.owner_of[region] = (Some(next), now.max(epoch + 1));
        self.core.owner_of[region] = Some(next);
        self.core.note(|| format!("world: router {next:?} owns region {region}"));
        self.core.at(self.core.now, What::To(next, Message::Owns));
        if let Some(current) = current {
            // Who is replaced hears of it some time later; a paused one when it wakes.
            let delay = self.core.rng.ms(0, 3_000);
            self.core.after(delay, What::To(current, Message::OwnsNoMore));
        }
    }

    fn own(&mut self, process: Process) {
        let region = self.routers[process.0].region;
        let (owner, epoch) = self.owner_of[region];
        if owner == Some(process) {
            // A router that lost the shards and gets them again begins a new life of each flow.
            self.routers[process.0].disown(&mut self.core);
            self.routers[process.0].own(&mut self.core, epoch);
        }
    }

    /// Whoever owns the region begins a new life of a flow that is declared again.
    fn own_again(&mut self, process: Process, flow: usize) {
        let router = &mut self.routers[process.0];
        router.withdrawn.remove(&flow);
        let region = router.region;
        let (owner, epoch) = self.owner_of[region];
        if owner == Some(process) && self.core.plan.flows[flow].from_broker == region {
            let epoch = (self.core.now.as_millis() as u64).max(epoch + 1);
            self.owner_of[region].1 = epoch;
            self.routers[process.0].own_again(&mut self.core, flow, epoch);
        }
    }

    /// Every router at both ends of a flow reads the document without it, and later the one with it.
    fn reload(&mut self, flow: usize, away: Duration) {
        let (from, to) = (self.core.plan.flows[flow].from_broker, self.core.plan.flows[flow].to_broker);
        let by_all = self.core.plan.has_detours();
        let reads = |router: &&Router| by_all || [from, to].contains(&router.region);
        for router in self.routers.iter().filter(reads) {
            let late = self.core.rng.ms(0, 500);
            self.core.after(late, What::To(router.process(), Message::Withdrawn { flow }));
            let late = late + away + self.core.rng.ms(0, 500);
            self.core.after(late, What::To(router.process(), Message::Declared { flow }));
        }
    }

    fn end_router(&mut self, router: usize) {
        let region = self.routers[router].region;
        self.core.note(|| format!("world: router {router} is gone"));
        if !self.routers[router].transits.is_empty() {
            self.core.cover.count("fault", "died with flows passing through");
        }
        self.routers[router].end(&mut self.core);
        let delay = self.core.rng.ms(500, 6_000);
        self.core.after(delay, What::Elect(region));
    }

    fn wake(&mut self, router: usize) {
        if !std::mem::take(&mut self.routers[router].paused) {
            return;
        }
        let process = self.routers[router].process();
        let inbox = std::mem::take(&mut self.routers[router].inbox);
        self.core.note(|| format!("world: router {router} wakes to {} messages", inbox.len()));
        let region = self.routers[router].region;
        if !self.routers[router].owners.is_empty() && self.owner_of[region].0 != Some(process) {
            self.core.cover.count("fault", "woke as a zombie");
        }
        if !self.routers[router].transits.is_empty() {
            self.core.cover.count("fault", "woke with flows passing through");
        }
        inbox.into_iter().for_each(|message| self.reach(process, message));
        self.core.at(self.core.now, What::Elect(region));
    }

    // From outside.

    fn work(&mut self, work: Work) {
        match work {
            Work::Publish { broker, events } => (0..events).for_each(|_| self.publish(broker)),
            Work::Twins { broker } => {
                let (content, token) = self.content();
                for _ in 0..2 {
                    // An odd token brings no message id.
                    self.core.publish(broker, content.clone(), token | 1, None);
                }
            }
            Work::Transform { broker } => {
                let count = self.core.brokers[broker].written.len();
                let nth = self.core.rng.below(count);
                self.transform(broker, nth);
            }
            Work::Feed { broker } => {
                let depth = |uid: Uid| {
                    let truth = self.core.ledger.truth(uid);
                    truth.stored.as_ref().filter(|stored| stored.token == truth.token).map(|stored| stored.depth)
                };
                let written = &self.core.brokers[broker].written;
                let deepest = (0..written.len()).max_by_key(|nth| depth(written[*nth].record.uid));
                if let Some(nth) = deepest {
                    self.transform(broker, nth);
                }
            }
            Work::Bridge { from, to } => {
                let count = self.core.brokers[from].written.len();
                let nth = self.core.rng.below(count);
                let Some(written) = self.core.brokers[from].written.get(nth) else { return };
                let record = (*written.record).clone();
                let (uid, truth) = (record.uid, self.core.ledger.truth(record.uid).clone());
                self.core.publish(to, truth.content, truth.token, Some((&record, uid)));
                self.core.cover.count("work", "bridge");
            }
        }
    }

    fn publish(&mut self, broker: usize) {
        let (content, token) = self.content();
        self.core.publish(broker, content, token, None);
        self.core.cover.count("work", "publish");
    }

    fn transform(&mut self, broker: usize, nth: usize) {
        let Some(written) = self.core.brokers[broker].written.get(nth) else { return };
        let record = (*written.record).clone();
        let (content, token) = self.content();
        let topic = self.core.ledger.truth(record.uid).content.topic.clone();
        self.core.publish(broker, Content { topic, ..content }, token, Some((&record, record.uid)));
        self.core.cover.count("work", "transform");
    }

    /// Something new, and the number that stands for it.
    fn content(&mut self) -> (Content, u64) {
        let core = &mut self.core;
        core.tokens += 2;
        let token = core.tokens + core.rng.below(2) as u64;
        let mut payload = token.to_le_bytes().to_vec();
        let filler = core.rng.below(core.plan.payload_bytes_max as usize);
        payload.resize(8 + filler, b'x');
        // Larger than the links take: only where the route says what becomes of it.
        if core.plan.drops_poison && core.rng.one_in(40) {
            payload.resize(core.plan.event_bytes_max as usize + 1, b'y');
        }
        let key = (!core.rng.one_in(4)).then(|| Bytes::from(vec![b'a' + core.rng.below(4) as u8]));
        let topic = if core.rng.one_in(4) { "other.x".to_owned() } else { format!("t.{}", core.rng.below(3)) };
        let time_ms = core.rng.below(1 << 40) as i64 - (1 << 39);
        (Content { topic, key, payload: Some(payload.into()), time_ms }, token)
    }

    fn fault(&mut self, fault: Fault) {
        self.core.note(|| format!("FAULT {fault:?}"));
        self.core.cover.count("fault", fault.name());
        let core = &mut self.core;
        match fault {
            Fault::RouterCrash { router, down } => self.crash_router(router, down),
            Fault::RouterStop { router, down } => self.stop_router(router, down),
            Fault::RouterPause { router, still } => self.pause(router, still),
            Fault::Takeover { region } => self.elect(region, true),
            Fault::Reload { flow, away } => self.reload(flow, away),
            Fault::Budget { router, bytes_cap } => {
                let found = &mut self.routers[router];
                if found.up && !found.paused {
                    found.set_cap(core, bytes_cap);
                }
            }
            Fault::BrokerCrash { broker, down } => {
                core.crash_broker(broker, None);
                core.after(down, What::BrokerUp(broker));
            }
            Fault::TailLost { broker, down, window } => {
                core.crash_broker(broker, Some(window));
                core.after(down, What::BrokerUp(broker));
            }
            Fault::BrokerSlow { broker, slow, by } => core.brokers[broker].slow = (core.now + slow, by),
            Fault::BrokerHang { broker, hang } => core.brokers[broker].hang_until = core.now + hang,
            Fault::SessionsCut { broker } => core.cut_sessions(broker),
            Fault::TornWrite { broker } => {
                let broker = &mut core.brokers[broker];
                (broker.torn, broker.torn_parking) = (true, true);
            }
            Fault::SinkRecreated { broker } => core.recreate_sink(broker),
            Fault::SourceRecreated { broker } => core.recreate_source(broker),
            Fault::RetentionOverrun { broker } => core.overrun(broker),
            Fault::Poison { broker } => core.brokers[broker].poison_next = true,
            Fault::LinkCut { a, b } => self.cut_link(a, b, (0, 3_000)),
            Fault::OneWayCut { from, to, lasts } => self.block(from, to, lasts),
            Fault::Partition { a, b, lasts } => {
                self.block(a, b, lasts);
                self.block(b, a, lasts);
            }
            Fault::Flapping { a, b } => {
                for nth in 0..8 {
                    core.after(Duration::from_millis(nth * 1_000), What::CutLink { a, b });
                }
            }
            Fault::ParcelsTwice { count } => core.twice = count,
            Fault::ParcelsLate { count, by } => core.late = (count, by),
            Fault::ParcelLost => core.lose = true,
            Fault::ParcelCorrupted => core.corrupt = true,
            Fault::OnwardSlow { router, slow, by } => self.routers[router].onward_slow = (core.now + slow, by),
        }
    }

    fn crash_router(&mut self, router: usize, down: Duration) {
        if self.routers[router].up {
            self.end_router(router);
            self.core.after(down, What::RouterUp(router));
        }
    }

    fn stop_router(&mut self, router: usize, down: Duration) {
        let found = &mut self.routers[router];
        if !found.up || found.paused || found.stopping {
            return;
        }
        found.stop(&mut self.core);
        let process = found.process();
        // What does not drain is given up.
        self.core.after(Duration::from_secs(5), What::To(process, Message::Exit));
        self.core.after(Duration::from_secs(5) + down, What::RouterUp(router));
        if self.routers[router].is_at_rest() {
            self.end_router(router);
        }
    }

    fn pause(&mut self, router: usize, still: Duration) {
        let found = &mut self.routers[router];
        if !found.up || found.paused {
            return;
        }
        found.paused = true;
        let (process, region) = (found.process(), found.region);
        self.core.after(still, What::Wake(router));
        // Whoever waits for it gives up after a while: peers, the coordinator.
        if still > Duration::from_secs(3) {
            let conns: Vec<u64> =
                self.core.conns.iter().filter(|(_, conn)| conn.ends.contains(&process)).map(|(id, _)| *id).collect();
            for conn in conns {
                self.core.cut(conn, (3_000, 20_000));
            }
        }
        if still > Duration::from_secs(6) {
            let delay = self.core.rng.ms(6_000, 10_000);
            self.core.after(delay, What::Elect(region));
        }
    }

    fn cut_link(&mut self, a: usize, b: usize, notice_ms: (u64, u64)) {
        self.core.between(a, b).into_iter().for_each(|conn| self.core.cut(conn, notice_ms));
    }

    /// What hears nothing for long gives its connection up.
    fn block(&mut self, from: usize, to: usize, lasts: Duration) {
        let until = self.core.now + lasts;
        let blocked = self.core.blocked.entry((from, to)).or_default();
        *blocked = until.max(*blocked);
        if lasts > Duration::from_secs(3) {
            self.cut_link(from, to, (3_000, 20_000));
        }
    }

    // The end.

    fn heal(&mut self) {
        self.core.note(|| "world: the faults end".to_owned());
        let now = self.core.now;
        self.core.blocked.clear();
        (self.core.twice, self.core.late, self.core.lose, self.core.corrupt) = (0, (0, Duration::ZERO), false, false);
        for broker in &mut self.core.brokers {
            (broker.up, broker.slow, broker.hang_until) = (true, (now, Duration::ZERO), now);
            (broker.torn, broker.torn_parking, broker.poison_next) = (false, false, false);
            if !self.core.plan.drops_poison && !self.core.plan.parks {
                broker.poisoned.clear();
            }
        }
        for router in 0..self.routers.len() {
            self.wake(router);
            self.routers[router].onward_slow = (now, Duration::ZERO);
            if !self.routers[router].up {
                self.start_router(router);
            }
        }
        self.healed = Some(now);
        self.core.after(Duration::from_secs(4), What::Look);
    }

    fn look(&mut self) {
        let Some(healed) = self.healed else { return };
        let undone = self.undone();
        if undone.is_none() {
            self.done = true;
            self.core.audit();
            self.core.cover.longest_drain = self.core.now - healed;
            return self.check_calm();
        }
        if self.core.now > healed + DRAIN_MAX {
            return self.core.ledger.violate("liveness", undone.unwrap_or_default());
        }
        self.core.after(LOOK_EVERY, What::Look);
    }

    /// What still has to be delivered, released or owned.
    fn undone(&self) -> Option<String> {
        let plan = &self.core.plan;
        for (flow, flow_plan) in plan.flows.iter().enumerate().filter(|(flow, _)| !self.core.ledger.is_halted(*flow)) {
            if let Some(uid) = self.core.ledger.missing(flow).first() {
                return Some(format!("flow {flow}: record {uid} never arrives"));
            }
            let broker = &self.core.brokers[flow_plan.from_broker];
            let Some(log) = broker.logs.get(&flow_plan.shard) else {
                let queue = &broker.queue;
                if queue.ready.is_empty() && queue.unacked.is_empty() || self.halts_together(flow) {
                    continue;
                }
                return Some(format!("flow {flow}: {} ready, {} unacked", queue.ready.len(), queue.unacked.len()));
            };
            let owner = self.owner_of[flow_plan.from_broker].0;
            let owner = owner.and_then(|(router, _)| self.routers[router].owners.get(&flow));
            let acked = owner.and_then(|owner| owner.owner.acked()).map(|acked| acked.offset.wrapping_add(1));
            if acked != Some(log.end()) {
                return Some(format!("flow {flow}: released to {acked:?} of {}", log.end()));
            }
            let best = plan.ways(flow_plan.from_broker, flow_plan.to_broker).first().copied();
            if owner.and_then(OwnerFlow::hop) != best {
                return Some(format!("flow {flow}: does not come back to its best way, over region {best:?}"));
            }
        }
        None
    }

    /// Whether another flow of the same shard waits for an operator.
    fn halts_together(&self, flow: usize) -> bool {
        let plan = &self.core.plan;
        let shares = |other: usize| plan.flows[other].shard == plan.flows[flow].shard;
        (0..plan.flows.len()).any(|other| shares(other) && self.core.ledger.is_halted(other))
    }

    /// Where nothing went wrong, nothing was done twice.
    fn check_calm(&mut self) {
        // Where there are several ways, links that come up in another order make flows change over.
        if !self.core.plan.faults.is_empty() || self.core.plan.has_detours() {
            return;
        }
        let flows = self.core.plan.flows.len() as u64;
        for (kind, name) in [("owner does", "open"), ("applier does", "open sink")] {
            let count = self.core.cover.get(kind, name);
            if count != flows {
                self.core.ledger.violate("calm", format!("{flows} flows, and {count} times: {name}"));
            }
        }
    }
}
