//! Waiting for what may not be there: each waits for ever when there is nothing to wait for, so that an arm of a `select!` needs no case.

use std::time::{Duration, Instant};

use futures::future::BoxFuture;

/// Waits for a future, if there is one.
pub(crate) async fn wait_for<T>(future: &mut Option<BoxFuture<'_, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Waits until that time of a state machine whose time began at `origin`.
pub(crate) async fn sleep_until(at: Option<Duration>, origin: Instant) {
    match at {
        Some(at) => tokio::time::sleep_until((origin + at).into()).await,
        None => std::future::pending().await,
    }
}
