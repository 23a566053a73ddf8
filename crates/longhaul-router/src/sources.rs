//! The routes that begin in this region: each (route, destination) follows the shards of its source and runs a flow for each.
//!
//! Routes that read the same thing share a source and its shards. A changed route is stopped and started; one that did not change
//! does not notice a reload.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use longhaul_broker::{Connector, Shard, Source, SourceError, SourceSpec};
use longhaul_route::{CompiledRoute, IngressContext};
use longhaul_telemetry::{Metrics, OutflowMetrics};
use longhaul_topology::{FlowKey, SourceKind};
use serde::{Deserialize, Serialize};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::appliers::place;
use crate::back_off::BackOff;
use crate::budget::Budget;
use crate::epochs::Epochs;
use crate::flow_status::{End, FlowStatus, FlowView, Phase};
use crate::gains::{Gains, Turn};
use crate::ingress::OwnerFlow;
use crate::links::Links;
use crate::live::World;
use crate::shard::{Followers, Member, RouteTo, ShardHandle};
use crate::supervise::Supervisor;
use crate::traced::{self, Watchers};

/// A route as people see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouteView {
    /// Its name.
    pub name: String,
    /// `region/broker`.
    pub from: String,
    /// `region/broker` of each destination.
    pub to: Vec<String>,
    /// What is promised.
    pub guarantee: String,
    /// Flows of it that this router owns.
    pub flows: usize,
    /// Why it does not run, when it does not.
    pub error: Option<String>,
}

/// What routes need to run.
pub(crate) struct Sources {
    /// Brokers of this region.
    pub brokers: Arc<BTreeMap<String, Arc<dyn Connector>>>,
    /// Ways to other regions.
    pub links: Arc<Links>,
    /// Memory.
    pub budget: Arc<Budget>,
    /// Spawner.
    pub supervisor: Supervisor,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Who looks at events.
    pub watchers: Watchers,
    /// Owner epochs.
    pub epochs: Arc<Epochs>,
    /// Router start.
    pub origin: Instant,
    /// What runs.
    pub running: Mutex<Running>,
}

/// What runs now.
#[derive(Default)]
pub(crate) struct Running {
    shared: HashMap<(String, SourceSpec), Weak<SharedSource>>,
    /// Those who read the same thing.
    followers: HashMap<(String, SourceSpec), Arc<Followers>>,
    routes: HashMap<RouteTo, RunningRoute>,
}

struct RunningRoute {
    hash: u64,
    metrics: OutflowMetrics,
    stop: CancellationToken,
    state: Arc<RouteState>,
}

/// Where each flow stands, and its place at what it reads, by the name of its shard.
type FlowsByShard = HashMap<String, (Arc<FlowStatus>, Arc<Member>)>;

/// What a running (route, destination) shows and holds. Its places at the shards outlive its tasks: a flow that has ended still holds
/// back what it did not deliver, until the route is gone or its successor has places of its own.
#[derive(Default)]
struct RouteState {
    flows: Mutex<FlowsByShard>,
    source: Mutex<Option<Arc<SharedSource>>>,
    error: Mutex<Option<String>>,
}

struct SharedSource {
    source: Arc<dyn Source>,
    followers: Arc<Followers>,
    shards: Mutex<HashMap<String, Weak<ShardHandle>>>,
}

impl Sources {
    /// Runs the routes of a world that begin in this region: starts what is new, stops what is gone or changed, leaves alone the rest.
    pub(crate) fn apply(self: &Arc<Self>, world: &World, region: &str) {
        let mut running = self.lock();
        let wanted: HashMap<_, _> = world
            .table
            .routes()
            .filter(|route| route.route().from.region == region)
            .flat_map(|route| (0..route.route().to.len()).map(move |to| (key(route, to), (route, to))))
            .collect();
        let mut changed = HashMap::new();
        running.routes.retain(|key, running| {
            let stays = wanted.get(key).is_some_and(|(route, to)| route.hash_to(*to) == running.hash);
            if !stays {
                running.stop.cancel();
                changed.insert(key.clone(), Arc::clone(&running.state));
            }
            if !wanted.contains_key(key) {
                running.metrics.remove();
            }
            stays
        });
        let mut followers: HashMap<_, HashSet<RouteTo>> = HashMap::new();
        for (key, (route, to)) in &wanted {
            let spec = spec(&world.mesh.name, route, *to);
            followers.entry((route.route().from.broker.clone(), spec)).or_default().insert(key.clone());
        }
        running.followers.retain(|spec, _| followers.contains_key(spec));
        for (spec, of) in followers {
            running.followers.entry(spec).or_default().set(of);
        }
        for (key, (route, to)) in wanted {
            let before = changed.remove(&key);
            running.routes.entry(key).or_insert_with(|| self.start_route(&world.mesh.name, route, to, before));
        }
    }

    /// The owned flows as people see them.
    #[must_use]
    pub(crate) fn flows(&self) -> Vec<FlowView> {
        let running = self.lock();
        running.routes.values().flat_map(|route| route.state.views()).collect()
    }

    /// Whether no owned flow has anything under way.
    #[must_use]
    pub(crate) fn is_at_rest(&self) -> bool {
        let running = self.lock();
        let stopped = |(status, _): &(Arc<FlowStatus>, Arc<Member>)| status.phase() == Phase::Stopped;
        running.routes.values().all(|route| route.state.flows().values().all(stopped))
    }

    /// The routes of a world as people see them.
    #[must_use]
    pub(crate) fn routes(&self, world: &World) -> Vec<RouteView> {
        let running = self.lock();
        let view = |route: &Arc<CompiledRoute>| {
            let declared = route.route();
            let states: Vec<_> = (0..declared.to.len()).filter_map(|to| running.routes.get(&key(route, to))).collect();
            RouteView {
                name: declared.name.clone(),
                from: place(&declared.from.region, &declared.from.broker),
                to: declared.to.iter().map(|to| place(&to.region, &to.broker)).collect(),
                guarantee: declared.guarantee.as_str().to_owned(),
                flows: states.iter().map(|route| route.state.flows().len()).sum(),
                error: states.iter().find_map(|route| route.state.error()),
            }
        };
        world.table.routes().map(view).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a route to one destination; `before` is what it held before it changed.
    fn start_route(
        self: &Arc<Self>,
        mesh: &str,
        route: &Arc<CompiledRoute>,
        to: usize,
        before: Option<Arc<RouteState>>,
    ) -> RunningRoute {
        let (stop, state) = (self.supervisor.stop_token().child_token(), Arc::new(RouteState::default()));
        let runner = Arc::new(RouteRunner {
            sources: Arc::clone(self),
            mesh: mesh.to_owned(),
            route: Arc::clone(route),
            to,
            stop: stop.clone(),
            state: Arc::clone(&state),
            before: Mutex::new(before),
        });
        let name = format!("route {}", route.route().name);
        self.supervisor.spawn(&name, stop.clone(), move || Arc::clone(&runner).run());
        let (from, goes) = (&route.route().from, &route.route().to[to]);
        let (from, goes) = (place(&from.region, &from.broker), place(&goes.region, &goes.broker));
        let metrics = self.metrics.outflow(&route.route().name, &from, &goes);
        RunningRoute { hash: route.hash_to(to), metrics, stop, state }
    }

    /// The shared source of that spec, made when nobody has it.
    fn source(&self, broker: &str, spec: SourceSpec) -> Result<Arc<SharedSource>, SourceError> {
        let connector = self.brokers.get(broker);
        let connector =
            connector.ok_or_else(|| SourceError::Config(format!("this router does not know the broker {broker}")))?;
        let key = (broker.to_owned(), spec.clone());
        let mut running = self.lock();
        running.shared.retain(|_, source| source.strong_count() > 0);
        if let Some(source) = running.shared.get(&key).and_then(Weak::upgrade) {
            return Ok(source);
        }
        let followers = Arc::clone(running.followers.entry(key.clone()).or_default());
        let source = Arc::new(SharedSource { source: connector.source(spec)?, followers, shards: Mutex::default() });
        running.shared.insert(key, Arc::downgrade(&source));
        Ok(source)
    }
}

impl RouteState {
    fn flows(&self) -> MutexGuard<'_, FlowsByShard> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn views(&self) -> Vec<FlowView> {
        let view = |(status, member): &(Arc<FlowStatus>, Arc<Member>)| {
            status.view(member.shard().end(), member.shard().error())
        };
        self.flows().values().map(view).collect()
    }

    /// Whether the shard was given up by another route: it may have been given back since.
    fn is_given_up(&self, shard: &str) -> bool {
        self.flows().get(shard).is_some_and(|(_, member)| member.shard().is_given_up())
    }

    fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_error(&self, error: Option<String>) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

/// What tells running routes apart: a route goes to a place once.
fn key(route: &CompiledRoute, to: usize) -> (String, String) {
    let to = &route.route().to[to];
    (route.route().name.clone(), place(&to.region, &to.broker))
}

/// What a route reads for one destination.
fn spec(mesh: &str, route: &CompiledRoute, to: usize) -> SourceSpec {
    let (from, to) = (&route.route().from, &route.route().to[to]);
    let spool = matches!(from.source, SourceKind::RabbitExchange { .. })
        .then(|| format!("longhaul.spool.{mesh}.{}.{}.{}", route.route().name, to.region, to.broker));
    SourceSpec { source: from.source.clone(), spool }
}

/// Runs one (route, destination).
struct RouteRunner {
    sources: Arc<Sources>,
    mesh: String,
    route: Arc<CompiledRoute>,
    to: usize,
    stop: CancellationToken,
    state: Arc<RouteState>,
    /// What the route was before it changed, which holds its places at the shards until this one has its own.
    before: Mutex<Option<Arc<RouteState>>>,
}

impl RouteRunner {
    async fn run(self: Arc<Self>) {
        let mut back_off = BackOff::new(Duration::from_secs(1), Duration::from_secs(30));
        loop {
            match self.sources.source(&self.route.route().from.broker, spec(&self.mesh, &self.route, self.to)) {
                Ok(source) => {
                    self.state.set_error(None);
                    *self.state.source.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&source));
                    return self.follow_shards(&source).await;
                }
                Err(error) => {
                    tracing::error!(route = self.route.route().name, %error, "a route cannot be read");
                    self.state.set_error(Some(error.to_string()));
                }
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(back_off.next()) => {}
            }
        }
    }

    async fn follow_shards(&self, source: &Arc<SharedSource>) {
        let mut shards = source.source.shards();
        // Dropping a guard stops its flow.
        let mut flows: HashMap<String, DropGuard> = HashMap::new();
        let mut gains = Gains::default();
        while !self.stop.is_cancelled() {
            let (now, listed) = (Instant::now(), Arc::clone(&shards.borrow_and_update()));
            let names: HashSet<&str> = listed.iter().map(|shard| shard.name.as_str()).collect();
            flows.retain(|name, _| {
                let stays = names.contains(name.as_str()) && !self.state.is_given_up(name);
                if !stays {
                    self.give_up(name);
                }
                stays
            });
            gains.retain(&names);
            for shard in listed.iter() {
                match gains.turn(&shard.name, now) {
                    Turn::Begins => {
                        flows.entry(shard.name.clone()).or_insert_with(|| self.start_flow(source, shard));
                    }
                    Turn::Rests => self.metrics().moved("held"),
                    Turn::Waits => {}
                }
            }
            if !listed.is_empty() {
                drop(self.before.lock().unwrap_or_else(PoisonError::into_inner).take());
            }
            let held_back = gains.next_begin(now);
            tokio::select! {
                () = self.stop.cancelled() => {}
                changed = shards.changed() => if changed.is_err() { self.wait_for_stop().await },
                () = tokio::time::sleep(held_back.unwrap_or_default()), if held_back.is_some() => {}
            }
        }
    }

    /// Of all flows of the route to this destination.
    fn metrics(&self) -> OutflowMetrics {
        let (route, to) = (self.route.route(), &self.route.route().to[self.to]);
        let (from, to) = (place(&route.from.region, &route.from.broker), place(&to.region, &to.broker));
        self.sources.metrics.outflow(&route.name, &from, &to)
    }

    /// Somebody else has the shard now.
    fn give_up(&self, shard: &str) {
        // Released is nothing from before the first flow leaves.
        if let Some((status, member)) = self.state.flows().remove(shard) {
            member.shard().give_up();
            status.moved("lost");
        }
    }

    /// A source that no longer tells of its shards keeps the ones it had.
    async fn wait_for_stop(&self) {
        self.state.set_error(Some("the source no longer tells of its shards".into()));
        self.stop.cancelled().await;
    }

    fn start_flow(&self, source: &Arc<SharedSource>, shard: &Shard) -> DropGuard {
        let (sources, route) = (&self.sources, self.route.route());
        let to = &route.to[self.to];
        let key = FlowKey {
            mesh: self.mesh.clone(),
            route: route.name.clone(),
            from: (route.from.region.clone(), route.from.broker.clone(), shard.name.clone()),
            to: (to.region.clone(), to.broker.clone()),
        };
        let status = Arc::new(FlowStatus::new(key.clone(), self.metrics()));
        let member = Arc::new(self.shard(source, shard).join((route.name.clone(), place(&to.region, &to.broker))));
        status.moved("gained");
        self.state.flows().insert(shard.name.clone(), (Arc::clone(&status), Arc::clone(&member)));
        let stop = self.stop.child_token();
        let tracer = traced::of_flow(sources.watchers.tracer.as_ref(), &key, &self.route, self.to);
        let tap = sources.watchers.taps.flow(&key, End::Out);
        let flow = Arc::new(OwnerFlow {
            key,
            tracer,
            tap,
            route: Arc::clone(&self.route),
            to: self.to,
            member,
            links: Arc::clone(&sources.links),
            epochs: Arc::clone(&sources.epochs),
            status,
            origin: sources.origin,
            drain: sources.supervisor.drain_token().clone(),
            stop: stop.clone(),
        });
        let name = flow.status.name().to_owned();
        sources.supervisor.spawn(&name, stop.clone(), move || Arc::clone(&flow).run());
        stop.drop_guard()
    }

    /// The shared reading of a shard, begun when no flow of any route has it.
    fn shard(&self, source: &Arc<SharedSource>, shard: &Shard) -> Arc<ShardHandle> {
        let mut shards = source.shards.lock().unwrap_or_else(PoisonError::into_inner);
        shards.retain(|_, handle| handle.strong_count() > 0);
        if let Some(handle) = shards.get(&shard.name).and_then(Weak::upgrade).filter(|handle| !handle.is_given_up()) {
            return handle;
        }
        let from = &self.route.route().from;
        let context =
            IngressContext::new(&self.mesh, &from.region, &from.broker, &shard.name).with_replayable(shard.replayable);
        let handle = ShardHandle::start(
            shard.clone(),
            Arc::clone(&source.source),
            context,
            Arc::clone(&source.followers),
            &self.sources.budget,
            &self.sources.supervisor,
        );
        shards.insert(shard.name.clone(), Arc::downgrade(&handle));
        handle
    }
}
