//! Requests that were refused: counted by status, and said in the log; what is no HTTP as well.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::response::Response;
use longhaul_telemetry::OnceASecond;

use super::problem::Problem;

/// What was refused since the start.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// By the statuses of [`Problem`] and [`Unread`](longhaul_http::Unread), which are a handful.
    counts: Mutex<BTreeMap<u16, u64>>,
    pace: OnceASecond,
}

impl Refused {
    /// By HTTP status.
    pub(crate) fn counts(&self) -> Vec<(u16, u64)> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(status, count)| (*status, *count)).collect()
    }

    /// Looks at an answer on its way out.
    pub(super) fn look(&self, answer: &Response) {
        let Some(Problem { status, detail }) = answer.extensions().get() else { return };
        self.add(status.as_u16(), detail);
    }

    /// One more.
    pub(super) fn add(&self, status: u16, reason: &str) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(status).or_default() += 1;
        if self.pace.is_due(Instant::now()) {
            tracing::warn!(status, reason, "a request to the embedded broker was refused");
        }
    }
}
