//! Routers of two regions, `eu` which reads and `us` which writes, with certificates of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul_broker::Connector;
use longhaul_config::{Admin, LinkListen, Router as RouterDocument};
use longhaul_link::certs;
use longhaul_telemetry::Metrics;
use longhaul_topic::Filter;
use longhaul_topology::{
    Broker as Declared, BrokerKind, Class, From, Guarantee, Link, Mesh, OnGap, OnPoison, Partition, Region, Route,
    RouteStart, SinkKind, SourceKind, Template, To,
};

use super::broker::{Broker, BrokerHandle};
use crate::{Documents, Router};

/// How long a test waits for what must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(25);

/// Two regions and what their brokers hold.
pub(super) struct TestMesh {
    folder: tempfile::TempDir,
    ca: certs::Pem,
    pub source: Arc<Broker>,
    pub sinks: Vec<Arc<Broker>>,
    pub routes: Vec<Route>,
    pub memory_bytes: u64,
    pub eu: Option<Router>,
    pub us: Option<Router>,
    generation: u64,
}

impl TestMesh {
    /// Nothing runs yet. The sinks are called `sink0`, `sink1` and so on.
    pub(super) fn new(source: Arc<Broker>, sinks: Vec<Arc<Broker>>, routes: Vec<Route>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = certs::make_ca("test").expect("a CA");
        let (eu, us, memory_bytes, generation) = (None, None, 256 << 20, 1);
        Self { folder, ca, source, sinks, routes, memory_bytes, eu, us, generation }
    }

    /// Starts both.
    pub(super) async fn start(mut self) -> Self {
        self.start_us().await;
        self.start_eu().await;
        self
    }

    pub(super) async fn start_us(&mut self) {
        let documents = self.documents("us", None);
        let handle = |(at, broker): (usize, &Arc<Broker>)| (format!("sink{at}"), connector(broker));
        let brokers = self.sinks.iter().enumerate().map(handle).collect();
        self.us = Some(Router::start_with(documents, brokers, Metrics::new()).await.expect("us starts"));
    }

    pub(super) async fn start_eu(&mut self) {
        let documents = self.documents("eu", self.us.as_ref());
        let brokers = BTreeMap::from([("source".to_owned(), connector(&self.source))]);
        self.eu = Some(Router::start_with(documents, brokers, Metrics::new()).await.expect("eu starts"));
    }

    pub(super) fn eu(&self) -> &Router {
        self.eu.as_ref().expect("eu runs")
    }

    pub(super) fn us(&self) -> &Router {
        self.us.as_ref().expect("us runs")
    }

    /// Puts the routes as they stand now in force, at the destination first.
    pub(super) fn reload(&mut self) {
        self.generation += 1;
        self.us().shared.apply(&self.documents("us", None), self.generation);
        self.eu().shared.apply(&self.documents("eu", self.us.as_ref()), self.generation);
    }

    /// Cuts every link; they are dialled again by themselves.
    pub(super) async fn cut_links(&self) {
        self.eu().shared.links.close("the test cuts it").await;
    }

    /// Ends both routers.
    pub(super) async fn stop(self) {
        for router in self.eu.iter().chain(&self.us) {
            router.shared.supervisor.stop(Duration::from_secs(5)).await;
        }
    }

    fn documents(&self, region: &str, peer: Option<&Router>) -> Documents {
        let pem = certs::make_router(&self.ca, "test", region, "one", &[]).expect("a certificate");
        let files = certs::write(self.folder.path(), region, &self.ca.cert, &pem).expect("files");
        let any = || "127.0.0.1:0".parse().expect("an address");
        let router = RouterDocument {
            region: region.to_owned(),
            name: "one".to_owned(),
            mesh: self.folder.path().join("mesh.yaml"),
            link: LinkListen {
                listen: any(),
                cert: files.cert,
                key: files.key,
                ca: files.ca,
                crl: None,
                event_bytes_max: 1 << 20,
            },
            admin: Admin { listen: any(), token: None },
            memory_bytes: self.memory_bytes,
            traces: None,
            brokers: BTreeMap::new(),
            resolve: BTreeMap::new(),
        };
        let path = self.folder.path().join(format!("{region}.yaml"));
        Documents { path, router, mesh: self.mesh(peer), mesh_text: "".into(), hash: 0 }
    }

    fn mesh(&self, us: Option<&Router>) -> Mesh {
        let declared = |name: String| Declared { name, kind: BrokerKind::Kafka };
        let sinks = (0..self.sinks.len()).map(|at| declared(format!("sink{at}"))).collect();
        let routers = us.map(|us| us.link_address().to_string()).into_iter().collect();
        let region = |name: &str, routers, brokers| Region { name: name.to_owned(), routers, brokers };
        Mesh {
            name: "test".to_owned(),
            regions: vec![region("eu", Vec::new(), vec![declared("source".to_owned())]), region("us", routers, sinks)],
            links: vec![Link {
                between: ["eu".to_owned(), "us".to_owned()],
                cost: None,
                bandwidth_bits: None,
                congestion: longhaul_topology::Congestion::default(),
                rtt_ms: None,
            }],
            routes: self.routes.clone(),
            foreign_mirrors: Vec::new(),
        }
    }
}

fn connector(broker: &Arc<Broker>) -> Arc<dyn Connector> {
    Arc::new(BrokerHandle(Arc::clone(broker)))
}

/// A route of topics `taken.>` from the source to those sinks.
pub(super) fn route(name: &str, sinks: &[usize]) -> Route {
    let to = |sink: &usize| To {
        region: "us".to_owned(),
        broker: format!("sink{sink}"),
        topic: Template::parse("{topic}").expect("a template"),
        sink: SinkKind::Kafka { partition: Partition::Key, tombstone_on_empty: false },
    };
    let topics = vec![Filter::parse("taken.>").expect("a filter")];
    Route {
        name: name.to_owned(),
        from: From { region: "eu".into(), broker: "source".into(), source: SourceKind::Kafka { topics } },
        predicate: None,
        to: sinks.iter().map(to).collect(),
        guarantee: Guarantee::AtLeastOnce,
        start: RouteStart::Earliest,
        on_poison: OnPoison::Halt,
        on_gap: OnGap::Halt,
        class: Class::Normal,
    }
}

/// Waits until something holds; panics with what is there when it does not come.
pub(super) async fn wait_for(what: &str, mesh: &TestMesh, holds: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > until {
            let flows: Vec<_> = [&mesh.eu, &mesh.us].into_iter().flatten().flat_map(Router::flows).collect();
            panic!("{what} did not come: {flows:#?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What should be there: the events of a shard, once and in order.
pub(super) fn events(shard: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{shard}:{number}")).collect()
}

/// What was written without repeats: first occurrences, in order.
pub(super) fn without_repeats(written: &[String]) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    written.iter().filter(|name| seen.insert(name.as_str())).cloned().collect()
}

/// Whether the books of all flows are at rest, balance, and say the same at both ends of every flow that was counted from one place on.
pub(super) fn balanced(mesh: &TestMesh) -> bool {
    let (out, into) = (mesh.eu().flows(), mesh.us().flows());
    out.iter().chain(&into).for_each(|flow| assert!(flow.audit_balanced, "{flow:#?}"));
    let at_rest = out.iter().chain(&into).all(|flow| flow.audit.under_way == 0);
    let same = |out: &crate::FlowView| {
        let Some(into) = into.iter().find(|into| into.id == out.id) else { return false };
        let comparable = out.audit.since == into.audit.since && (out.audit.lives, into.audit.lives) == (1, 1);
        !comparable || out.audit.delivered == into.audit.delivered + into.audit.parked + into.audit.dropped
    };
    at_rest && out.iter().all(same)
}
