//! What somebody is told about: one table of alerts.
//!
//! Pure. Every query is written with the constants of [`names`](crate::names), so that a metric which is renamed takes its alerts with it. An
//! alert says one thing that somebody can do something about; its page in `docs/runbooks` says what. `critical`: events wait or are
//! missing, or nobody would know if they did. `warning`: they will, if nobody looks within a day.

use crate::names::*;

/// How urgent an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Somebody looks now.
    Critical,
    /// Somebody looks today.
    Warning,
}

/// One alert.
#[derive(Debug, Clone)]
pub struct Alert {
    /// Its name, and that of its page in `docs/runbooks`.
    pub name: &'static str,
    /// The query that finds what is wrong.
    pub expr: String,
    /// How long it must be so, as Prometheus writes durations.
    pub pending: &'static str,
    /// How urgent.
    pub severity: Severity,
    /// What is wrong, in one line with the labels of the series.
    pub summary: &'static str,
    /// What it means, and what is looked at first.
    pub description: &'static str,
}

/// What tells the ways of routes apart, over all routers that have a part in them.
const WAY: &str = "route, from, to";
/// How long before its expiry somebody hears of a certificate: 14 days.
const CERTIFICATE_SECONDS: u32 = 14 * 24 * 60 * 60;
/// How far a route may be behind, and still grow, before somebody hears of it.
const LAG_SECONDS_MAX: u32 = 300;
/// The part of the memory budget that may be in use for long.
const MEMORY_USED_MAX: f64 = 0.9;

/// Every alert.
#[must_use]
pub fn alerts() -> Vec<Alert> {
    use Severity::{Critical, Warning};
    let row = |name, severity, pending, expr: String, summary, description| Alert {
        name,
        expr,
        pending,
        severity,
        summary,
        description,
    };
    vec![
        row(
            "LonghaulFlowStalled",
            Critical,
            "1m",
            format!("sum by ({WAY}) ({FLOWS_STALLED}) > 0"),
            "{{ $value }} flows of {{ $labels.route }} from {{ $labels.from }} to {{ $labels.to }} do not move",
            "The source has more, and for a minute nothing of it has become durable at the destination. The flow begins again by itself; it has not helped yet.",
        ),
        row(
            "LonghaulLagGrowing",
            Warning,
            "10m",
            format!(
                "max by ({WAY}) ({LAG_SECONDS}) > {LAG_SECONDS_MAX} and sum by ({WAY}) (deriv({LAG_EVENTS}[10m])) > 0"
            ),
            "{{ $labels.route }} from {{ $labels.from }} to {{ $labels.to }} is {{ $value | humanizeDuration }} behind and falls further back",
            "More comes in at the source than arrives at the destination. The backlog is safe in the source broker as long as its retention lasts.",
        ),
        row(
            "LonghaulLinkDown",
            Warning,
            "2m",
            format!("{LINK_UP} == 0"),
            "No link from {{ $labels.instance }} to {{ $labels.address }} in {{ $labels.region }}",
            "One router of that region cannot be reached. Flows take another router or another way where there is one.",
        ),
        row(
            "LonghaulRegionUnreachable",
            Critical,
            "2m",
            format!("max by (job, instance, region) ({LINK_UP}) == 0"),
            "No link at all from {{ $labels.instance }} to {{ $labels.region }}",
            "No router of that region can be reached. What is for it waits in the source brokers, unless it passes through another region.",
        ),
        row(
            "LonghaulBrokerDown",
            Critical,
            "2m",
            format!("{BROKER_UP} == 0"),
            "The broker {{ $labels.broker }} ({{ $labels.kind }}) does not answer {{ $labels.instance }}",
            "Nothing is read from it and nothing is written to it until it answers. Nothing is lost.",
        ),
        row(
            "LonghaulEventsParked",
            Warning,
            "1m",
            format!("max by ({WAY}) ({PARKED}) > 0"),
            "{{ $value }} events of {{ $labels.route }} are parked at {{ $labels.to }}",
            "Their destination refuses them for good. They are kept whole beside it until somebody redrives or discards them.",
        ),
        row(
            "LonghaulGap",
            Critical,
            "0s",
            // A counter that appears with its first gap has grown from nothing, which `increase` does not see.
            format!(
                "sum by ({WAY}, reason) (increase({GAPS}[15m])) > 0 or sum by ({WAY}, reason) ({GAPS} unless {GAPS} offset 15m) > 0"
            ),
            "Events that {{ $labels.route }} had not read are missing at {{ $labels.from }} ({{ $labels.reason }})",
            "Retention, deletion or truncation at the source broker overtook the route. It halts there or goes on behind, as its on_gap says.",
        ),
        row(
            "LonghaulCertificateExpiring",
            Warning,
            "5m",
            format!("{CERTIFICATE_EXPIRY} - time() < {CERTIFICATE_SECONDS}"),
            "The certificate of {{ $labels.instance }} expires in {{ $value | humanizeDuration }}",
            "When it has expired, no link comes up any more. A new one is taken up from its file without a restart.",
        ),
        row(
            "LonghaulConfigRejected",
            Warning,
            "1m",
            format!("{CONFIG_RELOAD_OK} == 0"),
            "{{ $labels.instance }} refused its documents and goes on with the older ones",
            "The documents do not compile. The log of the router says where they are wrong, by line and column.",
        ),
        row(
            "LonghaulMemoryNearLimit",
            Warning,
            "10m",
            format!("{MEMORY_USED} / {MEMORY_LIMIT} > {MEMORY_USED_MAX}"),
            "{{ $labels.instance }} has {{ $value | humanizePercentage }} of its memory budget in use",
            "Rings and credit are cut short from here on, so that throughput over long paths falls. Memory does not grow beyond the budget.",
        ),
        row(
            "LonghaulBooksUnbalanced",
            Critical,
            "5m",
            format!("sum by ({WAY}) ({FLOWS_UNBALANCED}) > 0"),
            "The audit of {{ $labels.route }} from {{ $labels.from }} to {{ $labels.to }} does not account for every event",
            "An event was passed over without a word. This is a fault of Longhaul.",
        ),
        row(
            "LonghaulTaskPanicked",
            Warning,
            "0s",
            format!("increase({TASK_PANICS}[15m]) > 0"),
            "A task of {{ $labels.instance }} panicked and was started again",
            "Flows begin again where their destination stands. This is a fault of Longhaul.",
        ),
        row(
            "LonghaulRouterDown",
            Critical,
            "2m",
            format!("up == 0 and on (job, instance) last_over_time({BUILD_INFO}[1d])"),
            "The router {{ $labels.instance }} cannot be scraped",
            "It does not run or does not answer. Other routers of its region take its flows over; where it is the only one, its region stands still.",
        ),
    ]
}
