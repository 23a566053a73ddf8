//! What is looked at: four dashboards, each a table of panels and their queries.
//!
//! Pure. Every query is written with the constants of [`names`](crate::names) and [`recording`](crate::recording), so that a metric which is
//! renamed leaves no dead panel behind. [`grafana`](crate::grafana) makes the JSON of them. Start with [`Dashboard`].
//!
//! A panel of what seldom happens (gaps, parked events, resets) shows 0 where nothing was ever counted: `or vector(0)`.

use crate::names::*;
use crate::recording::{DELIVERED, DELIVERY_RATIO, END_TO_END_P50, END_TO_END_P99, WITHIN_SECOND};

/// One dashboard.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// Its name: of the file, of the address and of the command.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// What is chosen at its head.
    pub variables: Vec<Variable>,
    /// Its panels, from left to right and from top to bottom.
    pub panels: Vec<Panel>,
}

/// What is chosen at the head of a dashboard: values of a label.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its name in queries, without the dollar sign.
    pub name: &'static str,
    /// The label whose values it takes.
    pub label: &'static str,
    /// Of that metric.
    pub of: Metric,
}

/// How a panel shows what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Numbers as they are now, over a quarter of the width.
    Now,
    /// Lines over time, over half of the width.
    Lines,
    /// A row for each series, a column for each query, over the whole width.
    Table,
}

/// One panel.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Its title.
    pub title: &'static str,
    /// How it shows what it finds.
    pub shape: Shape,
    /// The unit, as Grafana names it.
    pub unit: &'static str,
    /// Queries, each with its legend (or the title of its column).
    pub queries: Vec<(String, &'static str)>,
}

const WAY: &str = "route, from, to";
const BY_WAY: &str = "{{route}}: {{from}} to {{to}}";
const BY_ROUTER: &str = "{{own_region}}/{{router}}";

/// Every dashboard.
#[must_use]
pub fn dashboards() -> Vec<Dashboard> {
    vec![mesh(), region(), link(), flow()]
}

fn panel<const N: usize>(
    title: &'static str,
    shape: Shape,
    unit: &'static str,
    queries: [(String, &'static str); N],
) -> Panel {
    Panel { title, shape, unit, queries: queries.into() }
}

fn now(title: &'static str, unit: &'static str, query: String) -> Panel {
    panel(title, Shape::Now, unit, [(query, "")])
}

fn lines(title: &'static str, unit: &'static str, query: String, legend: &'static str) -> Panel {
    panel(title, Shape::Lines, unit, [(query, legend)])
}

/// A rate over what Grafana thinks is right for the width of the panel.
fn rate(by: &str, series: impl std::fmt::Display) -> String {
    format!("sum by ({by}) (rate({series}[$__rate_interval]))")
}

fn seldom(query: String) -> String {
    format!("{query} or vector(0)")
}

/// The same with the region and the name of the router that shows it, as far as it is in a region that is chosen.
fn at_home(series: impl std::fmt::Display) -> String {
    format!("({series}) * on (job, instance) group_left (own_region, router) {BUILD_INFO}{{own_region=~\"$region\"}}")
}

/// Regions instead of brokers: the part of `from` and `to` before the slash.
fn between_regions(query: &str) -> String {
    let region_of = |query: &str, label: &str, of: &str| {
        format!("label_replace({query}, \"{label}\", \"$1\", \"{of}\", \"([^/]+)/.*\")")
    };
    let query = region_of(&region_of(query, "from_region", "from"), "to_region", "to");
    format!("sum by (from_region, to_region) ({query})")
}

fn mesh() -> Dashboard {
    let between = |metric: Metric| between_regions(&format!("rate({metric}[$__rate_interval])"));
    Dashboard {
        name: "mesh",
        title: "Longhaul: mesh",
        variables: Vec::new(),
        panels: vec![
            now("Flows", "short", format!("sum({FLOWS})")),
            now("Flows that stream", "short", format!("sum({FLOWS_STREAMING})")),
            now("Flows that are stalled", "short", format!("sum({FLOWS_STALLED})")),
            now(
                "Alerts that fire",
                "short",
                seldom("sum(ALERTS{alertname=~\"Longhaul.*\", alertstate=\"firing\"})".into()),
            ),
            now("Links that are down", "short", format!("sum({LINK_UP} == bool 0)")),
            now("Brokers that are down", "short", format!("sum({BROKER_UP} == bool 0)")),
            now("Events delivered per second", "short", format!("sum(rate({DELIVERED_EVENTS}[$__rate_interval]))")),
            now("Events parked", "short", seldom(format!("sum(max by ({WAY}) ({PARKED}))"))),
            panel(
                "Who sends what to whom",
                Shape::Table,
                "short",
                [
                    (DELIVERED.into(), "delivered per second"),
                    (format!("sum by ({WAY}) ({LAG_EVENTS})"), "behind, events"),
                    (format!("max by ({WAY}) ({LAG_SECONDS})"), "behind, seconds"),
                    (END_TO_END_P99.into(), "99 of 100 within, seconds"),
                    (DELIVERY_RATIO.into(), "delivered, of 1"),
                    (format!("sum by ({WAY}) ({FLOWS_STALLED})"), "stalled flows"),
                ],
            ),
            lines(
                "Events per second between regions",
                "short",
                between(DELIVERED_EVENTS),
                "{{from_region}} to {{to_region}}",
            ),
            lines(
                "Bytes per second between regions",
                "Bps",
                between(DELIVERED_BYTES),
                "{{from_region}} to {{to_region}}",
            ),
            lines("Behind, in events", "short", format!("sum by ({WAY}) ({LAG_EVENTS})"), BY_WAY),
            lines("Behind, in seconds", "s", format!("max by ({WAY}) ({LAG_SECONDS})"), BY_WAY),
            lines("End to end, 99 of 100 batches", "s", END_TO_END_P99.into(), BY_WAY),
            lines("Round trip", "s", format!("max by (instance, region) ({LINK_RTT})"), "{{instance}} to {{region}}"),
        ],
    }
}

fn region() -> Dashboard {
    Dashboard {
        name: "region",
        title: "Longhaul: region",
        variables: vec![Variable { name: "region", label: "own_region", of: BUILD_INFO }],
        panels: vec![
            panel(
                "Routers",
                Shape::Table,
                "short",
                [
                    (at_home("up"), "answers"),
                    (at_home(CONFIG_GENERATION), "documents taken up"),
                    (at_home(CONFIG_RELOAD_OK), "last documents taken"),
                    (at_home(format!("(time() - {CONFIG_RELOAD_AT}) / 60")), "minutes since"),
                    (at_home(format!("({CERTIFICATE_EXPIRY} - time()) / 86400")), "days left of the certificate"),
                    (at_home(TASK_PANICS), "panics"),
                ],
            ),
            panel(
                "Brokers",
                Shape::Table,
                "short",
                [(at_home(BROKER_UP), "answers"), (at_home(BROKER_ERRORS), "times that it stopped to answer")],
            ),
            lines(
                "Events per second that leave, by route",
                "short",
                rate("route", format!("{SENT_EVENTS}{{from=~\"$region/.*\"}}")),
                "{{route}}",
            ),
            lines(
                "Events per second that arrive, by route",
                "short",
                rate("route", format!("{DELIVERED_EVENTS}{{to=~\"$region/.*\"}}")),
                "{{route}}",
            ),
            lines(
                "Behind in this region's brokers, in events",
                "short",
                format!("sum by (from, to) ({LAG_EVENTS}{{from=~\"$region/.*\"}})"),
                "{{from}} to {{to}}",
            ),
            lines("Memory budget in use", "percentunit", at_home(format!("{MEMORY_USED} / {MEMORY_LIMIT}")), BY_ROUTER),
            lines("Credit granted to owners elsewhere", "bytes", at_home(CREDIT_GRANTED), BY_ROUTER),
            lines("Resident memory", "bytes", at_home("process_resident_memory_bytes"), BY_ROUTER),
            lines(
                "Processors in use",
                "short",
                at_home("rate(process_cpu_seconds_total[$__rate_interval])"),
                BY_ROUTER,
            ),
            lines(
                "Flows that came or went",
                "short",
                seldom(rate("route, reason", format!("{MOVES}{{from=~\"$region/.*\"}}"))),
                "{{route}} {{reason}}",
            ),
            lines(
                "Connections refused, per second",
                "short",
                seldom(rate("reason", REFUSED_CONNECTIONS)),
                "{{reason}}",
            ),
            lines(
                "Requests over HTTP refused, per second",
                "short",
                seldom(rate("listener, status", REFUSED_REQUESTS)),
                "{{listener}}: {{status}}",
            ),
            lines("Messages refused, per second", "short", seldom(rate("reason", REFUSED_MESSAGES)), "{{reason}}"),
            panel(
                "Spans of traced events, per second",
                Shape::Lines,
                "short",
                [
                    (seldom(rate("instance", SPANS_EXPORTED)), "exported"),
                    (seldom(rate("reason", SPANS_DROPPED)), "dropped"),
                ],
            ),
        ],
    }
}

fn link() -> Dashboard {
    let to = |metric: Metric| format!("{metric}{{region=~\"$region\"}}");
    let each = "{{instance}} to {{region}} at {{address}}";
    let all = "{{instance}} to {{region}}";
    Dashboard {
        name: "link",
        title: "Longhaul: links",
        variables: vec![Variable { name: "region", label: "region", of: LINK_UP }],
        panels: vec![
            panel(
                "Links",
                Shape::Table,
                "short",
                [
                    (to(LINK_UP), "up"),
                    (to(LINK_RTT), "round trip, seconds"),
                    (to(LINK_WINDOW), "congestion window, bytes"),
                    (to(LINK_IN_FLIGHT), "in flight, bytes"),
                ],
            ),
            lines("Round trip", "s", to(LINK_RTT), each),
            lines("Packets lost per second", "short", rate("instance, region", to(LINK_LOST)), all),
            lines("Bytes sent per second", "Bps", rate("instance, region", to(LINK_SENT)), all),
            lines("Bytes received per second", "Bps", rate("instance, region", to(LINK_RECEIVED)), all),
            panel(
                "Congestion window and bytes in flight",
                Shape::Lines,
                "bytes",
                [
                    (to(LINK_WINDOW), "window, {{instance}} to {{address}}"),
                    (to(LINK_IN_FLIGHT), "in flight, {{instance}} to {{address}}"),
                ],
            ),
            lines("Up", "short", to(LINK_UP), each),
            panel(
                "Times that links came up",
                Shape::Lines,
                "short",
                [
                    (format!("sum by (instance, region) ({})", to(LINK_CONNECTS)), all),
                    (
                        seldom(format!("sum by (instance, region) ({})", to(LINK_RECONNECTS))),
                        "again: {{instance}} to {{region}}",
                    ),
                ],
            ),
            lines(
                "Flows opened that pass through",
                "short",
                seldom(rate("from, to", TRANSIT_OPENED)),
                "{{from}} to {{to}}",
            ),
        ],
    }
}

fn flow() -> Dashboard {
    let of = |metric: Metric| format!("{metric}{{route=~\"$route\", from=~\"$from\", to=~\"$to\"}}");
    let chosen = |series: &str| format!("{series}{{route=~\"$route\", from=~\"$from\", to=~\"$to\"}}");
    let sum = |metric: Metric| format!("sum by ({WAY}) ({})", of(metric));
    let worst = |metric: Metric| format!("max by ({WAY}) ({})", of(metric));
    let by_reason = "{{route}} to {{to}}: {{reason}}";
    let with_reason = "route, from, to, reason";
    Dashboard {
        name: "flow",
        title: "Longhaul: flows",
        variables: ["route", "from", "to"].map(|label| Variable { name: label, label, of: FLOWS }).into(),
        panels: vec![
            now("Flows", "short", format!("sum({})", of(FLOWS))),
            now("Stalled", "short", format!("sum({})", of(FLOWS_STALLED))),
            now("Books that do not balance", "short", format!("sum({})", of(FLOWS_UNBALANCED))),
            now("Delivered, of what has a fate", "percentunit", format!("min({})", chosen(DELIVERY_RATIO))),
            panel(
                "Events per second",
                Shape::Lines,
                "short",
                [
                    (rate(WAY, of(READ_EVENTS)), "read, {{route}} to {{to}}"),
                    (rate(WAY, of(SENT_EVENTS)), "sent, {{route}} to {{to}}"),
                    (rate(WAY, of(RECEIVED_EVENTS)), "received, {{route}} to {{to}}"),
                    (rate(WAY, of(DELIVERED_EVENTS)), "delivered, {{route}} to {{to}}"),
                ],
            ),
            panel(
                "Bytes per second",
                Shape::Lines,
                "Bps",
                [
                    (rate(WAY, of(READ_BYTES)), "read, {{route}} to {{to}}"),
                    (rate(WAY, of(SENT_BYTES)), "sent, {{route}} to {{to}}"),
                    (rate(WAY, of(RECEIVED_BYTES)), "received, {{route}} to {{to}}"),
                    (rate(WAY, of(DELIVERED_BYTES)), "delivered, {{route}} to {{to}}"),
                ],
            ),
            lines("Behind, in events", "short", sum(LAG_EVENTS), BY_WAY),
            lines("Behind, in seconds", "s", worst(LAG_SECONDS), BY_WAY),
            panel(
                "End to end",
                Shape::Lines,
                "s",
                [
                    (chosen(END_TO_END_P50), "half, {{route}} to {{to}}"),
                    (chosen(END_TO_END_P99), "99 of 100, {{route}} to {{to}}"),
                ],
            ),
            lines("Batches that arrive within a second", "percentunit", chosen(WITHIN_SECOND), BY_WAY),
            panel(
                "Waiting",
                Shape::Lines,
                "s",
                [
                    (worst(OLDEST_UNACKED), "oldest unacknowledged, {{route}} to {{to}}"),
                    (worst(CREDIT_EXHAUSTED), "without credit, {{route}} to {{to}}"),
                ],
            ),
            lines(
                "Part of the time without credit",
                "percentunit",
                seldom(rate(WAY, of(CREDIT_EXHAUSTED_TOTAL))),
                BY_WAY,
            ),
            lines("What became of the events", "short", format!("sum by (term) ({})", of(AUDIT)), "{{term}}"),
            lines(
                "Events refused per second, by reason",
                "short",
                seldom(rate(with_reason, of(REFUSED_EVENTS))),
                by_reason,
            ),
            lines(
                "Opened again by the destination, by reason",
                "short",
                seldom(rate(with_reason, of(RESETS))),
                by_reason,
            ),
            lines(
                "Sources and destinations that did not serve, by reason",
                "short",
                seldom(rate(with_reason, of(FAULTS))),
                by_reason,
            ),
            lines("Stalled and opened again", "short", seldom(rate(WAY, of(RESTARTS))), BY_WAY),
            lines("Parked now", "short", seldom(worst(PARKED)), BY_WAY),
            panel(
                "Refused for good, and parked, per second",
                Shape::Lines,
                "short",
                [
                    (seldom(rate(with_reason, of(POISON_EVENTS))), by_reason),
                    (seldom(rate(with_reason, of(PARKED_EVENTS))), "parked, {{route}} to {{to}}: {{reason}}"),
                ],
            ),
            panel(
                "Gaps at the source",
                Shape::Lines,
                "short",
                [
                    (seldom(format!("sum by ({with_reason}) ({})", of(GAPS))), by_reason),
                    (
                        seldom(format!("sum by ({with_reason}) ({})", of(GAP_EVENTS))),
                        "events, {{route}} to {{to}}: {{reason}}",
                    ),
                ],
            ),
        ],
    }
}
