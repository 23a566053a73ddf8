//! Parcels: unidirectional streams with batches of one class. Written whole and finished; read batch by batch, with every declared
//! length checked before anything is allocated for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream::FuturesUnordered};
use longhaul_event::Event;
use longhaul_wire::{BATCH_HEADER_BYTES, BatchHeader, Limits, WireError, decode_batch, decode_header, frame_len};
use quinn::{Connection, ReadError, RecvStream};
use tokio::task::JoinSet;

use crate::{Class, Gate, LinkError, Parcel, Violation, error::close, link::Wire, outbox::Outbox};

/// Open bytes are never held under this.
const OPEN_BYTES_MIN: u64 = 1024 * 1024;
/// A parcel that took longer than this stands behind no other any more.
const PATIENCE: Duration = Duration::from_secs(1);
/// Parcels that are read at a time; as many as a sender has open.
const READERS_MAX: usize = crate::scheduler::PARCELS_OPEN_MAX;
const URGENT: i32 = 70;
/// What a sender has open at most, so that no receiver takes it for a flood.
const OPEN_BYTES_MAX: u64 = 48 * 1024 * 1024;
/// What one link may hold in batches that have not arrived whole, beside one of the largest size: more than any sender has open.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A parcel that is begun and then stands still for that long was never meant to go on. An outage ends the link long before.
const READ_PATIENCE: Duration = Duration::from_secs(60);

/// Takes the batches of a link, in the order in which they come out of the network; parcels overtake each other.
pub trait BatchHandler: Send + Sync {
    /// Judges a batch by its header alone, before anything is allocated for the rest of it. One that is not wanted is passed over. Must not
    /// block.
    ///
    /// # Errors
    /// [`Violation`] when the batch should never have been sent: ends the link.
    fn admit(&self, _header: &BatchHeader) -> Result<bool, Violation> {
        Ok(true)
    }

    /// Takes a batch that is whole and well formed. Called from several tasks at once; must not block.
    ///
    /// # Errors
    /// [`Violation`] when the batch should never have been sent: ends the link.
    fn handle_batch(&self, header: BatchHeader, events: Vec<Event>, wire_bytes: usize) -> Result<(), Violation>;

    /// Whether the flow only passes through here: then its batches are not opened.
    fn passes(&self, _handle: u32) -> bool {
        false
    }

    /// Takes a batch of a flow that passes through, whole and as it came; only its header was read. As [`handle_batch`](Self::handle_batch).
    ///
    /// # Errors
    /// As there.
    fn pass_on(&self, _header: BatchHeader, _batch: Bytes) -> Result<(), Violation> {
        Ok(())
    }
}

/// Sends what the outbox holds, few parcels at a time, until the connection ends.
pub(crate) async fn pump(wire: Arc<Wire>, outbox: Arc<Outbox>) {
    let mut open = FuturesUnordered::new();
    let mut open_bytes = 0_usize;
    loop {
        while let Some(parcel) = outbox.next_parcel(&gate(&wire.connection, open_bytes, open.len())) {
            open_bytes += parcel.bytes;
            open.push(send(&wire.connection, parcel));
        }
        wire.open_bytes.store(u64::try_from(open_bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        tokio::select! {
            biased;
            Some((bytes, sent)) = open.next(), if !open.is_empty() => {
                open_bytes -= bytes;
                if sent.is_err() {
                    break;
                }
            }
            () = outbox.work() => {}
            _ = wire.connection.closed() => break,
        }
    }
    outbox.close();
}

fn gate(connection: &Connection, open_bytes: usize, open_parcels: usize) -> Gate {
    let budget = (2 * connection.stats().path.cwnd).clamp(OPEN_BYTES_MIN, OPEN_BYTES_MAX);
    Gate { open_bytes, open_parcels, budget_bytes: usize::try_from(budget).unwrap_or(usize::MAX) }
}

async fn send(connection: &Connection, parcel: Parcel) -> (usize, Result<(), ()>) {
    let bytes = parcel.bytes;
    (bytes, send_all(connection, parcel).await)
}

/// Ready when the peer has acknowledged the whole parcel. An error means that the connection has ended.
async fn send_all(connection: &Connection, mut parcel: Parcel) -> Result<(), ()> {
    let mut stream = connection.open_uni().await.map_err(drop)?;
    let _ = stream.set_priority(if parcel.owed { URGENT } else { priority(parcel.class) });
    match stream.write_all_chunks(&mut parcel.batches).await {
        Ok(()) => {}
        Err(quinn::WriteError::ConnectionLost(_)) => return Err(()),
        // The peer stopped the stream: it wants none of it, and says why by closing the link.
        Err(_) => return Ok(()),
    }
    let _ = stream.finish();
    let stopped = stream.stopped();
    tokio::pin!(stopped);
    match tokio::time::timeout(PATIENCE, &mut stopped).await {
        Ok(result) => result.map(drop).map_err(drop),
        Err(_) => {
            let _ = stream.set_priority(URGENT);
            stopped.await.map(drop).map_err(drop)
        }
    }
}

fn priority(class: Class) -> i32 {
    match class {
        Class::Realtime => URGENT,
        Class::Normal => 50,
        Class::CatchUp => 30,
    }
}

/// Reads parcels and hands their batches over until the link ends.
pub(crate) async fn receive(wire: Arc<Wire>, limits: Limits, handler: Arc<dyn BatchHandler>) {
    let mut readers = JoinSet::new();
    let held = Arc::new(AtomicUsize::new(0));
    loop {
        tokio::select! {
            biased;
            Some(read) = readers.join_next(), if !readers.is_empty() => match read {
                Ok(Ok(())) => {}
                Ok(Err(error)) => wire.fail(error),
                Err(panic) => wire.fail(internal(&panic.to_string())),
            },
            stream = wire.connection.accept_uni(), if readers.len() < READERS_MAX => match stream {
                Ok(stream) => drop(readers.spawn(read(stream, limits, handler.clone(), held.clone()))),
                Err(_) => return,
            },
        }
    }
}

/// Reads one parcel. A parcel that is reset, or whose connection is lost, is no fault: its flows are opened again.
async fn read(
    mut stream: RecvStream,
    limits: Limits,
    handler: Arc<dyn BatchHandler>,
    held: Arc<AtomicUsize>,
) -> Result<(), LinkError> {
    let mut rest = Bytes::new();
    let mut is_empty = true;
    loop {
        let mut head = BytesMut::with_capacity(BATCH_HEADER_BYTES);
        match fill(&mut stream, &mut rest, &mut head, BATCH_HEADER_BYTES).await {
            Ok(()) => {}
            Err(Stop::End) if head.is_empty() && !is_empty => return Ok(()),
            Err(Stop::End) if head.is_empty() => return Err(parcels("a parcel holds nothing")),
            Err(stop) => return stop.verdict(),
        }
        is_empty = false;
        let header = decode_header(&head)?;
        let len = frame_len(&header, &limits)?;
        if !handler.admit(&header)? {
            if let Err(stop) = pass(&mut stream, &mut rest, len - BATCH_HEADER_BYTES).await {
                return stop.verdict();
            }
            continue;
        }
        let _held = Held::more(&held, len, &limits)?;
        let mut batch = BytesMut::with_capacity(len);
        batch.put_slice(&head);
        if let Err(stop) = fill(&mut stream, &mut rest, &mut batch, len).await {
            return stop.verdict();
        }
        if handler.passes(header.handle) {
            handler.pass_on(header, batch.freeze())?;
            continue;
        }
        let (header, events) = decode_batch(batch.freeze(), &limits)?;
        handler.handle_batch(header, events, len)?;
    }
}

/// What one batch counts among those that have not arrived whole.
struct Held<'a> {
    all: &'a AtomicUsize,
    bytes: usize,
}

impl<'a> Held<'a> {
    fn more(all: &'a AtomicUsize, bytes: usize, limits: &Limits) -> Result<Self, LinkError> {
        let before = all.fetch_add(bytes, Ordering::Relaxed);
        let held = Self { all, bytes };
        if before + bytes > HELD_BYTES_MAX + limits.batch_raw_bytes_max() {
            return Err(parcels("more batches are begun than can be under way"));
        }
        Ok(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Why a read stopped short.
enum Stop {
    End,
    Reset,
    Lost,
    Still,
}

impl Stop {
    fn verdict(self) -> Result<(), LinkError> {
        match self {
            Self::End => Err(WireError::Truncated("batch").into()),
            Self::Still => Err(parcels("a parcel was begun and does not go on")),
            Self::Reset | Self::Lost => Ok(()),
        }
    }
}

/// Fills `into` up to `len` bytes, from what is left of the last chunk and then from the stream.
async fn fill(stream: &mut RecvStream, rest: &mut Bytes, into: &mut BytesMut, len: usize) -> Result<(), Stop> {
    while into.len() < len {
        more(stream, rest).await?;
        let part = rest.split_to(rest.len().min(len - into.len()));
        into.put_slice(&part);
    }
    Ok(())
}

/// Passes over so many bytes without keeping them.
async fn pass(stream: &mut RecvStream, rest: &mut Bytes, len: usize) -> Result<(), Stop> {
    let mut left = len;
    while left > 0 {
        more(stream, rest).await?;
        let part = rest.len().min(left);
        rest.advance(part);
        left -= part;
    }
    Ok(())
}

/// Takes the next chunk of the stream when nothing is left of the last one.
async fn more(stream: &mut RecvStream, rest: &mut Bytes) -> Result<(), Stop> {
    if !rest.is_empty() {
        return Ok(());
    }
    *rest = match tokio::time::timeout(READ_PATIENCE, stream.read_chunk(usize::MAX, true)).await {
        Ok(Ok(Some(chunk))) => chunk.bytes,
        Ok(Ok(None)) => return Err(Stop::End),
        Ok(Err(ReadError::ConnectionLost(_))) => return Err(Stop::Lost),
        Ok(Err(_)) => return Err(Stop::Reset),
        Err(_) => return Err(Stop::Still),
    };
    Ok(())
}

fn parcels(text: &str) -> LinkError {
    LinkError::Protocol { code: close::PARCELS, text: text.to_owned() }
}

fn internal(text: &str) -> LinkError {
    LinkError::Protocol { code: close::INTERNAL, text: text.to_owned() }
}
