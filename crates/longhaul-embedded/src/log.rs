//! The log as the rest of the crate holds it: asks the writer's thread, watches what it tells, reads by blocking tasks.

use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use longhaul_broker::{Health, ReadBatch};
use longhaul_event::{Event, EventId, FlowId, Position};
use longhaul_topic::Filter;
use redb::DatabaseError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::EmbeddedError;
use crate::record::Records;
use crate::retain::Retention;
use crate::store::{self, Extent, ReadError, Store, StoreError, TopicSeen};
use crate::writer::{COMMANDS_MAX, Command, Lease, Opener, Outputs, State, Writer, position_id};

/// How long a store that somebody else has open is waited for: a broker that was dropped just now may still be closing it.
const IN_USE_WAIT: Duration = Duration::from_secs(5);

/// The log of one embedded broker. It ends with [`stop`](Log::stop) or with its last holder.
pub(crate) struct Log {
    commands: mpsc::Sender<Command>,
    store: watch::Receiver<Option<Arc<Store>>>,
    extent: watch::Receiver<Extent>,
    health: watch::Receiver<Health>,
    cluster: u64,
    event_bytes_max: usize,
}

/// What a log is opened with.
pub(crate) struct LogOptions {
    pub(crate) retention: Retention,
    pub(crate) cluster: u64,
    pub(crate) event_bytes_max: usize,
}

impl Log {
    /// Opens the store in a folder, which is made if need be, and starts the writer's thread.
    pub(crate) async fn open(folder: &Path, options: LogOptions) -> Result<Arc<Self>, EmbeddedError> {
        let failed = |source| EmbeddedError::Folder { path: folder.to_owned(), source };
        tokio::fs::create_dir_all(folder).await.map_err(failed)?;
        let path = folder.join(store::FILE);
        let opener = {
            let path = path.clone();
            move || store::open_file(&path)
        };
        let until = Instant::now() + IN_USE_WAIT;
        loop {
            match Self::open_with(Box::new(opener.clone()), &options, &path).await {
                Err(EmbeddedError::InUse { .. }) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                opened => return opened,
            }
        }
    }

    /// The same with another way to open the file.
    pub(crate) async fn open_with(
        opener: Opener,
        options: &LogOptions,
        path: &Path,
    ) -> Result<Arc<Self>, EmbeddedError> {
        let fresh_incarnation = RandomState::new().hash_one(path);
        let opening = tokio::task::spawn_blocking(move || {
            let db = opener().map_err(Opening::File)?;
            let (store, extent) = Store::new(db, fresh_incarnation).map_err(Opening::Content)?;
            Ok((opener, store, extent))
        });
        let (opener, store, extent) = match opening.await {
            Ok(opened) => opened.map_err(|error: Opening| error.told(path.to_owned()))?,
            // The store panics over some kinds of damage.
            Err(_) => {
                return Err(EmbeddedError::Corrupted {
                    path: path.to_owned(),
                    reason: "it panicked; see the log".to_owned(),
                });
            }
        };
        let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
        let (store_out, store) = watch::channel(Some(Arc::new(store)));
        let (extent_out, extent_in) = watch::channel(extent);
        let (health_out, health) = watch::channel(Health::Up);
        let writer = Writer {
            opener,
            outputs: Outputs { store: store_out, extent: extent_out, health: health_out },
            retention: options.retention,
            cluster: options.cluster,
            state: State::new(extent),
        };
        thread::Builder::new().name("embedded-log".to_owned()).spawn(move || writer.run(inbox)).map_err(|error| {
            EmbeddedError::Store { path: path.to_owned(), reason: format!("its thread cannot be started: {error}") }
        })?;
        let (cluster, event_bytes_max) = (options.cluster, options.event_bytes_max);
        Ok(Arc::new(Self { commands, store, extent: extent_in, health, cluster, event_bytes_max }))
    }

    /// Appends published events; resolves, when they are durable, with the first of their offsets, which follow each other.
    pub(crate) async fn publish(&self, events: Vec<Event>) -> Result<u64, StoreError> {
        let (reply, answer) = oneshot::channel();
        let records = Records::encode_positional(&events);
        drop(events);
        self.ask(Command::Append { records, lease: None, cursor: None, reply }, answer).await
    }

    /// Opens a flow for writing; the writer before it is out from then on.
    pub(crate) async fn open_flow(&self, flow: FlowId) -> Result<(Lease, Option<Position>), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Open { flow, reply }, answer).await
    }

    /// Sets a piece aside.
    pub(crate) async fn park(&self, name: String, piece: u32, value: Bytes) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Park { name, piece, value, reply }, answer).await
    }

    /// Removes what was set aside.
    pub(crate) async fn unpark(&self, name: String, pieces: u32) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Unpark { name, pieces, reply }, answer).await
    }

    /// The heads of what is set aside.
    pub(crate) async fn parked_heads(&self, max: usize) -> Result<Vec<(String, Bytes)>, ReadError> {
        self.blocking(move |store| Ok(store.parked_heads(max)?)).await
    }

    /// A piece of what is set aside.
    pub(crate) async fn parked(&self, name: String, piece: u32) -> Result<Option<Bytes>, ReadError> {
        self.blocking(move |store| Ok(store.parked(&name, piece)?)).await
    }

    async fn ask<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.commands.send(command).await.map_err(|_| StoreError::Closed)?;
        answered(answer).await
    }

    /// Lets retention and reopening look at the time.
    pub(crate) async fn tick(&self, now_ms: i64) -> Result<(), StoreError> {
        self.commands.send(Command::Tick { now_ms }).await.map_err(|_| StoreError::Closed)
    }

    /// Closes the store behind all that was asked before, and waits until that is done.
    pub(crate) async fn stop(&self) {
        let mut store = self.store.clone();
        if self.commands.send(Command::Stop).await.is_ok() {
            // The thread drops its end as the last thing; whether it told `None` before does not matter.
            while store.changed().await.is_ok() {}
        }
    }

    /// Asks for the end without waiting for it.
    pub(crate) fn stop_soon(&self) {
        // When no command fits, the last sender's end stops the thread as well, later.
        let _ = self.commands.try_send(Command::Stop);
    }

    /// Reads from an offset in a blocking task.
    pub(crate) async fn read(&self, next: u64, filters: Arc<[Filter]>) -> Result<ReadBatch, ReadError> {
        let bytes_max = self.event_bytes_max;
        self.blocking(move |store| store.read(next, &filters, bytes_max)).await
    }

    /// The first offset that was stored at that time or later.
    pub(crate) async fn first_stored_at(&self, ms: i64) -> Result<u64, ReadError> {
        let extent = self.extent();
        self.blocking(move |store| Ok(store.first_stored_at(&extent, ms)?)).await
    }

    /// The topics from that offset on.
    pub(crate) async fn topics_from(&self, from: u64) -> Result<Vec<TopicSeen>, ReadError> {
        self.blocking(move |store| Ok(store.topics_from(from)?)).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let Some(store) = self.store.borrow().clone() else {
            return Err(StoreError::Failing { full: false, reason: "it is being opened again".to_owned() }.into());
        };
        let read = tokio::task::spawn_blocking(move || work(&store)).await;
        read.unwrap_or_else(|_| Err(StoreError::Corrupted("reading it panicked; see the log".to_owned()).into()))
    }

    pub(crate) fn extent(&self) -> Extent {
        *self.extent.borrow()
    }

    pub(crate) fn watch_extent(&self) -> watch::Receiver<Extent> {
        self.extent.clone()
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    pub(crate) fn commands(&self) -> &mpsc::Sender<Command> {
        &self.commands
    }

    /// Largest payload, and largest key.
    pub(crate) fn event_bytes_max(&self) -> usize {
        self.event_bytes_max
    }

    /// The identity of an event that was published here.
    pub(crate) fn position_id(&self, offset: u64) -> EventId {
        position_id(self.cluster, self.extent().incarnation, offset)
    }
}

/// The thread's answer; a reply that was dropped says nothing about what was written.
pub(crate) async fn answered<T>(answer: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    answer
        .await
        .unwrap_or_else(|_| Err(StoreError::Failing { full: false, reason: "the write was given up".to_owned() }))
}

enum Opening {
    File(DatabaseError),
    Content(StoreError),
}

impl Opening {
    fn told(self, path: PathBuf) -> EmbeddedError {
        let error = match self {
            Self::File(DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch) => {
                return EmbeddedError::InUse { path };
            }
            // A file that is no store at all, or one of a version that nobody here reads.
            Self::File(DatabaseError::Storage(redb::StorageError::Io(error)))
                if matches!(error.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
            {
                StoreError::Corrupted(error.to_string())
            }
            Self::File(DatabaseError::UpgradeRequired(version)) => {
                StoreError::Corrupted(format!("its file format {version} is not one of this version"))
            }
            Self::File(error) => error.into(),
            Self::Content(error) => error,
        };
        match error {
            StoreError::Corrupted(reason) => EmbeddedError::Corrupted { path, reason },
            other => EmbeddedError::Store { path, reason: other.to_string() },
        }
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
