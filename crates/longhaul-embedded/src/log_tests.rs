//! A disk that fills up and a file that fails: writes fail in the open, and the store comes back by itself.

use std::io;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Instant as Clock;

use bytes::Bytes;
use longhaul_broker::{Connector, SinkError, SourceError};
use longhaul_event::{Headers, Identity, Start};
use longhaul_topic::Topic;
use longhaul_topology::FlowKey;
use redb::backends::FileBackend;
use redb::{Builder, StorageBackend};

use super::*;
use crate::sink::LogSink;
use crate::source::LogSource;
use crate::writer::SHARD;

const GOOD: u8 = 0;
const FULL: u8 = 1;
const BROKEN: u8 = 2;
const SLOW: u8 = 3;

/// A file whose writes can be made to fail.
#[derive(Debug)]
struct Fickle {
    file: FileBackend,
    mood: Arc<Mood>,
}

/// How the file behaves, and how often it was synced.
#[derive(Debug, Default)]
struct Mood {
    now: AtomicU8,
    syncs: AtomicUsize,
    /// Changes of the file until it fails; 0 for never.
    left: AtomicUsize,
}

impl Mood {
    fn set(&self, mood: u8) {
        self.now.store(mood, Ordering::SeqCst);
    }
}

impl Fickle {
    fn check(&self) -> Result<(), io::Error> {
        if self.mood.left.load(Ordering::SeqCst) > 0 && self.mood.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.mood.set(BROKEN);
        }
        match self.mood.now.load(Ordering::SeqCst) {
            FULL => Err(io::Error::from(io::ErrorKind::StorageFull)),
            BROKEN => Err(io::Error::other("the cable is out")),
            _ => Ok(()),
        }
    }
}

impl StorageBackend for Fickle {
    fn len(&self) -> Result<u64, io::Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.check()?;
        self.mood.syncs.fetch_add(1, Ordering::SeqCst);
        if self.mood.now.load(Ordering::SeqCst) == SLOW {
            // A slow disk, so that others queue up behind this sync.
            std::thread::sleep(Duration::from_millis(100));
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.check()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.file.close()
    }
}

async fn open(folder: &Path, mood: &Arc<Mood>) -> Arc<Log> {
    let (path, mood) = (folder.join(store::FILE), Arc::clone(mood));
    let opener = {
        let path = path.clone();
        move || {
            let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = FileBackend::new(file.map_err(redb::StorageError::Io)?)?;
            Builder::new().create_with_backend(Fickle { file, mood: Arc::clone(&mood) })
        }
    };
    let options = LogOptions { retention: Retention::default(), cluster: 1, event_bytes_max: 1_000 };
    Log::open_with(Box::new(opener), &options, &path).await.unwrap()
}

fn event(number: u128) -> Event {
    Event {
        offset: 5,
        topic: Topic::parse("t").unwrap(),
        key: None,
        headers: Headers::default(),
        payload: Some(Bytes::from(number.to_string())),
        time_ms: 0,
        id: EventId(number),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}

fn flow() -> FlowKey {
    let text = str::to_owned;
    FlowKey { mesh: text("m"), route: text("r"), from: (text("a"), text("b"), text("c")), to: (text("d"), text("e")) }
}

#[tokio::test]
async fn a_failing_file_fails_writes_and_health_and_comes_back_with_all_that_was_confirmed() {
    for (bad, word, full) in [(FULL, "no storage space", true), (BROKEN, "the cable is out", false)] {
        let folder = tempfile::tempdir().unwrap();
        let mood = Arc::new(Mood::default());
        let log = open(folder.path(), &mood).await;
        let sink = LogSink::new(Arc::clone(&log));
        let mut writer = longhaul_broker::Sink::open(&sink, &flow(), None).await.unwrap().writer;
        writer.write(vec![event(1)]).await.unwrap();
        let mut reader = LogSource::new(Arc::clone(&log), vec![]).reader(Start::Earliest).await.unwrap();

        mood.set(bad);
        let refused = writer.write(vec![event(2)]).await;
        assert!(matches!(refused, Err(SinkError::Transient(_))), "{refused:?}");
        let health = log.health().borrow().clone();
        assert!(matches!(&health, Health::Down(reason) if reason.contains(word)), "{health:?}");
        let published = log.publish(vec![event(3)]).await.unwrap_err();
        assert!(published.to_string().contains(word), "{published}");
        assert!(matches!(published, StoreError::Failing { full: said, .. } if said == full));
        assert!(
            matches!(reader.next_batch().await, Err(SourceError::Transient(_))),
            "a reader cannot read a store that is closed"
        );

        mood.set(GOOD);
        let mut health = log.health();
        let comes_back = async {
            while *health.borrow_and_update() != Health::Up {
                log.tick(0).await.unwrap();
                tokio::select! {
                    changed = health.changed() => changed.unwrap(),
                    () = tokio::time::sleep(Duration::from_millis(50)) => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), comes_back).await.expect("the store opens again by itself");

        let late = writer.write(vec![event(4)]).await;
        assert!(late.is_err(), "a flow whose write failed must be opened again before it writes on");
        let mut writer = longhaul_broker::Sink::open(&sink, &flow(), None).await.unwrap().writer;
        writer.write(vec![event(5)]).await.unwrap();
        let mut reader = LogSource::new(Arc::clone(&log), vec![]).reader(Start::Earliest).await.unwrap();
        let mut ids = Vec::new();
        while !ids.contains(&5) {
            ids.extend(reader.next_batch().await.unwrap().events.iter().map(|event| event.id.0));
        }
        // What failed may stand there, as nobody was told that it does not; what was confirmed must.
        ids.retain(|id| ![2, 3].contains(id));
        assert_eq!(ids, [1, 5], "full: {full}");
        log.stop().await;
    }
}

#[tokio::test]
async fn one_event_on_an_idle_broker_costs_one_sync_and_many_producers_share_one() {
    let folder = tempfile::tempdir().unwrap();
    let mood = Arc::new(Mood::default());
    let log = open(folder.path(), &mood).await;
    log.publish(vec![event(1)]).await.unwrap();
    let before = mood.syncs.load(Ordering::SeqCst);
    log.publish(vec![event(2)]).await.unwrap();
    assert_eq!(mood.syncs.load(Ordering::SeqCst) - before, 1);
    for now_ms in 0..10 {
        log.tick(now_ms).await.unwrap();
    }
    log.open_flow(flow().id()).await.unwrap();
    assert_eq!(mood.syncs.load(Ordering::SeqCst) - before, 1, "what changes nothing costs no sync");

    mood.set(SLOW);
    let begin = Clock::now();
    let all = (0..200).map(|number| log.publish(vec![event(number)]));
    let mut offsets = futures::future::try_join_all(all).await.unwrap();
    let syncs = mood.syncs.load(Ordering::SeqCst) - before - 1;
    assert!((1..=3).contains(&syncs), "200 events took {syncs} syncs, {:?}", begin.elapsed());
    offsets.sort_unstable();
    assert!(offsets.into_iter().eq(3..203));
    mood.set(GOOD);
    log.stop().await;
}

#[tokio::test]
async fn whatever_change_of_the_file_fails_cursor_and_events_are_there_together_or_not_at_all() {
    let (mut whole, mut nothing) = (0, 0);
    for point in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let mood = Arc::new(Mood::default());
        let log = open(folder.path(), &mood).await;
        let sink = LogSink::new(Arc::clone(&log));
        let at = |offset| Position { incarnation: 1, offset };
        let mut writer = longhaul_broker::Sink::open(&sink, &flow(), None).await.unwrap().writer;
        writer.write_with_cursor(vec![event(1)], at(10)).await.unwrap();
        mood.left.store(point, Ordering::SeqCst);
        let first = writer.write_with_cursor(vec![event(2), event(3)], at(20));
        let second = writer.write_with_cursor(vec![event(4)], at(30));
        let (first, second) = tokio::join!(first, second);
        assert!(first.is_ok() || second.is_err(), "point {point}: the later one of two is confirmed alone");
        let failed = second.is_err();
        mood.left.store(0, Ordering::SeqCst);
        log.stop().await;
        mood.set(GOOD);

        let log = open(folder.path(), &mood).await;
        let cursor = longhaul_broker::Sink::open(&LogSink::new(Arc::clone(&log)), &flow(), None).await.unwrap().cursor;
        let mut reader = LogSource::new(Arc::clone(&log), vec![]).reader(Start::Earliest).await.unwrap();
        let found = reader.next_batch().await.unwrap().events;
        let ids: Vec<u128> = found.iter().map(|event| event.id.0).collect();
        let expected = match cursor.map(|cursor| cursor.offset) {
            Some(10) => vec![1],
            Some(20) => vec![1, 2, 3],
            Some(30) => vec![1, 2, 3, 4],
            other => panic!("point {point}: the cursor is {other:?}"),
        };
        assert_eq!(ids, expected, "point {point}: cursor {cursor:?}");
        assert!(first.is_err() || ids.len() >= 3, "point {point}: what was confirmed is gone");
        if ids.len() == 1 {
            nothing += 1;
        } else {
            whole += 1;
        }
        log.stop().await;
        if !failed {
            break;
        }
    }
    assert!(nothing >= 2 && whole >= 1, "{nothing} times nothing, {whole} times all: too few points");
}

#[test]
fn the_shard_has_one_name() {
    assert_eq!(SHARD, "log");
    fn is_connector<T: Connector>() {}
    is_connector::<crate::Embedded>();
}
