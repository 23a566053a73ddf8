//! All applying flows of this router: made when an owner opens them, found by identity, gone when abandoned.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use longhaul_broker::{Connector, Sink, SinkSpec};
use longhaul_event::FlowId;
use longhaul_telemetry::{InflowMetrics, Metrics};
use longhaul_topology::{FlowKey, OnPoison};
use longhaul_wire::FlowOpen;

use crate::budget::Budget;
use crate::egress::{ApplierFlow, Plan};
use crate::flow_status::{End, FlowView, InflowStatus, Phase};
use crate::live::Live;
use crate::mailbox::{Inbound, Mailbox, Refused};
use crate::supervise::Supervisor;
use crate::traced::{self, Watchers};

/// What comes in for each flow, and where it stands.
type FlowsById = HashMap<FlowId, (Arc<Mailbox>, Arc<InflowStatus>)>;

/// The applying flows of a router.
pub(crate) struct Appliers {
    live: Arc<Live>,
    brokers: Arc<BTreeMap<String, Arc<dyn Connector>>>,
    budget: Arc<Budget>,
    supervisor: Supervisor,
    metrics: Arc<Metrics>,
    watchers: Watchers,
    origin: Instant,
    flows: Mutex<FlowsById>,
    /// Shared by the flows that write the same thing, for as long as there are any.
    sinks: Mutex<HashMap<(String, SinkSpec), Weak<dyn Sink>>>,
}

impl Appliers {
    /// No flows yet.
    #[must_use]
    pub(crate) fn new(
        live: Arc<Live>,
        brokers: Arc<BTreeMap<String, Arc<dyn Connector>>>,
        budget: Arc<Budget>,
        supervisor: Supervisor,
        metrics: Arc<Metrics>,
        watchers: Watchers,
        origin: Instant,
    ) -> Arc<Self> {
        let (flows, sinks) = (Mutex::default(), Mutex::default());
        Arc::new(Self { live, brokers, budget, supervisor, metrics, watchers, origin, flows, sinks })
    }

    /// Whether the router drains: no flow may be opened any more.
    #[must_use]
    pub(crate) fn is_draining(&self) -> bool {
        self.supervisor.drain_token().is_cancelled()
    }

    /// The router's metrics.
    #[must_use]
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// All flows as people see them.
    #[must_use]
    pub(crate) fn view(&self) -> Vec<FlowView> {
        self.lock().values().map(|(_, status)| status.view()).collect()
    }

    /// Whether no flow has anything that is not committed.
    #[must_use]
    pub(crate) fn is_at_rest(&self) -> bool {
        self.lock().values().all(|(_, status)| status.phase() == Phase::Stopped)
    }

    /// Whether a flow goes to this region.
    pub(crate) fn is_here(&self, open: &FlowOpen) -> bool {
        open.to.0 == self.live.region()
    }

    /// Whether a flow may be opened here: this mesh, this region, a route that stands here in the same words.
    ///
    /// # Errors
    /// The reason, as a sentence for the owner's log.
    pub(crate) fn check_route(&self, open: &FlowOpen) -> Result<(), String> {
        let world = self.live.load();
        let (mesh, region) = (&world.mesh.name, self.live.region());
        if &open.mesh != mesh || open.to.0 != region {
            return Err(format!("this router serves {region} of the mesh {mesh}, not {} of {}", open.to.0, open.mesh));
        }
        let Some(route) = world.table.route(&open.route) else {
            return Err(format!("{region} does not know the route {}; its mesh document is another one", open.route));
        };
        let known = (&open.from.0, &open.from.1) == (&route.route().from.region, &route.route().from.broker);
        let to = route.route().to.iter().position(|to| to.region == open.to.0 && to.broker == open.to.1);
        match to.filter(|_| known) {
            None => Err(format!("the route {} does not go that way here", open.route)),
            Some(to) if route.hash_to(to) != open.route_hash => {
                Err(format!("{region} knows the route {} in other words; its mesh document is another one", open.route))
            }
            Some(_) => Ok(()),
        }
    }

    /// Gives the opening of a flow to its applier, which is made if there is none. `known` hears of its mailbox before the applier can
    /// answer, so that the batches that follow the answer find it.
    ///
    /// # Errors
    /// Why there can be none, as a sentence.
    pub(crate) fn put_open(
        self: &Arc<Self>,
        key: &FlowKey,
        known: impl Fn(&Arc<Mailbox>),
        open: impl Fn(Plan) -> Inbound,
    ) -> Result<(), String> {
        let plan = self.plan(key)?;
        let mut flows = self.lock();
        loop {
            let mailbox = match flows.get(&key.id()) {
                Some((mailbox, _)) => Arc::clone(mailbox),
                None => {
                    let made = self.start(key, plan.clone());
                    flows.insert(key.id(), made.clone());
                    made.0
                }
            };
            known(&mailbox);
            match mailbox.put(open(plan.clone())) {
                Ok(()) => return Ok(()),
                Err(Refused::Closed) => flows.remove(&key.id()),
                Err(Refused::Flooded) => return Err("the flow is opened too often".into()),
            };
        }
    }

    /// What a flow follows by the documents in force.
    fn plan(&self, key: &FlowKey) -> Result<Plan, String> {
        let world = self.live.load();
        let route = Arc::clone(world.table.route(&key.route).ok_or("the route is gone")?);
        let to = route.route().to.iter().position(|to| to.region == key.to.0 && to.broker == key.to.1);
        let to = to.ok_or("the route is gone")?;
        let spec = SinkSpec { sink: route.route().to[to].sink.clone(), guarantee: route.route().guarantee };
        let sink = self.sink(&key.to.1, spec)?;
        let parks = route.route().on_poison == OnPoison::Park;
        let parking = parks.then(|| self.brokers.get(&key.to.1)?.parking()).flatten();
        Ok(Plan { sink, route, to, parking })
    }

    fn start(self: &Arc<Self>, key: &FlowKey, plan: Plan) -> (Arc<Mailbox>, Arc<InflowStatus>) {
        let metrics = self.inflow_metrics(key);
        let health = self.brokers.get(&key.to.1).map(|connector| connector.health());
        let (mailbox, status) = (Arc::new(Mailbox::default()), Arc::new(InflowStatus::new(key.clone(), metrics)));
        let flow = Arc::new(ApplierFlow {
            key: key.clone(),
            tracer: traced::of_flow(self.watchers.tracer.as_ref(), key, &plan.route, plan.to),
            tap: self.watchers.taps.flow(key, End::In),
            plan,
            mailbox: Arc::clone(&mailbox),
            status: Arc::clone(&status),
            budget: Arc::clone(&self.budget),
            health,
            origin: self.origin,
            drain: self.supervisor.drain_token().clone(),
            last_owner: Mutex::new(None),
        });
        let (appliers, stop) = (Arc::clone(self), self.supervisor.stop_token().child_token());
        self.supervisor.spawn(status.name(), stop.clone(), move || {
            let (appliers, flow, stop) = (Arc::clone(&appliers), Arc::clone(&flow), stop.clone());
            async move {
                loop {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = Arc::clone(&flow).run() => {}
                    }
                    if flow.drain.is_cancelled() {
                        flow.mailbox.shut();
                        return appliers.forget(&flow);
                    }
                    if flow.mailbox.close() {
                        return appliers.forget(&flow);
                    }
                }
            }
        });
        (mailbox, status)
    }

    fn forget(&self, flow: &ApplierFlow) {
        let mut flows = self.lock();
        if flows.get(&flow.status.id()).is_some_and(|(mailbox, _)| Arc::ptr_eq(mailbox, &flow.mailbox)) {
            flows.remove(&flow.status.id());
        }
        // Metrics of a route that is gone from the documents go with its last flow; those of one that rests stay.
        let is_gone = self.live.load().table.route(&flow.key.route).is_none();
        if is_gone && !flows.values().any(|(_, status)| is_alike(status.key(), &flow.key)) {
            drop(flows);
            self.inflow_metrics(&flow.key).remove();
        }
    }

    fn inflow_metrics(&self, key: &FlowKey) -> InflowMetrics {
        self.metrics.inflow(&key.route, &place(&key.from.0, &key.from.1), &place(&key.to.0, &key.to.1))
    }

    fn sink(&self, broker: &str, spec: SinkSpec) -> Result<Arc<dyn Sink>, String> {
        let connector =
            self.brokers.get(broker).ok_or_else(|| format!("this router does not know the broker {broker}"))?;
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (broker.to_owned(), spec.clone());
        sinks.retain(|_, sink| sink.strong_count() > 0);
        if let Some(sink) = sinks.get(&key).and_then(Weak::upgrade) {
            return Ok(sink);
        }
        let sink = connector.sink(spec).map_err(|error| error.to_string())?;
        sinks.insert(key, Arc::downgrade(&sink));
        Ok(sink)
    }

    fn lock(&self) -> MutexGuard<'_, FlowsById> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether two flows are of one route between the same two brokers, whatever their shards: they share their metrics.
fn is_alike(a: &FlowKey, b: &FlowKey) -> bool {
    (&a.route, &a.from.0, &a.from.1, &a.to) == (&b.route, &b.from.0, &b.from.1, &b.to)
}

/// `region/broker`, as metrics and views say it.
#[must_use]
pub(crate) fn place(region: &str, broker: &str) -> String {
    format!("{region}/{broker}")
}
