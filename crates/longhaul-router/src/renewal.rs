//! When a link is made anew: at once when this router has another certificate, and in good time before that of the peer runs out. A value;
//! who dials decides when to ask.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use longhaul_link::{Identity, IdentityWatch};

/// A link is renewed when a quarter of the time that its peer's certificate had left is left, but no sooner than this before its end.
const AHEAD_MAX: Duration = Duration::from_secs(3600);
/// No two attempts follow each other faster; while this router has something new to show, they are that close at first.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(32);

/// The renewal of one link.
pub(crate) struct Renewal {
    /// Tells that this router has another certificate.
    pub(crate) identity: IdentityWatch,
    peer_expiry: SystemTime,
    /// This router's files have changed since the link was made.
    stale: bool,
    retry: Duration,
    due: SystemTime,
}

impl Renewal {
    /// Of a link that has just come up.
    #[must_use]
    pub(crate) fn of(peer_expiry: SystemTime, identity: &Arc<Identity>) -> Self {
        let due = ahead(SystemTime::now(), peer_expiry);
        Self { identity: identity.watch(), peer_expiry, stale: false, retry: RETRY_MIN, due }
    }

    /// This router's files have changed: it has another certificate to show.
    pub(crate) fn identity_changed(&mut self) {
        (self.stale, self.retry) = (true, RETRY_MIN);
        self.due = SystemTime::UNIX_EPOCH;
    }

    /// Whether a new link shall be dialled now.
    #[must_use]
    pub(crate) fn is_due(&self, now: SystemTime) -> bool {
        now >= self.due
    }

    /// Whether a link to a peer with that end is any better than the one that stands.
    #[must_use]
    pub(crate) fn is_worth(&self, peer_expiry: SystemTime) -> bool {
        self.stale || peer_expiry > self.peer_expiry
    }

    /// The attempt has led to nothing: the peer has no later certificate yet, or does not answer.
    pub(crate) fn put_off(&mut self, now: SystemTime) {
        let soon = now + self.retry;
        self.due = if self.stale { soon } else { ahead(now, self.peer_expiry).max(soon) };
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }
}

fn ahead(now: SystemTime, expiry: SystemTime) -> SystemTime {
    let left = expiry.duration_since(now).unwrap_or_default();
    now + left.saturating_sub((left / 4).min(AHEAD_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_life_is_renewed_an_hour_before_its_end_and_a_short_one_at_three_quarters() {
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(ahead(now, now + day), now + day - AHEAD_MAX);
        assert_eq!(ahead(now, now + Duration::from_secs(20)), now + Duration::from_secs(15));
        assert_eq!(ahead(now, now - day), now);
    }
}
