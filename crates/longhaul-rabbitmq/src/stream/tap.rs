//! A consumer of a stream from a place in it, and where a stream begins and ends.
//!
//! Nothing in AMQP 0-9-1 tells how far a stream reaches: the count of messages that a declaration answers is seconds old. So it is read: the
//! first message is where a consumer at `first` begins; the end is behind the last chunk, which a consumer at `last` gets whole. A
//! broker hands a chunk over at one go, so once its first message is here the answer to any other question comes behind the rest of it.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, Consumer, ErrorKind};
use tokio::time::timeout;

use crate::fault::Fault;

const OFFSET: &str = "x-stream-offset";
/// All that one chunk can have is within this: the broker counts prefetch in 16 bits.
const CHUNK_MAX: u16 = u16::MAX;
/// How long nothing must come from a stream for it to be taken for empty, or for not reaching that far.
pub(crate) const QUIET: Duration = Duration::from_secs(1);
/// How long a message that is there may take to come.
pub(crate) const READ_MAX: Duration = Duration::from_secs(10);

/// Where to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    /// With the first message.
    First,
    /// With the last chunk.
    Last,
    /// With that message.
    At(u64),
    /// With the chunk that was current at that time, in seconds.
    Time(u64),
}

/// A consumer of a stream.
pub(crate) struct Tap {
    pub(crate) channel: Channel,
    consumer: Consumer,
    stream: ShortString,
    /// What was taken to look at it.
    next: Option<(u64, Delivery)>,
}

impl Tap {
    /// Begins to consume.
    pub(crate) async fn open(
        connection: &Connection,
        stream: &ShortString,
        place: Place,
        prefetch: u16,
    ) -> Result<Self, Fault> {
        let failed = |error| Fault::of(&error, &reading(stream));
        let channel = connection.create_channel().await.map_err(failed)?;
        channel.basic_qos(prefetch, BasicQosOptions::default()).await.map_err(failed)?;
        let mut arguments = FieldTable::default();
        arguments.insert(OFFSET.into(), place.value());
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume(stream.clone(), "".into(), options, arguments).await;
        let consumer =
            consumer.map_err(|error| if is_no_stream(&error) { no_stream(stream) } else { failed(error) })?;
        Ok(Self { channel, consumer, stream: stream.clone(), next: None })
    }

    /// The next message and its offset. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<(u64, Delivery), Fault> {
        match self.next.take() {
            Some(next) => Ok(next),
            None => {
                let delivery = self.consumer.next().await;
                self.numbered(delivery)
            }
        }
    }

    /// The next message, if it is here already.
    pub(crate) fn ready(&mut self) -> Option<Result<(u64, Delivery), Fault>> {
        if let Some(next) = self.next.take() {
            return Some(Ok(next));
        }
        let delivery = self.consumer.next().now_or_never()?;
        Some(self.numbered(delivery))
    }

    /// Offset of the next message, which is not taken; `None` when nothing comes for so long.
    pub(crate) async fn peek(&mut self, patience: Duration) -> Result<Option<u64>, Fault> {
        if self.next.is_none() {
            let Ok(delivery) = timeout(patience, self.consumer.next()).await else { return Ok(None) };
            self.next = Some(self.numbered(delivery)?);
        }
        Ok(self.next.as_ref().map(|(offset, _)| *offset))
    }

    /// Lets the broker send more: everything up to that delivery is taken.
    pub(crate) fn more(&self, tag: u64) {
        // Polled once it is in lapin's queue; whether it arrives shows in reading.
        let _ = self.channel.basic_ack(tag, BasicAckOptions { multiple: true }).now_or_never();
    }

    fn numbered(&self, delivery: Option<lapin::Result<Delivery>>) -> Result<(u64, Delivery), Fault> {
        let stream = self.stream.as_str();
        let delivery = match delivery {
            Some(Ok(delivery)) => delivery,
            // Whatever ended a channel that worked is worth another try, and that one tells if it is for good.
            Some(Err(error)) => {
                return Err(Fault::Transient(Fault::of(&error, &reading(&self.stream)).text().to_owned()));
            }
            None => return Err(Fault::Transient(format!("RabbitMQ stopped delivering from the stream {stream:?}"))),
        };
        let table = delivery.properties.headers().as_ref();
        let offset = table.and_then(|table| table.inner().get(OFFSET)).and_then(AMQPValue::as_long_long_int);
        match offset.map(u64::try_from) {
            Some(Ok(offset)) => Ok((offset, delivery)),
            // A classic queue takes no notice of where to begin.
            _ => Err(no_stream(&self.stream)),
        }
    }
}

impl Place {
    fn value(self) -> AMQPValue {
        match self {
            Self::First => AMQPValue::LongString("first".into()),
            Self::Last => AMQPValue::LongString("last".into()),
            Self::At(offset) => AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX)),
            Self::Time(seconds) => AMQPValue::Timestamp(seconds),
        }
    }
}

/// A quorum queue refuses to be told where to begin.
fn is_no_stream(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(refusal) if refusal.get_message().as_str().contains(OFFSET))
}

fn no_stream(stream: &ShortString) -> Fault {
    Fault::Config(format!("the queue {:?} is no stream: read it with `queue: {stream}`", stream.as_str()))
}

fn reading(stream: &ShortString) -> String {
    format!("reading the stream {:?}", stream.as_str())
}

/// Offset of the first message; `None` when there is none.
pub(crate) async fn first(connection: &Connection, stream: &ShortString) -> Result<Option<u64>, Fault> {
    Tap::open(connection, stream, Place::First, 1).await?.peek(QUIET).await
}

/// Offset of the last message as it stands now; `None` when there is none.
pub(crate) async fn last(connection: &Connection, stream: &ShortString) -> Result<Option<u64>, Fault> {
    let mut tap = Tap::open(connection, stream, Place::Last, CHUNK_MAX).await?;
    let Some(mut last) = tap.peek(QUIET).await? else { return Ok(None) };
    let asked = tap.channel.basic_qos(CHUNK_MAX, BasicQosOptions::default()).await;
    asked.map_err(|e| Fault::of(&e, &reading(stream)))?;
    while let Some(next) = tap.ready() {
        last = next?.0;
    }
    Ok(Some(last))
}
