//! What the page and `longhaul top` show, as one value: start with [`Snapshot`]. Pure: views in, values out.
//!
//! It is bounded whatever the router carries: of many flows those in trouble and those that lag come first, and the number of all is
//! said. `/v1/flows` has them all.

use std::collections::HashMap;
use std::time::Duration;

use longhaul_router::{
    BrokerView, End, FlowView, LinkView, LinksView, MeshView, ParkedView, Phase, RefusalView, RouteView, SessionView,
};
use serde::{Deserialize, Serialize};

use crate::map::{MapLink, map};
use crate::rates::Rates;

/// Most flows of a snapshot.
pub const FLOWS_SHOWN_MAX: usize = 500;
/// Most parked events of a snapshot, the newest ones.
pub const PARKED_SHOWN_MAX: usize = 100;

/// A router at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// The mesh and this router.
    pub mesh: MeshView,
    /// Every link of the mesh document, as far as this router knows.
    pub map: Vec<MapLink>,
    /// Links that this router dials, by router.
    pub links: Vec<LinkLine>,
    /// Routers that dial this one.
    pub sessions: Vec<SessionView>,
    /// The last connections that were refused.
    pub refused: Vec<RefusalView>,
    /// Routes of the mesh document.
    pub routes: Vec<RouteLine>,
    /// Flows, at most [`FLOWS_SHOWN_MAX`].
    pub flows: Vec<FlowLine>,
    /// How many flows there are.
    pub flows_total: usize,
    /// Brokers of this region.
    pub brokers: Vec<BrokerView>,
    /// What is parked in them.
    pub parked: ParkedLines,
}

/// A link and how fast it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LinkLine {
    /// The link.
    #[serde(flatten)]
    pub link: LinkView,
    /// Bytes sent in a second.
    pub sent_rate: Option<f64>,
    /// Bytes received in a second.
    pub received_rate: Option<f64>,
    /// Share of sent packets that were lost, from 0 to 1.
    pub loss: Option<f64>,
}

/// A route and how its flows that this router owns stand, over all of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouteLine {
    /// The route.
    #[serde(flatten)]
    pub route: RouteView,
    /// Events sent in a second.
    pub rate: Option<f64>,
    /// Events that are not durable at their destinations yet.
    pub lag_events: Option<u64>,
    /// For how long the one furthest behind has been so.
    pub lag_seconds: f64,
}

/// A flow and how fast it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FlowLine {
    /// The flow.
    #[serde(flatten)]
    pub flow: FlowView,
    /// Events sent (out) or delivered (in) in a second.
    pub rate: Option<f64>,
}

/// Parked events, the newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ParkedLines {
    /// How many there are; `None` while nobody has counted.
    pub total: Option<usize>,
    /// At most [`PARKED_SHOWN_MAX`].
    pub newest: Vec<ParkedView>,
    /// Why a broker did not tell.
    pub error: Option<String>,
}

/// What a router says of itself, before it is put together.
pub(crate) struct Views {
    pub(crate) mesh: MeshView,
    pub(crate) links: LinksView,
    pub(crate) routes: Vec<RouteView>,
    pub(crate) flows: Vec<FlowView>,
    pub(crate) brokers: Vec<BrokerView>,
    pub(crate) parked: ParkedLines,
}

/// Puts a snapshot together; rates are those since the last ones that were.
pub(crate) fn snapshot(views: Views, rates: &mut Rates, now: Duration) -> Snapshot {
    rates.add(now, counters(&views));
    let links: Vec<LinkLine> = views.links.out.into_iter().map(|link| link_line(link, rates)).collect();
    let flows_total = views.flows.len();
    let routes = views.routes.into_iter().map(|route| route_line(route, &views.flows, rates)).collect();
    Snapshot {
        map: map(&views.mesh, &links),
        mesh: views.mesh,
        links,
        sessions: views.links.r#in,
        refused: views.links.refused,
        routes,
        flows: shown(views.flows).into_iter().map(|flow| flow_line(flow, rates)).collect(),
        flows_total,
        brokers: views.brokers,
        parked: views.parked,
    }
}

impl ParkedLines {
    /// Of what is parked, oldest first.
    pub(crate) fn of(mut parked: Vec<ParkedView>) -> Self {
        let total = parked.len();
        parked.reverse();
        parked.truncate(PARKED_SHOWN_MAX);
        Self { total: Some(total), newest: parked, error: None }
    }
}

/// Those in trouble first, so that the bound cuts off what is well; each group in the order of names, so that lines stay where they are.
fn shown(mut flows: Vec<FlowView>) -> Vec<FlowView> {
    let trouble = |flow: &FlowView| match flow.phase {
        _ if flow.fault.is_some() || flow.stalled => 0,
        Phase::Faulted => 0,
        Phase::Waiting | Phase::Opening => 1,
        Phase::Streaming | Phase::Stopped => 2,
    };
    if flows.len() > FLOWS_SHOWN_MAX {
        flows.sort_by_key(|flow| (trouble(flow), std::cmp::Reverse(flow.lag_events)));
        flows.truncate(FLOWS_SHOWN_MAX);
        flows.sort_by(|a, b| (&a.route, &a.from, &a.shard, &a.to).cmp(&(&b.route, &b.from, &b.shard, &b.to)));
    }
    flows.sort_by_key(trouble);
    flows
}

fn counters(views: &Views) -> HashMap<String, u64> {
    let links = views.links.out.iter().filter(|link| link.up).flat_map(|link| {
        let [sent, received, packets, lost] = link_names(link);
        [
            (sent, link.sent_bytes),
            (received, link.received_bytes),
            (packets, link.sent_packets),
            (lost, link.lost_packets),
        ]
    });
    links.chain(views.flows.iter().map(|flow| (flow_name(flow), moved(flow)))).collect()
}

fn link_names(link: &LinkView) -> [String; 4] {
    // A link that came up again counts from zero, under another name.
    ["sent", "received", "packets", "lost"]
        .map(|what| format!("{what} {} {} {}", link.region, link.address, link.connects))
}

fn flow_name(flow: &FlowView) -> String {
    format!("flow {} {:?}", flow.id, flow.end)
}

/// Events that left this end of a flow.
fn moved(flow: &FlowView) -> u64 {
    match flow.end {
        End::Out => flow.sent_events,
        End::In => flow.delivered_events,
    }
}

fn link_line(link: LinkView, rates: &Rates) -> LinkLine {
    let [sent, received, packets, lost] = link_names(&link);
    LinkLine {
        sent_rate: rates.per_second(&sent),
        received_rate: rates.per_second(&received),
        loss: rates.share(&lost, &packets),
        link,
    }
}

fn route_line(route: RouteView, flows: &[FlowView], rates: &Rates) -> RouteLine {
    let mut line = RouteLine { route, rate: None, lag_events: None, lag_seconds: 0.0 };
    for flow in flows.iter().filter(|flow| flow.route == line.route.name && flow.end == End::Out) {
        let (rate, lag) = (rates.per_second(&flow_name(flow)), flow.lag_events);
        line.rate = [line.rate, rate].into_iter().flatten().reduce(|a, b| a + b);
        line.lag_events = [line.lag_events, lag].into_iter().flatten().reduce(u64::saturating_add);
        line.lag_seconds = line.lag_seconds.max(flow.lag_seconds);
    }
    line
}

fn flow_line(flow: FlowView, rates: &Rates) -> FlowLine {
    FlowLine { rate: rates.per_second(&flow_name(&flow)), flow }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::{from_value, json};

    /// Three regions, all linked, seen from `a`.
    pub(crate) fn mesh() -> MeshView {
        from_value(json!({
            "mesh": "m", "region": "a", "router": "a-1", "version": "0", "generation": 1, "uptime_seconds": 1.0,
            "regions": {"a": [], "b": [], "c": []}, "links": [["a", "b"], ["c", "a"], ["b", "c"]],
            "memory_budget_bytes": 1, "memory_used_bytes": 0, "certificate_expires": 0,
        }))
        .expect("a mesh")
    }

    pub(crate) fn dialled(region: &str, up: bool) -> LinkLine {
        let error = (!up).then_some("refused");
        from_value(json!({
            "region": region, "address": "127.0.0.1:1", "router": null, "up": up, "rtt_ms": 2.0, "sent_packets": 0, "lost_packets": 0,
            "window_bytes": 0, "sent_bytes": 0, "received_bytes": 0, "flows": 0, "connects": 1, "error": error,
            "sent_rate": 100.0, "received_rate": null, "loss": 0.0,
        }))
        .expect("a link")
    }

    fn flow(number: usize, phase: &str, lag: u64) -> FlowView {
        from_value(json!({
            "id": number.to_string(), "end": "out", "route": format!("r{number:04}"), "from": "a/x", "shard": "0", "to": "b/x",
            "phase": phase, "detached": false, "hop": null, "read_events": 0, "sent_events": 10 * number, "delivered_events": 0,
            "refused_events": 0, "position": null, "durable": null, "end_offset": null, "lag_events": lag, "lag_seconds": 0.0,
            "unacknowledged_seconds": 0.0, "credit_exhausted_seconds": 0.0, "idle_seconds": 0.0, "stalled": false, "resets": 0, "fault": null, "audit_balanced": true,
            "gaps": [], "audit": {"since": null, "lives": 0, "read": 0, "delivered": 0, "filtered": 0, "parked": 0, "dropped": 0,
            "gaps": 0, "under_way": 0},
        }))
        .expect("a flow")
    }

    #[test]
    fn of_many_flows_those_in_trouble_are_shown_and_then_those_that_lag() {
        let mut flows: Vec<_> = (0..FLOWS_SHOWN_MAX + 2).map(|number| flow(number, "streaming", 1)).collect();
        (flows[3].lag_events, flows[4].lag_events) = (Some(0), Some(0));
        flows[FLOWS_SHOWN_MAX].phase = Phase::Faulted;
        let shown = shown(flows);
        assert_eq!(shown.len(), FLOWS_SHOWN_MAX);
        assert_eq!(shown[0].route, format!("r{FLOWS_SHOWN_MAX:04}"));
        assert!(!shown.iter().any(|flow| flow.route == "r0003" || flow.route == "r0004"), "what is level goes first");
        assert!(shown[1..].is_sorted_by_key(|flow| &flow.route), "the rest keeps the order of names");
    }

    #[test]
    fn a_snapshot_survives_its_json() {
        let views = Views {
            mesh: mesh(),
            links: LinksView { out: vec![dialled("b", true).link], r#in: Vec::new(), refused: Vec::new() },
            routes: Vec::new(),
            flows: vec![flow(1, "streaming", 7)],
            brokers: Vec::new(),
            parked: ParkedLines::of(Vec::new()),
        };
        let made = snapshot(views, &mut Rates::default(), Duration::ZERO);
        let read: Snapshot = from_value(serde_json::to_value(&made).expect("JSON")).expect("a snapshot");
        assert_eq!(read.map, made.map);
        assert_eq!((read.flows[0].flow.lag_events, read.links[0].link.up, read.parked.total), (Some(7), true, Some(0)));
    }
}
