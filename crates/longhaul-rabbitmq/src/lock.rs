//! Locks: an exclusive queue that lives as long as the channel that consumes it.
//!
//! Another connection is refused by the queue being exclusive, another channel of ours by its consumer being so; when the channel goes,
//! for whatever reason, its consumer goes and the queue deletes itself. So whoever holds the lock is the only one who works, and what it
//! does on that channel is over when the lock is free.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer};
use tokio::time::{Instant, sleep};

use crate::fault::{Fault, is_in_use, is_not_found, is_refusal};

/// How long a lock that is being given back is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// A lock that is held. It is given back by dropping it and its channel.
pub(crate) struct Lock(Consumer);

impl Lock {
    /// Opens a channel and takes the lock on it; `whose` says in words what somebody else must be doing when it is taken.
    pub(crate) async fn take(
        connection: &Connection,
        name: &ShortString,
        whose: &str,
    ) -> Result<(Channel, Self), Fault> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(taken) = Self::try_take(connection, name).await? {
                return Ok(taken);
            }
            if Instant::now() > end {
                return Err(Fault::Transient(format!("another router {whose}")));
            }
            sleep(RETRY_EVERY).await;
        }
    }

    /// The same at once; `None` when somebody has it.
    pub(crate) async fn try_take(
        connection: &Connection,
        name: &ShortString,
    ) -> Result<Option<(Channel, Self)>, Fault> {
        let channel = connection.create_channel().await.map_err(|e| Fault::of(&e, "opening a channel"))?;
        match take_on(&channel, name).await {
            Ok(consumer) => Ok(Some((channel, Self(consumer)))),
            Err(error) if is_taken(&error) => Ok(None),
            Err(error) => Err(Fault::of(&error, &format!("taking the lock {name}"))),
        }
    }

    /// Waits until it is gone. A message is a knock, by somebody who wants to know whether it is taken.
    pub(crate) async fn lost(&mut self) {
        while let Some(Ok(_knock)) = self.0.next().await {}
    }

    /// Whether it is gone though nobody gave it back: somebody deleted the queue.
    pub(crate) fn is_lost(&mut self) -> bool {
        self.0.next().now_or_never().is_some()
    }
}

/// Somebody has it: another connection, another channel of this one, or one that deletes itself between our two steps.
fn is_taken(error: &lapin::Error) -> bool {
    const RESOURCE_LOCKED: u16 = 405;
    is_refusal(error, RESOURCE_LOCKED) || is_not_found(error) || is_in_use(error)
}

async fn take_on(channel: &Channel, name: &ShortString) -> lapin::Result<Consumer> {
    let declare = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.clone(), declare, FieldTable::default()).await?;
    let consume = BasicConsumeOptions { exclusive: true, no_ack: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(name.clone(), "".into(), consume, FieldTable::default()).await
}
