//! The one reader of a queue, shared by its flows: keeps what is not acknowledged, releases what every flow has.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use longhaul_event::Position;

use crate::broker::{Answer, Ask, From};
use crate::core::{Core, End, Message, Process, What};
use crate::owner::ReadBatch;

/// Most events that are kept.
const EVENTS_MAX: usize = 400;
const BACK_OFF: Duration = Duration::from_millis(100);

/// What a flow gets that asks for more.
pub(crate) enum Taken {
    Batch(Rc<ReadBatch>),
    Wait,
    Elsewhere,
}

/// The reader and what it read.
pub(crate) struct QueueShard {
    shard: usize,
    process: Process,
    session: Option<u64>,
    /// Set while a reader stands.
    reading: bool,
    asked: bool,
    incarnation: Option<u64>,
    base: u64,
    head: u64,
    batches: VecDeque<Rc<ReadBatch>>,
    /// The flows: the next offset that each wants to see released, in the incarnation that is read.
    places: BTreeMap<usize, Option<u64>>,
    released: u64,
}

impl QueueShard {
    pub(crate) fn new(shard: usize, process: Process, flows: impl Iterator<Item = usize>) -> Self {
        Self {
            shard,
            process,
            session: None,
            reading: false,
            asked: false,
            incarnation: None,
            base: 0,
            head: 0,
            batches: VecDeque::new(),
            places: flows.map(|flow| (flow, None)).collect(),
            released: 0,
        }
    }

    pub(crate) fn start(&mut self, core: &mut Core) {
        let session = core.connect(core.plan.shards[self.shard].broker, self.process, End::Shard(self.shard));
        core.ask(session, Ask::OpenReader { shard: self.shard, flow: None, start: From::Earliest });
        self.session = Some(session);
    }

    pub(crate) fn handle_answer(&mut self, core: &mut Core, session: u64, answer: Answer) {
        if self.session != Some(session) {
            return;
        }
        match answer {
            Answer::Reader { incarnation, after } => {
                (self.reading, self.asked, self.released) = (true, false, 0);
                self.incarnation = Some(incarnation);
                self.places.values_mut().for_each(|place| *place = None);
                self.batches.clear();
                (self.base, self.head) = (after.wrapping_add(1), after.wrapping_add(1));
            }
            Answer::Read { events, last } => {
                self.asked = false;
                let batch = ReadBatch::admit(core, self.shard, self.incarnation.unwrap_or_default(), events, last);
                self.head = batch.end;
                self.batches.push_back(Rc::new(batch));
            }
            _ => {
                (self.session, self.reading) = (None, false);
                core.after(BACK_OFF, What::To(self.process, Message::Timer { end: End::Shard(self.shard) }));
            }
        }
    }

    pub(crate) fn handle_timer(&mut self, core: &mut Core) {
        if self.session.is_none() {
            self.start(core);
        }
    }

    /// Releases, makes room, reads on.
    pub(crate) fn pump(&mut self, core: &mut Core) {
        let Some(session) = self.session.filter(|_| self.reading) else { return };
        let floor = self.places.values().copied().try_fold(u64::MAX, |floor, place| place.map(|at| floor.min(at)));
        if let Some(floor) = floor.filter(|floor| *floor > self.released && *floor != u64::MAX) {
            core.ask(session, Ask::Release { upto: floor - 1 });
            self.released = floor;
        }
        while let Some(oldest) = self.batches.front()
            && floor.is_some_and(|floor| floor >= oldest.end)
        {
            self.base = oldest.end;
            self.batches.pop_front();
        }
        let kept: usize = self.batches.iter().map(|batch| batch.events.len()).sum();
        if !self.asked && kept < EVENTS_MAX {
            self.asked = true;
            core.ask(session, Ask::Read { next: self.head });
        }
    }

    pub(crate) fn acked(&mut self, flow: usize, incarnation: u64, end: u64) {
        if let Some(place) = self.places.get_mut(&flow).filter(|_| self.incarnation == Some(incarnation)) {
            *place = Some(place.map_or(end, |acked| acked.max(end)));
        }
    }

    pub(crate) fn holds(&self, position: Position) -> bool {
        let next = position.offset.wrapping_add(1);
        self.incarnation == Some(position.incarnation) && (self.base..=self.head).contains(&next)
    }

    /// Where a flow begins anew; `None` without a reader.
    pub(crate) fn base(&self, flow: usize) -> Option<(u64, u64)> {
        let incarnation = self.incarnation.filter(|_| self.reading)?;
        let acked = self.places.get(&flow).copied().flatten().unwrap_or(self.base);
        Some((incarnation, acked.clamp(self.base, self.head)))
    }

    pub(crate) fn take(&self, incarnation: u64, next: u64) -> Taken {
        let held = (self.base..=self.head).contains(&next);
        if self.incarnation != Some(incarnation) || !held || (next == self.head && !self.reading) {
            return Taken::Elsewhere;
        }
        let at = self.batches.partition_point(|batch| batch.end <= next);
        self.batches.get(at).map_or(Taken::Wait, |batch| Taken::Batch(Rc::clone(batch)))
    }

    pub(crate) fn close(&mut self, core: &mut Core) {
        if let Some(session) = self.session.take() {
            core.hang_up(session);
        }
        self.reading = false;
    }
}
