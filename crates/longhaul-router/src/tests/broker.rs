//! A broker in memory: logs that can be read again, queues that cannot, sinks with cursors, and faults by a seeded script.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use longhaul_broker::{
    Connector, Gap, Health, Opened, ParkName, Parking, Poison, ReadBatch, Reader, Shard, Sink, SinkError, SinkSpec,
    Source, SourceError, SourceSpec, Writer,
};
use longhaul_event::{Event, EventId, Headers, Identity, Position, Start};
use longhaul_topic::Topic;
use longhaul_topology::FlowKey;
use tokio::sync::watch;

/// Events that a reader gives at once.
const READ_EVENTS: usize = 20;

/// What goes wrong, of a thousand times each.
#[derive(Debug, Default, Clone)]
pub(super) struct Faults {
    pub read: u64,
    pub write: u64,
    pub commit: u64,
    pub open: u64,
    /// Writes that never end.
    pub hang_writes: bool,
    /// Readers that open and then give nothing, so many.
    pub hang_readers: u64,
    /// Openings that never end, so many.
    pub hang_opens: u64,
    /// Panics of the next reads, of a shard of its own reader or of the ring's alike.
    pub read_panics: u64,
    /// Panics of the next writes.
    pub write_panics: u64,
    /// Payloads that are refused for good.
    pub poison: HashSet<String>,
    /// How long a write takes.
    pub write_takes: Duration,
    /// Pieces that are not taken aside, so many.
    pub park_fails: u64,
}

/// A broker.
pub(super) struct Broker {
    replayable: bool,
    health: watch::Sender<Health>,
    shards: watch::Sender<Arc<Vec<Shard>>>,
    grown: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    logs: BTreeMap<String, Log>,
    flows: HashMap<FlowKey, Flow>,
    faults: Faults,
    random: u64,
    incarnations: u64,
    violations: Vec<String>,
    witnesses: Vec<Arc<Broker>>,
    opens: u64,
    parked: BTreeMap<(String, u32), Bytes>,
}

#[derive(Default)]
struct Log {
    incarnation: u64,
    /// Positions of this one are good as well.
    formerly: u64,
    events: Vec<String>,
    bytes: usize,
    /// Of a queue: how many are acknowledged, and the reader that counts.
    released: usize,
    /// Of a log: what retention has left begins here.
    purged: usize,
    life: u64,
    read: usize,
}

#[derive(Default)]
struct Flow {
    cursor: Option<Position>,
    written: Vec<String>,
    life: u64,
}

impl Broker {
    /// A broker with logs (or queues, which cannot be read again) of those names.
    pub(super) fn new(seed: u64, replayable: bool, shards: &[&str]) -> Arc<Self> {
        let declared = |name: &&str| Shard { name: (*name).to_owned(), topic: None, partition: None, replayable };
        let log = |name: &&str| ((*name).to_owned(), Log { incarnation: 1, bytes: 10, ..Log::default() });
        let logs = shards.iter().map(log).collect();
        let state = State { logs, random: seed.wrapping_mul(2).wrapping_add(1), incarnations: 1, ..State::default() };
        Arc::new(Self {
            replayable,
            health: watch::Sender::new(Health::Up),
            shards: watch::Sender::new(Arc::new(shards.iter().map(declared).collect())),
            grown: watch::Sender::new(0),
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what goes wrong.
    pub(super) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock().faults);
        self.grown.send_modify(|version| *version += 1);
    }

    /// Publishes events named `shard:number`.
    pub(super) fn publish(&self, shard: &str, numbers: std::ops::Range<usize>) {
        let names = numbers.map(|number| format!("{shard}:{number}"));
        self.lock().logs.get_mut(shard).expect("a shard of the test").events.extend(names);
        self.grown.send_modify(|version| *version += 1);
    }

    /// Makes every event that large from now on.
    pub(super) fn set_event_bytes(&self, bytes: usize) {
        self.lock().logs.values_mut().for_each(|log| log.bytes = bytes);
    }

    /// From now on a queue may release only what all of these hold.
    pub(super) fn witness(&self, by: &[&Arc<Broker>]) {
        self.lock().witnesses = by.iter().map(|broker| Arc::clone(broker)).collect();
    }

    /// What a route has written here from a shard, repeats included.
    pub(super) fn written(&self, route: &str, shard: &str) -> Vec<String> {
        let state = self.lock();
        let found = state.flows.iter().find(|(key, _)| key.route == route && key.from.2 == shard);
        found.map(|(_, flow)| flow.written.clone()).unwrap_or_default()
    }

    /// How many of a queue are acknowledged.
    pub(super) fn released(&self, shard: &str) -> usize {
        self.lock().logs[shard].released
    }

    /// How many of a shard were handed out by the reader that was furthest.
    pub(super) fn read(&self, shard: &str) -> usize {
        self.lock().logs[shard].read
    }

    /// How often flows were opened here.
    pub(super) fn opens(&self) -> u64 {
        self.lock().opens
    }

    /// Retention removes everything before that event.
    pub(super) fn purge(&self, shard: &str, before: usize) {
        self.lock().logs.get_mut(shard).expect("a shard of the test").purged = before;
    }

    /// Another router of the region is given all shards.
    pub(super) fn take_shards_away(&self) -> Arc<Vec<Shard>> {
        self.shards.send_replace(Arc::default())
    }

    /// They come back to this one.
    pub(super) fn give_back(&self, shards: Arc<Vec<Shard>>) {
        self.shards.send_replace(shards);
    }

    /// Loses what it has of a flow but for the first events, as one that crashed before it wrote to its disk; its cursor goes with them.
    pub(super) fn lose_tail(&self, route: &str, shard: &str, keep: usize) {
        let mut state = self.lock();
        let found = state.flows.iter_mut().find(|(key, _)| key.route == route && key.from.2 == shard);
        let (_, flow) = found.expect("a flow of the test");
        assert!(flow.written.len() > keep, "there is something to lose");
        flow.written.truncate(keep);
        flow.cursor = flow.cursor.and_then(|at| Some(Position { offset: (keep as u64).checked_sub(1)?, ..at }));
        flow.life += 1;
    }

    /// Deletes a shard and makes it again, empty.
    pub(super) fn recreate(&self, shard: &str) {
        let mut state = self.lock();
        let log = state.logs.get_mut(shard).expect("a shard of the test");
        *log = Log { incarnation: log.incarnation + 1, bytes: log.bytes, ..Log::default() };
        drop(state);
        self.grown.send_modify(|version| *version += 1);
    }

    /// A log counts in another life from now on, and nothing is missing.
    pub(super) fn renumber(&self, shard: &str) {
        let mut state = self.lock();
        let log = state.logs.get_mut(shard).expect("a shard of the test");
        (log.formerly, log.incarnation) = (log.incarnation, log.incarnation + 1);
    }

    /// Cuts the end of a log off.
    pub(super) fn truncate(&self, shard: &str, end: usize) {
        self.lock().logs.get_mut(shard).expect("a shard of the test").events.truncate(end);
    }

    /// How many things are set aside here.
    pub(super) fn parked(&self) -> usize {
        self.lock().parked.keys().filter(|(_, piece)| *piece == 0).count()
    }

    /// What should never have happened.
    pub(super) fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    fn holds(&self, name: &str) -> bool {
        self.lock().flows.values().any(|flow| flow.written.iter().any(|written| written == name))
    }
}

impl State {
    fn happens(&mut self, of_a_thousand: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % 1000 < of_a_thousand
    }
}

impl Connector for BrokerHandle {
    fn health(&self) -> watch::Receiver<Health> {
        self.0.health.subscribe()
    }

    fn source(&self, _spec: SourceSpec) -> Result<Arc<dyn Source>, SourceError> {
        Ok(Arc::new(BrokerHandle(Arc::clone(&self.0))))
    }

    fn sink(&self, _spec: SinkSpec) -> Result<Arc<dyn Sink>, SinkError> {
        Ok(Arc::new(BrokerHandle(Arc::clone(&self.0))))
    }

    fn parking(&self) -> Option<Arc<dyn Parking>> {
        Some(Arc::new(BrokerHandle(Arc::clone(&self.0))))
    }
}

impl Parking for BrokerHandle {
    fn put(&self, name: ParkName, piece: u32, value: Bytes) -> BoxFuture<'_, Result<(), SinkError>> {
        let mut state = self.0.lock();
        let fails = state.faults.park_fails > 0;
        state.faults.park_fails = state.faults.park_fails.saturating_sub(1);
        if fails {
            return ready(Err(SinkError::Transient("parking fails, as the test wants it".into()))).boxed();
        }
        state.parked.insert((name, piece), value);
        ready(Ok(())).boxed()
    }

    fn heads(&self, max: usize) -> BoxFuture<'_, Result<Vec<(ParkName, Bytes)>, SinkError>> {
        let state = self.0.lock();
        let heads = state.parked.iter().filter(|((_, piece), _)| *piece == 0).take(max);
        ready(Ok(heads.map(|((name, _), value)| (name.clone(), value.clone())).collect())).boxed()
    }

    fn get(&self, name: ParkName, piece: u32) -> BoxFuture<'_, Result<Option<Bytes>, SinkError>> {
        ready(Ok(self.0.lock().parked.get(&(name, piece)).cloned())).boxed()
    }

    fn remove(&self, name: ParkName, pieces: u32) -> BoxFuture<'_, Result<(), SinkError>> {
        let mut state = self.0.lock();
        (0..pieces).for_each(|piece| drop(state.parked.remove(&(name.clone(), piece))));
        ready(Ok(())).boxed()
    }
}

/// The broker as a connector, source and sink.
pub(super) struct BrokerHandle(pub Arc<Broker>);

impl Source for BrokerHandle {
    fn shards(&self) -> watch::Receiver<Arc<Vec<Shard>>> {
        self.0.shards.subscribe()
    }

    fn open<'a>(&'a self, shard: &'a Shard, start: Start) -> BoxFuture<'a, Result<Box<dyn Reader>, SourceError>> {
        async move {
            let mut state = self.0.lock();
            state.incarnations += 1;
            let fresh = state.incarnations;
            let hangs = state.faults.hang_readers > 0;
            state.faults.hang_readers = state.faults.hang_readers.saturating_sub(1);
            let log = state.logs.get_mut(&shard.name).expect("a shard of the test");
            let base = if self.0.replayable { 0 } else { log.released };
            if !self.0.replayable {
                (log.incarnation, log.life) = (fresh, log.life + 1);
            }
            let next = match start {
                _ if !self.0.replayable => base,
                Start::Latest => log.events.len(),
                Start::Earliest | Start::Time(_) => log.purged,
                Start::After(position) if ![log.incarnation, log.formerly].contains(&position.incarnation) => {
                    let (cursor, found) = (position.incarnation, log.incarnation);
                    return Err(SourceError::Gap(Gap::Recreated { cursor, found }));
                }
                Start::After(position) => {
                    let next = usize::try_from(position.offset.wrapping_add(1)).expect("a small offset");
                    let number = |at: usize| at as u64;
                    if next < log.purged {
                        let (from, to) = (number(next), number(log.purged));
                        return Err(SourceError::Gap(Gap::Purged { from, to }));
                    }
                    if next > log.events.len() {
                        let (cursor, end) = (position.offset, number(log.events.len()));
                        return Err(SourceError::Gap(Gap::Truncated { cursor, end }));
                    }
                    next
                }
            };
            let (incarnation, life) = (log.incarnation, log.life);
            let (broker, shard, grown) = (Arc::clone(&self.0), shard.name.clone(), self.0.grown.subscribe());
            let start = (next as u64).wrapping_sub(base as u64).wrapping_sub(1);
            let reader = LogReader { broker, shard, grown, incarnation, life, base, start, next, hangs };
            Ok(Box::new(reader) as Box<dyn Reader>)
        }
        .boxed()
    }
}

struct LogReader {
    broker: Arc<Broker>,
    shard: String,
    grown: watch::Receiver<u64>,
    incarnation: u64,
    life: u64,
    /// Of a queue: where this life of it begins; offsets count from there.
    base: usize,
    start: u64,
    next: usize,
    hangs: bool,
}

impl Reader for LogReader {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn start(&self) -> u64 {
        self.start
    }

    fn read(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        async move {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            loop {
                self.grown.borrow_and_update();
                {
                    let broker = Arc::clone(&self.broker);
                    let mut state = broker.lock();
                    if state.faults.read_panics > 0 {
                        state.faults.read_panics -= 1;
                        drop(state);
                        panic!("a reader panics, as the test wants it");
                    }
                    let of = state.faults.read;
                    let log = &state.logs[&self.shard];
                    if log.life != self.life {
                        return Err(SourceError::Transient("another reader has the queue".into()));
                    }
                    if self.broker.replayable && (log.incarnation != self.incarnation || self.next > log.events.len()) {
                        return Err(SourceError::Transient("the log is not the one that was opened".into()));
                    }
                    if self.broker.replayable && self.next < log.purged {
                        let (from, to) = (self.next as u64, log.purged as u64);
                        return Err(SourceError::Gap(Gap::Purged { from, to }));
                    }
                    let until = log.events.len().min(self.next + READ_EVENTS);
                    if until > self.next {
                        if state.happens(of) {
                            return Err(SourceError::Transient("a read fails, as the test wants it".into()));
                        }
                        return Ok(self.take(&mut state, until));
                    }
                }
                let _ = self.grown.changed().await;
            }
        }
        .boxed()
    }

    fn release(&mut self, floor: u64) {
        let upto = self.base + usize::try_from(floor).expect("a small offset") + 1;
        let mut state = self.broker.lock();
        let witnesses = state.witnesses.clone();
        let log = state.logs.get_mut(&self.shard).expect("a shard of the test");
        if log.life != self.life {
            return;
        }
        let newly: Vec<String> = log.events.get(log.released..upto).unwrap_or_default().to_vec();
        log.released = log.released.max(upto);
        if upto > log.events.len() {
            state.violations.push(format!("released {upto}, which is more than there is"));
        }
        drop(state);
        for name in newly {
            if let Some(at) = witnesses.iter().position(|witness| !witness.holds(&name)) {
                self.broker.lock().violations.push(format!("{name} was released, and sink{at} does not have it"));
            }
        }
    }

    fn end(&self) -> Option<u64> {
        let end = self.broker.lock().logs[&self.shard].events.len() - self.base;
        (end as u64).checked_sub(1)
    }
}

impl LogReader {
    fn take(&mut self, state: &mut State, until: usize) -> ReadBatch {
        let log = state.logs.get_mut(&self.shard).expect("a shard of the test");
        log.read = log.read.max(until);
        let event = |at: usize| event((at - self.base) as u64, &log.events[at], log.bytes);
        let events = (self.next..until).map(event).collect();
        self.next = until;
        ReadBatch { events, last: (until - self.base - 1) as u64 }
    }
}

fn event(offset: u64, name: &str, bytes: usize) -> Event {
    let mut payload = vec![b' '; bytes.max(name.len())];
    payload[..name.len()].copy_from_slice(name.as_bytes());
    Event {
        offset,
        topic: Topic::parse(if name.contains('~') { "skipped.a" } else { "taken.a" }).expect("a topic"),
        key: None,
        headers: Headers::default(),
        payload: Some(Bytes::from(payload)),
        time_ms: 1,
        id: EventId::of_parts(1, &[name.as_bytes()]),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}

impl Sink for BrokerHandle {
    fn open<'a>(&'a self, flow: &'a FlowKey, _: Option<u32>) -> BoxFuture<'a, Result<Opened, SinkError>> {
        async move {
            if self.hangs_open() {
                std::future::pending::<()>().await;
            }
            let mut state = self.0.lock();
            state.opens += 1;
            let of = state.faults.open;
            if state.happens(of) {
                return Err(SinkError::Transient("an opening fails, as the test wants it".into()));
            }
            let found = state.flows.entry(flow.clone()).or_default();
            found.life += 1;
            let (cursor, life) = (found.cursor, found.life);
            let writer = FlowWriter { broker: Arc::clone(&self.0), key: flow.clone(), life, spent: false };
            Ok(Opened { writer: Box::new(writer), cursor })
        }
        .boxed()
    }
}

impl BrokerHandle {
    fn hangs_open(&self) -> bool {
        let mut state = self.0.lock();
        let hangs = state.faults.hang_opens > 0;
        state.faults.hang_opens = state.faults.hang_opens.saturating_sub(1);
        hangs
    }
}

struct FlowWriter {
    broker: Arc<Broker>,
    key: FlowKey,
    life: u64,
    spent: bool,
}

impl FlowWriter {
    /// Writes at once, whole or up to what is refused; only the answer takes time.
    fn try_write(&mut self, events: &[Event]) -> Result<(), SinkError> {
        let mut state = self.broker.lock();
        let of = state.faults.write;
        let fails = state.happens(of);
        let poison = state.faults.poison.clone();
        let flow = state.flows.entry(self.key.clone()).or_default();
        if self.spent || flow.life != self.life {
            return Err(SinkError::Transient("this writer is spent".into()));
        }
        for (at, event) in events.iter().enumerate() {
            let name = name(event);
            if poison.contains(&name) {
                let (offset, reason) = (event.offset, "as the test wants it".to_owned());
                return Err(SinkError::Poison { offset, kind: Poison::Refused, reason });
            }
            if fails && at >= events.len() / 2 {
                return Err(SinkError::Transient("a write fails, as the test wants it".into()));
            }
            flow.written.push(name);
        }
        Ok(())
    }
}

fn name(event: &Event) -> String {
    let payload = event.payload.as_deref().unwrap_or_default();
    String::from_utf8_lossy(payload).trim_end().to_owned()
}

impl Writer for FlowWriter {
    fn write(&mut self, events: Vec<Event>) -> BoxFuture<'static, Result<(), SinkError>> {
        let (takes, hangs) = {
            let mut state = self.broker.lock();
            if state.faults.write_panics > 0 {
                state.faults.write_panics -= 1;
                drop(state);
                panic!("a writer panics, as the test wants it");
            }
            (state.faults.write_takes, state.faults.hang_writes)
        };
        if hangs {
            return std::future::pending().boxed();
        }
        let written = self.try_write(&events);
        self.spent |= written.is_err();
        async move {
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            written
        }
        .boxed()
    }

    fn commit(&mut self, cursor: Position) -> BoxFuture<'static, Result<(), SinkError>> {
        let mut state = self.broker.lock();
        let of = state.faults.commit;
        let fails = state.happens(of);
        let flow = state.flows.entry(self.key.clone()).or_default();
        if fails || self.spent || flow.life != self.life {
            self.spent = true;
            return futures::future::ready(Err(SinkError::Transient("a commit fails".into()))).boxed();
        }
        flow.cursor = Some(cursor);
        futures::future::ready(Ok(())).boxed()
    }
}
