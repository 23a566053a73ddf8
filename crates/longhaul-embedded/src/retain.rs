//! What may go: by age and by bytes. Pure.
//!
//! Age counts from when an event was stored, not from the time that it carries: an event that arrives late would else go before
//! anybody read it.

use std::time::Duration;

use crate::store::Extent;

/// Most events that one transaction removes, so that appends never wait long behind it.
pub(crate) const PURGE_EVENTS_MAX: usize = 16_384;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Retention {
    age_ms: Option<i64>,
    bytes: Option<u64>,
}

impl Retention {
    pub(crate) fn new(age: Option<Duration>, bytes: Option<u64>) -> Self {
        Self { age_ms: age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX)), bytes }
    }

    /// Whether the oldest event of a log may go now. The newest event is never removed for its size.
    pub(crate) fn oldest_may_go(&self, log: &Extent, now_ms: i64) -> bool {
        let Some(stored_ms) = log.oldest_ms else { return false };
        let too_old = self.age_ms.is_some_and(|age| now_ms.saturating_sub(stored_ms) > age);
        let too_much = self.bytes.is_some_and(|max| log.bytes > max) && log.next - log.first > 1;
        too_old || too_much
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_and_bytes_decide_each_just_inside_and_just_outside() {
        let log =
            |events: u64, bytes, oldest_ms| Extent { incarnation: 1, first: 5, next: 5 + events, bytes, oldest_ms };
        let age = Retention::new(Some(Duration::from_millis(100)), None);
        let bytes = Retention::new(None, Some(1_000));
        for (retention, log, now, may_go) in [
            (age, log(2, 10, Some(50)), 150, false),
            (age, log(2, 10, Some(50)), 151, true),
            (age, log(1, 10, Some(50)), 151, true),
            (age, log(2, 10, Some(200)), 50, false),
            (age, log(0, 0, None), i64::MAX, false),
            (bytes, log(2, 1_000, Some(0)), 0, false),
            (bytes, log(2, 1_001, Some(0)), 0, true),
            (bytes, log(1, 1_001, Some(0)), 0, false),
            (Retention::default(), log(9, u64::MAX, Some(i64::MIN)), i64::MAX, false),
        ] {
            assert_eq!(retention.oldest_may_go(&log, now), may_go, "{retention:?} {log:?} {now}");
        }
    }
}
