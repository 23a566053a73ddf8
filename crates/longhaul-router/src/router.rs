//! A router: assembled from two documents, run, shown, drained.
//!
//! Assembly order is the order of need: brokers, appliers and their listener, links, routes. The end is the reverse, with time in
//! between for what is under way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use longhaul_broker::{Connector, Context};
use longhaul_config::BrokerAccess;
use longhaul_event::provenance::Place;
use longhaul_link::{Dialer, Identity, LinkConfig, Listener, WindowHint};
use longhaul_route::RouteTable;
use longhaul_telemetry::{Export, Metrics};
use longhaul_topology::{Graph, Mesh, WAY_LINKS_MAX};

use crate::appliers::Appliers;
use crate::budget::Budget;
use crate::documents::Documents;
use crate::flow_status::wall_ms;
use crate::links::{Links, Peer};
use crate::live::{Live, World};
use crate::parked::ParkedEvents;
use crate::sessions::Sessions;
use crate::sources::Sources;
use crate::supervise::Supervisor;
use crate::tap::Taps;
use crate::traced::{self, Watchers};
use crate::transit::Transit;

/// How long a drain waits for what is under way.
const DRAIN_PATIENCE: Duration = Duration::from_secs(20);
/// What an event may have beside its payload: key, headers, topic. `max_event` speaks of the payload alone, so that the largest message that a
/// broker takes by default still travels with its key and headers.
const ENVELOPE_BYTES: u32 = 128 << 10;
/// What the mesh adds to an event on its way: provenance, a longer topic.
const STAMP_BYTES: u32 = 4 << 10;
/// What of the memory budget flows that pass through may have on their way to their next links.
const TRANSIT_PART: u64 = 4;
const STOP_PATIENCE: Duration = Duration::from_secs(5);
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

/// A running router.
#[derive(Clone)]
pub struct Router {
    pub(crate) shared: Arc<Shared>,
}

/// What the parts of a router share.
pub(crate) struct Shared {
    pub(crate) documents: ArcSwap<Documents>,
    /// Held while documents are taken up; why the last ones were refused.
    pub(crate) reloading: Mutex<Option<String>>,
    pub(crate) live: Arc<Live>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) brokers: Arc<BTreeMap<String, Arc<dyn Connector>>>,
    pub(crate) links: Arc<Links>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) appliers: Arc<Appliers>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) parked: Arc<ParkedEvents>,
    pub(crate) taps: Arc<Taps>,
    pub(crate) budget: Arc<Budget>,
    pub(crate) supervisor: Supervisor,
    pub(crate) identity: Arc<Identity>,
    pub(crate) link_address: SocketAddr,
    pub(crate) started: Instant,
    /// Brokers that were reached at least once.
    pub(crate) reached: Mutex<BTreeSet<String>>,
    /// When metrics were last collected, in milliseconds since the start.
    pub(crate) collected_ms: AtomicU64,
}

/// Why a router does not start: a sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

impl Router {
    /// Starts a router from its documents. It is running when this returns; brokers and links may still be connecting.
    ///
    /// # Errors
    /// [`StartError`] when certificates, listeners or the embedded store cannot be had.
    pub async fn start(documents: Documents, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let brokers = connect_brokers(&documents).await?;
        Self::start_with(documents, brokers, metrics).await
    }

    /// Starts a router with connectors of the caller's own in place of those that its document describes; by name of the broker.
    ///
    /// # Errors
    /// [`StartError`] when certificates or listeners cannot be had.
    pub async fn start_with(
        documents: Documents,
        brokers: BTreeMap<String, Arc<dyn Connector>>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let config = documents.router.clone();
        let origin = Instant::now();
        let supervisor = Supervisor::new(Arc::clone(&metrics));
        let budget = Budget::new(config.memory_bytes);
        let world = world(&documents, 1);
        let live = Live::new(config.region.clone(), world);
        let brokers = Arc::new(brokers);

        let identity = Arc::new(identity(&documents)?);
        let mut link_config = LinkConfig::new(Arc::clone(&identity), wall_ms());
        link_config.event_bytes_max = config.link.event_bytes_max.saturating_add(ENVELOPE_BYTES + STAMP_BYTES);
        let listener =
            Listener::bind(config.link.listen, &link_config).map_err(|error| StartError(error.to_string()))?;
        let link_address = listener.local_addr().map_err(|error| StartError(error.to_string()))?;
        let dialer = Dialer::new(&link_config).map_err(|error| StartError(error.to_string()))?;

        let (tracer, export) = traced::tracer(&config, &documents.mesh.name, &metrics).map_err(StartError)?.unzip();
        let taps = Taps::new();
        let watchers = Watchers { tracer, taps: Arc::clone(&taps) };
        let appliers = Appliers::new(
            Arc::clone(&live),
            Arc::clone(&brokers),
            Arc::clone(&budget),
            supervisor.clone(),
            Arc::clone(&metrics),
            watchers.clone(),
            origin,
        );
        let links = Links::new(dialer, config.resolve, supervisor.clone(), Arc::clone(&metrics));
        let transit_bytes = usize::try_from(config.memory_bytes / TRANSIT_PART).unwrap_or(usize::MAX);
        let transit = Transit::new(
            Arc::clone(&live),
            Arc::clone(&links),
            supervisor.clone(),
            Arc::clone(&metrics),
            transit_bytes,
        );
        let sessions = Sessions::start(listener, Arc::clone(&appliers), transit, &supervisor);
        let sources = Arc::new(Sources {
            brokers: Arc::clone(&brokers),
            links: Arc::clone(&links),
            budget: Arc::clone(&budget),
            supervisor: supervisor.clone(),
            metrics: Arc::clone(&metrics),
            watchers,
            epochs: Arc::default(),
            origin,
            running: Mutex::default(),
        });
        let parked = ParkedEvents::new(Arc::clone(&live), Arc::clone(&brokers), Arc::clone(&metrics));
        let shared = Arc::new(Shared {
            reloading: Mutex::default(),
            live,
            metrics,
            brokers,
            links,
            sessions,
            appliers,
            sources,
            budget,
            supervisor,
            identity,
            link_address,
            started: origin,
            reached: Mutex::default(),
            collected_ms: AtomicU64::new(0),
            parked,
            taps,
            documents: ArcSwap::from_pointee(documents),
        });
        // Start is a reload from nothing.
        let documents = shared.documents.load_full();
        shared.apply(&documents, 1);
        shared.metrics.router(&documents.router.region, &documents.router.name);
        shared.metrics.reload_succeeded(1);
        shared.watch();
        if let Some(export) = export {
            shared.export_spans(export);
        }
        Ok(Self { shared })
    }

    /// Where the link listener is bound.
    #[must_use]
    pub fn link_address(&self) -> SocketAddr {
        self.shared.link_address
    }

    /// Reads the documents again; see the module `reload`.
    ///
    /// # Errors
    /// Why nothing has changed.
    pub fn reload(&self) -> Result<u64, crate::reload::ReloadError> {
        self.shared.reload()
    }

    /// Stops reading, lets what is under way be delivered, acknowledged and released, then ends every task. At most 30 s. Returns
    /// whether everything under way was finished.
    pub async fn drain(&self) -> bool {
        let shared = &self.shared;
        tracing::info!("draining: no more is read; what is under way is finished");
        shared.supervisor.drain_token().cancel();
        let until = Instant::now() + DRAIN_PATIENCE;
        let mut finished = shared.is_at_rest();
        while !finished && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
            finished = shared.is_at_rest();
        }
        // Sources learn their last floor from their pumps, which run until now.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let goodbye = async {
            shared.links.close("this router drains").await;
            shared.sessions.close("this router drains").await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
        let ended = shared.supervisor.stop(STOP_PATIENCE).await;
        let closing = futures::future::join_all(shared.brokers.values().map(|broker| broker.close()));
        let closed = tokio::time::timeout(CLOSE_PATIENCE, closing).await;
        if closed.is_err() {
            tracing::warn!("a broker did not close in time");
        }
        tracing::info!(finished, "drained");
        finished && ended
    }
}

impl Shared {
    /// Puts documents in force: the table, the links, the routes.
    pub(crate) fn apply(&self, documents: &Documents, generation: u64) {
        self.live.store(world(documents, generation));
        let world = self.live.load();
        self.links.set_ways(ways(&documents.mesh, self.live.region()));
        self.links.set_peers(peers(&documents.mesh, self.live.region()));
        self.sources.apply(&world, self.live.region());
    }

    fn watch(self: &Arc<Self>) {
        let stop = self.supervisor.stop_token().child_token();
        let (shared, token) = (Arc::clone(self), stop.clone());
        self.supervisor
            .spawn("document watch", stop.clone(), move || Arc::clone(&shared).watch_documents(token.clone()));
        let (parked, token) = (Arc::clone(&self.parked), stop.clone());
        self.supervisor.spawn("parked count", stop.clone(), move || Arc::clone(&parked).count_for_ever(token.clone()));
        let (shared, token) = (Arc::clone(self), stop.clone());
        self.supervisor.spawn("metrics collection", stop, move || Arc::clone(&shared).collect_for_ever(token.clone()));
    }

    fn export_spans(&self, export: Export) {
        let (export, stop) = (Arc::new(export), self.supervisor.stop_token().child_token());
        self.supervisor.spawn("span export", stop.clone(), move || {
            let (export, stop) = (Arc::clone(&export), stop.clone());
            async move { export.run(stop.cancelled()).await }
        });
    }

    fn is_at_rest(&self) -> bool {
        self.sources.is_at_rest() && self.appliers.is_at_rest()
    }
}

/// The certificate, which must name this mesh, this region and this router.
fn identity(documents: &Documents) -> Result<Identity, StartError> {
    let identity = Identity::load(documents.tls_files()).map_err(|error| StartError(error.to_string()))?;
    documents.check_name(&identity.name()).map_err(StartError)?;
    Ok(identity)
}

fn world(documents: &Documents, generation: u64) -> World {
    let table = RouteTable::build(&documents.mesh);
    World { table, mesh: documents.mesh.clone(), text: Arc::clone(&documents.mesh_text), generation }
}

/// The regions that this one holds links to: those that the document links it with.
fn peers(mesh: &Mesh, region: &str) -> Vec<Peer> {
    let other = |between: &[String; 2]| match between {
        [a, b] if a == region => Some(b.clone()),
        [a, b] if b == region => Some(a.clone()),
        _ => None,
    };
    let linked = mesh.links.iter().filter_map(|link| other(&link.between).map(|name| (name, link)));
    linked
        .filter_map(|(name, link)| {
            let routers = mesh.region(&name)?.routers.clone();
            let hint =
                WindowHint { bandwidth_bits: link.bandwidth_bits, rtt_ms: link.rtt_ms, congestion: link.congestion };
            Some(Peer { region: name, routers, hint })
        })
        .collect()
}

/// Over which neighbours each other region is reached.
fn ways(mesh: &Mesh, region: &str) -> HashMap<String, Vec<String>> {
    let graph = Graph::of(mesh);
    let to = |to: &str| graph.next_hops(region, to, WAY_LINKS_MAX, &[]).into_iter().map(str::to_owned).collect();
    graph.regions().filter(|other| *other != region).map(|other| (other.to_owned(), to(other))).collect()
}

async fn connect_brokers(documents: &Documents) -> Result<BTreeMap<String, Arc<dyn Connector>>, StartError> {
    let (config, mesh) = (&documents.router, &documents.mesh);
    let mut brokers: BTreeMap<String, Arc<dyn Connector>> = BTreeMap::new();
    for (name, access) in &config.brokers {
        let context = Context {
            mesh: mesh.name.clone(),
            region: config.region.clone(),
            broker: name.clone(),
            router: config.name.clone(),
            cluster: Place::of(&mesh.name, &config.region, name).cluster,
            event_bytes_max: usize::try_from(match access {
                // Counts payload and key each for itself.
                BrokerAccess::Embedded(_) => config.link.event_bytes_max,
                _ => config.link.event_bytes_max.saturating_add(ENVELOPE_BYTES),
            })
            .unwrap_or(usize::MAX),
        };
        let connector = connect(access, context).await;
        brokers.insert(name.clone(), connector.map_err(|error| StartError(format!("broker {name}: {error}")))?);
    }
    Ok(brokers)
}

async fn connect(access: &BrokerAccess, context: Context) -> Result<Arc<dyn Connector>, String> {
    Ok(match access {
        BrokerAccess::Kafka(access) => longhaul_kafka::KafkaConnector::new(access.clone(), context)?,
        BrokerAccess::RabbitMq(access) => longhaul_rabbitmq::RabbitMqConnector::new(access.clone(), context)?,
        BrokerAccess::Nats(access) => longhaul_nats::NatsConnector::new(access.clone(), context)?,
        BrokerAccess::Embedded(access) => {
            longhaul_embedded::Embedded::start(access, context).await.map_err(|error| error.to_string())?
        }
    })
}
