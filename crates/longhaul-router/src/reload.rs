//! Taking up changed documents and certificates while events move: compile, compare, apply only what changed.
//!
//! A document that does not compile, or a certificate that cannot be used, changes nothing, and says so in a log line and a metric. What a
//! running process cannot change (its region, listeners, brokers, memory) is refused with a sentence that says to restart. A changed
//! certificate is shown from the next handshake on: the links of this router are made anew, the new one before the old one goes. A changed
//! CA or revocation list cuts the links of whom it does not admit any more.

use std::sync::Arc;
use std::time::Duration;

use longhaul_config::{LinkListen, Router as RouterDocument};
use longhaul_link::Fresh;
use tokio_util::sync::CancellationToken;

use crate::documents::{DocumentError, Documents};
use crate::router::Shared;

/// How often the files are looked at. By content, so that a ConfigMap's swapped symlink is seen.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The documents cannot be used.
    #[error(transparent)]
    Documents(#[from] DocumentError),
    /// The certificate, its key, the CA or the revocation list cannot be used.
    #[error("{0}")]
    Certificate(String),
    /// A running router cannot change that.
    #[error("{0} changed, which a running router cannot take up: restart it")]
    NeedsRestart(&'static str),
}

impl Shared {
    /// Reads the documents again and applies what changed. Returns the generation in force.
    ///
    /// # Errors
    /// [`ReloadError`]; then nothing has changed.
    pub(crate) fn reload(&self) -> Result<u64, ReloadError> {
        let mut refused = self.reloading.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let result = self.try_reload();
        *refused = result.as_ref().err().map(ToString::to_string);
        match &result {
            Ok(generation) => {
                self.metrics.reload_succeeded(*generation);
                tracing::info!(generation, "the documents are in force");
            }
            Err(error) => {
                self.metrics.reload_failed();
                tracing::error!(%error, "the documents were not taken up; what was in force stays");
            }
        }
        result
    }

    fn try_reload(&self) -> Result<u64, ReloadError> {
        let new = Documents::load(&self.documents.load().path)?;
        if let Some(what) = what_needs_a_restart(&self.documents.load().router, &new.router) {
            return Err(ReloadError::NeedsRestart(what));
        }
        if new.mesh.name != self.live.load().mesh.name {
            return Err(ReloadError::NeedsRestart("the mesh's name"));
        }
        let certificate = |text: String| ReloadError::Certificate(text);
        let fresh = Fresh::read(new.tls_files()).map_err(|error| certificate(error.to_string()))?;
        new.check_name(fresh.name()).map_err(certificate)?;
        let generation = self.live.load().generation + 1;
        self.apply(&new, generation);
        if self.identity.install(fresh) {
            tracing::info!("the certificate, its CA or its revocation list has changed; links go on with what is new");
        }
        self.documents.store(Arc::new(new));
        Ok(generation)
    }

    /// Looks at the files every two seconds and reloads when their content has changed.
    pub(crate) async fn watch_documents(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = Some(self.documents.load().hash);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let found = self.documents.load().hash_on_disk();
            // Documents that are in force already are taken up once more after refused ones, so that nothing shows wrong for ever.
            let differs = found != Some(self.documents.load().hash) || self.refused_documents().is_some();
            if found.is_some() && found != seen && differs {
                // Said by `reload` itself, in log and metric.
                let _ = self.reload();
            }
            seen = found.or(seen);
        }
    }

    /// Why the last documents were refused, if they were.
    pub(crate) fn refused_documents(&self) -> Option<String> {
        self.reloading.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

fn what_needs_a_restart(old: &RouterDocument, new: &RouterDocument) -> Option<&'static str> {
    let bound = |link: &LinkListen| (link.listen, link.event_bytes_max);
    let changes = [
        (old.region != new.region, "the region"),
        (old.name != new.name, "the router's name"),
        (bound(&old.link) != bound(&new.link), "the link listener"),
        (old.admin != new.admin, "the admin listener"),
        (old.memory_bytes != new.memory_bytes, "the memory budget"),
        (old.traces != new.traces, "the receiver of traces"),
        (old.brokers != new.brokers, "the access to a broker"),
        (old.resolve != new.resolve, "the map of resolved names"),
    ];
    changes.into_iter().find_map(|(changed, what)| changed.then_some(what))
}
