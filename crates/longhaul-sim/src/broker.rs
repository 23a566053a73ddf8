//! The models of brokers: logs, a queue, sinks with and without transactions. They say what is there, never what should be.
//!
//! A broker is asked over sessions; each request either happens wholly, in part (a torn write) or not at all, and the answer may get
//! lost with the session. Everything that is written has a number, so that a crash can take back the last of it: data and cursors alike.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use longhaul_event::{Event, EventId, Identity, Position};
use longhaul_topic::Topic;

use crate::ledger::Uid;
use crate::plan::Kind;

/// A record as it rests.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub uid: Uid,
    pub topic: Topic,
    pub key: Option<Bytes>,
    pub payload: Option<Bytes>,
    pub time_ms: i64,
    /// The identity that stands in its headers.
    pub id: Option<(EventId, Identity)>,
    pub provenance: Bytes,
}

/// A write, so that it can be taken back.
#[derive(Debug)]
pub(crate) struct Written {
    pub at: Duration,
    pub record: Rc<Record>,
    pub shard: Option<usize>,
    /// The flow that wrote it, and what it was at its source; and those that were left out because of it.
    pub of: Vec<(usize, Uid)>,
    /// What was written as one is lost as one.
    pub batch: u64,
}

/// A partition or a stream. `None` among the records is a marker.
#[derive(Debug)]
pub(crate) struct Log {
    pub incarnation: u64,
    pub base: u64,
    pub records: VecDeque<Option<Rc<Record>>>,
    /// Flows that have read what was cut off since.
    pub diverged: BTreeSet<usize>,
}

impl Log {
    pub(crate) fn end(&self) -> u64 {
        self.base + self.records.len() as u64
    }
}

/// A queue with one consumer at a time.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub ready: VecDeque<Rc<Record>>,
    pub unacked: BTreeMap<u64, Rc<Record>>,
    pub consumer: Option<u64>,
    pub next_tag: u64,
}

/// A cursor with its history: when it was written, after how many writes.
type Cursors = Vec<(usize, Position)>;

/// One broker.
#[derive(Debug)]
pub(crate) struct Broker {
    pub kind: Kind,
    pub up: bool,
    pub logs: BTreeMap<usize, Log>,
    pub queue: Queue,
    pub written: Vec<Written>,
    pub cursors: BTreeMap<usize, Cursors>,
    /// Who may write a flow: the session that opened it last.
    pub fences: BTreeMap<usize, u64>,
    /// Message ids of the duplicate window: when, and which write.
    pub ids: BTreeMap<EventId, (Duration, usize)>,
    /// Number of the batch that is written now.
    pub batch: u64,
    pub tails_lost: u64,
    pub torn: bool,
    /// The next events that are set aside are, up to one of them, and nobody hears of it.
    pub torn_parking: bool,
    pub poison_next: bool,
    /// Records (of the source) that are refused for good.
    pub poisoned: BTreeSet<Uid>,
    /// What was set aside: flow and name, after how many writes, and which record it was.
    pub parked: BTreeMap<(usize, EventId), (usize, Uid)>,
    pub slow: (Duration, Duration),
    pub hang_until: Duration,
}

impl Broker {
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            up: true,
            logs: BTreeMap::new(),
            queue: Queue::default(),
            written: Vec::new(),
            cursors: BTreeMap::new(),
            fences: BTreeMap::new(),
            ids: BTreeMap::new(),
            batch: 0,
            tails_lost: 0,
            torn: false,
            torn_parking: false,
            poison_next: false,
            poisoned: BTreeSet::new(),
            parked: BTreeMap::new(),
            slow: (Duration::ZERO, Duration::ZERO),
            hang_until: Duration::ZERO,
        }
    }

    pub(crate) fn cursor(&self, flow: usize) -> Option<Position> {
        self.cursors.get(&flow).and_then(|cursors| cursors.last()).map(|(_, cursor)| *cursor)
    }

    pub(crate) fn commit(&mut self, flow: usize, cursor: Position) {
        self.cursors.entry(flow).or_default().push((self.written.len(), cursor));
    }

    /// Puts a record where its shard is, `shard` being the partition that it goes to.
    pub(crate) fn append(&mut self, shard: Option<usize>, record: Record, of: Vec<(usize, Uid)>, at: Duration) {
        let record = Rc::new(record);
        match shard.and_then(|shard| self.logs.get_mut(&shard)) {
            Some(log) => log.records.push_back(Some(Rc::clone(&record))),
            None => self.queue.ready.push_back(Rc::clone(&record)),
        }
        self.written.push(Written { at, record, shard, of, batch: self.batch });
    }

    /// A transaction leaves a marker behind: an offset without an event.
    pub(crate) fn mark(&mut self, shard: usize) {
        if let Some(log) = self.logs.get_mut(&shard) {
            log.records.push_back(None);
        }
    }

    /// Takes back everything from that write on, and what was written as one with it. Returns what it was.
    pub(crate) fn roll_back(&mut self, mut to: usize) -> Vec<Written> {
        while to > 0 && self.written.get(to).is_some_and(|at| at.batch == self.written[to - 1].batch) {
            to -= 1;
        }
        let gone: Vec<Written> = self.written.split_off(to);
        for cursors in self.cursors.values_mut() {
            cursors.retain(|(written, _)| *written <= to);
        }
        self.ids.retain(|_, (_, write)| *write < to);
        for written in gone.iter().rev() {
            let Some(log) = written.shard.and_then(|shard| self.logs.get_mut(&shard)) else { continue };
            // Retention may have taken it already.
            let is_it = |record: &Option<Rc<Record>>| record.as_ref().is_some_and(|at| at.uid == written.record.uid);
            if let Some(at) = log.records.iter().rposition(is_it) {
                log.records.truncate(at);
            }
        }
        gone
    }

    /// Takes back what was parked since that write. Returns it.
    pub(crate) fn unpark(&mut self, to: usize) -> Vec<(usize, Uid)> {
        let gone = self.parked.extract_if(.., |_, (written, _)| *written > to);
        gone.map(|((flow, _), (_, uid))| (flow, uid)).collect()
    }

    /// The queue gets back what its consumer did not acknowledge. Returns how many.
    pub(crate) fn requeue(&mut self) -> usize {
        let back = std::mem::take(&mut self.queue.unacked);
        let count = back.len();
        for (_, record) in back.into_iter().rev() {
            self.queue.ready.push_front(record);
        }
        self.queue.consumer = None;
        count
    }
}

/// A request.
#[derive(Debug)]
pub(crate) enum Ask {
    OpenReader { shard: usize, flow: Option<usize>, start: From },
    Read { next: u64 },
    Release { upto: u64 },
    OpenSink { flow: usize },
    Write { flow: usize, incarnation: u64, events: Vec<Event>, cursor: Option<Position> },
    Commit { flow: usize, cursor: Position },
    Park { flow: usize, incarnation: u64, events: Vec<Event> },
    HangUp,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy)]
pub(crate) enum From {
    Earliest,
    Latest,
    After(Position),
    /// After that offset of whatever is there now: a gap is passed over.
    Behind(u64),
}

/// An answer.
#[derive(Debug)]
pub(crate) enum Answer {
    Reader {
        incarnation: u64,
        after: u64,
    },
    /// What is missing, and the offset before what is there.
    Gap(&'static str, u64),
    Read {
        events: Vec<Event>,
        last: u64,
    },
    Sink {
        cursor: Option<Position>,
    },
    Written,
    Poison {
        offset: u64,
    },
    Committed(Position),
    Parked,
    /// The session is gone: what was asked may have been done.
    Lost,
}
