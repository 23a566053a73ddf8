//! Who looks at the events of a flow: the tracer of the router, with what the flow's spans say, and whoever taps. No tracer where the document
//! names no receiver.

use std::sync::Arc;

use longhaul_config::Router as RouterDocument;
use longhaul_route::CompiledRoute;
use longhaul_telemetry::{Collector, Export, FlowLabels, FlowTracer, Metrics, Recorder, Sampler, Tracer};
use longhaul_topology::FlowKey;

use crate::appliers::place;
use crate::tap::Taps;

/// Who may look at single events.
#[derive(Clone)]
pub(crate) struct Watchers {
    /// Who records spans, if somebody does.
    pub tracer: Option<Arc<Tracer>>,
    /// Who taps.
    pub taps: Arc<Taps>,
}

/// The router's tracer, and the task that exports what it records; nothing where nothing is to be traced.
///
/// # Errors
/// When the endpoint is none or a file is not what it must be, in words.
pub(crate) fn tracer(
    config: &RouterDocument,
    mesh: &str,
    metrics: &Arc<Metrics>,
) -> Result<Option<(Arc<Tracer>, Export)>, String> {
    let Some(traces) = &config.traces else { return Ok(None) };
    let recorder = Recorder { mesh, region: &config.region, router: &config.name };
    let sampler = Sampler::new(traces.ratio, traces.follow);
    let collector = Collector {
        endpoint: traces.endpoint.clone(),
        ca: traces.tls.ca.clone(),
        client: traces.tls.cert.clone().zip(traces.tls.key.clone()),
        headers: traces.headers.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect(),
    };
    Tracer::new(collector, sampler, recorder, Arc::clone(metrics)).map(Some)
}

/// The same for one flow.
pub(crate) fn of_flow(
    tracer: Option<&Arc<Tracer>>,
    key: &FlowKey,
    route: &CompiledRoute,
    to: usize,
) -> Option<FlowTracer> {
    let labels = FlowLabels {
        flow: key.id(),
        route: &key.route,
        from: &place(&key.from.0, &key.from.1),
        shard: &key.from.2,
        to: &place(&key.to.0, &key.to.1),
        systems: [route.route().from.source.broker_kind().as_str(), route.route().to[to].sink.broker_kind().as_str()],
    };
    tracer.map(|tracer| tracer.flow(labels))
}
