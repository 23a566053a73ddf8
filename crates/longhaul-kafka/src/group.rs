//! Writes one group of works in one transaction, and says of each what became of it.
//!
//! All or nothing: after any failure the transaction is aborted and every flow in it must be opened again. An event that the broker
//! refuses is looked for by its flow alone, in transactions under a second name whose batches hold one event each; what stands before
//! it is then written. Both names are taken together, so that no former owner has either.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use longhaul_broker::{Poison, SinkError};
use longhaul_event::{Event, Position};
use longhaul_topic::Topic;
use rdkafka::producer::BaseRecord;
use tokio::runtime::Handle;
use tracing::{debug, info};

use crate::batch::{Batch, CAUTION, Pending};
use crate::bucket::{AtomicFlow, Work};
use crate::cluster::Cluster;
use crate::config::BATCH_BYTES_MAX;
use crate::cursor::{CURSORS, PARTITION, encode};
use crate::map::check_topic;
use crate::shape::too_large_for_client;
use crate::topics::{TopicInfo, Topics};
use crate::transaction::{Failed, NotSent, Transactions};

/// Topics whose details are kept at hand.
const TOPICS_MAX: usize = 1000;
/// Refused events that are looked for before one another, after one failure.
const SALVAGE_MAX: usize = 8;

/// Commits what the flows of one bucket write.
pub(crate) struct Committer {
    cluster: Arc<Cluster>,
    name: String,
    life: u64,
    normal: Option<Transactions>,
    /// Every event in a batch of its own.
    alone: Option<Transactions>,
    alone_until: Option<Instant>,
    targets: Targets,
}

/// The topics that are written to.
struct Targets {
    topics: Arc<Topics>,
    runtime: Handle,
    known: HashMap<Topic, Arc<TopicInfo>>,
    /// The smallest limit for batches among them, which is that of the producer.
    batch_limit: usize,
}

/// Why an event is not staged.
enum NotStaged {
    /// It and what is behind it in its flow stays out.
    Event(SinkError),
    /// Nothing may be committed.
    All(Failed),
}

impl Committer {
    pub(crate) fn new(cluster: Arc<Cluster>, topics: Arc<Topics>, runtime: Handle, name: String) -> Self {
        let targets = Targets { topics, runtime, known: HashMap::new(), batch_limit: BATCH_BYTES_MAX };
        Self { cluster, name, life: 0, normal: None, alone: None, alone_until: None, targets }
    }

    /// Has the names, and returns the life in which it has them.
    ///
    /// # Errors
    /// [`SinkError`] when they cannot be taken.
    pub(crate) fn ready(&mut self) -> Result<u64, SinkError> {
        if self.normal.as_ref().is_some_and(|normal| !normal.is_dead()) {
            return Ok(self.life);
        }
        self.let_go();
        self.life += 1;
        let Cluster { settings, diagnosis, .. } = &*self.cluster;
        let limit = Some(self.targets.batch_limit);
        let alone = Transactions::start(settings, diagnosis, &format!("{}.alone", self.name), limit, true)?;
        // Else it was only to be taken from whoever had it.
        self.alone = Some(alone).filter(|_| self.alone_until.is_some_and(|until| Instant::now() < until));
        self.normal = Some(Transactions::start(settings, diagnosis, &self.name, limit, false)?);
        debug!(name = self.name, life = self.life, "a bucket of Kafka transactions was taken over");
        Ok(self.life)
    }

    fn let_go(&mut self) {
        (self.normal, self.alone) = (None, None);
    }

    /// Writes a group in one transaction; every work is concluded.
    pub(crate) fn write(&mut self, mut group: Vec<Work>) {
        // Those of an earlier life, or behind a failure, have failed.
        group.retain(|work| work.flow.life == self.life && !work.flow.pending.is_spent());
        let Some(first) = group.first() else { return };
        let cautious = first.flow.pending.is_cautious();
        let transactions = if cautious { &self.alone } else { &self.normal };
        let Some(transactions) = transactions else {
            if cautious {
                self.be_cautious();
            }
            return;
        };
        let limit = self.targets.batch_limit;
        let written = attempt(transactions, &mut self.targets, &mut group, cautious);
        let Err(failed) = written else { return conclude(&mut group) };
        let failed = aborted(transactions, failed);
        debug!(name = self.name, error = %failed.error, broken = failed.broken, "a transaction failed");
        let failed = match cautious && !failed.broken {
            true => match salvage(transactions, &mut self.targets, &group) {
                Ok(()) => return,
                Err(Some(failed)) => failed,
                Err(None) => failed,
            },
            false => failed,
        };
        if !cautious && group.iter().any(|work| work.flow.pending.is_cautious()) {
            self.be_cautious();
        } else if failed.broken || self.targets.batch_limit != limit {
            self.let_go();
        }
        self.targets.topics.doubt();
        self.targets.known.clear();
        for work in &group {
            // What is wrong with its own topic concerns a flow more than that the transaction failed.
            let own = work.batch.failed().filter(|own| matches!(own, SinkError::Config(_)));
            work.batch.conclude(Err(own.unwrap_or_else(|| failed.error.clone())));
        }
    }

    /// The next life has both producers.
    fn be_cautious(&mut self) {
        self.alone_until = Some(Instant::now() + CAUTION);
        self.let_go();
    }
}

/// Hands everything over and commits. Whatever fails, the transaction may be open still.
fn attempt(
    transactions: &Transactions,
    targets: &mut Targets,
    group: &mut [Work],
    keep_events: bool,
) -> Result<(), Failed> {
    targets.refresh();
    transactions.begin()?;
    // Which of the group's works is the last of its flow with a cursor; and who had to stop.
    let mut last: HashMap<*const AtomicFlow, usize> = HashMap::new();
    let mut stopped: Vec<*const AtomicFlow> = Vec::new();
    for (at, work) in group.iter_mut().enumerate() {
        let flow = Arc::as_ptr(&work.flow);
        if stopped.contains(&flow) {
            work.cursor = None;
            work.stop = Some(SinkError::Transient("an earlier write of this flow failed".to_owned()));
            continue;
        }
        stage(transactions, targets, work)?;
        if work.stop.is_some() {
            stopped.push(flow);
        }
        if work.cursor.is_some() {
            last.insert(flow, at);
        }
        if !keep_events {
            work.events = Vec::new();
        }
    }
    for at in last.into_values() {
        stage_cursor(transactions, &group[at])?;
    }
    transactions.settle();
    if let Some(error) = group.iter().find_map(|work| work.batch.failed()) {
        return Err(Failed { error: of_others(error), broken: transactions.is_dead() });
    }
    transactions.commit()
}

/// The failure of one flow as others in the transaction are told it.
fn of_others(error: SinkError) -> SinkError {
    SinkError::Transient(format!("the transaction was aborted: {error}"))
}

/// Hands one work over, up to the event that stops it.
fn stage(transactions: &Transactions, targets: &mut Targets, work: &mut Work) -> Result<(), Failed> {
    for event in &work.events {
        match stage_event(transactions, targets, work, event) {
            Ok(()) => {}
            Err(NotStaged::All(failed)) => return Err(failed),
            Err(NotStaged::Event(error)) => {
                let offset = event.offset.wrapping_sub(1);
                work.cursor = work.cursor.map(|cursor| Position { offset, ..cursor });
                work.stop = Some(error);
                break;
            }
        }
    }
    Ok(())
}

fn stage_event(
    transactions: &Transactions,
    targets: &mut Targets,
    work: &Work,
    event: &Event,
) -> Result<(), NotStaged> {
    let shape = work.flow.shape;
    shape.check(event, targets.of(event)?).map_err(NotStaged::Event)?;
    match transactions.send(|| shape.record(event, &work.batch)) {
        Ok(()) => Ok(()),
        Err(NotSent::Refused(error)) => Err(NotStaged::Event(error)),
        Err(NotSent::TooLarge) => Err(NotStaged::Event(too_large_for_client(event.offset))),
        Err(NotSent::Failed(failed)) => Err(NotStaged::All(failed)),
    }
}

fn stage_cursor(transactions: &Transactions, work: &Work) -> Result<(), Failed> {
    let Some(cursor) = work.cursor else { return Ok(()) };
    let (key, value) = (work.flow.id.to_string(), encode(&work.flow.key, cursor));
    let record = || {
        let record = BaseRecord::with_opaque_to(CURSORS, Arc::clone(&work.batch));
        Ok(record.key(key.as_bytes()).payload(&value[..]).partition(PARTITION))
    };
    transactions.send(record).map_err(|not| match not {
        NotSent::Failed(failed) => failed,
        NotSent::Refused(error) => Failed { error, broken: false },
        NotSent::TooLarge => {
            let text = format!("{CURSORS} does not take a cursor of {} bytes", value.len());
            Failed { error: SinkError::Config(text), broken: false }
        }
    })
}

/// Ends what failed; an abort that fails counts more than its cause.
fn aborted(transactions: &Transactions, failed: Failed) -> Failed {
    if failed.broken {
        return failed;
    }
    match transactions.abort() {
        Ok(()) => failed,
        Err(abort) => abort,
    }
}

/// It is committed: everything is written, up to where it stopped.
fn conclude(group: &mut [Work]) {
    for work in group {
        work.batch.conclude(work.stop.take().map_or(Ok(()), Err));
    }
}

/// Looks for the first event of a flow that is refused, and writes what stands before it.
///
/// # Errors
/// What failed meanwhile; nothing when no event was refused.
fn salvage(transactions: &Transactions, targets: &mut Targets, group: &[Work]) -> Result<(), Option<Failed>> {
    let mut refused = find_refused(group);
    for _ in 0..SALVAGE_MAX {
        let Some((at, offset, error)) = refused else { return Err(None) };
        let mut before = before(group, at, offset);
        match attempt(transactions, targets, &mut before, true) {
            Ok(()) => {
                info!(%error, "found the event that Kafka refuses");
                let stopped = before.iter_mut().any(|work| work.stop.take().is_some());
                conclude_refused(group, at, if stopped { of_others(error) } else { error });
                return Ok(());
            }
            Err(failed) => {
                let failed = aborted(transactions, failed);
                refused = find_refused(&before);
                if failed.broken || refused.is_none() {
                    return Err(Some(failed));
                }
            }
        }
    }
    Err(None)
}

/// Which work holds the first refused event, and which it is.
fn find_refused(group: &[Work]) -> Option<(usize, u64, SinkError)> {
    let found = group.iter().enumerate().find_map(|(at, work)| Some((at, work.batch.refused()?)));
    found.map(|(at, (offset, error))| (at, offset, error))
}

/// What stands before that event of that work, to be written by itself.
fn before(group: &[Work], at: usize, offset: u64) -> Vec<Work> {
    let mut works = Vec::with_capacity(at + 1);
    for (number, work) in group.iter().enumerate().take(at + 1) {
        let (mut events, mut cursor) = (work.events.clone(), work.cursor);
        if number == at {
            events.truncate(events.iter().position(|event| event.offset == offset).unwrap_or(0));
            cursor = cursor.map(|cursor| Position { offset: offset.wrapping_sub(1), ..cursor });
        }
        // Counted apart: the flow itself is spent.
        let batch = Batch::new(Arc::<Pending>::default(), &events);
        works.push(Work { flow: Arc::clone(&work.flow), events, cursor, batch, bytes: work.bytes, stop: None });
    }
    works
}

fn conclude_refused(group: &[Work], at: usize, error: SinkError) {
    for (number, work) in group.iter().enumerate() {
        work.flow.pending.stay_cautious();
        work.batch.conclude(match number.cmp(&at) {
            std::cmp::Ordering::Less => Ok(()),
            std::cmp::Ordering::Equal => Err(error.clone()),
            std::cmp::Ordering::Greater => Err(of_others(error.clone())),
        });
    }
}

impl Targets {
    /// Forgets what is out of date.
    fn refresh(&mut self) {
        if self.known.len() >= TOPICS_MAX {
            self.known.clear();
        }
        self.known.retain(|_, info| info.is_fresh());
    }

    /// What is known of the topic of an event; asked for, where nothing is.
    fn of(&mut self, event: &Event) -> Result<&TopicInfo, NotStaged> {
        if !self.known.contains_key(&event.topic) {
            let info = self.ask(event)?;
            self.known.insert(event.topic.clone(), info);
        }
        Ok(&self.known[&event.topic])
    }

    fn ask(&mut self, event: &Event) -> Result<Arc<TopicInfo>, NotStaged> {
        let name = event.topic.as_str();
        check_topic(name).map_err(|reason| {
            NotStaged::Event(SinkError::Poison { offset: event.offset, kind: Poison::BadTopic, reason })
        })?;
        let info = match self.topics.known(name) {
            Some(info) => info,
            None => self.runtime.block_on(self.topics.destination(name)).map_err(NotStaged::Event)?,
        };
        if let Some(limit) = info.batch_limit.filter(|limit| *limit < self.batch_limit) {
            self.batch_limit = limit;
            let text = format!("Kafka topic {name} takes smaller batches; the flows begin again with such");
            return Err(NotStaged::All(Failed { error: SinkError::Transient(text), broken: false }));
        }
        Ok(info)
    }
}
