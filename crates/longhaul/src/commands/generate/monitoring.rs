//! Alerts, recording rules and dashboards, from the table of metrics.

use clap::builder::PossibleValuesParser;
use longhaul_telemetry::{alerts, dashboards, grafana, recording, rules};

#[derive(clap::Args)]
pub(super) struct Alerts {
    /// Where the runbooks are found, as each alert says: an address or a folder.
    #[arg(long, default_value = "docs/runbooks")]
    runbooks: String,
}

#[derive(clap::Args)]
pub(super) struct Dashboards {
    /// Which one.
    #[arg(value_parser = PossibleValuesParser::new(dashboards::dashboards().into_iter().map(|board| board.name)))]
    name: String,
}

pub(super) fn alerts(arguments: &Alerts) {
    print!("{}", rules::alerts_file(&alerts::alerts(), arguments.runbooks.trim_end_matches('/')));
}

pub(super) fn recording() {
    print!("{}", rules::recording_file(&recording::recordings()));
}

pub(super) fn dashboard(arguments: &Dashboards) {
    if let Some(board) = dashboards::dashboards().iter().find(|board| board.name == arguments.name) {
        print!("{}", grafana::render(board));
    }
}
