//! Requests that were refused: counted by status, and said in the log. What is no HTTP at all never gets here.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::response::Response;
use longhaul_telemetry::OnceASecond;

use super::problem::Problem;

/// What was refused since the start.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// By the statuses of [`Problem`], which are a handful.
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
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(status.as_u16()).or_default() += 1;
        if self.pace.is_due(Instant::now()) {
            tracing::warn!(status = status.as_u16(), reason = detail, "a request to the embedded broker was refused");
        }
    }
}
