//! What is computed once for everybody: end-to-end latency and the delivery ratio of every way of a route.
//!
//! Pure, and written with the constants of [`names`](crate::names). `docs/slo.md` says what the figures mean and how objectives are set on
//! them.

use crate::names::*;

/// One recording rule.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The series that it makes.
    pub name: &'static str,
    /// From what.
    pub expr: String,
}

/// Median latency from the source to the confirmation at the destination.
pub const END_TO_END_P50: &str = "longhaul:end_to_end_seconds:p50_5m";
/// The latency that 99 of 100 batches keep within.
pub const END_TO_END_P99: &str = "longhaul:end_to_end_seconds:p99_5m";
/// The part of the batches that arrive within a second.
pub const WITHIN_SECOND: &str = "longhaul:end_to_end_within_1s:ratio_5m";
/// Events a second that the destination broker confirmed.
pub const DELIVERED: &str = "longhaul:delivered_events:rate5m";
/// Events a second that did not reach their destination, by what became of them: `parked`, `dropped` or `gap`.
pub const UNDELIVERED: &str = "longhaul:undelivered_events:rate5m";
/// The part of the events that reached their destination, of all whose fate is known.
pub const DELIVERY_RATIO: &str = "longhaul:delivery:ratio_5m";

const WAY: &str = "route, from, to";

/// Every recording rule, each after those that it is made from.
#[must_use]
pub fn recordings() -> Vec<Recording> {
    let rule = |name, expr| Recording { name, expr };
    let quantile = |q| format!("histogram_quantile({q}, sum by ({WAY}, le) (rate({END_TO_END}_bucket[5m])))");
    let fate = |what, rate: String| {
        format!("label_replace(sum by ({WAY}) (rate({rate}[5m])), \"what\", \"{what}\", \"\", \"\")")
    };
    vec![
        rule(END_TO_END_P50, quantile("0.5")),
        rule(END_TO_END_P99, quantile("0.99")),
        // Prometheus 3 writes the bound as 1.0, earlier ones as it is exposed.
        rule(
            WITHIN_SECOND,
            format!(
                "sum by ({WAY}) (rate({END_TO_END}_bucket{{le=~\"1|1.0\"}}[5m])) / sum by ({WAY}) (rate({END_TO_END}_count[5m]))"
            ),
        ),
        rule(DELIVERED, format!("sum by ({WAY}) (rate({DELIVERED_EVENTS}[5m]))")),
        rule(
            UNDELIVERED,
            [
                fate("parked", PARKED_EVENTS.to_string()),
                fate("gap", GAP_EVENTS.to_string()),
                fate("dropped", format!("{AUDIT}{{term=\"dropped\"}}")),
            ]
            .join(" or "),
        ),
        rule(
            DELIVERY_RATIO,
            format!("{DELIVERED} / ({DELIVERED} + (sum by ({WAY}) ({UNDELIVERED}) or {DELIVERED} * 0))"),
        ),
    ]
}
