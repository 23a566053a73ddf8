//! The incarnation of a stream: a number that a stream of the same name, deleted and made again, does not have.
//!
//! RabbitMQ tells its clients nothing by which two streams of one name could be told apart. But what is bound to a stream goes with it: so
//! an exchange of ours, which carries nothing and deletes itself with its last binding, is bound to the stream, and the incarnation is in
//! its name. As long as that exchange is there the stream is the one that it was bound to. Which number that is stands in a cell.
//!
//! ```text
//! first time: lock | exchange longhaul.life.<stream>.<n> | bind | n into the cell     a crash leaves an exchange that nobody asks for
//! later:      is the exchange of the known n there?  yes: the same stream;  no: lock, read the cell, make another life if it is gone
//! ```

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, ExchangeKind};
use longhaul_config::QueueType;

use tokio::time::timeout;

use crate::client::random;
use crate::fault::{Fault, is_not_found};
use crate::lock::Lock;
use crate::{cell, names};

/// How long the note may take: longer than [`cell::open`] waits for a message that is out.
const NOTE_PATIENCE: Duration = Duration::from_secs(20);

/// The life of one stream as it was last seen.
#[derive(Default)]
pub(crate) struct Life(Mutex<Option<u64>>);

impl Life {
    /// The incarnation of the stream as it is now.
    pub(crate) async fn now(
        &self,
        connection: &Connection,
        stream: &ShortString,
        kind: QueueType,
    ) -> Result<u64, Fault> {
        let known = *self.known();
        if let Some(known) = known
            && is_there(connection, &names::life(stream.as_str(), known)).await?
        {
            return Ok(known);
        }
        let note = names::life_note(stream.as_str());
        // A quorum queue that lost its only member to a crash answers nobody.
        let found = timeout(NOTE_PATIENCE, find(connection, stream, kind)).await;
        let now = found.map_err(|_| {
            let text =
                format!("the queue {note}, which says which stream {:?} this is, does not answer", stream.as_str());
            Fault::Transient(text)
        })??;
        *self.known() = Some(now);
        Ok(now)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is noted, or a new life.
async fn find(connection: &Connection, stream: &ShortString, kind: QueueType) -> Result<u64, Fault> {
    let text = stream.as_str();
    let (channel, _lock) =
        Lock::take(connection, &names::life_lock(text), &format!("looks at the stream {text:?}")).await?;
    let confirm = channel.confirm_select(ConfirmSelectOptions::default()).await;
    confirm.map_err(|e| Fault::of(&e, "asking for confirmations"))?;
    let note = names::life_note(text);
    let noted = cell::open(connection, &channel, &note, kind).await?.and_then(|bytes| decode(&bytes));
    if let Some(noted) = noted
        && is_there(connection, &names::life(text, noted)).await?
    {
        return Ok(noted);
    }
    let life = random();
    tracing::info!(stream = text, was = noted, now = life, "a stream that was not known, or made again");
    bind(&channel, stream, &names::life(text, life)).await?;
    cell::write(&channel, &note, &format!("incarnation of the stream {text:?}"), &life.to_le_bytes()).await?;
    Ok(life)
}

fn decode(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

async fn bind(channel: &Channel, stream: &ShortString, exchange: &ShortString) -> Result<(), Fault> {
    let failed = |error| Fault::of(&error, &format!("marking the stream {:?} by a binding", stream.as_str()));
    let options = ExchangeDeclareOptions { durable: true, auto_delete: true, ..ExchangeDeclareOptions::default() };
    let declared = channel.exchange_declare(exchange.clone(), ExchangeKind::Direct, options, FieldTable::default());
    declared.await.map_err(failed)?;
    let (options, none) = (QueueBindOptions::default(), FieldTable::default());
    channel.queue_bind(stream.clone(), exchange.clone(), "life".into(), options, none).await.map_err(failed)
}

/// On a channel of its own, since the answer "no" closes it.
async fn is_there(connection: &Connection, exchange: &ShortString) -> Result<bool, Fault> {
    let failed = |error| Fault::of(&error, &format!("looking for {exchange}"));
    let channel = connection.create_channel().await.map_err(failed)?;
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let asked = channel.exchange_declare(exchange.clone(), ExchangeKind::Direct, passive, FieldTable::default()).await;
    match asked {
        Ok(()) => Ok(true),
        Err(error) if is_not_found(&error) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}
