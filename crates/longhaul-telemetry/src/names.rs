//! All metrics in one table: name, kind, labels, help.
//!
//! Base units, `_total` for counters, and only labels that the documents bound: route, region, broker, kind, reason. Topic, key and
//! identity are never labels. `from` and `to` are `region/broker`. What a flow shows is summed, or the worst taken, over the shards of
//! its route, so that partitions do not multiply series.

use std::fmt;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution, in seconds.
    Histogram,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it says, in a sentence.
    pub help: &'static str,
}

impl fmt::Display for Metric {
    /// Its name, so that a query is written with the constants of this table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

const FLOW: &[&str] = &["route", "from", "to"];
const FLOW_TERM: &[&str] = &["route", "from", "to", "term"];
const FLOW_REASON: &[&str] = &["route", "from", "to", "reason"];
/// Gauges go away with the link, so an address is bounded by what is dialled now. Counters stay, so they know only the region.
const LINK: &[&str] = &["region", "address"];
const REGION: &[&str] = &["region"];

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, $labels:expr, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric { name: $name, kind: Kind::$kind, labels: $labels, help: $help };
        )*
        /// Every metric.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    READ_EVENTS = "longhaul_read_events_total", Counter, FLOW, "Events of the source that the route looked at.";
    READ_BYTES = "longhaul_read_bytes_total", Counter, FLOW, "Bytes of the events that the route looked at.";
    SENT_EVENTS = "longhaul_sent_events_total", Counter, FLOW, "Events sent towards the destination, repeats included.";
    SENT_BYTES = "longhaul_sent_bytes_total", Counter, FLOW, "Bytes of events sent towards the destination, uncompressed.";
    RECEIVED_EVENTS = "longhaul_received_events_total", Counter, FLOW, "Events that came in over links, repeats included.";
    RECEIVED_BYTES = "longhaul_received_bytes_total", Counter, FLOW, "Bytes of events that came in over links, uncompressed.";
    DELIVERED_EVENTS = "longhaul_delivered_events_total", Counter, FLOW, "Events that the destination broker confirmed.";
    DELIVERED_BYTES = "longhaul_delivered_bytes_total", Counter, FLOW, "Bytes of events that the destination broker confirmed.";
    REFUSED_EVENTS = "longhaul_refused_events_total", Counter, FLOW_REASON, "Events that the route does not take, or that were left out by policy, by reason.";
    POISON_EVENTS = "longhaul_poison_events_total", Counter, FLOW_REASON, "Times that the destination refused an event for good, by reason; a halted flow counts at every try.";
    PARKED_EVENTS = "longhaul_flow_parked_events_total", Counter, FLOW_REASON, "Events that were set aside beside their destination, which refuses them for good, by reason.";
    PARKED = "longhaul_parked_events", Gauge, FLOW, "Events that are set aside in the destination broker now; counted every 10 s.";
    GAPS = "longhaul_gaps_total", Counter, FLOW_REASON, "Times that events which a flow had not read were found missing at the source, by reason.";
    GAP_EVENTS = "longhaul_gap_events_total", Counter, FLOW_REASON, "Events that are missing at the source and that a flow has passed over, as its route says, by reason.";
    AUDIT = "longhaul_flow_audit_events", Gauge, FLOW_TERM, "What has become of the events that this router has read or received, summed over shards: `read` is the sum of the other terms.";
    RESETS = "longhaul_flow_resets_total", Counter, FLOW_REASON, "Times that the destination had a flow opened again, by reason.";
    RESTARTS = "longhaul_flow_restarts_total", Counter, FLOW, "Times that a flow which was stalled was opened again by itself.";
    FAULTS = "longhaul_flow_faults_total", Counter, FLOW_REASON, "Times that a source or destination was found not to serve a flow, by end and kind: `transient` passes, `config` needs somebody, `gap` and `poison` follow the route's policy.";
    MOVES = "longhaul_flow_moves_total", Counter, FLOW_REASON, "Times that a shard of the route was `gained` by this router, its start included, or `lost` to another router of the region; or came too often, and is `held` for a while.";
    FLOWS = "longhaul_flows", Gauge, FLOW, "Flows of the route that this router owns: one per shard.";
    FLOWS_STALLED = "longhaul_flows_stalled", Gauge, FLOW, "Flows of the route that have not moved for a minute though their source has more.";
    FLOWS_UNBALANCED = "longhaul_flows_unbalanced", Gauge, FLOW, "Flows of the route whose audit does not account for every event; always 0.";
    FLOWS_STREAMING = "longhaul_flows_streaming", Gauge, FLOW, "Flows of the route that are open from end to end.";
    LAG_EVENTS = "longhaul_flow_lag_events", Gauge, FLOW, "Offsets between what is durable at the destination and the newest of the source, summed over shards.";
    LAG_SECONDS = "longhaul_flow_lag_seconds", Gauge, FLOW, "Seconds since everything of the source was durable at the destination, the worst of the shards.";
    OLDEST_UNACKED = "longhaul_flow_oldest_unacknowledged_seconds", Gauge, FLOW, "Age of the oldest batch that was sent and is not acknowledged, the worst of the shards.";
    CREDIT_EXHAUSTED = "longhaul_flow_credit_exhausted_seconds", Gauge, FLOW, "For how long credit has been used up, the worst of the shards; 0 while there is some.";
    CREDIT_EXHAUSTED_TOTAL = "longhaul_flow_without_credit_seconds_total", Counter, FLOW, "Seconds that flows had something to send and no credit, summed over shards.";
    CREDIT_GRANTED = "longhaul_credit_granted_bytes", Gauge, &[], "Bytes that this router has granted to owners elsewhere and not yet written.";
    END_TO_END = "longhaul_end_to_end_seconds", Histogram, FLOW, "From the time of an event at its source to its confirmation at the destination; one observation per batch, of its newest event. Clocks of two machines are compared.";
    LINK_UP = "longhaul_link_up", Gauge, LINK, "1 while the link that this router dialled is up.";
    LINK_RTT = "longhaul_link_rtt_seconds", Gauge, LINK, "Smoothed round-trip time of the link.";
    LINK_WINDOW = "longhaul_link_congestion_window_bytes", Gauge, LINK, "Congestion window of the link.";
    LINK_IN_FLIGHT = "longhaul_link_in_flight_bytes", Gauge, LINK, "Bytes in parcels that are not acknowledged.";
    LINK_LOST = "longhaul_link_lost_packets_total", Counter, REGION, "Packets lost on links to that region.";
    LINK_SENT = "longhaul_link_sent_bytes_total", Counter, REGION, "UDP bytes sent on links to that region.";
    LINK_RECEIVED = "longhaul_link_received_bytes_total", Counter, REGION, "UDP bytes received on links to that region.";
    LINK_CONNECTS = "longhaul_link_connects_total", Counter, REGION, "Times that a link to that region came up.";
    LINK_RECONNECTS = "longhaul_link_reconnects_total", Counter, REGION, "Times that a link to that region came up again after it had been up.";
    REFUSED_CONNECTIONS = "longhaul_refused_connections_total", Counter, &["reason"], "Connections that this router refused, or cut off because their peer broke the protocol, by reason. `noise` counts seconds in which datagrams came that belong to no link.";
    REFUSED_MESSAGES = "longhaul_refused_messages_total", Counter, &["reason"], "What routers that dialled in sent and was refused while their link stands, by reason: flows that may not be opened here, or are opened too often, and batches that belong to no open flow any more.";
    TRANSIT_OPENED = "longhaul_transit_flows_opened_total", Counter, &["from", "to"], "Times that a flow was opened through this router, from a region to another, neither of them its own.";
    REFUSED_REQUESTS = "longhaul_refused_requests_total", Counter, &["listener", "status"], "HTTP requests that were refused, by listener (`admin`, or `broker/` and the name of an embedded broker) and HTTP status.";
    BROKER_UP = "longhaul_broker_up", Gauge, &["broker", "kind"], "1 while the broker answers.";
    BROKER_ERRORS = "longhaul_broker_errors_total", Counter, &["broker", "kind"], "Times that a broker which answered was found not to answer.";
    CONFIG_GENERATION = "longhaul_config_generation", Gauge, &[], "Counts the documents that were taken up since the start.";
    CONFIG_RELOAD_OK = "longhaul_config_last_reload_successful", Gauge, &[], "1 when the last documents were taken up, 0 when they were refused and the older ones stay in force.";
    CONFIG_RELOAD_AT = "longhaul_config_last_reload_success_timestamp_seconds", Gauge, &[], "When documents were last taken up.";
    CERTIFICATE_EXPIRY = "longhaul_certificate_expiry_timestamp_seconds", Gauge, &[], "When this router's certificate expires.";
    MEMORY_USED = "longhaul_memory_budget_used_bytes", Gauge, &[], "Bytes of the memory budget in use: rings and granted credit.";
    MEMORY_LIMIT = "longhaul_memory_budget_bytes", Gauge, &[], "The memory budget.";
    SPANS_EXPORTED = "longhaul_trace_spans_exported_total", Counter, &[], "Spans of traced events that the receiver took.";
    SPANS_DROPPED = "longhaul_trace_spans_dropped_total", Counter, &["reason"], "Spans of traced events that were dropped, by reason: the `queue` was full, or their `export` failed.";
    TASK_PANICS = "longhaul_task_panics_total", Counter, &[], "Tasks that panicked and were started again.";
    BUILD_INFO = "longhaul_build_info", Gauge, &["version", "own_region", "router"], "1, with the version of the program, the region of this router and its name.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Endings of gauges that measure something; those that count things or say yes or no stand below.
    const UNITS: [&str; 3] = ["_seconds", "_bytes", "_events"];
    const UNITLESS: [&str; 9] = [
        "longhaul_flows_stalled",
        "longhaul_flows",
        "longhaul_flows_streaming",
        "longhaul_flows_unbalanced",
        "longhaul_link_up",
        "longhaul_broker_up",
        "longhaul_config_generation",
        "longhaul_config_last_reload_successful",
        "longhaul_build_info",
    ];

    #[test]
    fn names_are_unique_prefixed_and_end_with_their_unit() {
        let mut seen = HashSet::new();
        for metric in ALL {
            assert!(seen.insert(metric.name), "{} stands twice", metric.name);
            assert!(metric.name.starts_with("longhaul_"), "{}", metric.name);
            assert!(metric.help.ends_with('.') && metric.help.len() > 10, "{}", metric.name);
            let unit = UNITS.iter().any(|unit| metric.name.ends_with(unit));
            match metric.kind {
                Kind::Counter => assert!(metric.name.ends_with("_total"), "{}", metric.name),
                Kind::Gauge => assert!(unit != UNITLESS.contains(&metric.name), "{}", metric.name),
                Kind::Histogram => assert!(metric.name.ends_with("_seconds"), "{}", metric.name),
            }
        }
    }

    /// OpenMetrics drops `_total` from the name of a family: a counter must not thereby meet a gauge.
    #[test]
    fn no_counter_is_a_gauge_with_total() {
        let names: HashSet<_> = ALL.iter().map(|metric| metric.name).collect();
        for name in names.iter().filter_map(|name| name.strip_suffix("_total")) {
            assert!(!names.contains(name), "{name}");
        }
    }

    #[test]
    fn labels_are_bounded_by_the_documents() {
        let known = [
            "route",
            "from",
            "to",
            "term",
            "region",
            "address",
            "broker",
            "kind",
            "reason",
            "listener",
            "status",
            "version",
            "own_region",
            "router",
        ];
        for label in ALL.iter().flat_map(|metric| metric.labels) {
            assert!(known.contains(label), "{label}");
        }
        let kept = ALL.iter().filter(|metric| metric.kind == Kind::Counter && metric.labels.contains(&"address"));
        assert_eq!(kept.count(), 0, "a counter outlives the address it was made for");
    }
}
