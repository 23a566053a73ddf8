//! A log with holes, of which the route takes two thirds; or a queue that gives everything again that was not released, when its one
//! reader is lost.

use std::collections::VecDeque;

use longhaul_event::Position;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Log,
    Queue,
}

/// One event: what it is, and where it stands for the present reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: u64,
    pub(crate) offset: u64,
}

impl Event {
    /// Mostly small; some larger than a small window, a few larger than the first window of a flow.
    pub(crate) fn bytes(self) -> u32 {
        match self.id % 97 {
            13 => 400 << 10,
            7 | 50 => 60 << 10,
            n => 1 + 20 * u32::try_from(n).expect("below 97"),
        }
    }
}

pub(crate) const EVENT_BYTES_MAX: u64 = 400 << 10;

pub(crate) struct Source {
    pub(crate) kind: Kind,
    incarnation: u64,
    /// Log: the next offset to be written. Queue: the number of events published.
    head: u64,
    /// Where the reader stands: the last offset it gave.
    at: u64,
    /// Queue: whether there is a reader; what no reader has; and what the present reader has given and nobody released.
    reading: bool,
    ready: VecDeque<u64>,
    given: VecDeque<Event>,
    pub(crate) released: Vec<u64>,
}

const LOG_INCARNATION: u64 = 77;

impl Source {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            incarnation: LOG_INCARNATION,
            head: 0,
            at: u64::MAX,
            reading: false,
            ready: VecDeque::new(),
            given: VecDeque::new(),
            released: Vec::new(),
        }
    }

    pub(crate) fn produce(&mut self, count: u64) {
        if self.kind == Kind::Queue {
            self.ready.extend(self.head..self.head + count);
        }
        self.head += count;
    }

    /// Stands a reader: incarnation, offset before its first event, whether a new chain begins.
    pub(crate) fn seek(&mut self, resume: Option<Position>) -> (u64, u64, bool) {
        if self.kind == Kind::Queue {
            return self.seek_queue(resume);
        }
        if let Some(resume) = resume {
            assert_eq!(resume.incarnation, LOG_INCARNATION);
            assert!(resume.offset.wrapping_add(1) <= self.head, "the destination knows offsets that never were");
        }
        self.at = resume.map_or(u64::MAX, |resume| resume.offset);
        (LOG_INCARNATION, self.at, resume.is_none())
    }

    /// The reader still has what follows, or a new one begins from what was not released.
    fn seek_queue(&mut self, resume: Option<Position>) -> (u64, u64, bool) {
        let end = self.given.back().map_or(self.at, |event| event.offset);
        let goes_on = resume.filter(|resume| {
            let released = self.given.front().map_or(end.wrapping_add(1), |event| event.offset);
            let next = resume.offset.wrapping_add(1);
            self.reading && resume.incarnation == self.incarnation && (released..=end.wrapping_add(1)).contains(&next)
        });
        if let Some(resume) = goes_on {
            self.at = resume.offset;
            return (self.incarnation, self.at, false);
        }
        self.lose_reader();
        self.reading = true;
        self.incarnation += 1;
        self.at = u64::MAX;
        (self.incarnation, self.at, true)
    }

    /// Queue: what the reader had and nobody released comes again, in its old order.
    pub(crate) fn lose_reader(&mut self) {
        self.reading = false;
        let back: Vec<u64> = self.given.drain(..).map(|event| event.id).collect();
        back.into_iter().rev().for_each(|id| self.ready.push_front(id));
    }

    /// The next offset, and the event if the route takes it.
    pub(crate) fn peek(&self) -> Option<(u64, Option<Event>)> {
        let offset = self.at.wrapping_add(1);
        match self.kind {
            Kind::Log => (offset < self.head).then(|| (offset, takes(offset).then_some(Event { id: offset, offset }))),
            Kind::Queue => {
                let again = self.given.iter().find(|event| event.offset == offset).copied();
                again.or(self.ready.front().map(|&id| Event { id, offset })).map(|event| (offset, Some(event)))
            }
        }
    }

    pub(crate) fn advance(&mut self) {
        let (offset, event) = self.peek().expect("peeked before");
        self.at = offset;
        if self.kind == Kind::Queue && !self.given.iter().any(|given| given.offset == offset) {
            self.ready.pop_front();
            self.given.extend(event);
        }
    }

    pub(crate) fn release(&mut self, floor: u64) {
        assert_ne!(floor, u64::MAX, "nothing stands before the first offset");
        while let Some(event) = self.given.pop_front_if(|event| event.offset <= floor) {
            self.released.push(event.id);
        }
    }

    /// Everything was read.
    pub(crate) fn is_read(&self) -> bool {
        self.peek().is_none()
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The identities that must arrive.
    pub(crate) fn all(&self) -> Vec<u64> {
        (0..self.head).filter(|&id| self.kind == Kind::Queue || takes(id)).collect()
    }
}

/// A third of the log is holes or not for this route.
pub(crate) fn takes(offset: u64) -> bool {
    offset % 3 != 1
}
