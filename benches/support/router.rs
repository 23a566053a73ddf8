//! The role of a router: one whole router in a process of its own, with the brokers of its document or with those of a benchmark.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use longhaul_broker::Connector;
use longhaul_router::{Documents, Router};
use longhaul_telemetry::{LogFormat, Metrics};
use tokio::runtime::Runtime;

use crate::child;
use crate::discard::Discard;
use crate::generator::Generator;

/// Prepares this process as the program `longhaul` does: log, TLS, threads.
///
/// # Panics
/// When there are no threads to be had.
#[must_use]
pub fn prepare() -> Runtime {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let _ = longhaul_telemetry::init_log(LogFormat::Text, "warn");
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads")
}

/// A router whose document says what it needs, until its parent is gone.
pub fn run(document: &Path) {
    let runtime = prepare();
    let router = runtime.block_on(Router::start(load(document), Metrics::new()));
    let _router = router.expect("the router starts");
    child::serve("ready", || 0);
    runtime.shutdown_background();
}

/// A router whose one broker, of that name, generates events on so many shards.
pub fn run_generator(document: &Path, broker: &str, shards: u32) {
    run_with(document, broker, Generator::new(shards), || 0);
}

/// A router whose one broker, of that name, discards events; counts their bytes.
pub fn run_discard(document: &Path, broker: &str) {
    let discard = Discard::new();
    run_with(document, broker, Arc::clone(&discard) as Arc<dyn Connector>, || discard.taken_bytes());
}

fn run_with(document: &Path, broker: &str, connector: Arc<dyn Connector>, count: impl Fn() -> u64) {
    let runtime = prepare();
    let brokers = BTreeMap::from([(broker.to_owned(), connector)]);
    let router = runtime.block_on(Router::start_with(load(document), brokers, Metrics::new()));
    let _router = router.expect("the router starts");
    child::serve("ready", count);
    runtime.shutdown_background();
}

fn load(document: &Path) -> Documents {
    Documents::load(document).unwrap_or_else(|error| panic!("{}: {error}", document.display()))
}
