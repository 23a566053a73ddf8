//! `longhaul up`: a mesh of three regions on loopback in one process, each with an embedded broker, real QUIC links and certificates of
//! its own making.
//!
//! Everything lies below one folder, in the same documents that `longhaul run` takes, so that it can be read, changed (the mesh document
//! is reloaded) and started again where it was. Not for production: one process is one fate.

mod files;
mod samples;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use longhaul_admin::Admin;
use longhaul_router::Router;
use longhaul_telemetry::Metrics;
use tokio::signal::unix::{SignalKind, signal};

use super::show::flows_table;
use crate::Failure;
use files::{REGIONS, Region};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folder for documents, certificates and events; made when it is not there.
    #[arg(long, env = "LONGHAUL_STATE", default_value = "longhaul-up")]
    state: PathBuf,
    /// Publishes no sample events.
    #[arg(long)]
    no_samples: bool,
    /// Shows no live view, only the commands to copy.
    #[arg(long)]
    no_view: bool,
}

struct Running {
    region: Region,
    router: Router,
    admin: Admin,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let regions = files::prepare(&arguments.state)?;
    let mut running = Vec::new();
    for region in regions {
        let documents = super::run::load(&region.document)?;
        let listen = documents.router.admin.listen;
        let router = Router::start(documents, Metrics::new()).await;
        let router = router.map_err(|error| Failure::wrong(format!("{}: {error}", region.name)))?;
        let admin = Admin::start(listen, router.clone(), None).await;
        let admin =
            admin.map_err(|error| Failure::wrong(format!("{}: admin listener {listen}: {error}", region.name)))?;
        running.push(Running { region, router, admin });
    }
    println!("{}", introduction(&arguments, &running));
    let samples = (!arguments.no_samples).then(|| {
        let brokers = running.iter().map(|one| one.region.broker_url()).collect();
        tokio::spawn(samples::publish_for_ever(brokers))
    });
    let shown = show_until_end(&running, !arguments.no_view).await;
    if let Some(samples) = samples {
        samples.abort();
    }
    println!("\nDraining ...");
    let finished = futures::future::join_all(running.iter().map(|one| one.router.drain())).await;
    println!("State is kept in {}; `longhaul up` goes on from there.", arguments.state.display());
    shown.map_err(|error| Failure::wrong(format!("cannot listen for signals: {error}")))?;
    if finished.into_iter().all(|finished| finished) {
        Ok(())
    } else {
        Err(Failure::wrong("not everything under way was finished in time; it stays in its source and is sent again"))
    }
}

fn introduction(arguments: &Arguments, running: &[Running]) -> String {
    let mut lines = vec![
        format!("A mesh of three regions runs; its state is in {}.", arguments.state.display()),
        format!("The mesh document is {}; change it and it is taken up.", arguments.state.join("mesh.yaml").display()),
        String::new(),
    ];
    for one in running {
        let (name, broker, admin) = (&one.region.name, one.region.broker_url(), one.admin.address());
        lines.push(format!("  {name:<10} events {broker}   page http://{admin}/"));
    }
    let (first, second) = (&running[0].region, &running[1].region);
    lines.extend([
        String::new(),
        "Watch what reaches the second region, in another terminal:".to_owned(),
        format!("  {} subscribe --broker {} '{}.>'", program(), second.broker_url(), first.name),
        "Publish into the first one:".to_owned(),
        format!(
            "  {} publish --broker {} orders.created '{{\"total\": 42}}' --key customer-7",
            program(),
            first.broker_url()
        ),
        "Look at a router:".to_owned(),
        format!("  {} status --admin http://{}", program(), running[0].admin.address()),
        String::new(),
        "Ctrl-C drains and ends.".to_owned(),
    ]);
    lines.join("\n")
}

/// How this program was called, to be copied.
fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "longhaul".to_owned())
}

/// Shows the flows: a view that is redrawn on a terminal, a line every 10 s elsewhere.
async fn show_until_end(running: &[Running], view: bool) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let terminal = std::io::stdout().is_terminal() && std::env::var("TERM").is_ok_and(|term| term != "dumb");
    let mut tick = tokio::time::interval(Duration::from_secs(if terminal { 1 } else { 10 }));
    let mut drawn = 0;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = tick.tick(), if view => {
                let text = if terminal { live_view(running) } else { one_line(running) };
                redraw(&text, &mut drawn, terminal);
            }
        }
    }
}

fn live_view(running: &[Running]) -> String {
    let flows: Vec<_> = running.iter().flat_map(|one| one.router.flows()).collect();
    let owned: Vec<_> = flows.into_iter().filter(|flow| flow.end == longhaul_router::End::Out).collect();
    let links: usize = running.iter().map(|one| one.router.links().out.iter().filter(|link| link.up).count()).sum();
    format!("\n{links} of {} links up\n\n{}\n", REGIONS.len() * (REGIONS.len() - 1), flows_table(&owned))
}

fn one_line(running: &[Running]) -> String {
    let flows: Vec<_> = running.iter().flat_map(|one| one.router.flows()).collect();
    let sent: u64 = flows.iter().map(|flow| flow.sent_events).sum();
    let delivered: u64 = flows.iter().map(|flow| flow.delivered_events).sum();
    let lag: u64 = flows.iter().filter_map(|flow| flow.lag_events).sum();
    format!("sent {sent}, delivered {delivered}, lag {lag} events")
}

fn redraw(text: &str, drawn: &mut usize, terminal: bool) {
    let mut out = std::io::stdout().lock();
    // A terminal that cannot be written to is no reason to stop the mesh.
    if terminal && *drawn > 0 {
        let _ = write!(out, "\x1b[{drawn}A\x1b[J");
    }
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
    *drawn = text.lines().count() + 1;
}
