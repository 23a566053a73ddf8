//! The only spawner: every task of the router has a name, a stop token, and begins again when it panics.
//!
//! A task that returns is done. One that panics is counted, logged and started again after a back-off, so that a fault in a
//! connector costs its own flows a restart and nothing else.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use longhaul_telemetry::Metrics;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::back_off::BackOff;

/// Starts tasks and waits for their end. Cloning shares it.
#[derive(Clone)]
pub(crate) struct Supervisor {
    tasks: TaskTracker,
    drain: CancellationToken,
    stop: CancellationToken,
    metrics: Arc<Metrics>,
}

impl Supervisor {
    /// A supervisor without tasks.
    #[must_use]
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        Self { tasks: TaskTracker::new(), drain, stop, metrics }
    }

    /// The token that tells every flow to finish what is under way.
    #[must_use]
    pub(crate) fn drain_token(&self) -> &CancellationToken {
        &self.drain
    }

    /// The token that stops every task.
    #[must_use]
    pub(crate) fn stop_token(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs a task until it returns or is stopped; `make` makes it anew after each panic.
    pub(crate) fn spawn<F, M>(&self, name: &str, stop: CancellationToken, make: M)
    where
        M: Fn() -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (name, metrics) = (name.to_owned(), Arc::clone(&self.metrics));
        self.tasks.spawn(async move {
            let mut back_off = BackOff::new(Duration::from_millis(100), Duration::from_secs(10));
            while let Err(panic) = AssertUnwindSafe(make()).catch_unwind().await {
                metrics.task_panicked();
                tracing::error!(task = name, panic = panic_text(&*panic), "a task panicked and is started again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(back_off.next()) => {}
                }
            }
        });
    }

    /// Stops every task and waits for their end, at most so long. Returns whether all ended.
    pub(crate) async fn stop(&self, patience: Duration) -> bool {
        self.stop.cancel();
        self.tasks.close();
        tokio::time::timeout(patience, self.tasks.wait()).await.is_ok()
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text")
}
