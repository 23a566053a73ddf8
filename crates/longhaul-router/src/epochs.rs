//! Owner epochs: which life of an owner a flow has, in the order in which lives begin.
//!
//! An applier serves the highest epoch and refuses the others, so a life that was stopped must never get a higher one than the life
//! that replaces it, however late its task runs. Wall time makes epochs grow over restarts of the router; nothing else depends on it.

use std::sync::{Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::flow_status::wall_ms;

/// Gives out owner epochs, each higher than the one before.
#[derive(Debug, Default)]
pub(crate) struct Epochs(Mutex<u64>);

impl Epochs {
    /// The epoch of a life that begins now; `None` for one that was stopped before.
    #[must_use]
    pub(crate) fn next(&self, stop: &CancellationToken) -> Option<u64> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if stop.is_cancelled() {
            return None;
        }
        *last = wall_ms().max(*last + 1);
        Some(*last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_life_is_higher_and_a_stopped_one_has_none() {
        let (epochs, old, new) = (Epochs::default(), CancellationToken::new(), CancellationToken::new());
        let first = epochs.next(&old);
        old.cancel();
        let second = epochs.next(&new);
        assert!(first < second, "{first:?} {second:?}");
        assert_eq!(epochs.next(&old), None);
    }
}
