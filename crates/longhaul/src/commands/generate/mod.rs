//! `longhaul generate`: files made from what the code knows. One file per product; each writes to stdout.

mod k8s;
mod monitoring;
mod schema;

use crate::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// JSON Schema of the mesh document.
    MeshSchema,
    /// JSON Schema of the router document.
    RouterSchema,
    /// Values of the Helm chart for one region of a mesh document.
    K8s(k8s::Arguments),
    /// Alerts, as a file of rules that Prometheus reads.
    Alerts(monitoring::Alerts),
    /// Recording rules for latency and delivery, as a file of rules that Prometheus reads.
    Recording,
    /// A dashboard for Grafana.
    Dashboards(monitoring::Dashboards),
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.what {
        What::MeshSchema => schema::mesh(),
        What::RouterSchema => schema::router(),
        What::K8s(arguments) => return k8s::run(arguments),
        What::Alerts(arguments) => monitoring::alerts(arguments),
        What::Recording => monitoring::recording(),
        What::Dashboards(arguments) => monitoring::dashboard(arguments),
    }
    Ok(())
}
