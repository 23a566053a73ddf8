//! `longhaul run`: one router, until SIGTERM or Ctrl-C; SIGHUP reloads.

use std::path::PathBuf;

use longhaul_admin::Admin;
use longhaul_router::{DocumentError, Documents, Router};
use longhaul_telemetry::Metrics;
use tokio::signal::unix::{SignalKind, signal};

use crate::Failure;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The router document.
    #[arg(long, env = "LONGHAUL_CONFIG")]
    config: PathBuf,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let documents = load(&arguments.config)?;
    let admin = documents.router.admin.clone();
    let router = Router::start(documents, Metrics::new()).await.map_err(Failure::wrong)?;
    let token = admin.token.as_ref().map(|token| token.reveal().to_owned());
    let served = Admin::start(admin.listen, router.clone(), token).await;
    let served = served.map_err(|error| Failure::wrong(format!("admin listener {}: {error}", admin.listen)))?;
    tracing::info!(link = %router.link_address(), admin = %served.address(), "the router runs");
    wait_for_end(&router).await.map_err(|error| Failure::wrong(format!("cannot listen for signals: {error}")))?;
    if router.drain().await {
        Ok(())
    } else {
        Err(Failure::wrong("not everything under way was finished in time; it stays in its source and is sent again"))
    }
}

/// Loads documents, with every error on stderr.
pub(crate) fn load(path: &std::path::Path) -> Result<Documents, Failure> {
    Documents::load(path).map_err(|error| match error {
        DocumentError::Wrong(diagnostics) => {
            eprint!("{}", super::validate::render(&diagnostics));
            Failure::Wrong(String::new())
        }
        unreadable @ DocumentError::Unreadable { .. } => Failure::wrong(unreadable),
    })
}

async fn wait_for_end(router: &Router) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            // What a reload finds is said in the log and in a metric.
            _ = hangup.recv() => drop(router.reload()),
        }
    }
}
