//! What was set aside: a stream of ours, `longhaul.parked`, which no route reads.
//!
//! ```text
//! put      body = the piece, header x-longhaul-park: name/number     the newest of a name and number counts
//! remove   no body,          header x-longhaul-unpark: name          all pieces of the name are gone, at one go
//! ```
//! A crash between any two records leaves what the records before it say. Every call reads the stream on to its present end first, so that
//! what another router has parked or removed is seen; the heads stay in memory, the other pieces are read where they stand. Nothing ever
//! leaves the stream by itself: whoever finds it too large deletes it when nothing is parked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use lapin::message::Delivery;
use lapin::options::{ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection};
use longhaul_broker::{ParkName, Parking, SinkError};
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::client::{Client, Role};
use crate::fault::Fault;
use crate::publish;
use crate::stream::tap::{self, Place, READ_MAX, Tap};

/// Name of the stream.
pub(crate) const PARKED: &str = "longhaul.parked";
const PARK: &str = "x-longhaul-park";
const UNPARK: &str = "x-longhaul-unpark";
/// A record that says nothing, so that a stream that was made just now has a last one.
const BEGIN: &str = "x-longhaul-begin";
/// Things that are parked at one broker at the most: their heads are in memory.
const THINGS_MAX: usize = 10_000;
/// Pieces that are on their way at once.
const PREFETCH: u16 = 64;
const PERSISTENT: u8 = 2;

/// The place of one broker.
pub(crate) struct StreamParking {
    client: Arc<Client>,
    tail: Mutex<Option<Tail>>,
}

/// What was read of the stream so far.
struct Tail {
    tap: Tap,
    /// The offset behind what was read.
    next: u64,
    /// How many were read since the broker was last told to go on.
    untold: u16,
    known: Known,
}

/// What is parked.
#[derive(Debug, Default)]
struct Known {
    heads: BTreeMap<String, Bytes>,
    /// Where the other pieces stand.
    pieces: HashMap<String, BTreeMap<u32, u64>>,
}

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
enum Record<'a> {
    Piece(&'a str, u32),
    Gone(&'a str),
}

impl StreamParking {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self { client, tail: Mutex::default() }
    }

    async fn put(&self, name: &str, piece: u32, value: &[u8]) -> Result<(), SinkError> {
        if piece == 0 && !self.look(|known| known.has_room_for(name)).await? {
            return Err(SinkError::Config(format!(
                "{PARKED} holds {THINGS_MAX} events already: redrive or discard some of them"
            )));
        }
        Ok(self.write(PARK, &format!("{name}/{piece}"), value).await?)
    }

    async fn get(&self, name: &str, piece: u32) -> Result<Option<Bytes>, Fault> {
        let found = self.look(|known| known.find(name, piece)).await;
        match unless_refused(found)?.flatten() {
            Some(Found::Here(head)) => Ok(Some(head)),
            Some(Found::At(offset)) => {
                let connection = self.client.connection(Role::Read).await?;
                let mut tap = Tap::open(&connection, &name_of_stream(), Place::At(offset), 1).await?;
                let (at, delivery) = timeout(READ_MAX, tap.next()).await.map_err(|_| late())??;
                if at != offset {
                    return Err(Fault::Transient(format!("{PARKED} gives offset {at} for {offset}")));
                }
                Ok(Some(delivery.data.into()))
            }
            None => Ok(None),
        }
    }

    /// Looks at the stream as it stands now, from where the last look ended; anew when that is not possible.
    async fn look<T>(&self, at: impl FnOnce(&Known) -> T) -> Result<T, Fault> {
        let mut slot = self.tail.lock().await;
        let connection = self.client.connection(Role::Read).await?;
        if let Some(tail) = slot.as_mut()
            && tail.refresh(&self.client, &connection).await.is_ok()
        {
            return Ok(at(&tail.known));
        }
        *slot = None;
        declare(&connection).await?;
        let tap = Tap::open(&connection, &name_of_stream(), Place::First, PREFETCH).await?;
        let tail = slot.insert(Tail { tap, next: 0, untold: 0, known: Known::default() });
        tail.refresh(&self.client, &connection).await?;
        Ok(at(&tail.known))
    }

    async fn write(&self, header: &str, what: &str, value: &[u8]) -> Result<(), Fault> {
        write(&self.client, header, what, value).await
    }
}

impl Parking for StreamParking {
    fn put(&self, name: ParkName, piece: u32, value: Bytes) -> BoxFuture<'_, Result<(), SinkError>> {
        async move { StreamParking::put(self, &name, piece, &value).await }.boxed()
    }

    fn heads(&self, max: usize) -> BoxFuture<'_, Result<Vec<(ParkName, Bytes)>, SinkError>> {
        async move { Ok(unless_refused(self.look(|known| known.heads(max)).await)?.unwrap_or_default()) }.boxed()
    }

    fn get(&self, name: ParkName, piece: u32) -> BoxFuture<'_, Result<Option<Bytes>, SinkError>> {
        async move { Ok(StreamParking::get(self, &name, piece).await?) }.boxed()
    }

    fn remove(&self, name: ParkName, _pieces: u32) -> BoxFuture<'_, Result<(), SinkError>> {
        async move { Ok(self.write(UNPARK, &name, b"").await?) }.boxed()
    }
}

/// `None` where the broker does not let us have the stream: nothing is parked there, and parking says why.
fn unless_refused<T>(looked: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(Fault::Config(reason)) => {
            tracing::debug!(reason, "nothing can be parked here");
            Ok(None)
        }
        Err(fault) => Err(fault),
    }
}

fn name_of_stream() -> ShortString {
    ShortString::from(PARKED)
}

fn late() -> Fault {
    Fault::Transient(format!("{PARKED} is not read within {READ_MAX:?}"))
}

async fn declare(connection: &Connection) -> Result<Channel, Fault> {
    let failed = |error| Fault::of(&error, &format!("declaring the stream {PARKED}"));
    let channel = connection.create_channel().await.map_err(failed)?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name_of_stream(), options, arguments).await.map_err(failed)?;
    Ok(channel)
}

/// Writes a record and waits until the broker has it.
async fn write(client: &Client, header: &str, what: &str, value: &[u8]) -> Result<(), Fault> {
    let connection = client.connection(Role::Write).await?;
    let channel = declare(&connection).await?;
    let confirm = channel.confirm_select(ConfirmSelectOptions::default()).await;
    confirm.map_err(|e| Fault::of(&e, "asking for confirmations"))?;
    let mut table = FieldTable::default();
    table.insert(header.into(), AMQPValue::LongString(what.into()));
    let properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(table);
    publish::to_queue(&channel, &name_of_stream(), properties, value).await
}

impl Tail {
    /// Reads on to the present end. What was read of a call that was given up stays read.
    async fn refresh(&mut self, client: &Client, connection: &Connection) -> Result<(), Fault> {
        let last = match tap::last(connection, &name_of_stream()).await? {
            Some(last) => last,
            None => {
                write(client, BEGIN, "", b"").await?;
                tap::last(connection, &name_of_stream()).await?.ok_or_else(late)?
            }
        };
        if last + 1 < self.next {
            return Err(Fault::Transient(format!("{PARKED} was made again")));
        }
        // Also the word that the stream is gone.
        while let Some(next) = self.tap.ready() {
            let (offset, delivery) = next?;
            self.take(offset, delivery);
        }
        while self.next <= last {
            let (offset, delivery) = timeout(READ_MAX, self.tap.next()).await.map_err(|_| late())??;
            self.take(offset, delivery);
        }
        Ok(())
    }

    fn take(&mut self, offset: u64, delivery: Delivery) {
        self.next = offset + 1;
        self.untold += 1;
        if self.untold >= PREFETCH / 2 {
            self.untold = 0;
            self.tap.more(delivery.delivery_tag);
        }
        let table = delivery.properties.headers().as_ref();
        if let Some(record) = table.and_then(Record::of) {
            self.known.take(record, delivery.data.into(), offset);
        }
    }
}

impl<'a> Record<'a> {
    fn of(table: &'a FieldTable) -> Option<Self> {
        let text = |name: &str| {
            let value = table.inner().get(name).and_then(AMQPValue::as_long_string)?;
            std::str::from_utf8(value.as_bytes()).ok()
        };
        if let Some(name) = text(UNPARK) {
            return Some(Self::Gone(name));
        }
        let (name, piece) = text(PARK)?.rsplit_once('/')?;
        Some(Self::Piece(name, piece.parse().ok()?))
    }
}

/// A piece: a head itself, or where another one stands.
enum Found {
    Here(Bytes),
    At(u64),
}

impl Known {
    fn take(&mut self, record: Record<'_>, value: Bytes, offset: u64) {
        match record {
            Record::Piece(name, 0) => drop(self.heads.insert(name.to_owned(), value)),
            Record::Piece(name, piece) => {
                self.pieces.entry(name.to_owned()).or_default().insert(piece, offset);
            }
            Record::Gone(name) => {
                self.heads.remove(name);
                self.pieces.remove(name);
            }
        }
    }

    fn has_room_for(&self, name: &str) -> bool {
        self.heads.len() < THINGS_MAX || self.heads.contains_key(name)
    }

    fn heads(&self, max: usize) -> Vec<(ParkName, Bytes)> {
        self.heads.iter().take(max).map(|(name, head)| (name.clone(), head.clone())).collect()
    }

    fn find(&self, name: &str, piece: u32) -> Option<Found> {
        if piece == 0 {
            return self.heads.get(name).cloned().map(Found::Here);
        }
        self.pieces.get(name)?.get(&piece).copied().map(Found::At)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said<'a>(table: &'a mut FieldTable, header: &str, what: &str) -> Option<Record<'a>> {
        table.insert(header.into(), AMQPValue::LongString(what.into()));
        Record::of(table)
    }

    #[test]
    fn records_say_what_they_say() {
        let new = FieldTable::default;
        assert_eq!(said(&mut new(), PARK, "a/0"), Some(Record::Piece("a", 0)));
        assert_eq!(said(&mut new(), PARK, "a/b/17"), Some(Record::Piece("a/b", 17)));
        assert_eq!(said(&mut new(), UNPARK, "a"), Some(Record::Gone("a")));
        for (header, what) in [(PARK, "a"), (PARK, "a/x"), (BEGIN, ""), ("foreign", "a/0")] {
            assert_eq!(said(&mut new(), header, what), None, "{header}: {what}");
        }
    }

    #[test]
    fn the_newest_counts_and_what_is_gone_is_gone_whole() {
        let mut known = Known::default();
        for (offset, (record, value)) in [
            (Record::Piece("a", 1), "body"),
            (Record::Piece("a", 0), "head"),
            (Record::Piece("b", 1), "body"),
            (Record::Piece("a", 1), "body again"),
            (Record::Piece("a", 0), "newer"),
            (Record::Piece("b", 0), "head"),
            (Record::Gone("b"), ""),
            (Record::Gone("never there"), ""),
        ]
        .into_iter()
        .enumerate()
        {
            known.take(record, Bytes::from_static(value.as_bytes()), offset as u64);
        }
        assert_eq!(known.heads(9), [("a".to_owned(), Bytes::from_static(b"newer"))]);
        assert!(matches!(known.find("a", 1), Some(Found::At(3))));
        assert!(known.find("b", 1).is_none() && known.find("b", 0).is_none());
    }
}
