//! Deadlines and growing delays, without a clock.

use std::time::Duration;

/// A delay that doubles with every fault, between two bounds, until something goes well. It has no jitter: flows of one router open
/// over one control stream, so that opening together costs them nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BackOff {
    min: Duration,
    max: Duration,
    faults: u8,
}

impl BackOff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), faults: 0 }
    }

    /// The delay after one more fault.
    pub(crate) fn fault(&mut self) -> Duration {
        let delay = self.min.saturating_mul(1 << self.faults.min(20)).min(self.max);
        self.faults = self.faults.saturating_add(1);
        delay
    }

    /// Something went well.
    pub(crate) fn reset(&mut self) {
        self.faults = 0;
    }
}

/// When acknowledgements leave: at once when nothing else is under way, else after 5 ms, 256 KiB or 1,000 events, whichever comes
/// first.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AckPace {
    due: Option<Duration>,
    now: bool,
    events: u32,
    bytes: u32,
}

/// Longest time that an acknowledgement waits for more.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(5);
/// Acknowledge at the latest after that many bytes were written.
pub(crate) const ACK_BYTES: u32 = 256 << 10;
/// Acknowledge at the latest after that many events were written.
pub(crate) const ACK_EVENTS: u32 = 1_000;

impl AckPace {
    /// Counts what was written since the last acknowledgement.
    pub(crate) fn count(&mut self, events: u32, bytes: u32) {
        self.events = self.events.saturating_add(events);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// There is news: it leaves now if it is urgent or large, else soon.
    pub(crate) fn news(&mut self, now: Duration, urgent: bool) {
        if urgent || self.events >= ACK_EVENTS || self.bytes >= ACK_BYTES {
            self.now = true;
        } else {
            self.due.get_or_insert(now + ACK_DELAY);
        }
    }

    /// Time has passed.
    pub(crate) fn handle_timeout(&mut self, now: Duration) {
        self.now |= self.due.is_some_and(|due| due <= now);
    }

    /// The deadline, if one runs.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.due
    }

    /// Whether an acknowledgement must leave; asking starts the next round.
    pub(crate) fn take(&mut self) -> bool {
        let ready = self.now;
        if ready {
            *self = Self::default();
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn back_off_doubles_between_its_bounds() {
        let mut back_off = BackOff::new(MS * 100, MS * 350);
        assert_eq!([back_off.fault(), back_off.fault(), back_off.fault()], [MS * 100, MS * 200, MS * 350]);
        back_off.reset();
        assert_eq!(back_off.fault(), MS * 100);
    }

    #[test]
    fn an_acknowledgement_waits_five_milliseconds_at_most() {
        let mut pace = AckPace::default();
        pace.news(MS, false);
        pace.news(MS * 3, false);
        assert_eq!(pace.deadline(), Some(MS * 6));
        pace.handle_timeout(MS * 5);
        assert!(!pace.take());
        pace.handle_timeout(MS * 6);
        assert!(pace.take());
        assert_eq!(pace.deadline(), None);
    }

    #[test]
    fn volume_and_urgency_do_not_wait() {
        for (events, bytes, urgent, at_once) in [
            (ACK_EVENTS, 0, false, true),
            (ACK_EVENTS - 1, ACK_BYTES - 1, false, false),
            (0, ACK_BYTES, false, true),
            (0, 0, true, true),
        ] {
            let mut pace = AckPace::default();
            pace.count(events, bytes);
            pace.news(MS, urgent);
            assert_eq!(pace.take(), at_once, "{events} events, {bytes} bytes");
        }
    }
}
