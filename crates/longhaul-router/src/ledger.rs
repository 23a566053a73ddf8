//! What an owner was granted over one connection, and what came in under it: a batch is held against it before it is read. So what waits
//! for a flow is within its credit, whatever its owner does. The applier counts the same in its own time, and has the last word.

use std::sync::{Mutex, PoisonError};

use longhaul_flow::Credit;
use longhaul_wire::{BatchHeader, FlowOpen, Frame};

/// The ledger of one attachment.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The owner is the peer itself, and not somebody whose batches it hands on.
    is_direct: bool,
    page: Mutex<Page>,
}

/// Of one path epoch; both count from its Accept.
#[derive(Debug, Default)]
struct Page {
    /// `None` while nothing may be sent: before the Accept, and after a Reset.
    path_epoch: Option<u32>,
    granted: Credit,
    received: Credit,
}

/// What a batch is by its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Charge {
    /// Granted, and counted.
    Granted,
    /// Of another path epoch than the one that was accepted.
    Stale,
    /// More than was granted. Said once; what follows is stale.
    Beyond,
    /// The same, by an owner whose batches the peer hands on.
    BeyondOnTheWay,
}

impl Ledger {
    /// Of a flow that is being opened: nothing is granted yet.
    #[must_use]
    pub(crate) fn of(open: &FlowOpen) -> Self {
        Self { is_direct: open.links <= 1, page: Mutex::default() }
    }

    /// Notes what the owner is about to be told: it may send as soon as it hears it.
    pub(crate) fn note(&self, frame: &Frame) {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        match *frame {
            Frame::Accept { path_epoch, events_limit, bytes_limit, .. } => {
                let granted = Credit { events_limit, bytes_limit };
                *page = Page { path_epoch: Some(path_epoch), granted, received: Credit::default() };
            }
            Frame::Ack { path_epoch, events_limit, bytes_limit, .. } if page.path_epoch == Some(path_epoch) => {
                page.granted.events_limit = page.granted.events_limit.max(events_limit);
                page.granted.bytes_limit = page.granted.bytes_limit.max(bytes_limit);
            }
            Frame::Reset { path_epoch, .. } if page.path_epoch == Some(path_epoch) => page.path_epoch = None,
            _ => {}
        }
    }

    /// Counts a batch that comes in. One event alone may overdraw what is left, as the flow protocol has it.
    pub(crate) fn charge(&self, header: &BatchHeader) -> Charge {
        let mut page = self.page.lock().unwrap_or_else(PoisonError::into_inner);
        if page.path_epoch != Some(header.path_epoch) {
            return Charge::Stale;
        }
        if header.count == 0 {
            return Charge::Granted;
        }
        let (granted, received) = (page.granted, page.received);
        let events_limit = received.events_limit.saturating_add(u64::from(header.count));
        let bytes_limit = received.bytes_limit.saturating_add(u64::from(header.raw_len));
        let fits = events_limit <= granted.events_limit && bytes_limit <= granted.bytes_limit;
        let left = received.events_limit < granted.events_limit && received.bytes_limit < granted.bytes_limit;
        if !(fits || (header.count == 1 && left)) {
            // One is enough to end the path; what follows it is of no use.
            page.path_epoch = None;
            return if self.is_direct { Charge::Beyond } else { Charge::BeyondOnTheWay };
        }
        page.received = Credit { events_limit, bytes_limit };
        Charge::Granted
    }
}

#[cfg(test)]
mod tests {
    use longhaul_wire::Codec;

    use super::*;

    fn header(path_epoch: u32, count: u32, raw_len: u32) -> BatchHeader {
        let (handle, start, codec, incarnation, prev, last) = (1, false, Codec::None, 1, 0, u64::from(count));
        BatchHeader { handle, path_epoch, start, codec, count, incarnation, prev, last, raw_len, body_len: raw_len }
    }

    fn ledger(links: u8) -> Ledger {
        Ledger { is_direct: links <= 1, page: Mutex::default() }
    }

    fn accept(path_epoch: u32, events_limit: u64, bytes_limit: u64) -> Frame {
        Frame::Accept { handle: 1, path_epoch, resume: None, events_limit, bytes_limit }
    }

    #[test]
    fn nothing_is_granted_before_it_was_accepted_or_after_it_was_reset() {
        let ledger = ledger(1);
        assert_eq!(ledger.charge(&header(1, 1, 10)), Charge::Stale);
        ledger.note(&accept(1, 10, 100));
        assert_eq!(ledger.charge(&header(1, 1, 10)), Charge::Granted);
        assert_eq!(ledger.charge(&header(2, 1, 10)), Charge::Stale);
        let reset = |path_epoch| Frame::Reset { handle: 1, path_epoch, code: 0, text: String::new(), retry_ms: 0 };
        ledger.note(&reset(9));
        assert_eq!(ledger.charge(&header(1, 1, 10)), Charge::Granted);
        ledger.note(&reset(1));
        assert_eq!(ledger.charge(&header(1, 1, 10)), Charge::Stale);
    }

    #[test]
    fn credit_is_spent_and_one_event_may_overdraw_it() {
        let ledger = ledger(1);
        ledger.note(&accept(1, 10, 100));
        assert_eq!(ledger.charge(&header(1, 9, 99)), Charge::Granted);
        assert_eq!(ledger.charge(&header(1, 1, 4_000)), Charge::Granted, "alone, while something is left");
        assert_eq!(ledger.charge(&header(1, 0, 19)), Charge::Granted, "an empty batch weighs nothing");
        let ack =
            |events_limit, bytes_limit| Frame::Ack { handle: 1, path_epoch: 1, durable: 0, events_limit, bytes_limit };
        ledger.note(&ack(20, 5_000));
        ledger.note(&ack(5, 50));
        assert_eq!(ledger.charge(&header(1, 10, 900)), Charge::Granted);
        assert_eq!(ledger.charge(&header(1, 1, 1)), Charge::Beyond);
    }

    #[test]
    fn what_is_beyond_ends_the_path() {
        for beyond in [header(1, 11, 50), header(1, 2, 101)] {
            let ledger = ledger(1);
            ledger.note(&accept(1, 10, 100));
            assert_eq!(ledger.charge(&beyond), Charge::Beyond);
            assert_eq!(ledger.charge(&header(1, 1, 1)), Charge::Stale);
            ledger.note(&accept(2, 10, 100));
            assert_eq!(ledger.charge(&header(2, 1, 1)), Charge::Granted);
        }
        let passed_on = ledger(2);
        passed_on.note(&accept(1, 10, 100));
        assert_eq!(passed_on.charge(&header(1, 11, 50)), Charge::BeyondOnTheWay);
    }
}
