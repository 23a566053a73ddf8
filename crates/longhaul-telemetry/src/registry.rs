//! The registry: typed handles, looked up once, written per batch.
//!
//! Counters are shared by all flows of the same route and way; handles are cheap to clone.

mod link;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    CounterVec, Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts,
    Registry, TextEncoder,
};

use crate::names::{self, Metric};
pub use link::{LinkGauges, LinkMetrics};

/// Upper bounds of the end-to-end histogram, in seconds.
const BUCKETS: &[f64] =
    &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];

/// All metrics of one router.
pub struct Metrics {
    registry: Registry,
    read: [IntCounterVec; 2],
    sent: [IntCounterVec; 2],
    received: [IntCounterVec; 2],
    delivered: [IntCounterVec; 2],
    refused: IntCounterVec,
    poison: IntCounterVec,
    resets: IntCounterVec,
    faults: IntCounterVec,
    moves: IntCounterVec,
    restarts: IntCounterVec,
    flow_gauges: [GaugeVec; 8],
    parked: IntCounterVec,
    parked_now: GaugeVec,
    gaps: IntCounterVec,
    gap_events: IntCounterVec,
    audit: GaugeVec,
    end_to_end: HistogramVec,
    without_credit: CounterVec,
    link_gauges: [GaugeVec; 4],
    link_counters: [IntCounterVec; 3],
    link_connects: IntCounterVec,
    link_reconnects: IntCounterVec,
    refused_connections: IntCounterVec,
    refused_messages: IntCounterVec,
    refused_requests: IntCounterVec,
    transit_opened: IntCounterVec,
    broker_up: GaugeVec,
    broker_errors: IntCounterVec,
    build_info: GaugeVec,
    generation: IntGauge,
    reload_ok: IntGauge,
    reload_at: IntGauge,
    certificate: IntGauge,
    memory: [IntGauge; 2],
    credit: IntGauge,
    spans_exported: IntCounter,
    /// By a full queue, by failed exports.
    spans_dropped: [IntCounter; 2],
    panics: IntCounter,
}

/// Handles of an owned flow.
#[derive(Clone)]
pub struct OutflowMetrics {
    labels: [String; 3],
    metrics: Arc<Metrics>,
    read: [IntCounter; 2],
    sent: [IntCounter; 2],
}

/// Handles of an applied flow.
#[derive(Clone)]
pub struct InflowMetrics {
    labels: [String; 3],
    metrics: Arc<Metrics>,
    received: [IntCounter; 2],
    delivered: [IntCounter; 2],
    end_to_end: Histogram,
}

/// What the flows of a route show together.
#[derive(Debug, Clone, Copy, Default)]
pub struct FlowGauges {
    /// How many.
    pub flows: u64,
    /// How many of them stream.
    pub streaming: u64,
    /// How many of them do not move though their source has more.
    pub stalled: u64,
    /// How many of them have books that do not balance.
    pub unbalanced: u64,
    /// Summed.
    pub lag_events: u64,
    /// The worst.
    pub lag_seconds: f64,
    /// The worst.
    pub oldest_unacked_seconds: f64,
    /// The worst.
    pub credit_exhausted_seconds: f64,
}

impl Metrics {
    /// A registry with every metric in it.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let r = &registry;
        let metrics = Self {
            read: [counters(r, names::READ_EVENTS), counters(r, names::READ_BYTES)],
            sent: [counters(r, names::SENT_EVENTS), counters(r, names::SENT_BYTES)],
            received: [counters(r, names::RECEIVED_EVENTS), counters(r, names::RECEIVED_BYTES)],
            delivered: [counters(r, names::DELIVERED_EVENTS), counters(r, names::DELIVERED_BYTES)],
            refused: counters(r, names::REFUSED_EVENTS),
            poison: counters(r, names::POISON_EVENTS),
            resets: counters(r, names::RESETS),
            faults: counters(r, names::FAULTS),
            moves: counters(r, names::MOVES),
            restarts: counters(r, names::RESTARTS),
            flow_gauges: [
                gauges(r, names::FLOWS),
                gauges(r, names::FLOWS_STREAMING),
                gauges(r, names::LAG_EVENTS),
                gauges(r, names::LAG_SECONDS),
                gauges(r, names::OLDEST_UNACKED),
                gauges(r, names::CREDIT_EXHAUSTED),
                gauges(r, names::FLOWS_UNBALANCED),
                gauges(r, names::FLOWS_STALLED),
            ],
            parked: counters(r, names::PARKED_EVENTS),
            parked_now: gauges(r, names::PARKED),
            gaps: counters(r, names::GAPS),
            gap_events: counters(r, names::GAP_EVENTS),
            audit: gauges(r, names::AUDIT),
            end_to_end: histograms(r, names::END_TO_END),
            without_credit: seconds_counters(r, names::CREDIT_EXHAUSTED_TOTAL),
            link_gauges: [
                gauges(r, names::LINK_UP),
                gauges(r, names::LINK_RTT),
                gauges(r, names::LINK_WINDOW),
                gauges(r, names::LINK_IN_FLIGHT),
            ],
            link_counters: [
                counters(r, names::LINK_LOST),
                counters(r, names::LINK_SENT),
                counters(r, names::LINK_RECEIVED),
            ],
            link_connects: counters(r, names::LINK_CONNECTS),
            link_reconnects: counters(r, names::LINK_RECONNECTS),
            refused_connections: counters(r, names::REFUSED_CONNECTIONS),
            refused_messages: counters(r, names::REFUSED_MESSAGES),
            refused_requests: counters(r, names::REFUSED_REQUESTS),
            transit_opened: counters(r, names::TRANSIT_OPENED),
            broker_up: gauges(r, names::BROKER_UP),
            broker_errors: counters(r, names::BROKER_ERRORS),
            build_info: gauges(r, names::BUILD_INFO),
            generation: gauge(r, names::CONFIG_GENERATION),
            reload_ok: gauge(r, names::CONFIG_RELOAD_OK),
            reload_at: gauge(r, names::CONFIG_RELOAD_AT),
            certificate: gauge(r, names::CERTIFICATE_EXPIRY),
            memory: [gauge(r, names::MEMORY_USED), gauge(r, names::MEMORY_LIMIT)],
            credit: gauge(r, names::CREDIT_GRANTED),
            spans_exported: counters(r, names::SPANS_EXPORTED).with_label_values::<&str>(&[]),
            spans_dropped: labelled(&counters(r, names::SPANS_DROPPED), ["queue", "export"]),
            panics: counters(r, names::TASK_PANICS).with_label_values::<&str>(&[]),
            registry,
        };
        add(&metrics.registry, prometheus::process_collector::ProcessCollector::for_self());
        Arc::new(metrics)
    }

    /// Handles of the flows of a route that this router owns.
    #[must_use]
    pub fn outflow(self: &Arc<Self>, route: &str, from: &str, to: &str) -> OutflowMetrics {
        let labels = [route, from, to];
        OutflowMetrics {
            labels: labels.map(str::to_owned),
            metrics: Arc::clone(self),
            read: self.read.each_ref().map(|metric| metric.with_label_values(&labels)),
            sent: self.sent.each_ref().map(|metric| metric.with_label_values(&labels)),
        }
    }

    /// Handles of the flows of a route that this router applies.
    #[must_use]
    pub fn inflow(self: &Arc<Self>, route: &str, from: &str, to: &str) -> InflowMetrics {
        let labels = [route, from, to];
        InflowMetrics {
            labels: labels.map(str::to_owned),
            metrics: Arc::clone(self),
            received: self.received.each_ref().map(|metric| metric.with_label_values(&labels)),
            delivered: self.delivered.each_ref().map(|metric| metric.with_label_values(&labels)),
            end_to_end: self.end_to_end.with_label_values(&labels),
        }
    }

    /// Handles of a link.
    #[must_use]
    pub fn link(self: &Arc<Self>, region: &str, address: &str) -> LinkMetrics {
        let labels = [region.to_owned(), address.to_owned()];
        let link = LinkMetrics { labels, metrics: Arc::clone(self), seen: Arc::default() };
        link.down();
        link
    }

    /// A connection was refused.
    pub fn refused_connection(&self, reason: &str) {
        self.refused_connections.with_label_values(&[reason]).inc();
    }

    /// Something was refused that a peer sent over a link that stands.
    pub fn refused_message(&self, reason: &str) {
        self.refused_messages.with_label_values(&[reason]).inc();
    }

    /// That listener has refused so many HTTP requests with that status since the start.
    pub fn refused_requests(&self, listener: &str, status: u16, total: u64) {
        let counter = self.refused_requests.with_label_values(&[listener, &status.to_string()]);
        counter.inc_by(total.saturating_sub(counter.get()));
    }

    /// A request to the admin listener was refused.
    pub fn refused_admin_request(&self, status: u16) {
        self.refused_requests.with_label_values(&["admin", &status.to_string()]).inc();
    }

    /// A flow passes through.
    pub fn flow_passes(&self, from_region: &str, to_region: &str) {
        self.transit_opened.with_label_values(&[from_region, to_region]).inc();
    }

    /// Whether a broker answers. Called again and again; from yes to no counts as an error.
    pub fn broker_up(&self, broker: &str, kind: &str, up: bool) {
        let (gauge, errors) =
            (self.broker_up.with_label_values(&[broker, kind]), self.broker_errors.with_label_values(&[broker, kind]));
        if !up && gauge.get() > 0.0 {
            errors.inc();
        }
        gauge.set(f64::from(u8::from(up)));
    }

    /// Which router this is. What it shows is joined with this where it says nothing of its own region.
    pub fn router(&self, own_region: &str, router: &str) {
        self.build_info.with_label_values(&[env!("CARGO_PKG_VERSION"), own_region, router]).set(1.0);
    }

    /// Documents were taken up.
    pub fn reload_succeeded(&self, generation: u64) {
        self.generation.set(signed(generation));
        self.reload_ok.set(1);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.reload_at.set(signed(now.as_secs()));
    }

    /// Documents were refused.
    pub fn reload_failed(&self) {
        self.reload_ok.set(0);
    }

    /// When the router's certificate expires, in seconds since the Unix epoch.
    pub fn certificate_expires(&self, at: i64) {
        self.certificate.set(at);
    }

    /// Spans were taken by their receiver.
    pub(crate) fn spans_exported(&self, count: usize) {
        self.spans_exported.inc_by(count as u64);
    }

    /// A span found the queue full.
    pub(crate) fn span_not_queued(&self) {
        self.spans_dropped[0].inc();
    }

    /// Spans were given up by their exporter.
    pub(crate) fn spans_not_exported(&self, count: usize) {
        self.spans_dropped[1].inc_by(count as u64);
    }

    /// The memory budget: bytes used, bytes in all, bytes granted as credit.
    pub fn memory(&self, used: u64, limit: u64, granted: u64) {
        self.memory[0].set(signed(used));
        self.memory[1].set(signed(limit));
        self.credit.set(signed(granted));
    }

    /// A task panicked and is started again.
    pub fn task_panicked(&self) {
        self.panics.inc();
    }

    /// So many events of a route are set aside at that destination now.
    pub fn parked(&self, route: &str, from: &str, to: &str, events: u64) {
        self.parked_now.with_label_values(&[route, from, to]).set(events as f64);
    }

    /// What has become of the events of a route, by term.
    pub fn audit(&self, route: &str, from: &str, to: &str, terms: &[(&str, u64)]) {
        for (term, events) in terms {
            self.audit.with_label_values(&[route, from, to, term]).set(*events as f64);
        }
    }

    /// The Prometheus text format.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8(text).unwrap_or_default(),
            Err(error) => format!("# the metrics cannot be encoded: {error}\n"),
        }
    }
}

impl OutflowMetrics {
    /// Events were looked at.
    pub fn read(&self, events: u64, bytes: u64) {
        inc(&self.read, events, bytes);
    }

    /// Events were sent.
    pub fn sent(&self, events: u64, bytes: u64) {
        inc(&self.sent, events, bytes);
    }

    /// Events were refused. Once per batch and reason.
    pub fn refused(&self, reason: &str, events: u64) {
        refuse(&self.metrics.refused, &self.labels, reason, events);
    }

    /// Events are missing at the source.
    pub fn gap(&self, reason: &str) {
        refuse(&self.metrics.gaps, &self.labels, reason, 1);
    }

    /// So many missing events were passed over.
    pub fn missing(&self, reason: &str, events: u64) {
        refuse(&self.metrics.gap_events, &self.labels, reason, events);
    }

    /// The source was found not to serve.
    pub fn faulted(&self, reason: &str) {
        refuse(&self.metrics.faults, &self.labels, reason, 1);
    }

    /// A shard came to this router, or left it.
    pub fn moved(&self, how: &str) {
        refuse(&self.metrics.moves, &self.labels, how, 1);
    }

    /// A flow was stalled, and begins again.
    pub fn begun_again(&self) {
        self.metrics.restarts.with_label_values(&self.labels).inc();
    }

    /// The destination had the flow opened again.
    pub fn reset(&self, reason: &str) {
        refuse(&self.metrics.resets, &self.labels, reason, 1);
    }

    /// A flow had something to send and, for that long, no credit.
    pub fn without_credit(&self, time: Duration) {
        self.metrics.without_credit.with_label_values(&self.labels).inc_by(time.as_secs_f64());
    }

    /// What the flows of the route show together.
    pub fn gauges(&self, gauges: FlowGauges) {
        let values = [
            gauges.flows as f64,
            gauges.streaming as f64,
            gauges.lag_events as f64,
            gauges.lag_seconds,
            gauges.oldest_unacked_seconds,
            gauges.credit_exhausted_seconds,
            gauges.unbalanced as f64,
            gauges.stalled as f64,
        ];
        set(&self.metrics.flow_gauges, &self.labels, &values);
    }

    /// Takes the gauges of a route that is gone away; its counters stay, as Prometheus wants them.
    pub fn remove_gauges(&self) {
        remove(&self.metrics.flow_gauges, &self.labels);
    }

    /// Takes everything that this end of the flows has shown: the route is gone from the documents for good. Where the same router also
    /// applies the route, refusals by policy go with it.
    pub fn remove(&self) {
        let metrics = &self.metrics;
        self.remove_gauges();
        metrics
            .read
            .iter()
            .chain(&metrics.sent)
            .chain([
                &metrics.refused,
                &metrics.resets,
                &metrics.faults,
                &metrics.moves,
                &metrics.gaps,
                &metrics.gap_events,
            ])
            .for_each(|vec| {
                forget(vec, &self.labels);
            });
        forget(&metrics.audit, &self.labels);
        forget(&metrics.restarts, &self.labels);
        forget(&metrics.without_credit, &self.labels);
    }
}

impl InflowMetrics {
    /// Events came in.
    pub fn received(&self, events: u64, bytes: u64) {
        inc(&self.received, events, bytes);
    }

    /// The destination broker confirmed events.
    pub fn delivered(&self, events: u64, bytes: u64) {
        inc(&self.delivered, events, bytes);
    }

    /// The destination refused an event for good.
    pub fn poisoned(&self, reason: &str) {
        refuse(&self.metrics.poison, &self.labels, reason, 1);
    }

    /// The destination was found not to serve.
    pub fn faulted(&self, reason: &str) {
        refuse(&self.metrics.faults, &self.labels, reason, 1);
    }

    /// An event was parked.
    pub fn parked(&self, reason: &str) {
        refuse(&self.metrics.parked, &self.labels, reason, 1);
    }

    /// An event is left out by policy.
    pub fn dropped(&self, reason: &str) {
        refuse(&self.metrics.refused, &self.labels, reason, 1);
    }

    /// Takes everything that this end of the flows has shown, as [`OutflowMetrics::remove`] does for the other.
    pub fn remove(&self) {
        let metrics = &self.metrics;
        metrics
            .received
            .iter()
            .chain(&metrics.delivered)
            .chain([&metrics.refused, &metrics.faults, &metrics.poison, &metrics.parked])
            .for_each(|vec| {
                forget(vec, &self.labels);
            });
        forget(&metrics.audit, &self.labels);
        forget(&metrics.end_to_end, &self.labels);
    }

    /// Milliseconds from the time of an event to its confirmation.
    pub fn end_to_end(&self, ms: u64) {
        self.end_to_end.observe(ms as f64 / 1000.0);
    }
}

fn inc([of_events, of_bytes]: &[IntCounter; 2], events: u64, bytes: u64) {
    of_events.inc_by(events);
    of_bytes.inc_by(bytes);
}

fn refuse(metric: &IntCounterVec, [route, from, to]: &[String; 3], reason: &str, events: u64) {
    metric.with_label_values(&[route.as_str(), from, to, reason]).inc_by(events);
}

fn set<const N: usize>(metrics: &[GaugeVec; N], labels: &[String], values: &[f64; N]) {
    metrics.iter().zip(values).for_each(|(metric, value)| metric.with_label_values(labels).set(*value));
}

fn remove(metrics: &[GaugeVec], labels: &[String]) {
    for metric in metrics {
        // One that was never set is gone already.
        let _ = metric.remove_label_values(labels);
    }
}

/// Takes every series of these flows, whatever its reason.
fn forget<T: MetricVecBuilder>(vec: &MetricVec<T>, [route, from, to]: &[String; 3])
where
    MetricVec<T>: Collector,
{
    for series in vec.collect().iter().flat_map(|family| family.get_metric()) {
        let labels = series.get_label().iter().map(|label| (label.name(), label.value())).collect::<HashMap<_, _>>();
        let named = [("route", route), ("from", from), ("to", to)];
        if named.iter().all(|(name, value)| labels.get(name) == Some(&value.as_str())) {
            // It was there a moment ago; if not, all the better.
            let _ = vec.remove(&labels);
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn opts(metric: Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn add(registry: &Registry, collector: impl Collector + 'static) {
    registry.register(Box::new(collector)).expect("names are unique in one registry");
}

/// Handles of a counter with one label.
fn labelled<const N: usize>(metric: &IntCounterVec, values: [&str; N]) -> [IntCounter; N] {
    values.map(|value| metric.with_label_values(&[value]))
}

fn counters(registry: &Registry, metric: Metric) -> IntCounterVec {
    let vec = IntCounterVec::new(opts(metric), metric.labels).expect("the table has valid names");
    add(registry, vec.clone());
    vec
}

fn seconds_counters(registry: &Registry, metric: Metric) -> CounterVec {
    let vec = CounterVec::new(opts(metric), metric.labels).expect("the table has valid names");
    add(registry, vec.clone());
    vec
}

fn gauges(registry: &Registry, metric: Metric) -> GaugeVec {
    let vec = GaugeVec::new(opts(metric), metric.labels).expect("the table has valid names");
    add(registry, vec.clone());
    vec
}

fn gauge(registry: &Registry, metric: Metric) -> IntGauge {
    let gauge = IntGauge::with_opts(opts(metric)).expect("the table has valid names");
    add(registry, gauge.clone());
    gauge
}

fn histograms(registry: &Registry, metric: Metric) -> HistogramVec {
    let opts = HistogramOpts::new(metric.name, metric.help).buckets(BUCKETS.to_vec());
    let vec = HistogramVec::new(opts, metric.labels).expect("the table has valid names");
    add(registry, vec.clone());
    vec
}

#[cfg(test)]
mod tests;
