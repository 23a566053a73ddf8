//! Brokers at work: each request as it arrives, and what befalls them from outside. What they confirm goes into the ledger.

mod park;

use std::time::Duration;

use longhaul_event::provenance::Place;
use longhaul_event::{Event, EventId, Headers, Identity, Position, hash64};
use longhaul_topic::Topic;

use crate::broker::{Answer, Ask, From, Log, Record};
use crate::core::Core;
use crate::ledger::{Content, Truth, Uid};
use crate::plan::{BROKER, Kind, MESH};

/// Name of a shard, as identities and flows have it.
pub(crate) fn shard_name(broker: usize, partition: u32) -> String {
    format!("s{broker}/{partition}")
}

/// Incarnation of every log until it is made again.
const FIRST_INCARNATION: u64 = 1_000;

/// How a write ended.
enum Wrote {
    All,
    Poison(u64),
    Lost,
}

impl Core {
    pub(crate) fn set_up_logs(&mut self) {
        for (shard, plan) in self.plan.shards.iter().enumerate().filter(|(_, plan)| plan.replayable) {
            let log = Log {
                incarnation: FIRST_INCARNATION,
                base: 0,
                records: Default::default(),
                diverged: Default::default(),
            };
            self.brokers[plan.broker].logs.insert(shard, log);
        }
    }

    pub(crate) fn serve(&mut self, session: u64, ask: Ask) {
        let Some(found) = self.sessions.get(&session).filter(|session| session.alive) else { return };
        let (broker, spent) = (found.broker, found.spent);
        if let Ask::HangUp = ask {
            if let Some(found) = self.sessions.get_mut(&session) {
                found.alive = false;
            }
            if self.brokers[broker].queue.consumer == Some(session) {
                self.redeliver(broker);
            }
            return;
        }
        if !self.brokers[broker].up {
            return self.lose_session(session);
        }
        if spent {
            return;
        }
        match ask {
            Ask::OpenReader { shard, flow, start } => self.open_reader(session, shard, flow, start),
            Ask::Read { next } => self.read(session, next),
            Ask::Release { upto } => self.release(session, upto),
            Ask::OpenSink { flow } => self.open_sink(session, flow),
            Ask::Write { flow, incarnation, events, cursor } => self.write(session, flow, incarnation, &events, cursor),
            Ask::Commit { flow, cursor } => self.commit(session, flow, cursor),
            Ask::Park { flow, incarnation, events } => self.park(session, flow, incarnation, &events),
            Ask::HangUp => {}
        }
    }

    fn open_reader(&mut self, session: u64, shard: usize, flow: Option<usize>, start: From) {
        let broker = self.plan.shards[shard].broker;
        let Some(log) = self.brokers[broker].logs.get(&shard) else {
            let queue = &mut self.brokers[broker].queue;
            if queue.consumer.is_some() {
                return self.lose_session(session);
            }
            (queue.consumer, queue.next_tag) = (Some(session), 0);
            if let Some(found) = self.sessions.get_mut(&session) {
                found.reads = Some((shard, None));
            }
            return self.answer(session, Answer::Reader { incarnation: session, after: u64::MAX });
        };
        let gap = match start {
            From::After(at) if at.incarnation != log.incarnation => Some("recreated"),
            From::After(at)
                if flow.is_some_and(|flow| log.diverged.contains(&flow)) || ordinal(at.offset) > log.end() =>
            {
                Some("truncated")
            }
            From::After(at) if ordinal(at.offset) < log.base => Some("purged"),
            _ => None,
        };
        if let Some(gap) = gap {
            let is_real = match gap {
                "recreated" => log.incarnation > FIRST_INCARNATION,
                "truncated" => flow.is_some_and(|flow| log.diverged.contains(&flow)),
                _ => true,
            };
            if !is_real {
                self.ledger.violate("gap", format!("flow {flow:?} asks for {start:?}, where nothing was ever {gap}"));
            }
            let behind = log.base.wrapping_sub(1);
            return self.answer(session, Answer::Gap(gap, behind));
        }
        let after = match start {
            From::Earliest => log.base.wrapping_sub(1),
            From::Latest => log.end().wrapping_sub(1),
            From::After(at) => at.offset,
            From::Behind(offset) => offset.wrapping_add(1).max(log.base).wrapping_sub(1),
        };
        let incarnation = log.incarnation;
        if let (Some(flow), From::Earliest | From::Latest | From::Behind(_)) = (flow, start) {
            self.excuse_before(shard, flow, (incarnation, after), start);
        }
        if let Some(found) = self.sessions.get_mut(&session) {
            found.reads = Some((shard, flow));
        }
        self.answer(session, Answer::Reader { incarnation, after });
    }

    /// A flow begins where the route says: what is not there any more, or came before, is none of its business. Once the destination
    /// has known where it began, it may not begin later.
    fn excuse_before(&mut self, shard: usize, flow: usize, (incarnation, after): (u64, u64), start: From) {
        let (is_latest, is_declared) = (matches!(start, From::Latest), matches!(start, From::Behind(_)));
        let there: std::collections::BTreeSet<Uid> = self
            .uids
            .range((shard, incarnation, ordinal(after))..=(shard, incarnation, u64::MAX))
            .flat_map(|(_, uids)| uids.iter().copied())
            .collect();
        let to = &self.brokers[self.plan.flows[flow].to_broker];
        if !is_declared && self.ledger.is_halted(flow) && to.tails_lost == 0 && to.cursor(flow).is_some() {
            self.ledger.violate("gap", format!("flow {flow} jumps over a gap that it has met"));
        }
        let latest_again = is_latest && self.ledger.has_begun(flow);
        let before: Vec<Uid> = self.ledger.missing(flow).iter().copied().filter(|uid| !there.contains(uid)).collect();
        if !latest_again {
            before.into_iter().for_each(|uid| self.ledger.excused(flow, uid));
        }
    }

    fn read(&mut self, session: u64, next: u64) {
        let Some((shard, flow)) = self.sessions.get(&session).and_then(|session| session.reads) else { return };
        let broker = self.plan.shards[shard].broker;
        let max = self.rng.between(1, self.plan.read_max);
        let Some(log) = self.brokers[broker].logs.get(&shard) else { return self.consume(session, shard, max) };
        if next < log.base || next > log.end() {
            return self.lose_session(session);
        }
        if next == log.end() {
            if let Some(found) = self.sessions.get_mut(&session) {
                found.waits = Some(next);
            }
            return;
        }
        let incarnation = log.incarnation;
        let from = (next - log.base) as usize;
        let found: Vec<_> = log.records.iter().skip(from).take(max as usize).cloned().enumerate().collect();
        let last = next + found.len() as u64 - 1;
        let events = found.iter().filter_map(|(nth, record)| {
            record.as_ref().map(|record| self.event(record, shard, incarnation, next + *nth as u64))
        });
        let events = events.collect();
        if let Some(flow) = flow {
            self.read.insert(flow, (incarnation, last));
        }
        self.answer(session, Answer::Read { events, last });
    }

    fn consume(&mut self, session: u64, shard: usize, max: u64) {
        let broker = self.plan.shards[shard].broker;
        let mut events = Vec::new();
        while events.len() < max as usize
            && let Some(record) = self.brokers[broker].queue.ready.pop_front()
        {
            let queue = &mut self.brokers[broker].queue;
            let tag = queue.next_tag;
            queue.next_tag += 1;
            queue.unacked.insert(tag, std::rc::Rc::clone(&record));
            self.uids.entry((shard, session, tag)).or_default().push(record.uid);
            events.push(self.event(&record, shard, session, tag));
        }
        if let Some(last) = events.last().map(|event| event.offset) {
            return self.answer(session, Answer::Read { events, last });
        }
        if let Some(found) = self.sessions.get_mut(&session) {
            found.waits = Some(0);
        }
    }

    /// The consumer of a queue acknowledges everything up to that tag.
    fn release(&mut self, session: u64, upto: u64) {
        let Some((shard, _)) = self.sessions.get(&session).and_then(|session| session.reads) else { return };
        let queue = &mut self.brokers[self.plan.shards[shard].broker].queue;
        let kept = queue.unacked.split_off(&(upto + 1));
        let gone = std::mem::replace(&mut queue.unacked, kept);
        if let Some(last) = gone.values().map(|record| record.uid).max() {
            for flow in 0..self.plan.flows.len() {
                if self.plan.flows[flow].shard == shard {
                    self.ledger.released(flow, last);
                }
            }
        }
    }

    fn open_sink(&mut self, session: u64, flow: usize) {
        let broker = &mut self.brokers[self.plan.flows[flow].to_broker];
        if broker.kind == Kind::KafkaTransactional {
            broker.fences.insert(flow, session);
        }
        let cursor = broker.cursor(flow);
        if let Some(found) = self.sessions.get_mut(&session) {
            (found.expects, found.found) = (cursor, cursor);
        }
        self.answer(session, Answer::Sink { cursor });
    }

    /// Whether a later writer has the flow.
    fn is_fenced(&mut self, session: u64, flow: usize) -> bool {
        let broker = &self.brokers[self.plan.flows[flow].to_broker];
        let fenced = match broker.kind {
            Kind::KafkaTransactional => broker.fences.get(&flow) != Some(&session),
            Kind::JetStreamAtomic => {
                self.sessions.get(&session).is_none_or(|session| session.expects != broker.cursor(flow))
            }
            _ => false,
        };
        if fenced {
            self.cover.count("fault", "writer fenced");
            self.note(|| format!("broker: writer {session} of flow {flow} is fenced"));
        }
        fenced
    }

    fn write(&mut self, session: u64, flow: usize, incarnation: u64, events: &[Event], cursor: Option<Position>) {
        if self.is_fenced(session, flow) {
            return self.lose_session(session);
        }
        let broker = self.plan.flows[flow].to_broker;
        let torn = std::mem::take(&mut self.brokers[broker].torn);
        let upto = match (torn, cursor) {
            (false, _) => events.len(),
            // All or nothing.
            (true, Some(_)) => {
                if self.rng.one_in(2) {
                    events.len()
                } else {
                    0
                }
            }
            (true, None) => self.rng.below(events.len() + 1),
        };
        let mut wrote = Wrote::All;
        let mut last = None;
        self.brokers[broker].batch += 1;
        for event in &events[..upto] {
            self.brokers[broker].batch += u64::from(cursor.is_none());
            let uid = self.uid_of(flow, incarnation, event);
            if let Some(uid) = uid
                && self.refuses(broker, flow, uid)
            {
                wrote = Wrote::Poison(event.offset);
                break;
            }
            self.write_one(session, flow, uid, event);
            last = Some(event.offset);
        }
        let reached = match wrote {
            Wrote::Poison(_) => last,
            _ if upto == events.len() => cursor.map(|cursor| cursor.offset),
            _ => None,
        };
        if let (Some(at), Some(cursor)) = (reached, cursor) {
            self.set_cursor(session, flow, Position { offset: at, ..cursor });
        }
        if cursor.is_some() && broker_marks(self.brokers[broker].kind) {
            let shards: Vec<usize> = self.brokers[broker].logs.keys().copied().collect();
            shards.into_iter().for_each(|shard| self.brokers[broker].mark(shard));
        }
        self.wake_readers(broker);
        if torn {
            if upto == events.len() && cursor.is_some() {
                self.unheard(session, &Answer::Written);
            }
            wrote = Wrote::Lost;
        }
        match wrote {
            Wrote::All => self.answer(session, Answer::Written),
            Wrote::Lost => self.lose_session(session),
            Wrote::Poison(offset) => {
                if let Some(found) = self.sessions.get_mut(&session) {
                    found.spent = true;
                }
                self.answer(session, Answer::Poison { offset });
            }
        }
    }

    /// Which record of the source an event is, by its position; where a log was cut, by its content too.
    fn uid_of(&mut self, flow: usize, incarnation: u64, event: &Event) -> Option<Uid> {
        let uids = self.uids.get(&(self.plan.flows[flow].shard, incarnation, event.offset));
        let same = |uid: &&Uid| self.ledger.truth(**uid).content.payload == event.payload;
        let (broker, shard) = (self.plan.flows[flow].from_broker, self.plan.flows[flow].shard);
        // Who had read what was cut off carries that; the others carry what came after it.
        let old = self.brokers[broker].logs.get(&shard).is_some_and(|log| log.diverged.contains(&flow));
        let uid = uids.and_then(|uids| {
            let found = if old { uids.iter().find(same) } else { uids.iter().rev().find(same) };
            found.or(uids.last()).copied()
        });
        if uid.is_none() {
            self.ledger.violate("content", format!("flow {flow} wrote offset {} of nothing", event.offset));
        }
        uid
    }

    fn write_one(&mut self, session: u64, flow: usize, uid: Option<Uid>, event: &Event) {
        let Some(uid) = uid else { return };
        self.check_behind_cursor(session, flow, event);
        let to = self.plan.flows[flow].to_broker;
        let dedups = self.brokers[to].kind == Kind::JetStreamMessageIds && event.identity == Identity::Unique;
        let before = self.brokers[to].ids.get(&event.id).copied().filter(|_| dedups);
        if let Some((at, _)) = before {
            let inside = self.now < at + self.plan.window;
            self.cover.count("duplicate", if inside { "inside the window" } else { "beyond the window" });
        }
        if let Some((at, write)) = before
            && self.now < at + self.plan.window
        {
            let broker = &self.brokers[to];
            let token = self.ledger.truth(broker.written[write].record.uid).token;
            let first = broker.written[write].of.first().map_or(uid, |(_, first)| *first);
            self.brokers[to].written[write].of.push((flow, uid));
            return self.ledger.deduplicated(&self.plan, flow, uid, event, token, first);
        }
        if dedups {
            let write = self.brokers[to].written.len();
            self.brokers[to].ids.insert(event.id, (self.now, write));
        }
        self.ledger.delivered(&self.plan, flow, uid, event, session, self.now);
        self.note(|| format!("broker: {to} takes record {uid} of flow {flow} from writer {session}"));
        let (token, stored) = (self.ledger.truth(uid).token, self.ledger.written_at(uid, to));
        let truth = Truth { token, broker: to, content: self.ledger.truth(uid).content.clone(), stored };
        let record = Record {
            uid: 0,
            topic: event.topic.clone(),
            key: event.key.clone(),
            payload: event.payload.clone(),
            time_ms: event.time_ms,
            id: Some((event.id, event.identity)),
            provenance: event.provenance.clone(),
        };
        self.append(to, record, truth, vec![(flow, uid)]);
    }

    /// A writer goes on behind the cursor that it found, never before: that would be needless repetition.
    fn check_behind_cursor(&mut self, session: u64, flow: usize, event: &Event) {
        let found = self.sessions.get(&session).and_then(|session| session.found);
        let log = self.brokers[self.plan.flows[flow].from_broker].logs.get(&self.plan.flows[flow].shard);
        let same_log = log.zip(found).is_some_and(|(log, found)| log.incarnation == found.incarnation);
        if let Some(found) = found.filter(|found| same_log && ordinal(event.offset) <= ordinal(found.offset)) {
            let (at, cursor) = (event.offset, found.offset);
            self.ledger.violate("rewind", format!("flow {flow} wrote offset {at}, and the cursor was at {cursor}"));
        }
    }

    fn append(&mut self, broker: usize, record: Record, truth: Truth, of: Vec<(usize, Uid)>) {
        let shard = self.shard_for(broker, &record, truth.token);
        let uid = self.ledger.appended(&self.plan, shard, truth);
        let log = shard.and_then(|shard| self.brokers[broker].logs.get(&shard).map(|log| (shard, log)));
        if let Some((shard, log)) = log {
            self.uids.entry((shard, log.incarnation, log.end())).or_default().push(uid);
        }
        let now = self.now;
        self.brokers[broker].append(shard, Record { uid, ..record }, of, now);
    }

    fn shard_for(&self, broker: usize, record: &Record, token: u64) -> Option<usize> {
        let hash = record.key.as_ref().map_or(token, |key| hash64(key));
        let partitions = if self.brokers[broker].kind == Kind::Queue { 1 } else { u64::from(self.plan.partitions) };
        let partition = (hash % partitions) as u32;
        self.plan.shards.iter().position(|shard| shard.broker == broker && shard.partition == partition)
    }

    fn commit(&mut self, session: u64, flow: usize, cursor: Position) {
        if self.is_fenced(session, flow) {
            return self.lose_session(session);
        }
        self.set_cursor(session, flow, cursor);
        self.answer(session, Answer::Committed(cursor));
    }

    fn set_cursor(&mut self, session: u64, flow: usize, cursor: Position) {
        let (shard, to) = (self.plan.flows[flow].shard, self.plan.flows[flow].to_broker);
        if cursor.offset != u64::MAX {
            let below = self.uids.range((shard, cursor.incarnation, 0)..=(shard, cursor.incarnation, cursor.offset));
            if let Some(upto) = below.last().and_then(|(_, uids)| uids.first()).copied() {
                self.ledger.released(flow, upto);
            }
        }
        self.brokers[to].commit(flow, cursor);
        self.ledger.began(flow);
        if let Some(found) = self.sessions.get_mut(&session) {
            found.expects = Some(cursor);
        }
        self.note(|| format!("broker: {to} has cursor {:?} of flow {flow}", cursor.offset));
    }

    pub(crate) fn wake_readers(&mut self, broker: usize) {
        let waiting: Vec<(u64, u64)> = self
            .sessions
            .iter_mut()
            .filter(|(_, session)| session.alive && session.broker == broker)
            .filter_map(|(id, session)| session.waits.take().map(|next| (*id, next)))
            .collect();
        waiting.into_iter().for_each(|(session, next)| self.read(session, next));
    }

    /// What a connector makes of a record.
    fn event(&self, record: &Record, shard: usize, incarnation: u64, offset: u64) -> Event {
        let plan = &self.plan.shards[shard];
        let cluster = Place::of(MESH, &format!("r{}", plan.broker), BROKER).cluster;
        let name = shard_name(plan.broker, plan.partition);
        let (id, identity) = record.id.unwrap_or_else(|| {
            if plan.replayable {
                (EventId::of_position(cluster, incarnation, hash64(name.as_bytes()), offset), Identity::Unique)
            } else {
                let payload = record.payload.as_deref().unwrap_or_default();
                (EventId::of_parts(cluster, &[payload]), Identity::Content)
            }
        });
        Event {
            offset,
            topic: record.topic.clone(),
            key: record.key.clone(),
            headers: Headers::default(),
            payload: record.payload.clone(),
            time_ms: record.time_ms,
            id,
            identity,
            provenance: record.provenance.clone(),
        }
    }

    /// Somebody publishes something of their own making. `like`: with the headers of that record.
    pub(crate) fn publish(&mut self, broker: usize, content: Content, token: u64, like: Option<(&Record, Uid)>) {
        let stored = like.and_then(|(_, uid)| self.ledger.truth(uid).stored.clone());
        let is_queue = self.brokers[broker].kind == Kind::Queue;
        let message_id = || (EventId::of_parts(broker as u64, &[&token.to_le_bytes()]), Identity::Unique);
        let id = match like.filter(|_| stored.is_some()) {
            Some((record, _)) => record.id,
            None => (is_queue && token.is_multiple_of(2)).then(message_id),
        };
        let record = Record {
            uid: 0,
            topic: Topic::parse(&content.topic).expect("a topic"),
            key: content.key.clone(),
            payload: content.payload.clone(),
            time_ms: content.time_ms,
            id,
            provenance: like.map(|(record, _)| record.provenance.clone()).unwrap_or_default(),
        };
        self.brokers[broker].batch += 1;
        self.append(broker, record, Truth { token, broker, content, stored }, Vec::new());
        self.wake_readers(broker);
    }

    // What befalls brokers.

    /// A broker dies; with a window, it loses what it wrote within it.
    pub(crate) fn crash_broker(&mut self, broker: usize, window: Option<Duration>) {
        self.brokers[broker].up = false;
        if let Some(window) = window {
            self.lose_tail(broker, window);
        }
        self.cut_sessions(broker);
    }

    pub(crate) fn cut_sessions(&mut self, broker: usize) {
        self.sessions_of(broker).into_iter().for_each(|session| self.lose_session(session));
    }

    fn lose_tail(&mut self, broker: usize, window: Duration) {
        let since = self.now.saturating_sub(window);
        let first = self.brokers[broker].written.partition_point(|written| written.at < since);
        let count = self.brokers[broker].written.len() - first;
        let to = first + self.rng.below(count + 1);
        let gone = self.brokers[broker].roll_back(to);
        self.brokers[broker].tails_lost += 1;
        let kept = self.brokers[broker].written.len();
        for (flow, uid) in self.brokers[broker].unpark(kept) {
            self.cover.count("broker", "parked event lost");
            self.ledger.unparked(&self.plan, flow, uid);
        }
        for written in gone {
            let uid = written.record.uid;
            self.note(|| format!("broker: {broker} loses record {uid}"));
            for (flow, of) in written.of {
                self.ledger.lost(&self.plan, flow, of);
            }
            if let Some(shard) = written.shard {
                self.ledger.vanished(&self.plan, shard, uid);
            }
        }
        for flow in 0..self.plan.flows.len() {
            if self.plan.flows[flow].to_broker == broker
                && self.ledger.has_begun(flow)
                && self.brokers[broker].cursor(flow).is_none()
            {
                self.cover.count("fault", "cursor lost");
                // A flow that began at the newest event goes on where this life of its owner began; what an earlier life delivered, and
                // is lost, stays lost.
                if self.plan.latest {
                    self.ledger.sink_recreated(flow);
                }
            }
            let shard = self.plan.flows[flow].shard;
            let read = self.read.get(&flow).copied();
            if let (Some(log), Some((incarnation, last))) = (self.brokers[broker].logs.get_mut(&shard), read)
                && log.incarnation == incarnation
                && last >= log.end()
            {
                log.diverged.insert(flow);
                self.ledger.cut(flow);
                self.cover.count("fault", "source truncated");
            }
        }
    }

    pub(crate) fn recreate_source(&mut self, broker: usize) {
        for log in self.brokers[broker].logs.values_mut() {
            log.incarnation += 1;
            log.base = 0;
            log.records.clear();
            log.diverged.clear();
        }
        self.cut_sessions(broker);
    }

    pub(crate) fn recreate_sink(&mut self, broker: usize) {
        self.recreate_source(broker);
        self.brokers[broker].tails_lost += 1;
        let found = &mut self.brokers[broker];
        (found.written, found.cursors, found.fences, found.ids) = Default::default();
        found.parked.clear();
        for flow in 0..self.plan.flows.len() {
            if self.plan.flows[flow].to_broker == broker {
                self.ledger.sink_recreated(flow);
            }
        }
    }

    /// Retention moves on, whoever has read what.
    pub(crate) fn overrun(&mut self, broker: usize) {
        let shards: Vec<usize> = self.brokers[broker].logs.keys().copied().collect();
        for shard in shards {
            let Some(log) = self.brokers[broker].logs.get_mut(&shard) else { continue };
            let count = self.rng.below(log.records.len() + 1);
            log.records.drain(..count);
            log.base += count as u64;
        }
    }
}

fn broker_marks(kind: Kind) -> bool {
    kind == Kind::KafkaTransactional
}

/// Offsets in the order of the log: "before offset 0" comes first.
pub(crate) fn ordinal(offset: u64) -> u64 {
    offset.wrapping_add(1)
}
