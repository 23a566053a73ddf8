//! The audit of one end of a flow: what has become of every event, counted once for each position however often it was read.
//!
//! Events are counted by spans of the chain: a span is settled when its cursor is durable, and only then do its events count as
//! delivered, filtered, parked or dropped. What is read again after a rewind counts again only as far as it was not settled. The books
//! are right when everything that was read has one of these fates or is under way; what a shard passed over without a word shows as a
//! difference. Costs a comparison for each event and nothing else: events of one fate that follow each other are one run.

use std::collections::VecDeque;

use longhaul_event::{Event, Position};
use serde::{Deserialize, Serialize};

/// Runs of one span beyond which the span must end, so that the books of what is under way stay small.
const RUNS_MAX: usize = 1024;
const FATES: usize = 4;

/// What has become of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// At the owning end: sent, and acknowledged as done. At the applying end: confirmed by the destination broker.
    Delivered,
    /// The route does not take it, or the destination has it.
    Filtered,
    /// Set aside, with its reason.
    Parked,
    /// Left out by policy.
    Dropped,
}

/// The books of one end of a flow, since this router opened it. `read` is the sum of all others when they are right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditView {
    /// The position behind which counting began.
    pub since: Option<Position>,
    /// How many stretches were counted: one for each life of the shard, and one more whenever another applier had written meanwhile.
    pub lives: u32,
    /// Events that the source had for this end, those that were missing included.
    pub read: u64,
    /// Done at the destination, as far as this end knows: only the applying end tells parked and dropped ones apart.
    pub delivered: u64,
    /// Not taken by the route, or there already.
    pub filtered: u64,
    /// Set aside at the destination.
    pub parked: u64,
    /// Left out by policy.
    pub dropped: u64,
    /// Known to be missing at the source.
    pub gaps: u64,
    /// Read, and not durable at the destination.
    pub under_way: u64,
}

impl AuditView {
    /// What has a fate or is under way.
    #[must_use]
    pub fn accounted(&self) -> u64 {
        self.delivered + self.filtered + self.parked + self.dropped + self.gaps + self.under_way
    }

    /// Whether every event that was read has a fate or is under way.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.read == self.accounted()
    }
}

/// Events of one fate at consecutive offsets.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u64,
    count: u64,
    fate: Fate,
}

impl Run {
    /// How many of them lie in `from..to`.
    fn within(&self, from: u64, to: u64) -> u64 {
        (self.first + self.count).min(to).saturating_sub(self.first.max(from))
    }
}

/// What became of the events of a span that ends before `end`.
#[derive(Debug)]
struct Entry {
    end: u64,
    runs: Vec<Run>,
}

/// The books of one end of a flow.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    incarnation: Option<u64>,
    since: Option<Position>,
    lives: u32,
    /// Everything before is settled.
    settled: u64,
    /// Everything before is counted as read.
    looked_at: u64,
    read: u64,
    gaps: u64,
    under_way: u64,
    fates: [u64; FATES],
    open: VecDeque<Entry>,
    /// Of the span that is being put together.
    runs: Vec<Run>,
}

impl Audit {
    /// The life of the shard that is counted.
    #[must_use]
    pub(crate) fn incarnation(&self) -> Option<u64> {
        self.incarnation
    }

    /// The chain goes on behind that position. What was under way comes again.
    pub(crate) fn begin(&mut self, incarnation: u64, after: u64) {
        self.void();
        let next = after.wrapping_add(1);
        if self.incarnation == Some(incarnation) {
            // Passed over without a word: owed, and shown as a difference.
            self.read += next.saturating_sub(self.settled);
            (self.settled, self.looked_at) = (self.settled.max(next), self.looked_at.max(next));
            return;
        }
        self.incarnation = Some(incarnation);
        self.since.get_or_insert(Position { incarnation, offset: after });
        self.lives += 1;
        (self.settled, self.looked_at) = (next, next);
    }

    /// What lies between `from` and `next` is missing; counting goes on from there, also where it was before. Said twice, it is counted once.
    pub(crate) fn pass_over(&mut self, incarnation: u64, from: u64, next: u64) {
        if self.incarnation.is_none() {
            self.begin(incarnation, from.wrapping_sub(1));
        }
        self.void();
        if self.incarnation == Some(incarnation) {
            let events = next.saturating_sub(self.settled);
            self.gaps += events;
            self.read += events;
            (self.settled, self.looked_at) = (next, next);
        }
    }

    /// These events are looked at.
    pub(crate) fn read(&mut self, events: &[Event]) {
        let Some(last) = events.last() else { return };
        let seen = match events.first() {
            Some(first) if first.offset >= self.looked_at => 0,
            _ => events.partition_point(|event| event.offset < self.looked_at),
        };
        self.read += (events.len() - seen) as u64;
        self.looked_at = self.looked_at.max(last.offset + 1);
    }

    /// What becomes of the event at that offset, once its span is settled.
    pub(crate) fn add(&mut self, offset: u64, fate: Fate) {
        self.under_way += u64::from(offset >= self.settled);
        match self.runs.last_mut() {
            Some(run) if run.fate == fate && run.first + run.count == offset => run.count += 1,
            _ => self.runs.push(Run { first: offset, count: 1, fate }),
        }
    }

    /// The same for events that all have one fate.
    pub(crate) fn add_all(&mut self, events: &[Event], fate: Fate) {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return };
        let (first, count) = (first.offset, events.len() as u64);
        if first < self.settled || last.offset - first + 1 != count {
            return events.iter().for_each(|event| self.add(event.offset, fate));
        }
        self.under_way += count;
        self.runs.push(Run { first, count, fate });
    }

    /// Takes back what was said of that offset and of those behind it in the span that is being put together.
    pub(crate) fn take_back(&mut self, from: u64) {
        while let Some(run) = self.runs.last_mut() {
            self.under_way -= run.within(from.max(self.settled), u64::MAX);
            if run.first < from {
                run.count = run.count.min(from - run.first);
                return;
            }
            self.runs.pop();
        }
    }

    /// Whether the span must end here.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        self.runs.len() >= RUNS_MAX
    }

    /// The span that was put together ends with that offset.
    pub(crate) fn end_span(&mut self, last: u64) {
        if !self.runs.is_empty() {
            self.open.push_back(Entry { end: last.wrapping_add(1), runs: std::mem::take(&mut self.runs) });
        }
    }

    /// Everything up to that position is durable at the destination.
    pub(crate) fn settle(&mut self, durable: Position) {
        if self.incarnation == Some(durable.incarnation) {
            self.settle_before(durable.offset.wrapping_add(1));
        }
    }

    /// The destination has that cursor. What of it is beyond what was ever here was written by another applier, and is in its books: another
    /// stretch begins behind it.
    pub(crate) fn meet(&mut self, cursor: Position) {
        let next = cursor.offset.wrapping_add(1);
        if self.incarnation == Some(cursor.incarnation) && next > self.looked_at.max(self.settled) {
            self.lives += 1;
        }
        self.settle(cursor);
    }

    /// Everything that was put together is done.
    pub(crate) fn settle_all(&mut self) {
        if let Some(end) = self.open.back().map(|entry| entry.end) {
            self.settle_before(end);
        }
    }

    /// What is under way will not be sent again, and nobody will know whether it arrived.
    pub(crate) fn forsake(&mut self) {
        for run in self.open.iter_mut().flat_map(|entry| &mut entry.runs).filter(|run| run.fate == Fate::Delivered) {
            run.fate = Fate::Dropped;
        }
        self.settle_all();
    }

    /// What is under way is void: as far as it is not settled, it will be read again.
    pub(crate) fn void(&mut self) {
        self.open.clear();
        self.runs.clear();
        self.read -= self.under_way;
        self.under_way = 0;
        self.looked_at = self.settled;
    }

    /// The books as people see them.
    #[must_use]
    pub(crate) fn view(&self) -> AuditView {
        let [delivered, filtered, parked, dropped] = self.fates;
        AuditView {
            since: self.since,
            lives: self.lives,
            read: self.read,
            delivered,
            filtered,
            parked,
            dropped,
            gaps: self.gaps,
            under_way: self.under_way,
        }
    }

    fn settle_before(&mut self, end: u64) {
        let from = self.settled;
        while let Some(entry) = self.open.front() {
            for run in &entry.runs {
                let settled = run.within(from, end);
                self.fates[run.fate as usize] += settled;
                self.under_way -= settled;
            }
            if entry.end > end {
                break;
            }
            self.open.pop_front();
        }
        self.settled = self.settled.max(end);
        self.looked_at = self.looked_at.max(end);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use longhaul_event::{EventId, Headers, Identity};
    use longhaul_topic::Topic;

    use super::*;

    fn events(offsets: std::ops::Range<u64>) -> Vec<Event> {
        let event = |offset| Event {
            offset,
            topic: Topic::parse("a").expect("a topic"),
            key: None,
            headers: Headers::default(),
            payload: None,
            time_ms: 0,
            id: EventId(u128::from(offset)),
            identity: Identity::Unique,
            provenance: Bytes::new(),
        };
        offsets.map(event).collect()
    }

    fn at(offset: u64) -> Position {
        Position { incarnation: 1, offset }
    }

    /// Reads events, of which every third is filtered, as one span.
    fn span(audit: &mut Audit, offsets: std::ops::Range<u64>) {
        let events = events(offsets.clone());
        audit.read(&events);
        for event in &events {
            audit.add(event.offset, if event.offset % 3 == 0 { Fate::Filtered } else { Fate::Delivered });
        }
        audit.end_span(offsets.end - 1);
    }

    #[test]
    fn a_rewind_into_a_span_counts_nothing_twice() {
        let mut audit = Audit::default();
        audit.begin(1, u64::MAX);
        span(&mut audit, 0..10);
        span(&mut audit, 10..20);
        assert!(audit.view().is_balanced());
        assert_eq!(audit.view().under_way, 20);
        audit.settle(at(13));
        audit.begin(1, 13);
        assert_eq!((audit.view().read, audit.view().under_way), (14, 0));
        span(&mut audit, 14..20);
        audit.settle(at(19));
        let view = audit.view();
        assert!(view.is_balanced(), "{view:?}");
        assert_eq!((view.read, view.delivered, view.filtered), (20, 13, 7));
        // The destination has lost its tail: it gets it again, and it is counted as before.
        audit.begin(1, 4);
        span(&mut audit, 5..25);
        audit.settle(at(24));
        assert_eq!((audit.view().read, audit.view().under_way), (25, 0));
        assert!(audit.view().is_balanced());
    }

    #[test]
    fn what_is_taken_back_can_be_said_again() {
        let mut audit = Audit::default();
        audit.begin(1, 99);
        (100..102).for_each(|offset| audit.add(offset, Fate::Filtered));
        for _ in 0..3 {
            (102..105).for_each(|offset| audit.add(offset, Fate::Filtered));
            audit.take_back(102);
        }
        audit.read(&events(100..102));
        audit.end_span(101);
        audit.settle(at(101));
        assert_eq!((audit.view().read, audit.view().filtered), (2, 2));
    }

    #[test]
    fn a_silent_jump_shows_and_a_gap_does_not() {
        let mut audit = Audit::default();
        audit.begin(1, 0);
        span(&mut audit, 1..5);
        audit.settle(at(4));
        audit.pass_over(1, 5, 9);
        audit.pass_over(1, 5, 9);
        audit.begin(1, 8);
        assert!(audit.view().is_balanced());
        assert_eq!((audit.view().gaps, audit.view().read), (4, 8));
        audit.begin(1, 11);
        assert!(!audit.view().is_balanced());
    }

    #[test]
    fn what_another_applier_wrote_meanwhile_begins_another_stretch() {
        let mut audit = Audit::default();
        audit.begin(1, 0);
        span(&mut audit, 1..5);
        // Its own write, of which it has not heard.
        audit.meet(at(4));
        audit.void();
        assert_eq!((audit.view().read, audit.view().lives), (4, 1));
        audit.meet(at(9));
        audit.void();
        assert_eq!((audit.view().read, audit.view().lives), (4, 2), "others have them in their books");
        span(&mut audit, 10..12);
        audit.meet(at(11));
        assert_eq!((audit.view().read, audit.view().lives), (6, 2));
        assert!(audit.view().is_balanced());
    }

    #[test]
    fn another_life_of_the_shard_is_counted_on() {
        let mut audit = Audit::default();
        audit.begin(1, 0);
        span(&mut audit, 1..5);
        audit.begin(2, u64::MAX);
        span(&mut audit, 0..5);
        audit.settle(Position { incarnation: 2, offset: 4 });
        let view = audit.view();
        assert_eq!((view.read, view.lives, view.since), (5, 2, Some(at(0))));
        assert!(view.is_balanced());
    }
}
