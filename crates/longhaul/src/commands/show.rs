//! `longhaul status`, `links`, `routes`, `flows`, `brokers`: the admin API as tables.

use longhaul_router::{BrokerView, FlowView, LinksView, MeshView, RouteView};
use serde::Serialize;

use crate::Failure;
use crate::http::get_json;
use crate::table::{or_dash, render};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the router's admin listener.
    #[arg(long, env = "LONGHAUL_ADMIN", default_value = "http://127.0.0.1:9600")]
    admin: String,
    /// Form of the output.
    #[arg(short, long, env = "LONGHAUL_OUTPUT", value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

impl Arguments {
    /// Gets a view of the router.
    pub(crate) async fn get<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T, Failure> {
        get_json(&self.url(what)).await
    }

    /// The URL of something that the router serves.
    pub(crate) fn url(&self, what: &str) -> String {
        format!("{}/v1/{what}", self.admin.trim_end_matches('/'))
    }

    /// Prints a value in the form that was asked for.
    pub(crate) fn print<T: Serialize>(&self, value: &T, table: impl FnOnce(&T) -> String) -> Result<(), Failure> {
        let text = match self.output {
            Output::Table => table(value),
            Output::Json => serde_json::to_string_pretty(value).map_err(Failure::wrong)?,
        };
        println!("{text}");
        Ok(())
    }
}

/// Everything in short.
#[derive(Serialize)]
struct Status {
    mesh: MeshView,
    brokers: Vec<BrokerView>,
    links: LinksView,
    flows: Vec<FlowView>,
}

pub(crate) async fn status(arguments: &Arguments) -> Result<(), Failure> {
    let status = Status {
        mesh: arguments.get("mesh").await?,
        brokers: arguments.get("brokers").await?,
        links: arguments.get("links").await?,
        flows: arguments.get("flows").await?,
    };
    arguments.print(&status, |status| {
        let mesh = &status.mesh;
        let head = format!(
            "router {} of {} in the mesh {}, version {}, document {}, up {:.0} s, memory {} of {} MiB",
            mesh.router,
            mesh.region,
            mesh.mesh,
            mesh.version,
            mesh.generation,
            mesh.uptime_seconds,
            mesh.memory_used_bytes >> 20,
            mesh.memory_budget_bytes >> 20,
        );
        let refused = mesh.reload_error.as_ref();
        let head = refused.map_or(head.clone(), |why| format!("{head}\nthe documents on disk are not in force: {why}"));
        [head, brokers_table(&status.brokers), links_table(&status.links), flows_table(&status.flows)].join("\n\n")
    })
}

pub(crate) async fn links(arguments: &Arguments) -> Result<(), Failure> {
    arguments.print(&arguments.get::<LinksView>("links").await?, links_table)
}

pub(crate) async fn routes(arguments: &Arguments) -> Result<(), Failure> {
    arguments.print(&arguments.get::<Vec<RouteView>>("routes").await?, |routes| {
        let row = |route: &RouteView| {
            let error = route.error.clone().unwrap_or_default();
            vec![
                route.name.clone(),
                route.from.clone(),
                route.to.join(", "),
                route.guarantee.clone(),
                route.flows.to_string(),
                error,
            ]
        };
        render(
            &["ROUTE", "FROM", "TO", "GUARANTEE", "FLOWS HERE", "ERROR"],
            &routes.iter().map(row).collect::<Vec<_>>(),
        )
    })
}

pub(crate) async fn flows(arguments: &Arguments) -> Result<(), Failure> {
    arguments.print(&arguments.get::<Vec<FlowView>>("flows").await?, |flows| flows_table(flows))
}

pub(crate) async fn brokers(arguments: &Arguments) -> Result<(), Failure> {
    arguments.print(&arguments.get::<Vec<BrokerView>>("brokers").await?, |brokers| brokers_table(brokers))
}

fn brokers_table(brokers: &[BrokerView]) -> String {
    let row = |broker: &BrokerView| {
        vec![broker.name.clone(), broker.kind.clone(), broker.state.clone(), broker.error.clone().unwrap_or_default()]
    };
    render(&["BROKER", "KIND", "STATE", "ERROR"], &brokers.iter().map(row).collect::<Vec<_>>())
}

fn links_table(links: &LinksView) -> String {
    let out = links.out.iter().map(|link| {
        let (state, rtt) = if link.up { ("up", format!("{:.1}", link.rtt_ms)) } else { ("down", "-".to_owned()) };
        let router = link.router.clone().unwrap_or_else(|| link.address.clone());
        let error = if link.up { String::new() } else { link.error.clone().unwrap_or_default() };
        let direction = "to".to_owned();
        vec![direction, link.region.clone(), router, state.into(), rtt, link.flows.to_string(), error]
    });
    let incoming = links.r#in.iter().map(|session| {
        let (region, router) = (session.region.clone(), session.router.clone());
        vec!["from".into(), region, router, "up".into(), "-".into(), session.flows.to_string(), String::new()]
    });
    let table = render(
        &["LINK", "REGION", "ROUTER", "STATE", "RTT MS", "FLOWS", "ERROR"],
        &out.chain(incoming).collect::<Vec<_>>(),
    );
    let refused = links.refused.iter().map(|refusal| format!("refused ({}): {}", refusal.reason, refusal.text));
    [table].into_iter().chain(refused).collect::<Vec<_>>().join("\n")
}

/// Where a flow goes, and over which region if that is not its own link's.
pub(super) fn to(flow: &FlowView) -> String {
    let region = flow.to.split('/').next().unwrap_or_default();
    let over = flow.hop.as_deref().filter(|hop| *hop != region);
    over.map_or_else(|| flow.to.clone(), |hop| format!("{} over {hop}", flow.to))
}

/// Whether every event is accounted for, and what became of those that were not simply delivered.
pub(super) fn audit(flow: &FlowView) -> String {
    let audit = &flow.audit;
    let state = match i128::from(audit.read) - i128::from(audit.accounted()) {
        0 => "ok".to_owned(),
        off => format!("OFF BY {off}"),
    };
    let terms = [("parked", audit.parked), ("dropped", audit.dropped), ("missing", audit.gaps)];
    let told = terms.iter().filter(|(_, events)| *events > 0).map(|(term, events)| format!("{events} {term}"));
    std::iter::once(state).chain(told).collect::<Vec<_>>().join(", ")
}

/// The flows as a table; also the live view of `longhaul up`.
pub(crate) fn flows_table(flows: &[FlowView]) -> String {
    let row = |flow: &FlowView| {
        let end = match flow.end {
            longhaul_router::End::Out => "out",
            longhaul_router::End::In => "in",
        };
        let moved = if end == "out" { flow.sent_events } else { flow.delivered_events };
        vec![
            flow.route.clone(),
            end.into(),
            format!("{}/{}", flow.from, flow.shard),
            to(flow),
            flow.state().to_owned(),
            moved.to_string(),
            or_dash(flow.durable),
            or_dash(flow.lag_events),
            audit(flow),
            flow.fault.clone().unwrap_or_default(),
        ]
    };
    let headings = ["ROUTE", "END", "FROM", "TO", "STATE", "EVENTS", "DURABLE", "LAG", "AUDIT", "FAULT"];
    render(&headings, &flows.iter().map(row).collect::<Vec<_>>())
}
