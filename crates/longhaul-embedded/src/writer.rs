//! The writer: one thread that owns all changes of the store, and makes one durable commit of all that waits for it.
//!
//! It takes what is there and never waits for more: a single event on an idle broker costs one sync, and N producers share one.
//! When the file fails, everything under way fails, every flow must be opened again, and the store is opened anew, at most once
//! a second, for ever.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use longhaul_broker::Health;
use longhaul_event::{EventId, FlowId, Position, hash64};
use redb::{Database, DatabaseError};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock;
use crate::record::Records;
use crate::retain::Retention;
use crate::store::{Extent, Store, StoreError, Tables};

/// Name of the one shard.
pub(crate) const SHARD: &str = "log";
/// Most commands that wait for the thread.
pub(crate) const COMMANDS_MAX: usize = 1_024;
/// Most commands and most bytes in one commit.
const GROUP_COMMANDS_MAX: usize = 1_024;
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Between two attempts to open a store that failed.
const REOPEN_PAUSE: Duration = Duration::from_secs(1);

/// Opens the store's file, or makes it.
pub(crate) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// The right to write a flow. A later one for the same flow ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    flow: FlowId,
    number: u64,
}

/// What the thread is asked for.
pub(crate) enum Command {
    /// Append events, for a flow or for a publisher, and set the flow's cursor with them if it is given; answers with the first offset.
    Append { records: Records, lease: Option<Lease>, cursor: Option<Position>, reply: Reply<u64> },
    /// Set the cursor of a flow.
    Cursor { lease: Lease, cursor: Position, reply: Reply<()> },
    /// Open a flow: everybody else's right to write it ends, then the cursor is read.
    Open { flow: FlowId, reply: Reply<(Lease, Option<Position>)> },
    /// Set a piece aside.
    Park { name: String, piece: u32, value: Bytes, reply: Reply<()> },
    /// Remove what was set aside.
    Unpark { name: String, pieces: u32, reply: Reply<()> },
    /// Give a lease back.
    Close { lease: Lease },
    /// The time has moved on: look for what may go, or whether the store opens again.
    Tick { now_ms: i64 },
    /// Close the store and end.
    Stop,
}

/// What the thread tells everybody.
pub(crate) struct Outputs {
    pub(crate) store: watch::Sender<Option<Arc<Store>>>,
    pub(crate) extent: watch::Sender<Extent>,
    pub(crate) health: watch::Sender<Health>,
}

/// The thread's state.
pub(crate) struct Writer {
    pub(crate) opener: Opener,
    pub(crate) outputs: Outputs,
    pub(crate) retention: Retention,
    /// Hash of the cluster; the identities of published events begin with it.
    pub(crate) cluster: u64,
    pub(crate) state: State,
}

/// What changes while the thread runs.
pub(crate) struct State {
    extent: Extent,
    leases: HashMap<FlowId, u64>,
    leases_given: u64,
    /// A store that failed and that some reader may still hold.
    failed: Option<Arc<Store>>,
    /// Why there is no store, when there is none.
    failure: StoreError,
    tried: Instant,
}

/// An answer that is given once the commit is durable.
enum Answer {
    Append(Reply<u64>, Result<u64, StoreError>),
    /// A cursor, or something set aside or removed.
    Done(Reply<()>, Result<(), StoreError>),
    Open(Reply<(Lease, Option<Position>)>, Result<(Lease, Option<Position>), StoreError>),
}

impl State {
    pub(crate) fn new(extent: Extent) -> Self {
        let (leases, failure) = (HashMap::new(), StoreError::Closed);
        Self { extent, leases, leases_given: 0, failed: None, failure, tried: Instant::now() }
    }

    fn holds(&self, lease: Lease) -> bool {
        self.leases.get(&lease.flow) == Some(&lease.number)
    }
}

impl Writer {
    /// Runs until it is told to stop or nobody is left to ask.
    pub(crate) fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        while let Some(first) = commands.blocking_recv() {
            let (group, stop) = gather(first, &mut commands);
            self.settle(group);
            if stop {
                break;
            }
        }
        self.state.failed = None;
        // Whoever still waits is told by the reply that is dropped with its command.
        self.outputs.store.send_replace(None);
        self.outputs.health.send_replace(Health::Down("the embedded broker has stopped".to_owned()));
    }

    fn settle(&mut self, group: Vec<Command>) {
        let Some(store) = self.store() else {
            return refuse(group, &self.state.failure);
        };
        // An idle broker leaves its file alone.
        if group.iter().all(|command| self.is_idle(command)) {
            return;
        }
        let mut answers = Vec::with_capacity(group.len());
        let (retention, cluster, state) = (self.retention, self.cluster, &mut self.state);
        let before = state.extent;
        // A damaged page may make the store panic; to everybody else that is one more way to fail.
        let committed = catch_unwind(AssertUnwindSafe(|| {
            store.write(before, |tables| {
                let now_ms = clock::now_ms();
                let mut changed = false;
                for command in group {
                    changed |= apply(command, tables, state, cluster, now_ms, &retention, &mut answers)?;
                }
                changed |= tables.purge(&retention, now_ms)? > 0;
                Ok(((), changed))
            })
        }));
        let committed = committed.unwrap_or_else(|_| Err(StoreError::Corrupted("it panicked; see the log".to_owned())));
        match committed {
            Ok(((), extent)) => {
                state.extent = extent;
                if extent != before {
                    self.outputs.extent.send_replace(extent);
                }
                answers.into_iter().for_each(Answer::give);
            }
            Err(error) => {
                self.fail(store, &error);
                answers.into_iter().for_each(|answer| answer.refuse(&error));
            }
        }
    }

    fn is_idle(&self, command: &Command) -> bool {
        matches!(command, Command::Tick { now_ms } if !self.retention.oldest_may_go(&self.state.extent, *now_ms))
    }

    /// The store, opened again if it failed and it is time.
    fn store(&mut self) -> Option<Arc<Store>> {
        let store = self.outputs.store.borrow().clone();
        store.or_else(|| self.reopen())
    }

    fn fail(&mut self, store: Arc<Store>, error: &StoreError) {
        tracing::error!(%error, "the embedded broker's store fails; it is opened again until that succeeds");
        self.state.leases.clear();
        self.state.failure = error.clone();
        self.state.failed = Some(store);
        self.state.tried = Instant::now();
        self.outputs.store.send_replace(None);
        self.outputs.health.send_replace(Health::Down(error.to_string()));
    }

    fn reopen(&mut self) -> Option<Arc<Store>> {
        if self.state.tried.elapsed() < REOPEN_PAUSE {
            return None;
        }
        self.state.tried = Instant::now();
        // The file is locked until the last reader has let go of it.
        if let Some(failed) = self.state.failed.take() {
            match Arc::try_unwrap(failed) {
                Ok(failed) => drop(failed),
                Err(held) => {
                    self.state.failed = Some(held);
                    return None;
                }
            }
        }
        let incarnation = self.state.extent.incarnation;
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let db = (self.opener)()?;
            Store::new(db, incarnation)
        }));
        match opened.unwrap_or_else(|_| Err(StoreError::Corrupted("it panicked; see the log".to_owned()))) {
            Ok((store, extent)) => {
                // What was under way when the store failed may stand in it: the extent comes from the file.
                self.state.extent = extent;
                let store = Arc::new(store);
                self.outputs.store.send_replace(Some(Arc::clone(&store)));
                self.outputs.extent.send_replace(extent);
                self.outputs.health.send_replace(Health::Up);
                tracing::warn!(next = extent.next, "the embedded broker's store is open again");
                Some(store)
            }
            Err(error) => {
                self.outputs.health.send_replace(Health::Down(error.to_string()));
                self.state.failure = error;
                None
            }
        }
    }
}

/// Everything that waits already, up to the limits of a commit, and whether the thread must stop behind it.
fn gather(first: Command, commands: &mut mpsc::Receiver<Command>) -> (Vec<Command>, bool) {
    let (mut group, mut bytes, mut next) = (Vec::new(), 0, Some(first));
    while let Some(command) = next {
        match &command {
            Command::Stop => return (group, true),
            Command::Append { records, .. } => bytes += records.size(),
            Command::Park { value, .. } => bytes += value.len(),
            _ => {}
        }
        group.push(command);
        let room = group.len() < GROUP_COMMANDS_MAX && bytes < GROUP_BYTES_MAX;
        next = if room { commands.try_recv().ok() } else { None };
    }
    (group, false)
}

/// Does one command inside the transaction; whether it changed something. An error ends the whole commit.
fn apply(
    command: Command,
    tables: &mut Tables<'_>,
    state: &mut State,
    cluster: u64,
    now_ms: i64,
    retention: &Retention,
    answers: &mut Vec<Answer>,
) -> Result<bool, StoreError> {
    match command {
        Command::Append { lease: Some(lease), reply, .. } if !state.holds(lease) => {
            answers.push(Answer::Append(reply, Err(StoreError::Fenced)));
            Ok(false)
        }
        Command::Append { mut records, lease, cursor, reply } => {
            let first =
                tables.append(&mut records, now_ms, |offset| position_id(cluster, state.extent.incarnation, offset));
            if let (Some(lease), Some(cursor), Ok(_)) = (lease, cursor, &first) {
                tables.set_cursor(lease.flow, cursor)?;
            }
            answers.push(Answer::Append(reply, first.clone()));
            first.map(|_| records.len() > 0)
        }
        Command::Cursor { lease, reply, .. } if !state.holds(lease) => {
            answers.push(Answer::Done(reply, Err(StoreError::Fenced)));
            Ok(false)
        }
        Command::Cursor { lease, cursor, reply } => {
            let set = tables.set_cursor(lease.flow, cursor);
            answers.push(Answer::Done(reply, set.clone()));
            set.map(|()| true)
        }
        Command::Park { name, piece, value, reply } => {
            let done = tables.park(&name, piece, &value);
            answers.push(Answer::Done(reply, done.clone()));
            done.map(|()| true)
        }
        Command::Unpark { name, pieces, reply } => {
            let done = tables.unpark(&name, pieces);
            answers.push(Answer::Done(reply, done.clone().map(|_| ())));
            done
        }
        Command::Open { flow, reply } => {
            state.leases_given += 1;
            let lease = Lease { flow, number: state.leases_given };
            state.leases.insert(flow, lease.number);
            let cursor = tables.cursor(flow);
            answers.push(Answer::Open(reply, cursor.clone().map(|cursor| (lease, cursor))));
            cursor.map(|_| false)
        }
        Command::Close { lease } => {
            if state.holds(lease) {
                state.leases.remove(&lease.flow);
            }
            Ok(false)
        }
        Command::Tick { now_ms } => Ok(tables.purge(retention, now_ms)? > 0),
        Command::Stop => Ok(false),
    }
}

/// The identity of an event that was published here.
pub(crate) fn position_id(cluster: u64, incarnation: u64, offset: u64) -> EventId {
    EventId::of_position(cluster, incarnation, hash64(SHARD.as_bytes()), offset)
}

fn refuse(group: Vec<Command>, error: &StoreError) {
    for command in group {
        match command {
            Command::Append { reply, .. } => Answer::Append(reply, Ok(0)).refuse(error),
            Command::Cursor { reply, .. } => Answer::Done(reply, Ok(())).refuse(error),
            Command::Park { reply, .. } | Command::Unpark { reply, .. } => Answer::Done(reply, Ok(())).refuse(error),
            Command::Open { reply, .. } => drop(reply.send(Err(error.clone()))),
            Command::Close { .. } | Command::Tick { .. } | Command::Stop => {}
        }
    }
}

impl Answer {
    /// Whoever asked may have gone; then nobody needs the answer.
    fn give(self) {
        match self {
            Self::Append(reply, answer) => drop(reply.send(answer)),
            Self::Done(reply, answer) => drop(reply.send(answer)),
            Self::Open(reply, answer) => drop(reply.send(answer)),
        }
    }

    fn refuse(self, error: &StoreError) {
        match self {
            Self::Append(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Done(reply, _) => drop(reply.send(Err(error.clone()))),
            Self::Open(reply, _) => drop(reply.send(Err(error.clone()))),
        }
    }
}
