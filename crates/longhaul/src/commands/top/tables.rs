//! A snapshot as lines of text: the five tables of `longhaul top`, and its two lines in short. Pure.

use longhaul_admin::{FlowLine, LinkLine, LinkState, MapLink, RouteLine, Snapshot};
use longhaul_router::{BrokerView, End, ParkedView, Phase};

use crate::commands::show::{audit, to};
use crate::table::{or_dash, render};

/// Lag that lasts longer is worth a look.
const LAG_WARN_SECONDS: f64 = 10.0;
/// Number of tables.
pub(super) const TABLES: usize = 5;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing to do.
    Well,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Not known.
    Dim,
}

/// A table as it is drawn.
pub(super) struct Table {
    pub(super) title: String,
    pub(super) headings: String,
    pub(super) lines: Vec<(Tone, String)>,
}

type Row = (Tone, Vec<String>);

fn table(title: &str, headings: &[&str], rows: Vec<Row>) -> Table {
    let (tones, cells): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let text = render(headings, &cells);
    let mut lines = text.lines().map(str::to_owned);
    let title = format!("{title} {}", tones.len());
    Table { title, headings: lines.next().unwrap_or_default(), lines: tones.into_iter().zip(lines).collect() }
}

/// All tables, in the order in which they stand.
pub(super) fn tables(snapshot: &Snapshot) -> [Table; TABLES] {
    let dialled = snapshot.links.iter().map(link);
    let others = snapshot.map.iter().filter(|link| link.reached[1] == 0).map(other_link);
    let parked = table(
        &snapshot.parked.error.as_ref().map_or_else(|| "Parked".to_owned(), |error| format!("Parked: {error};")),
        &["ID", "ROUTE", "TOPIC", "OFFSET", "TO", "KIND", "REASON"],
        snapshot.parked.newest.iter().map(parked).collect(),
    );
    [
        table(
            "Links",
            &["LINK", "STATE", "RTT MS", "SENT KB/S", "RECEIVED KB/S", "LOSS %", "FLOWS", "WHY"],
            dialled.chain(others).collect(),
        ),
        table(
            "Routes",
            &["ROUTE", "FROM", "TO", "GUARANTEE", "FLOWS HERE", "EVENTS/S", "LAG", "TROUBLE"],
            snapshot.routes.iter().map(route).collect(),
        ),
        table(
            "Flows",
            &["ROUTE", "END", "FROM", "TO", "STATE", "EVENTS/S", "DURABLE", "LAG", "BEHIND S", "AUDIT", "FAULT"],
            snapshot.flows.iter().map(flow).collect(),
        ),
        table("Brokers", &["BROKER", "KIND", "STATE", "WHY"], snapshot.brokers.iter().map(broker).collect()),
        parked,
    ]
}

fn link(line: &LinkLine) -> Row {
    let link = &line.link;
    let name = link.router.as_ref().map_or_else(
        || format!("to {} at {}", link.region, link.address),
        |router| format!("to {}/{router}", link.region),
    );
    let (tone, state) = if link.up { (Tone::Well, LinkState::Up) } else { (Tone::Bad, LinkState::Down) };
    let why = (!link.up).then(|| link.error.clone().unwrap_or_else(|| "not reached yet".to_owned()));
    let cells = vec![
        name,
        state.as_str().to_owned(),
        decimal(link.up.then_some(link.rtt_ms)),
        decimal(line.sent_rate.map(kilo)),
        decimal(line.received_rate.map(kilo)),
        or_dash(line.loss.map(|share| format!("{:.2}", share * 100.0))),
        link.flows.to_string(),
        why.unwrap_or_default(),
    ];
    (tone, cells)
}

/// A link that this router does not dial.
fn other_link(link: &MapLink) -> Row {
    let name = format!("between {} and {}", link.between[0], link.between[1]);
    let why = link.reason.clone().unwrap_or_default();
    let tone = if link.state == LinkState::Unknown { Tone::Dim } else { Tone::Bad };
    let dash = || "-".to_owned();
    (tone, vec![name, link.state.as_str().to_owned(), dash(), dash(), dash(), dash(), dash(), why])
}

fn route(line: &RouteLine) -> Row {
    let route = &line.route;
    let tone = if route.error.is_some() { Tone::Bad } else { lagging(line.lag_events, line.lag_seconds) };
    let cells = vec![
        route.name.clone(),
        route.from.clone(),
        route.to.join(", "),
        route.guarantee.clone(),
        route.flows.to_string(),
        decimal(line.rate),
        or_dash(line.lag_events),
        route.error.clone().unwrap_or_default(),
    ];
    (tone, cells)
}

fn flow(line: &FlowLine) -> Row {
    let flow = &line.flow;
    let tone = match flow.phase {
        Phase::Faulted | Phase::Waiting => Tone::Bad,
        _ if flow.fault.is_some() || flow.stalled || !flow.audit_balanced => Tone::Bad,
        _ => lagging(flow.lag_events, flow.lag_seconds),
    };
    let end = match flow.end {
        End::Out => "out",
        End::In => "in",
    };
    let behind = flow.lag_events.filter(|&events| events > 0).map(|_| format!("{:.0}", flow.lag_seconds));
    let cells = vec![
        flow.route.clone(),
        end.to_owned(),
        format!("{}/{}", flow.from, flow.shard),
        to(flow),
        flow.state().to_owned(),
        decimal(line.rate),
        or_dash(flow.durable),
        or_dash(flow.lag_events),
        or_dash(behind),
        audit(flow),
        flow.fault.clone().unwrap_or_default(),
    ];
    (tone, cells)
}

fn broker(broker: &BrokerView) -> Row {
    let tone = match broker.state.as_str() {
        "up" => Tone::Well,
        "down" => Tone::Bad,
        _ => Tone::Warn,
    };
    (
        tone,
        vec![broker.name.clone(), broker.kind.clone(), broker.state.clone(), broker.error.clone().unwrap_or_default()],
    )
}

fn parked(event: &ParkedView) -> Row {
    let to = format!("{}/{}", event.to.0, event.to.1);
    let (offset, kind) = (event.offset.to_string(), event.kind.clone());
    (
        Tone::Warn,
        vec![event.id.clone(), event.route.clone(), event.topic.clone(), offset, to, kind, event.reason.clone()],
    )
}

fn lagging(events: Option<u64>, seconds: f64) -> Tone {
    if events.is_some_and(|events| events > 0) && seconds > LAG_WARN_SECONDS { Tone::Warn } else { Tone::Well }
}

fn decimal(value: Option<f64>) -> String {
    or_dash(value.map(|value| format!("{value:.1}")))
}

fn kilo(bytes: f64) -> f64 {
    bytes / 1000.0
}

/// Who this is, and how it is doing, each in one line with what is worth a look.
pub(super) fn in_short(snapshot: &Snapshot) -> [(Tone, String); 2] {
    let mesh = &snapshot.mesh;
    let known = snapshot.map.iter().filter(|link| link.state != LinkState::Unknown);
    let (links, up) = known.fold((0, 0), |(all, up), link| (all + 1, up + usize::from(link.state == LinkState::Up)));
    let troubled = snapshot.flows.iter().filter(|line| line.flow.state() != "streaming").count();
    let streaming = snapshot.flows_total - troubled.min(snapshot.flows_total);
    let lag: u64 = snapshot.routes.iter().filter_map(|line| line.lag_events).sum();
    let brokers = snapshot.brokers.iter().filter(|broker| broker.state == "up").count();
    let parked = or_dash(snapshot.parked.total);
    let head = format!(
        "{}/{}  mesh {}, document {}, version {}, up {:.0} s, memory {} of {} MiB",
        mesh.region,
        mesh.router,
        mesh.mesh,
        mesh.generation,
        mesh.version,
        mesh.uptime_seconds,
        mesh.memory_used_bytes >> 20,
        mesh.memory_budget_bytes >> 20,
    );
    let state = format!(
        "links {up} of {links} up, flows {streaming} of {} streaming, lag {lag} events, brokers {brokers} of {} up, parked {parked}",
        snapshot.flows_total,
        snapshot.brokers.len(),
    );
    let well = up == links && troubled == 0 && brokers == snapshot.brokers.len();
    [(Tone::Well, head), (if well { Tone::Well } else { Tone::Bad }, state)]
}
