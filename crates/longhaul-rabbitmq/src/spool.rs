//! The queue behind a source: declared and bound for an exchange, or only looked for.
//!
//! A spool catches events from the moment when it is bound, whether or not a router reads it; so it is bound before anything else happens.
//! What it is bound to is noted in a cell, because AMQP cannot be asked: bindings that a route no longer wants are removed when it is
//! opened for reading, by whoever holds the lock.

use std::time::Duration;

use lapin::options::{ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ExchangeKind};
use longhaul_config::QueueType;
use tokio::time::timeout;

use crate::fault::{Fault, is_not_found, is_refusal};
use crate::{cell, names};

const ACCESS_REFUSED: u16 = 403;
const PRECONDITION_FAILED: u16 = 406;
/// How long the note of bindings is asked for.
const NOTE_PATIENCE: Duration = Duration::from_secs(5);

/// A binding: exchange and pattern.
pub(crate) type Binding = (ShortString, ShortString);

/// The queue that a source reads, and what it is bound to.
#[derive(Debug, Clone)]
pub(crate) enum Spool {
    /// A queue of ours.
    Own {
        /// Its name.
        queue: ShortString,
        /// The exchange, which is somebody else's.
        exchange: ShortString,
        /// The binding patterns of the route.
        patterns: Vec<ShortString>,
    },
    /// A queue of somebody else's.
    Existing(ShortString),
}

impl Spool {
    pub(crate) fn queue(&self) -> &ShortString {
        match self {
            Self::Own { queue, .. } | Self::Existing(queue) => queue,
        }
    }

    /// Sees to it that the queue is there and catches what it should; returns how many messages wait in it.
    pub(crate) async fn prepare(&self, connection: &Connection, kind: QueueType) -> Result<u64, Fault> {
        match self {
            Self::Existing(queue) => look(connection, "queue", queue).await,
            Self::Own { queue, exchange, patterns } => {
                let exchange_kind = exchange_kind(connection, exchange).await?;
                let patterns = patterns_for(exchange, &exchange_kind, patterns)?;
                let doing = format!("declaring the spool queue {queue}");
                let channel = connection.create_channel().await.map_err(|e| Fault::of(&e, &doing))?;
                let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
                let declared = channel.queue_declare(queue.clone(), durable, names::queue_arguments(kind)).await;
                let waiting = declared.map_err(|e| Fault::of(&e, &doing))?.message_count();
                for pattern in patterns {
                    bind(&channel, queue, exchange, pattern).await?;
                }
                Ok(u64::from(waiting))
            }
        }
    }

    /// Removes the bindings that an earlier route of the same name had and this one has not, if the note of them can be had. The caller
    /// holds the lock. What such a binding catches is left out by the reader, so a note that cannot be read (a quorum queue that lost its
    /// only member to a crash answers nobody) holds nothing up; the next opening tries again.
    pub(crate) async fn forget_old_bindings(&self, connection: &Connection, kind: QueueType) {
        let Self::Own { queue, exchange, patterns } = self else { return };
        let reason = match timeout(NOTE_PATIENCE, unbind_old(connection, queue, exchange, patterns, kind)).await {
            Ok(Ok(())) => return,
            Ok(Err(fault)) => fault.text().to_owned(),
            Err(_) => format!("no answer within {} s", NOTE_PATIENCE.as_secs()),
        };
        let (queue, note) = (queue.as_str(), names::bindings(queue.as_str()));
        tracing::warn!(
            queue,
            note = note.as_str(),
            reason,
            "old bindings may stay: their note cannot be read or written"
        );
    }
}

async fn unbind_old(
    connection: &Connection,
    queue: &ShortString,
    exchange: &ShortString,
    patterns: &[ShortString],
    kind: QueueType,
) -> Result<(), Fault> {
    let note = names::bindings(queue.as_str());
    let channel = connection.create_channel().await.map_err(|e| Fault::of(&e, "opening a channel"))?;
    let confirm = channel.confirm_select(ConfirmSelectOptions::default()).await;
    confirm.map_err(|e| Fault::of(&e, "asking for confirmations"))?;
    let noted = cell::open(connection, &channel, &note, kind).await?.and_then(|bytes| decode(&bytes));
    let before = noted.unwrap_or_default();
    let now: Vec<Binding> = patterns.iter().map(|pattern| (exchange.clone(), pattern.clone())).collect();
    if before == now {
        return Ok(());
    }
    for (exchange, pattern) in before.iter().filter(|binding| !now.contains(binding)) {
        tracing::info!(queue = queue.as_str(), exchange = exchange.as_str(), pattern = pattern.as_str(), "unbinding");
        let unbound = channel.queue_unbind(queue.clone(), exchange.clone(), pattern.clone(), FieldTable::default());
        unbound.await.map_err(|e| Fault::of(&e, &format!("unbinding {queue}")))?;
    }
    cell::write(&channel, &note, &format!("bindings of {queue}"), &encode(&now)).await
}

/// How many messages wait in a queue, or stream, of somebody else's.
pub(crate) async fn look(connection: &Connection, what: &str, queue: &ShortString) -> Result<u64, Fault> {
    let doing = format!("looking for the {what} {:?}", queue.as_str());
    let channel = connection.create_channel().await.map_err(|e| Fault::of(&e, &doing))?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(queue.clone(), passive, FieldTable::default()).await {
        Ok(queue) => Ok(u64::from(queue.message_count())),
        Err(error) if is_not_found(&error) => Err(missing(connection, &format!("{what} {:?}", queue.as_str()))),
        Err(error) => Err(Fault::of(&error, &doing)),
    }
}

fn missing(connection: &Connection, what: &str) -> Fault {
    let vhost = connection.status().vhost();
    Fault::Config(format!(
        "the {what} is not there in the virtual host {:?}: declare it, Longhaul does not",
        vhost.as_str()
    ))
}

async fn bind(
    channel: &Channel,
    queue: &ShortString,
    exchange: &ShortString,
    pattern: &ShortString,
) -> Result<(), Fault> {
    let options = QueueBindOptions::default();
    let bound =
        channel.queue_bind(queue.clone(), exchange.clone(), pattern.clone(), options, FieldTable::default()).await;
    bound.map_err(|e| Fault::of(&e, &format!("binding {queue} to {exchange}")))
}

/// The type of an exchange; empty when the broker does not let us ask.
async fn exchange_kind(connection: &Connection, exchange: &ShortString) -> Result<String, Fault> {
    let doing = format!("looking for the exchange {:?}", exchange.as_str());
    let failed = |error| Fault::of(&error, &doing);
    let channel = connection.create_channel().await.map_err(failed)?;
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let asked = channel.exchange_declare(exchange.clone(), ExchangeKind::Topic, passive, FieldTable::default()).await;
    match asked {
        Ok(()) => {}
        Err(error) if is_not_found(&error) => {
            return Err(missing(connection, &format!("exchange {:?}", exchange.as_str())));
        }
        Err(error) => return Err(failed(error)),
    }
    // A declaration that cannot succeed: where the exchange is of another type the broker says which, and where it is gone since the
    // first question, the argument of the wrong type is refused before anything is made.
    let mut arguments = FieldTable::default();
    arguments.insert("alternate-exchange".into(), AMQPValue::LongInt(0));
    let impossible = channel
        .exchange_declare(exchange.clone(), ExchangeKind::Topic, ExchangeDeclareOptions::default(), arguments)
        .await;
    match impossible {
        Err(error) if is_refusal(&error, ACCESS_REFUSED) => Ok(String::new()),
        Err(error) if is_refusal(&error, PRECONDITION_FAILED) => Ok(told_kind(&error.to_string()).to_owned()),
        Err(error) => Err(failed(error)),
        Ok(()) => Ok("topic".to_owned()),
    }
}

/// The type in "inequivalent arg 'type' for exchange 'x' in vhost '/': received 'topic' but current is 'direct'".
fn told_kind(text: &str) -> &str {
    if !text.contains("arg 'type'") {
        return "topic";
    }
    text.rsplit_once("current is '").and_then(|(_, rest)| rest.split('\'').next()).unwrap_or_default()
}

/// What is bound, by type: a fanout or headers exchange takes one binding for all, a direct one only literals.
fn patterns_for<'a>(
    exchange: &ShortString,
    kind: &str,
    patterns: &'a [ShortString],
) -> Result<&'a [ShortString], Fault> {
    match kind {
        "fanout" | "headers" => Ok(&patterns[..patterns.len().min(1)]),
        "direct" => match patterns.iter().find(|pattern| names::is_wild(pattern.as_str())) {
            None => Ok(patterns),
            Some(pattern) => Err(Fault::Config(format!(
                "the exchange {:?} is direct: it knows no wildcards, so {:?} would catch nothing; name each topic",
                exchange.as_str(),
                pattern.as_str()
            ))),
        },
        _ => Ok(patterns),
    }
}

/// `(len u8 | exchange | len u8 | pattern)*`
fn encode(bindings: &[Binding]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for text in bindings.iter().flat_map(|(exchange, pattern)| [exchange, pattern]) {
        bytes.push(u8::try_from(text.as_str().len()).expect("lapin keeps short strings within 255 bytes"));
        bytes.extend(text.as_str().as_bytes());
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> Option<Vec<Binding>> {
    let mut bindings = Vec::new();
    while !bytes.is_empty() {
        bindings.push((take(&mut bytes)?, take(&mut bytes)?));
    }
    Some(bindings)
}

fn take(bytes: &mut &[u8]) -> Option<ShortString> {
    let (len, rest) = bytes.split_first()?;
    let (text, rest) = rest.split_at_checked(usize::from(*len))?;
    *bytes = rest;
    ShortString::try_new(std::str::from_utf8(text).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_tells_the_type_when_it_refuses_another() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x' in vhost '/': received 'topic' but current is 'direct'";
        assert_eq!(told_kind(text), "direct");
        assert_eq!(told_kind("PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'x' ..."), "topic");
    }

    #[test]
    fn bindings_follow_the_type() {
        let patterns: Vec<ShortString> = vec!["orders.*".into(), "a.b".into()];
        let exchange = ShortString::from("x");
        assert_eq!(patterns_for(&exchange, "topic", &patterns), Ok(&patterns[..]));
        assert_eq!(patterns_for(&exchange, "fanout", &patterns), Ok(&patterns[..1]));
        assert_eq!(patterns_for(&exchange, "direct", &patterns[1..]), Ok(&patterns[1..]));
        let refused = patterns_for(&exchange, "direct", &patterns).expect_err("a wildcard");
        assert!(refused.text().contains("orders.*"), "{refused:?}");
    }

    #[test]
    fn a_note_of_bindings_comes_back() {
        let bindings: Vec<Binding> = vec![("x".into(), "a.#".into()), ("".into(), "".into())];
        assert_eq!(decode(&encode(&bindings)), Some(bindings));
        assert_eq!(decode(&[5, b'x']), None);
    }
}
