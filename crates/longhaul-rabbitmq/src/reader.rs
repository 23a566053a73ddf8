//! The reader of a queue: one channel, which is one incarnation; an offset is a delivery tag of it.
//!
//! A delivery tag means something on its own channel only: acknowledged on another it would be somebody else's message, lost. So a reader
//! never outlives its channel, and the channel never the reader: when it is dropped the broker queues again what was not released.

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use longhaul_broker::{Context, ReadBatch, Reader, SourceError};
use longhaul_event::Event;
use longhaul_topic::Filter;

use crate::client::random;
use crate::fault::Fault;
use crate::lock::Lock;
use crate::map::{self, Incoming};

/// A batch is full with that many bytes.
const BATCH_BYTES: usize = 256 * 1024;

/// Reads one queue.
pub(crate) struct QueueReader {
    consumer: Consumer,
    channel: Channel,
    lock: Lock,
    queue: ShortString,
    incarnation: u64,
    cluster: u64,
    event_bytes_max: usize,
    filters: Vec<Filter>,
    /// The last tag that was given, and the last that was acknowledged.
    given: u64,
    released: u64,
    /// How far the queue reached when it was opened.
    end: u64,
    failed: Option<SourceError>,
}

impl QueueReader {
    /// Starts consuming on `channel`, which holds the lock; `waiting` is how many messages were in the queue.
    pub(crate) async fn start(
        channel: Channel,
        lock: Lock,
        queue: &ShortString,
        prefetch: u16,
        waiting: u64,
        context: &Context,
        filters: &[Filter],
    ) -> Result<Self, Fault> {
        let doing = format!("reading the queue {:?}", queue.as_str());
        let qos = channel.basic_qos(prefetch, BasicQosOptions::default()).await;
        qos.map_err(|e| Fault::of(&e, &doing))?;
        // Exclusive: another consumer would take events away from the mesh.
        let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
        let consumer = channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default()).await;
        Ok(Self {
            consumer: consumer.map_err(|e| Fault::of(&e, &doing))?,
            channel,
            lock,
            queue: queue.clone(),
            incarnation: random(),
            cluster: context.cluster,
            event_bytes_max: context.event_bytes_max,
            filters: filters.to_vec(),
            given: 0,
            released: 0,
            end: waiting,
            failed: None,
        })
    }

    /// Waits at one place only, before anything is taken, so that dropping the future loses nothing.
    async fn read(&mut self) -> Result<ReadBatch, SourceError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut next = Some(self.consumer.next().await);
        let (mut events, mut size) = (Vec::new(), 0);
        while let Some(delivery) = next {
            match self.take(delivery) {
                Ok(event) => {
                    size += event.as_ref().map_or(0, Event::size);
                    events.extend(event);
                }
                Err(error) => {
                    self.failed = Some(error);
                    break;
                }
            }
            next = if size < BATCH_BYTES { self.consumer.next().now_or_never() } else { None };
        }
        if self.lock.is_lost() {
            let text = format!("the lock of the queue {:?} was taken away", self.queue.as_str());
            self.failed.get_or_insert(SourceError::Transient(text));
        }
        match &self.failed {
            // What came before the failure is given first.
            Some(error) if events.is_empty() => Err(error.clone()),
            _ => Ok(ReadBatch { events, last: self.given }),
        }
    }

    /// The event of a delivery; `None` when the route does not ask for it.
    fn take(&mut self, delivery: Option<lapin::Result<Delivery>>) -> Result<Option<Event>, SourceError> {
        let queue = self.queue.as_str();
        let delivery = match delivery {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return Err(SourceError::Transient(lost(queue, &error))),
            None => {
                return Err(SourceError::Transient(format!("RabbitMQ stopped delivering from the queue {queue:?}")));
            }
        };
        let tag = delivery.delivery_tag;
        let refused = |reason: String| {
            SourceError::Config(format!("the message at the head of the queue {queue:?} cannot be carried: {reason}"))
        };
        let message = Incoming {
            tag,
            exchange: delivery.exchange,
            routing_key: delivery.routing_key,
            properties: delivery.properties,
            body: delivery.data.into(),
        };
        let event = map::to_event(message, self.cluster).map_err(refused)?;
        if event.size() > self.event_bytes_max {
            let text = format!("it has {} bytes, and at most {} are allowed", event.size(), self.event_bytes_max);
            return Err(refused(text));
        }
        self.given = tag;
        let is_wanted = self.filters.is_empty() || self.filters.iter().any(|filter| filter.matches(&event.topic));
        Ok(is_wanted.then_some(event))
    }
}

/// Whatever ended a channel that worked is worth another try, and that one tells if it is for good.
fn lost(queue: &str, error: &lapin::Error) -> String {
    Fault::of(error, &format!("reading the queue {queue:?}")).text().to_owned()
}

impl Reader for QueueReader {
    fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn start(&self) -> u64 {
        0
    }

    fn read(&mut self) -> BoxFuture<'_, Result<ReadBatch, SourceError>> {
        Box::pin(Self::read(self))
    }

    fn release(&mut self, floor: u64) {
        // A floor that was not given here is of another channel, where it meant another message.
        if floor > self.given {
            tracing::error!(
                queue = self.queue.as_str(),
                floor,
                given = self.given,
                "a release of what was never given"
            );
            return;
        }
        if floor > self.released {
            self.released = floor;
            // Polled once it is in lapin's queue; whether it arrives shows in reading.
            let _ = self.channel.basic_ack(floor, BasicAckOptions { multiple: true }).now_or_never();
        }
    }

    fn end(&self) -> Option<u64> {
        Some(self.end.max(self.given))
    }
}
