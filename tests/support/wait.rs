//! Waiting for something that another process does: polled, with a limit, and with words for what did not come.

use std::time::{Duration, Instant};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Waits until `look` finds something.
///
/// # Panics
/// When it has not within `patience`; says what was waited for.
pub async fn until<T>(what: &str, patience: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "waited {patience:?} in vain: {what}");
        // Another process moves when it moves; there is nothing to wait on but its state.
        tokio::time::sleep(PAUSE).await;
    }
}
