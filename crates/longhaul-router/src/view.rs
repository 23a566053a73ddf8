//! What a router shows: the JSON of its API, and the gauges that are collected once a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longhaul_broker::Health;
use longhaul_telemetry::FlowGauges;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::audit::AuditView;
use crate::flow_status::{End, FlowView, Phase};
use crate::links::LinkView;
use crate::parked::{ParkedError, ParkedEvent, ParkedView};
use crate::router::{Router, Shared};
use crate::sessions::{RefusalView, SessionView};
use crate::sources::RouteView;

/// A router that has not collected its metrics for that long is stuck.
const ALIVE_WITHIN: Duration = Duration::from_secs(10);

/// The mesh document in force, in short.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MeshView {
    /// Its name.
    pub mesh: String,
    /// This router's region.
    pub region: String,
    /// This router's name.
    pub router: String,
    /// Version of the program.
    pub version: String,
    /// Counts the documents that were taken up.
    pub generation: u64,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// Regions and their brokers as `name (kind)`.
    pub regions: BTreeMap<String, Vec<String>>,
    /// Pairs of regions.
    pub links: Vec<[String; 2]>,
    /// Memory budget in bytes.
    pub memory_budget_bytes: u64,
    /// Bytes of it in use.
    pub memory_used_bytes: u64,
    /// When this router's certificate expires, seconds since the Unix epoch.
    pub certificate_expires: i64,
    /// Why the documents on disk are not in force, while they are not.
    pub reload_error: Option<String>,
}

/// Links that this router dialled, and those that were dialled to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinksView {
    /// Dialled by this router.
    pub out: Vec<LinkView>,
    /// Dialled to this router.
    pub r#in: Vec<SessionView>,
    /// The last connections that this router refused or cut off, oldest first.
    pub refused: Vec<RefusalView>,
}

/// A broker of this region.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BrokerView {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// `connecting`, `up` or `down`.
    pub state: String,
    /// Why it is down.
    pub error: Option<String>,
}

impl Router {
    /// The mesh.
    #[must_use]
    pub fn mesh(&self) -> MeshView {
        let (shared, world) = (&self.shared, self.shared.live.load());
        let config = shared.documents.load();
        let brokers = |region: &longhaul_topology::Region| {
            region.brokers.iter().map(|broker| format!("{} ({})", broker.name, broker.kind.as_str())).collect()
        };
        MeshView {
            mesh: world.mesh.name.clone(),
            region: config.router.region.clone(),
            router: config.router.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generation: world.generation,
            uptime_seconds: shared.started.elapsed().as_secs_f64(),
            regions: world.mesh.regions.iter().map(|region| (region.name.clone(), brokers(region))).collect(),
            links: world.mesh.links.iter().map(|link| link.between.clone()).collect(),
            memory_budget_bytes: shared.budget.total_bytes(),
            memory_used_bytes: shared.budget.used_bytes(),
            certificate_expires: unix_seconds(shared.identity.expiry()),
            reload_error: shared.refused_documents(),
        }
    }

    /// The mesh document in force, as it was written. It holds no secret: what does is in the router document.
    #[must_use]
    pub fn mesh_text(&self) -> Arc<str> {
        Arc::clone(&self.shared.live.load().text)
    }

    /// The links.
    #[must_use]
    pub fn links(&self) -> LinksView {
        LinksView {
            out: self.shared.links.view(),
            r#in: self.shared.sessions.view(),
            refused: self.shared.sessions.refused(),
        }
    }

    /// The routes.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteView> {
        self.shared.sources.routes(&self.shared.live.load())
    }

    /// The flows: those owned here, then those applied here.
    #[must_use]
    pub fn flows(&self) -> Vec<FlowView> {
        self.shared.flows()
    }

    /// The brokers of this region.
    #[must_use]
    pub fn brokers(&self) -> Vec<BrokerView> {
        self.shared.broker_views()
    }

    /// The events that are parked in brokers of this region, oldest first.
    ///
    /// # Errors
    /// When a broker does not tell.
    pub async fn parked(&self) -> Result<Vec<ParkedView>, ParkedError> {
        self.shared.parked.list().await
    }

    /// One of them, whole.
    ///
    /// # Errors
    /// When it is not there, or its broker does not tell.
    pub async fn parked_event(&self, id: &str) -> Result<ParkedEvent, ParkedError> {
        self.shared.parked.show(id).await
    }

    /// Writes one of them to its destination, then removes it.
    ///
    /// # Errors
    /// When it is not there, or is refused again; then it stays parked.
    pub async fn redrive(&self, id: &str) -> Result<ParkedView, ParkedError> {
        self.shared.parked.redrive(id).await
    }

    /// Removes one of them for good.
    ///
    /// # Errors
    /// When it is not there, or its broker does not answer.
    pub async fn discard(&self, id: &str) -> Result<ParkedView, ParkedError> {
        self.shared.parked.discard(id).await
    }

    /// A request to the admin listener was refused with that HTTP status.
    pub fn count_refused_request(&self, status: u16) {
        self.shared.metrics.refused_admin_request(status);
    }

    /// Whether the router is ready: documents in force, listener bound, every broker of this region reached at least once.
    ///
    /// # Errors
    /// What it still waits for.
    pub fn ready(&self) -> Result<(), String> {
        let waiting: Vec<_> = self.brokers().into_iter().filter(|broker| broker.state != "up").collect();
        let mut reached = self.shared.reached.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reached.extend(self.brokers().into_iter().filter(|broker| broker.state == "up").map(|broker| broker.name));
        match waiting.iter().find(|broker| !reached.contains(&broker.name)) {
            None => Ok(()),
            Some(broker) => {
                let why = broker.error.as_deref().unwrap_or("connecting");
                Err(format!("the broker {} was not reached yet: {why}", broker.name))
            }
        }
    }

    /// Whether the loops turn: the collection of metrics, which shares its runtime with everything else, ran lately.
    ///
    /// # Errors
    /// For how long it has not.
    pub fn alive(&self) -> Result<(), String> {
        let collected = Duration::from_millis(self.shared.collected_ms.load(Ordering::Relaxed));
        let silent = self.shared.started.elapsed().saturating_sub(collected);
        if silent < ALIVE_WITHIN { Ok(()) } else { Err(format!("nothing has moved for {} s", silent.as_secs())) }
    }

    /// The metrics in Prometheus text format.
    #[must_use]
    pub fn metrics_text(&self) -> String {
        self.shared.collect();
        self.shared.metrics.render()
    }
}

impl Shared {
    fn flows(&self) -> Vec<FlowView> {
        let mut flows = self.sources.flows();
        flows.extend(self.appliers.view());
        flows.sort_by(|a, b| (&a.route, &a.from, &a.shard, &a.to).cmp(&(&b.route, &b.from, &b.shard, &b.to)));
        flows
    }

    fn broker_views(&self) -> Vec<BrokerView> {
        let documents = self.documents.load();
        let view = |(name, connector): (&String, &Arc<dyn longhaul_broker::Connector>)| {
            let kind = documents.mesh.broker(&documents.router.region, name).map_or("", |broker| broker.kind.as_str());
            let health = connector.health().borrow().clone();
            let (state, error) = match health {
                Health::Connecting => ("connecting", None),
                Health::Up => ("up", None),
                Health::Down(reason) => ("down", Some(reason)),
            };
            BrokerView { name: name.clone(), kind: kind.to_owned(), state: state.to_owned(), error }
        };
        self.brokers.iter().map(view).collect()
    }

    /// Collects the gauges once a second, so that a scrape finds them fresh and restarts are counted between scrapes.
    pub(crate) async fn collect_for_ever(self: Arc<Self>, stop: CancellationToken) {
        loop {
            self.collect();
            let at_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.collected_ms.store(at_ms, Ordering::Relaxed);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
        }
    }

    fn collect(&self) {
        self.metrics.memory(self.budget.used_bytes(), self.budget.total_bytes(), self.budget.credit_bytes());
        self.metrics.certificate_expires(unix_seconds(self.identity.expiry()));
        for broker in self.broker_views() {
            self.metrics.broker_up(&broker.name, &broker.kind, broker.state == "up");
        }
        for (name, connector) in self.brokers.iter() {
            for (status, total) in connector.refused_requests() {
                self.metrics.refused_requests(&format!("broker/{name}"), status, total);
            }
        }
        let mut sums: BTreeMap<(String, String, String), FlowGauges> = BTreeMap::new();
        let flows = self.flows();
        self.collect_audit(&flows);
        for flow in flows.into_iter().filter(|flow| flow.end == End::Out) {
            let sum = sums.entry((flow.route, flow.from, flow.to)).or_default();
            sum.flows += 1;
            sum.streaming += u64::from(flow.phase == Phase::Streaming);
            sum.stalled += u64::from(flow.stalled);
            sum.unbalanced += u64::from(!flow.audit_balanced);
            sum.lag_events += flow.lag_events.unwrap_or(0);
            sum.oldest_unacked_seconds = sum.oldest_unacked_seconds.max(flow.unacknowledged_seconds);
            sum.lag_seconds = sum.lag_seconds.max(flow.lag_seconds);
            sum.credit_exhausted_seconds += flow.credit_exhausted_seconds;
        }
        for ((route, from, to), gauges) in sums {
            self.metrics.outflow(&route, &from, &to).gauges(gauges);
        }
    }
}

impl Shared {
    /// The books of every route and way, over all its shards. A router has one end of a flow only, so each way has one set of books.
    fn collect_audit(&self, flows: &[FlowView]) {
        let mut sums: BTreeMap<(&str, &str, &str), AuditView> = BTreeMap::new();
        for flow in flows {
            let sum = sums.entry((&flow.route, &flow.from, &flow.to)).or_default();
            sum.read += flow.audit.read;
            sum.delivered += flow.audit.delivered;
            sum.filtered += flow.audit.filtered;
            sum.parked += flow.audit.parked;
            sum.dropped += flow.audit.dropped;
            sum.gaps += flow.audit.gaps;
            sum.under_way += flow.audit.under_way;
        }
        for ((route, from, to), sum) in sums {
            let terms = [
                ("read", sum.read),
                ("delivered", sum.delivered),
                ("filtered", sum.filtered),
                ("parked", sum.parked),
                ("dropped", sum.dropped),
                ("gaps", sum.gaps),
                ("under_way", sum.under_way),
            ];
            self.metrics.audit(route, from, to, &terms);
        }
    }
}

fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
