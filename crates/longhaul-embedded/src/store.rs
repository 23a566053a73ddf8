//! The store: tables of `redb` for events by offset, cursors by flow, and what the log is.
//!
//! One file; `redb` makes a commit atomic and puts a torn tail aside when it opens. Everything here blocks: it is called from the
//! writer's thread or from blocking tasks only. After any error of the file the store must be opened anew.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use longhaul_broker::ReadBatch;
use longhaul_event::{EventId, FlowId, Position};
use longhaul_topic::{Filter, Topic};
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, StorageError, Table, TableDefinition,
};
use serde::Serialize;

use crate::record::{self, Malformed, Records};
use crate::retain::{PURGE_EVENTS_MAX, Retention};

/// Name of the store's file in its folder.
pub(crate) const FILE: &str = "log.redb";
/// Memory that the store may use for pages.
const CACHE_BYTES_MAX: usize = 32 << 20;
/// A file up to that size is checked whole when it opens, a larger one only after it was not closed.
const CHECK_BYTES_MAX: u64 = 1 << 30;
/// Most bytes of events in one read; one larger event comes alone.
const READ_BYTES_MAX: usize = 256 << 10;
/// Most bytes that one read looks at, so that a filter that takes little still tells its progress.
const SCAN_BYTES_MAX: usize = 4 << 20;
/// Most events in one read.
const READ_EVENTS_MAX: usize = 4_096;
const FORMAT: u64 = 1;

const EVENTS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("events");
const CURSORS: TableDefinition<'_, u128, (u64, u64)> = TableDefinition::new("cursors");
/// What was set aside, by name and piece.
const PARKED: TableDefinition<'_, (&str, u32), &[u8]> = TableDefinition::new("longhaul_parked");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// An open store.
pub(crate) struct Store {
    db: Database,
}

/// What the log holds: offsets `first..next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Which life of the log; made at random with the store.
    pub(crate) incarnation: u64,
    /// The oldest offset that is there, or `next` when there is none.
    pub(crate) first: u64,
    /// The next offset to be written.
    pub(crate) next: u64,
    /// Bytes of all records.
    pub(crate) bytes: u64,
    /// When the oldest event was stored.
    pub(crate) oldest_ms: Option<i64>,
}

/// A topic of the newest events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct TopicSeen {
    /// Its name.
    pub(crate) topic: String,
    /// How many events.
    pub(crate) events: u64,
    /// Offset of the newest.
    pub(crate) last: u64,
}

/// Why the store does not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The file fails: nothing can be said about what was under way.
    #[error("the store fails: {reason}")]
    Failing {
        /// What the system or the store says.
        reason: String,
        /// Whether the disk is full.
        full: bool,
    },
    /// What stands there is not what was written.
    #[error("the store is damaged: {0}")]
    Corrupted(String),
    /// Another writer opened the flow since, or the store was opened anew.
    #[error("another writer has opened this flow since")]
    Fenced,
    /// The broker has stopped.
    #[error("the embedded broker has stopped")]
    Closed,
}

/// Why a read gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// The log begins behind the asked offset.
    Purged { first: u64 },
    /// A record is larger than may be read.
    TooLarge { offset: u64, bytes: usize },
    /// See [`StoreError`].
    Store(StoreError),
}

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Corrupted(reason) => Self::Corrupted(reason),
            redb::Error::Io(error) => {
                Self::Failing { full: error.kind() == std::io::ErrorKind::StorageFull, reason: error.to_string() }
            }
            other => Self::Failing { full: false, reason: other.to_string() },
        }
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Opens or makes the file, without trusting it.
pub(crate) fn open_file(path: &Path) -> Result<Database, DatabaseError> {
    let len = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    let shown = path.to_owned();
    let db = Builder::new()
        .set_cache_size(CACHE_BYTES_MAX)
        .set_check_integrity_on_open(len > 0 && len <= CHECK_BYTES_MAX)
        .set_repair_callback(move |repair| {
            tracing::info!(store = %shown.display(), progress = repair.progress(), "checking a store that was not closed");
        })
        .create(path)?;
    // A new file is there for good only when its folder is on the disk too.
    if len == 0
        && let Some(folder) = path.parent()
    {
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(StorageError::Io)?;
    }
    Ok(db)
}

impl Store {
    /// Takes an open file: a new one becomes an empty log of that incarnation, an old one is looked over.
    pub(crate) fn new(db: Database, fresh_incarnation: u64) -> Result<(Self, Extent), StoreError> {
        let txn = db.begin_write()?;
        let extent = {
            let mut tables = Tables::open(&txn)?;
            match tables.load()? {
                Some(extent) => extent,
                None => {
                    tables.extent =
                        Extent { incarnation: fresh_incarnation, first: 1, next: 1, bytes: 0, oldest_ms: None };
                    tables.found()?
                }
            }
        };
        txn.commit()?;
        Ok((Self { db }, extent))
    }

    /// One transaction. It is committed, durably, when the work says that it changed something.
    pub(crate) fn write<T>(
        &self,
        extent: Extent,
        work: impl FnOnce(&mut Tables<'_>) -> Result<(T, bool), StoreError>,
    ) -> Result<(T, Extent), StoreError> {
        let mut txn = self.db.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        let (answer, changed, extent) = {
            let mut tables = Tables::open(&txn)?;
            tables.extent = extent;
            let (answer, changed) = work(&mut tables)?;
            if changed {
                tables.save()?;
            }
            (answer, changed, tables.extent)
        };
        if changed {
            txn.commit()?;
        } else {
            txn.abort()?;
        }
        Ok((answer, extent))
    }

    /// What stands at `next` and behind it and passes one of the filters; no filter takes all. `last` covers what was left out.
    pub(crate) fn read(&self, next: u64, filters: &[Filter], bytes_max: usize) -> Result<ReadBatch, ReadError> {
        let txn = self.db.begin_read().map_err(StoreError::from)?;
        let table = txn.open_table(EVENTS).map_err(StoreError::from)?;
        let (mut raw, mut found, mut chosen) = (Vec::new(), Vec::new(), Choice::new(filters));
        let (mut expected, mut scanned) = (next, 0);
        for entry in table.range(next..).map_err(StoreError::from)? {
            let (offset, record) = entry.map_err(StoreError::from)?;
            let (offset, record) = (offset.value(), record.value());
            if offset != expected {
                return Err(missing(next, expected, offset));
            }
            if let Some(topic) = chosen.topic(record).map_err(|bad| malformed(offset, bad))? {
                if !raw.is_empty() && raw.len() + record.len() > READ_BYTES_MAX {
                    break;
                }
                let begin = raw.len();
                raw.extend_from_slice(record);
                found.push((offset, begin, raw.len(), topic));
            }
            expected += 1;
            scanned += record.len();
            if scanned >= SCAN_BYTES_MAX || found.len() == READ_EVENTS_MAX {
                break;
            }
        }
        let raw = Bytes::from(raw);
        let mut events = Vec::with_capacity(found.len());
        for (offset, begin, end, topic) in found {
            let event =
                record::decode(offset, &raw.slice(begin..end), Some(topic)).map_err(|bad| malformed(offset, bad))?;
            match event.payload.as_ref().map_or(0, Bytes::len) {
                bytes if bytes > bytes_max && events.is_empty() => return Err(ReadError::TooLarge { offset, bytes }),
                bytes if bytes > bytes_max => return Ok(ReadBatch { events, last: offset - 1 }),
                _ => events.push(event),
            }
        }
        Ok(ReadBatch { events, last: expected.wrapping_sub(1) })
    }

    /// The topics from that offset on, by name.
    pub(crate) fn topics_from(&self, from: u64) -> Result<Vec<TopicSeen>, StoreError> {
        let txn = self.db.begin_read()?;
        let table = txn.open_table(EVENTS)?;
        let mut seen: BTreeMap<String, TopicSeen> = BTreeMap::new();
        for entry in table.range(from..)? {
            let (offset, record) = entry?;
            let offset = offset.value();
            let name = record::topic(record.value()).map_err(|bad| malformed_text(offset, bad))?;
            let name = String::from_utf8_lossy(name).into_owned();
            let topic = seen.entry(name.clone()).or_insert(TopicSeen { topic: name, events: 0, last: offset });
            (topic.events, topic.last) = (topic.events + 1, offset);
        }
        Ok(seen.into_values().collect())
    }

    /// The heads of what is set aside.
    pub(crate) fn parked_heads(&self, max: usize) -> Result<Vec<(String, Bytes)>, StoreError> {
        let txn = self.db.begin_read()?;
        let table = txn.open_table(PARKED)?;
        let mut heads = Vec::new();
        for entry in table.iter()? {
            let (key, value) = entry?;
            if let (name, 0) = key.value() {
                heads.push((name.to_owned(), Bytes::copy_from_slice(value.value())));
            }
            if heads.len() == max {
                break;
            }
        }
        Ok(heads)
    }

    /// One piece of what is set aside.
    pub(crate) fn parked(&self, name: &str, piece: u32) -> Result<Option<Bytes>, StoreError> {
        let txn = self.db.begin_read()?;
        let table = txn.open_table(PARKED)?;
        Ok(table.get((name, piece))?.map(|value| Bytes::copy_from_slice(value.value())))
    }

    /// The first offset of `first..next` that was stored at that time or later, or `next`. Halves the range: records are stored in
    /// the order of their storing times.
    pub(crate) fn first_stored_at(&self, extent: &Extent, ms: i64) -> Result<u64, StoreError> {
        let txn = self.db.begin_read()?;
        let table = txn.open_table(EVENTS)?;
        let (mut low, mut high) = (extent.first, extent.next);
        while low < high {
            let middle = low + (high - low) / 2;
            // What retention removed meanwhile was stored before all that is there.
            let before = match table.get(middle)? {
                Some(record) => record::stored_ms(record.value()).map_err(|bad| malformed_text(middle, bad))? < ms,
                None => true,
            };
            if before {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

fn missing(next: u64, expected: u64, found: u64) -> ReadError {
    if expected == next {
        return ReadError::Purged { first: found };
    }
    StoreError::Corrupted(format!("offsets {expected}..{found} are missing")).into()
}

fn malformed(offset: u64, bad: Malformed) -> ReadError {
    malformed_text(offset, bad).into()
}

fn malformed_text(offset: u64, bad: Malformed) -> StoreError {
    StoreError::Corrupted(format!("offset {offset}: {bad}"))
}

/// Which topics pass; the last answer is kept, as neighbours mostly share their topic.
struct Choice<'a> {
    filters: &'a [Filter],
    last: Option<(Topic, bool)>,
}

impl<'a> Choice<'a> {
    fn new(filters: &'a [Filter]) -> Self {
        Self { filters, last: None }
    }

    fn topic(&mut self, record: &[u8]) -> Result<Option<Topic>, Malformed> {
        let name = record::topic(record)?;
        let (topic, passes) = match self.last.take() {
            Some(last) if last.0.bytes() == name => last,
            _ => {
                let topic = Topic::from_bytes(Bytes::copy_from_slice(name)).map_err(|_| Malformed)?;
                let passes = self.filters.is_empty() || self.filters.iter().any(|filter| filter.matches(&topic));
                (topic, passes)
            }
        };
        let answer = passes.then(|| topic.clone());
        self.last = Some((topic, passes));
        Ok(answer)
    }
}

/// The tables inside one write transaction, and the extent as this transaction leaves it.
pub(crate) struct Tables<'t> {
    events: Table<'t, u64, &'static [u8]>,
    cursors: Table<'t, u128, (u64, u64)>,
    parked: Table<'t, (&'static str, u32), &'static [u8]>,
    meta: Table<'t, &'static str, u64>,
    pub(crate) extent: Extent,
}

impl<'t> Tables<'t> {
    fn open(txn: &'t redb::WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            events: txn.open_table(EVENTS)?,
            cursors: txn.open_table(CURSORS)?,
            parked: txn.open_table(PARKED)?,
            meta: txn.open_table(META)?,
            extent: Extent { incarnation: 0, first: 1, next: 1, bytes: 0, oldest_ms: None },
        })
    }

    /// The extent as it stands in the tables; `None` for a new file.
    fn load(&self) -> Result<Option<Extent>, StoreError> {
        let value =
            |name: &str| -> Result<Option<u64>, StoreError> { Ok(self.meta.get(name)?.map(|found| found.value())) };
        let Some(format) = value("format")? else {
            return match self.events.first()? {
                None => Ok(None),
                Some(_) => Err(StoreError::Corrupted("it holds events, but does not say in which format".to_owned())),
            };
        };
        if format != FORMAT {
            return Err(StoreError::Corrupted(format!("it has format {format}, this version reads format {FORMAT}")));
        }
        let (Some(incarnation), Some(next), Some(bytes)) = (value("incarnation")?, value("next")?, value("bytes")?)
        else {
            return Err(StoreError::Corrupted("it does not say what it holds".to_owned()));
        };
        if let Some((last, _)) = self.events.last()?
            && last.value() + 1 != next
        {
            return Err(StoreError::Corrupted(format!("it ends at offset {}, not before {next}", last.value())));
        }
        let (first, oldest_ms) = self.oldest(next)?;
        Ok(Some(Extent { incarnation, first, next, bytes, oldest_ms }))
    }

    fn found(&mut self) -> Result<Extent, StoreError> {
        self.meta.insert("format", FORMAT)?;
        self.meta.insert("incarnation", self.extent.incarnation)?;
        self.save()?;
        Ok(self.extent)
    }

    fn save(&mut self) -> Result<(), StoreError> {
        self.meta.insert("next", self.extent.next)?;
        self.meta.insert("bytes", self.extent.bytes)?;
        Ok(())
    }

    fn oldest(&self, next: u64) -> Result<(u64, Option<i64>), StoreError> {
        match self.events.first()? {
            Some((offset, record)) => {
                let ms = record::stored_ms(record.value()).map_err(|bad| malformed_text(offset.value(), bad))?;
                Ok((offset.value(), Some(ms)))
            }
            None => Ok((next, None)),
        }
    }

    /// Appends in order and returns the first offset. `identity` names an event that brings no identity by its offset.
    pub(crate) fn append(
        &mut self,
        records: &mut Records,
        now_ms: i64,
        identity: impl Fn(u64) -> EventId,
    ) -> Result<u64, StoreError> {
        let (first, positional) = (self.extent.next, records.positional());
        let (events, extent) = (&mut self.events, &mut self.extent);
        records.each(|record| {
            record::set_stored_ms(record, now_ms);
            if positional {
                record::set_id(record, identity(extent.next));
            }
            events.insert(extent.next, &*record)?;
            extent.next += 1;
            extent.bytes += record.len() as u64;
            extent.oldest_ms.get_or_insert(now_ms);
            Ok::<_, StoreError>(())
        })?;
        Ok(first)
    }

    /// The cursor of a flow.
    pub(crate) fn cursor(&self, flow: FlowId) -> Result<Option<Position>, StoreError> {
        let found = self.cursors.get(flow.0)?.map(|found| found.value());
        Ok(found.map(|(incarnation, offset)| Position { incarnation, offset }))
    }

    /// Sets the cursor of a flow.
    pub(crate) fn set_cursor(&mut self, flow: FlowId, cursor: Position) -> Result<(), StoreError> {
        self.cursors.insert(flow.0, (cursor.incarnation, cursor.offset))?;
        Ok(())
    }

    /// Sets a piece aside.
    pub(crate) fn park(&mut self, name: &str, piece: u32, value: &[u8]) -> Result<(), StoreError> {
        self.parked.insert((name, piece), value)?;
        Ok(())
    }

    /// Removes what was set aside; whether anything was there.
    pub(crate) fn unpark(&mut self, name: &str, pieces: u32) -> Result<bool, StoreError> {
        let mut changed = false;
        for piece in 0..pieces {
            changed |= self.parked.remove((name, piece))?.is_some();
        }
        Ok(changed)
    }

    /// Removes what may go, a bounded number at once; how many went.
    pub(crate) fn purge(&mut self, retention: &Retention, now_ms: i64) -> Result<usize, StoreError> {
        let mut gone = 0;
        while gone < PURGE_EVENTS_MAX && retention.oldest_may_go(&self.extent, now_ms) {
            let Some(bytes) = self.events.pop_first()?.map(|(_, record)| record.value().len()) else { break };
            gone += 1;
            self.extent.bytes = self.extent.bytes.saturating_sub(bytes as u64);
            (self.extent.first, self.extent.oldest_ms) = self.oldest(self.extent.next)?;
        }
        Ok(gone)
    }
}
