//! A cell: a durable queue that holds exactly one message, the newest that was written. Cursors and notes live in cells.
//!
//! ```text
//! absent --declare--> empty --publish ""--> holds "" --publish v--> holds v (the queue drops the older one)
//! read: get, publish the same again, acknowledge the first: at no moment is the cell without its value at the broker
//! ```
//! A cell always holds a message once it is made, so an empty one means that its message is out with somebody who died just now and
//! comes back; it never means "nothing was written". Who reads or writes a cell holds the lock of what it belongs to.

use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection};
use longhaul_config::QueueType;
use tokio::time::{Instant, sleep};

use crate::fault::{Fault, is_not_found};
use crate::names::queue_arguments;
use crate::publish;

/// How long a message that is out is waited for. After that the cell was made by somebody who died before filling it.
const OUT_MAX: Duration = Duration::from_secs(10);
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// The value of the cell, made when it is not there; `None` when nothing was ever written. `channel` confirms.
pub(crate) async fn open(
    connection: &Connection,
    channel: &Channel,
    name: &ShortString,
    kind: QueueType,
) -> Result<Option<Vec<u8>>, Fault> {
    if !exists(connection, name).await? {
        return make(channel, name, kind).await.map(|()| None);
    }
    let end = Instant::now() + OUT_MAX;
    loop {
        if let Some(message) = get(channel, name).await? {
            return keep(channel, name, message).await;
        }
        if Instant::now() > end {
            tracing::warn!(queue = name.as_str(), "the queue was made but never written; it is taken for new");
            return make(channel, name, kind).await.map(|()| None);
        }
        sleep(RETRY_EVERY).await;
    }
}

/// Writes a new value, which the broker has when this returns.
pub(crate) async fn write(channel: &Channel, name: &ShortString, note: &str, value: &[u8]) -> Result<(), Fault> {
    publish::to_queue(channel, name, properties(note), value).await
}

/// Properties of a value, with a note for people who look at the queue.
pub(crate) fn properties(note: &str) -> BasicProperties {
    let mut table = FieldTable::default();
    table.insert("x-longhaul-note".into(), AMQPValue::LongString(note.into()));
    BasicProperties::default().with_delivery_mode(2).with_headers(table)
}

/// On a channel of its own, since the answer "no" closes it.
async fn exists(connection: &Connection, name: &ShortString) -> Result<bool, Fault> {
    let failed = |error| Fault::of(&error, &format!("looking for {name}"));
    let channel = connection.create_channel().await.map_err(failed)?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(name.clone(), passive, FieldTable::default()).await {
        Ok(_) => Ok(true),
        Err(error) if is_not_found(&error) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

async fn make(channel: &Channel, name: &ShortString, kind: QueueType) -> Result<(), Fault> {
    let mut arguments = queue_arguments(kind);
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
    let declare = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel
        .queue_declare(name.clone(), declare, arguments)
        .await
        .map_err(|e| Fault::of(&e, &format!("declaring {name}")))?;
    write(channel, name, "nothing was written yet", b"").await
}

async fn get(channel: &Channel, name: &ShortString) -> Result<Option<BasicGetMessage>, Fault> {
    let message = channel.basic_get(name.clone(), BasicGetOptions { no_ack: false }).await;
    message.map_err(|e| Fault::of(&e, &format!("reading {name}")))
}

/// Puts the value back as a new message before the old one goes. Handing the old one back would do too, but a queue may count that.
async fn keep(channel: &Channel, name: &ShortString, message: BasicGetMessage) -> Result<Option<Vec<u8>>, Fault> {
    let delivery = message.delivery;
    publish::to_queue(channel, name, delivery.properties, &delivery.data).await?;
    channel
        .basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: false })
        .await
        .map_err(|e| Fault::of(&e, &format!("reading {name}")))?;
    Ok(Some(delivery.data).filter(|data| !data.is_empty()))
}
