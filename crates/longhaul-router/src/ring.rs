//! The ring of a shard: what was read lately, shared by the flows that read on from it.
//!
//! Pure. It holds batches in order, and for every flow where it stands (`next`: the offset that it wants next) and how far it is
//! acknowledged. It never waits and never reads; [`shard`](crate::shard) does. Offsets here are always *next* offsets, so that the
//! place before offset 0 needs no case of its own.
//!
//! When it is full, the oldest batch goes if that harms nobody who keeps up:
//!
//! | shard | the oldest batch goes when |
//! | --- | --- |
//! | replayable | every flow took it, or some flow is hungry: stands at the head and waits. Who is thereby left behind reads on by itself |
//! | not replayable | every flow has it acknowledged |
//!
//! Otherwise the ring stays full and its reader pauses: that is how credit reaches the source.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use longhaul_event::Event;
use longhaul_route::Admission;
use longhaul_telemetry::During;

/// One batch as it was read and admitted.
#[derive(Debug)]
pub(crate) struct RingBatch {
    /// The first offset that it covers.
    pub first: u64,
    /// The first offset behind it.
    pub end: u64,
    /// Its events.
    pub events: Vec<Event>,
    /// What ingress found about each event, in the same order.
    pub admissions: Vec<Admission>,
    /// Bytes that it is charged for.
    pub bytes: u64,
    /// From when it was read to when it was admitted, for traces.
    pub read: During,
}

/// A flow's place at a ring.
pub(crate) type Slot = u64;

/// What a flow gets that asks for more.
#[derive(Debug, Clone)]
pub(crate) enum Next {
    /// This batch covers the offset that it asked for; earlier events in it are to be passed over.
    Batch(Arc<RingBatch>),
    /// It stands at the head: nothing new yet.
    Wait,
    /// The ring has no reader, or does not reach so far back or so far on: the flow must read by itself.
    Elsewhere,
}

#[derive(Debug, Default)]
struct Place {
    next: Option<u64>,
    acked: Option<u64>,
    hungry: bool,
}

/// The ring.
#[derive(Debug)]
pub(crate) struct Ring {
    replayable: bool,
    incarnation: Option<u64>,
    reading: bool,
    batches: VecDeque<Arc<RingBatch>>,
    head: u64,
    bytes: u64,
    places: HashMap<Slot, Place>,
    slots: Slot,
}

impl Ring {
    /// An empty ring without a reader.
    #[must_use]
    pub(crate) fn new(replayable: bool) -> Self {
        let (batches, places) = (VecDeque::new(), HashMap::new());
        Self { replayable, incarnation: None, reading: false, batches, head: 0, bytes: 0, places, slots: 0 }
    }

    /// A flow joins, standing nowhere yet.
    pub(crate) fn join(&mut self) -> Slot {
        self.slots += 1;
        self.places.insert(self.slots, Place::default());
        self.slots
    }

    /// A flow leaves.
    pub(crate) fn leave(&mut self, slot: Slot) {
        self.places.remove(&slot);
    }

    /// A reader of that incarnation fills the ring from that offset on. What was there before stays when it fits on exactly.
    pub(crate) fn handle_reader(&mut self, incarnation: u64, next: u64) {
        self.reading = true;
        if self.replayable && self.incarnation == Some(incarnation) && self.head == next {
            return;
        }
        if !self.replayable || self.incarnation != Some(incarnation) {
            // A new life of the shard: positions of the old one mean nothing here.
            self.places.values_mut().for_each(|place| *place = Place::default());
        }
        self.batches.clear();
        self.bytes = 0;
        self.head = next;
        self.incarnation = Some(incarnation);
    }

    /// The reader is gone.
    pub(crate) fn handle_reader_lost(&mut self) {
        self.reading = false;
    }

    /// A flow stops taking for now; it holds nothing back meanwhile, but for what it did not acknowledge of a shard that is not
    /// replayable.
    pub(crate) fn step_back(&mut self, slot: Slot) {
        if let Some(place) = self.places.get_mut(&slot) {
            place.next = None;
            place.hungry = false;
        }
    }

    /// Puts what the reader read at the head.
    pub(crate) fn push(&mut self, batch: RingBatch) {
        debug_assert_eq!(batch.first, self.head, "a ring has no holes");
        self.head = batch.end;
        self.bytes += batch.bytes;
        self.batches.push_back(Arc::new(batch));
    }

    /// Makes room below `bytes_max` where that harms nobody who keeps up. Returns whether the reader may read on: there is room, and
    /// somebody takes from the ring (what nobody takes need not be read ahead).
    pub(crate) fn make_room(&mut self, bytes_max: u64) -> bool {
        while self.bytes >= bytes_max && self.oldest_may_go() {
            if let Some(oldest) = self.batches.pop_front() {
                self.bytes -= oldest.bytes;
            }
        }
        self.bytes < bytes_max && (!self.replayable || self.places.values().any(|place| place.next.is_some()))
    }

    fn oldest_may_go(&self) -> bool {
        let Some(oldest) = self.batches.front() else { return false };
        let done = |at: Option<u64>| at.is_some_and(|at| at >= oldest.end);
        if !self.replayable {
            return !self.places.is_empty() && self.places.values().all(|place| done(place.acked));
        }
        self.places.values().any(|place| place.hungry && place.next == Some(self.head))
            || self.places.values().filter(|place| place.next.is_some()).all(|place| done(place.next))
    }

    /// Gives a flow what it wants next.
    pub(crate) fn next(&mut self, slot: Slot, incarnation: u64, next: u64) -> Next {
        let Some(place) = self.places.get_mut(&slot) else { return Next::Elsewhere };
        let base = self.batches.front().map_or(self.head, |batch| batch.first);
        place.hungry = false;
        let (known, held) = (self.incarnation == Some(incarnation), (base..=self.head).contains(&next));
        if !known || !held || (next == self.head && !self.reading) {
            place.next = None;
            return Next::Elsewhere;
        }
        place.next = Some(next);
        if next == self.head {
            place.hungry = true;
            return Next::Wait;
        }
        let at = self.batches.partition_point(|batch| batch.end <= next);
        self.batches.get(at).map_or(Next::Elsewhere, |batch| Next::Batch(Arc::clone(batch)))
    }

    /// Everything before that offset of that incarnation is delivered for that flow. What is said of an incarnation that is over means
    /// nothing for the one that is read now.
    pub(crate) fn handle_acked(&mut self, slot: Slot, incarnation: u64, end: u64) {
        if let Some(place) = self.places.get_mut(&slot).filter(|_| self.incarnation == Some(incarnation)) {
            place.acked = Some(place.acked.map_or(end, |acked| acked.max(end)));
        }
    }

    /// Whether no flow takes from the ring now.
    #[must_use]
    pub(crate) fn is_idle(&self) -> bool {
        self.places.values().all(|place| place.next.is_none())
    }

    /// Incarnation and offset from which a flow begins anew: what the ring holds and the flow has not acknowledged. `None` while there
    /// is no reader.
    #[must_use]
    pub(crate) fn base(&self, slot: Slot) -> Option<(u64, u64)> {
        let (incarnation, first, head) = self.range().filter(|_| self.reading)?;
        let acked = self.places.get(&slot).and_then(|place| place.acked).unwrap_or(first);
        Some((incarnation, acked.clamp(first, head)))
    }

    /// The offset before which everything is delivered for every flow, when all of them have said so.
    #[must_use]
    pub(crate) fn floor(&self) -> Option<u64> {
        let mut acked = self.places.values().map(|place| place.acked);
        acked.next()?.and_then(|first| acked.try_fold(first, |floor, at| at.map(|at| floor.min(at))))
    }

    /// Incarnation, first and next offset that the ring holds; `None` when it never had a reader.
    #[must_use]
    pub(crate) fn range(&self) -> Option<(u64, u64, u64)> {
        let base = self.batches.front().map_or(self.head, |batch| batch.first);
        self.incarnation.map(|incarnation| (incarnation, base, self.head))
    }

    /// Whether a reader fills the ring.
    #[must_use]
    pub(crate) fn is_reading(&self) -> bool {
        self.reading
    }

    /// Bytes held.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(first: u64, end: u64) -> RingBatch {
        let read = (std::time::UNIX_EPOCH, std::time::UNIX_EPOCH);
        RingBatch { first, end, events: Vec::new(), admissions: Vec::new(), bytes: 100, read }
    }

    fn filled(replayable: bool, batches: u64) -> Ring {
        let mut ring = Ring::new(replayable);
        ring.handle_reader(7, 0);
        (0..batches).for_each(|i| ring.push(batch(i * 10, i * 10 + 10)));
        ring
    }

    fn is_batch(next: &Next, first: u64) -> bool {
        matches!(next, Next::Batch(batch) if batch.first == first)
    }

    #[test]
    fn a_flow_reads_on_from_any_offset_that_the_ring_holds() {
        let mut ring = filled(true, 3);
        let slot = ring.join();
        assert!(is_batch(&ring.next(slot, 7, 0), 0));
        assert!(is_batch(&ring.next(slot, 7, 14), 10));
        assert!(matches!(ring.next(slot, 7, 30), Next::Wait));
        assert!(matches!(ring.next(slot, 7, 31), Next::Elsewhere), "just beyond the head");
        assert!(matches!(ring.next(slot, 8, 10), Next::Elsewhere), "another incarnation");
    }

    #[test]
    fn a_laggard_is_left_behind_only_for_one_who_starves() {
        let mut ring = filled(true, 3);
        let (slow, fast) = (ring.join(), ring.join());
        ring.next(slow, 7, 0);
        ring.next(fast, 7, 20);
        assert!(!ring.make_room(300), "the fast one still has something to take");
        ring.next(fast, 7, 30);
        assert!(ring.make_room(300), "the fast one starves");
        assert!(matches!(ring.next(slow, 7, 0), Next::Elsewhere));
    }

    #[test]
    fn what_all_have_taken_goes() {
        let mut ring = filled(true, 3);
        let slot = ring.join();
        ring.next(slot, 7, 10);
        assert!(ring.make_room(300));
        assert!(!ring.make_room(200), "the rest is not taken yet");
        assert_eq!(ring.bytes(), 200);
    }

    #[test]
    fn what_cannot_be_read_again_stays_until_all_have_acknowledged_it() {
        let mut ring = filled(false, 3);
        let (slow, fast) = (ring.join(), ring.join());
        ring.next(fast, 7, 30);
        ring.handle_acked(fast, 7, 30);
        assert!(!ring.make_room(300));
        assert_eq!(ring.floor(), None);
        ring.handle_acked(slow, 7, 10);
        assert!(ring.make_room(300));
        assert_eq!(ring.floor(), Some(10));
        assert!(is_batch(&ring.next(slow, 7, 10), 10));
    }

    #[test]
    fn what_is_acknowledged_of_another_life_releases_nothing() {
        for replayable in [false, true] {
            let mut ring = filled(replayable, 3);
            let slot = ring.join();
            ring.handle_acked(slot, 7, 20);
            assert_eq!(ring.floor(), Some(20));
            ring.handle_reader(8, 0);
            assert_eq!(ring.floor(), None);
            ring.handle_acked(slot, 7, 30);
            assert_eq!(ring.floor(), None, "replayable: {replayable}");
        }
    }

    #[test]
    fn a_queue_without_flows_keeps_what_it_has() {
        let mut ring = filled(false, 3);
        assert!(!ring.make_room(300));
        assert_eq!(ring.bytes(), 300);
    }

    #[test]
    fn a_flow_begins_anew_behind_what_it_acknowledged() {
        let mut ring = filled(false, 3);
        let slot = ring.join();
        assert_eq!(ring.base(slot), Some((7, 0)));
        ring.handle_acked(slot, 7, 20);
        assert_eq!(ring.base(slot), Some((7, 20)));
        ring.handle_reader_lost();
        assert_eq!(ring.base(slot), None);
    }

    #[test]
    fn a_new_reader_that_fits_on_keeps_what_is_there() {
        let mut ring = filled(true, 2);
        let slot = ring.join();
        ring.handle_reader_lost();
        assert!(matches!(ring.next(slot, 7, 20), Next::Elsewhere));
        ring.handle_reader(7, 20);
        assert!(is_batch(&ring.next(slot, 7, 0), 0));
        ring.handle_reader(7, 50);
        assert!(matches!(ring.next(slot, 7, 0), Next::Elsewhere));
        assert!(matches!(ring.next(slot, 7, 50), Next::Wait));
    }
}
