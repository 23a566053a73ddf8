//! A task that ends when its handle is dropped.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Aborts its task when dropped.
#[derive(Debug)]
pub(crate) struct Task(JoinHandle<()>);

impl Task {
    /// Starts the future on that runtime.
    pub(crate) fn spawn(runtime: &Handle, future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(runtime.spawn(future))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
