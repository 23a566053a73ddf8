//! One memory budget per router, divided by rule: no buffer is larger than its share.
//!
//! Half of the budget is for what was read and not yet acknowledged (rings), half for what was granted to owners elsewhere
//! (credit). Each half is divided by how many share it at the moment, within bounds; a share shrinks for all when one more
//! comes. What broker clients hold inside themselves is bounded by their own settings and not counted here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Largest share of one ring or one flow's credit.
const SHARE_BYTES_MAX: u64 = 16 << 20;
/// Smallest share; one event of the largest size is allowed beyond it, so that nothing deadlocks.
const SHARE_BYTES_MIN: u64 = 256 << 10;

/// The budget of a router.
#[derive(Debug)]
pub(crate) struct Budget {
    total_bytes: u64,
    rings: Half,
    credits: Half,
}

#[derive(Debug, Default)]
struct Half {
    holders: AtomicUsize,
    used_bytes: AtomicU64,
}

/// Which half a share comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// A ring of one shard.
    Ring,
    /// The credit of one flow.
    Credit,
}

/// A place among those who share a half; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    of: Use,
    used_bytes: u64,
}

impl Budget {
    /// A budget of so many bytes.
    #[must_use]
    pub(crate) fn new(total_bytes: u64) -> Arc<Self> {
        Arc::new(Self { total_bytes, rings: Half::default(), credits: Half::default() })
    }

    /// The whole budget in bytes.
    #[must_use]
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Bytes in use: held in rings, granted as credit.
    #[must_use]
    pub(crate) fn used_bytes(&self) -> u64 {
        self.rings.used_bytes.load(Ordering::Relaxed) + self.credits.used_bytes.load(Ordering::Relaxed)
    }

    /// Bytes granted as credit.
    #[must_use]
    pub(crate) fn credit_bytes(&self) -> u64 {
        self.credits.used_bytes.load(Ordering::Relaxed)
    }

    /// Joins those who share a half.
    #[must_use]
    pub(crate) fn share(self: &Arc<Self>, of: Use) -> Share {
        self.half(of).holders.fetch_add(1, Ordering::Relaxed);
        Share { budget: Arc::clone(self), of, used_bytes: 0 }
    }

    fn half(&self, of: Use) -> &Half {
        match of {
            Use::Ring => &self.rings,
            Use::Credit => &self.credits,
        }
    }
}

impl Share {
    /// How many bytes this share may use now; it changes as others come and go.
    #[must_use]
    pub(crate) fn bytes_max(&self) -> u64 {
        let holders = self.budget.half(self.of).holders.load(Ordering::Relaxed).max(1);
        let even = self.budget.total_bytes / 2 / u64::try_from(holders).unwrap_or(u64::MAX);
        even.clamp(SHARE_BYTES_MIN, SHARE_BYTES_MAX)
    }

    /// Says how many bytes this share uses now.
    pub(crate) fn set_used(&mut self, bytes: u64) {
        let used = &self.budget.half(self.of).used_bytes;
        used.fetch_add(bytes, Ordering::Relaxed);
        used.fetch_sub(self.used_bytes, Ordering::Relaxed);
        self.used_bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set_used(0);
        self.budget.half(self.of).holders.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_as_others_come_and_grow_as_they_go() {
        let budget = Budget::new(32 << 20);
        let mut first = budget.share(Use::Ring);
        assert_eq!(first.bytes_max(), 16 << 20);
        let others: Vec<_> = (0..7).map(|_| budget.share(Use::Ring)).collect();
        assert_eq!(first.bytes_max(), 2 << 20);
        first.set_used(1 << 20);
        assert_eq!(budget.used_bytes(), 1 << 20);
        drop(others);
        assert_eq!(first.bytes_max(), 16 << 20);
        drop(first);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_share_is_never_too_small_for_progress() {
        let budget = Budget::new(1 << 20);
        let shares: Vec<_> = (0..100).map(|_| budget.share(Use::Credit)).collect();
        assert_eq!(shares[0].bytes_max(), SHARE_BYTES_MIN);
    }
}
