//! Producers: idempotent, patient without end, each with a thread that reports deliveries.
//!
//! All flows to topics with one and the same limit for batches share a producer: it keeps the order of what it is given per partition,
//! and reports every event to the batch that it belongs to. A producer that failed for good is replaced by the next user.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use longhaul_broker::{Poison, SinkError};
use longhaul_event::EventId;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, DeliveryResult, Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, NoCustomPartitioner, ProducerContext};
use tracing::warn;

use crate::batch::Batch;
use crate::client::{Diagnosis, forbidden, log_line, note, unknown_topic};
use crate::config::Settings;
use crate::map::ID;

/// What an event is charged for beside key and payload.
const OVERHEAD_BYTES: usize = 128;
const POLL: Duration = Duration::from_millis(50);

/// A record on its way into a partition.
pub(crate) type Outgoing<'a> = BaseRecord<'a, [u8], [u8], Arc<Batch>>;

/// A running producer.
pub(crate) struct Producer {
    client: Option<Arc<BaseProducer<Deliveries>>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    dead: AtomicBool,
    /// Whether a delivery failed since it was last asked.
    failed: AtomicBool,
}

/// Why a record was not taken.
pub(crate) enum NotTaken {
    /// There is no room now.
    Full,
    /// It is larger than a batch may be.
    TooLarge,
    /// Anything else.
    Failed(KafkaError),
}

/// Bytes that an event is charged for while it is under way.
pub(crate) fn charge(key: usize, payload: usize) -> usize {
    OVERHEAD_BYTES + key + payload
}

impl Producer {
    /// A producer of that configuration, and its thread. `alone` says that every event has a batch of its own.
    ///
    /// # Errors
    /// One sentence when there is no client or no thread to be had.
    pub(crate) fn start(config: &ClientConfig, diagnosis: Arc<Diagnosis>, alone: bool) -> Result<Self, String> {
        let shared = Arc::new(Shared::default());
        let context = Deliveries { diagnosis, shared: Arc::clone(&shared), alone };
        let client: BaseProducer<Deliveries> =
            config.create_with_context(context).map_err(|error| error.to_string())?;
        let client = Arc::new(client);
        let (polled, state) = (Arc::clone(&client), Arc::clone(&shared));
        let spawned = std::thread::Builder::new().name("kafka-write".to_owned()).spawn(move || {
            while !state.stop.load(Ordering::Acquire) {
                if catch_unwind(AssertUnwindSafe(|| polled.poll(POLL))).is_err() {
                    state.dead.store(true, Ordering::Release);
                }
            }
            // Here, where waiting for it disturbs nobody, the client ends.
            drop(polled);
        });
        spawned.map_err(|error| format!("no thread for Kafka deliveries: {error}"))?;
        Ok(Self { client: Some(client), shared })
    }

    /// Whether it failed for good.
    pub(crate) fn is_dead(&self) -> bool {
        self.shared.dead.load(Ordering::Acquire)
    }

    /// Whether a delivery failed, since [`forget_failures`](Self::forget_failures).
    pub(crate) fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// Begins anew to look for failed deliveries.
    pub(crate) fn forget_failures(&self) {
        self.shared.failed.store(false, Ordering::Release);
    }

    /// The client itself, for transactions.
    pub(crate) fn client(&self) -> &BaseProducer<Deliveries> {
        self.client.as_ref().expect("the client is there until the producer is dropped")
    }

    /// Hands a record over, without waiting. When it is not taken, its batch was not touched.
    pub(crate) fn send(&self, record: Outgoing<'_>) -> Result<(), NotTaken> {
        let client = self.client();
        let bytes = charge(record.key.map_or(0, <[u8]>::len), record.payload.map_or(0, <[u8]>::len));
        let batch = Arc::clone(&record.delivery_opaque);
        batch.begin(bytes);
        let Err((error, _record)) = client.send(record) else { return Ok(()) };
        batch.end(bytes);
        Err(match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => NotTaken::Full,
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => NotTaken::TooLarge,
            _ => NotTaken::Failed(error),
        })
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        // First our share, so that the thread has the last one.
        drop(self.client.take());
        self.shared.stop.store(true, Ordering::Release);
    }
}

/// Hears of every delivery.
pub(crate) struct Deliveries {
    diagnosis: Arc<Diagnosis>,
    shared: Arc<Shared>,
    /// Whether every event has a batch of its own, so that a refusal is its own.
    alone: bool,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log_line(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        note(&self.diagnosis, &error, reason);
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            warn!(reason, "a Kafka producer gave up and is replaced");
            self.shared.dead.store(true, Ordering::Release);
        }
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = Arc<Batch>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Arc<Batch>) {
        let message = match result {
            Ok(message) => message,
            Err((error, message)) => {
                let offset = batch.offset_of(id_of(message));
                batch.fail(offset, self.refusal(error, message, &batch, offset));
                self.shared.failed.store(true, Ordering::Release);
                message
            }
        };
        batch.end(charge(message.key_len(), message.payload_len()));
    }
}

impl Deliveries {
    fn refusal(&self, error: &KafkaError, message: &BorrowedMessage<'_>, batch: &Batch, offset: u64) -> SinkError {
        let topic = message.topic();
        let reason = format!("Kafka topic {topic}: {error}");
        let Some(code) = error.rdkafka_error_code() else { return SinkError::Transient(reason) };
        if let Some(kind) = refused_batch(code) {
            if self.alone {
                return SinkError::Poison { offset, kind, reason };
            }
            batch.suspect();
            return SinkError::Transient(format!("{reason}; every event is written by itself until the one is found"));
        }
        if unknown_topic(code) {
            return SinkError::Config(format!("Kafka topic {topic} does not exist (any more)"));
        }
        if forbidden(code) {
            return SinkError::Config(reason);
        }
        if code == RDKafkaErrorCode::Fatal {
            self.shared.dead.store(true, Ordering::Release);
        }
        SinkError::Transient(reason)
    }
}

/// Refusals for good of the batch that an event was in.
fn refused_batch(code: RDKafkaErrorCode) -> Option<Poison> {
    match code {
        RDKafkaErrorCode::MessageSizeTooLarge => Some(Poison::TooLarge),
        RDKafkaErrorCode::InvalidRecord
        | RDKafkaErrorCode::InvalidDifferentRecord
        | RDKafkaErrorCode::InvalidTimestamp
        | RDKafkaErrorCode::PolicyViolation => Some(Poison::Refused),
        _ => None,
    }
}

/// The identity that we wrote into a record.
fn id_of(message: &BorrowedMessage<'_>) -> Option<EventId> {
    let mut headers = message.headers()?.iter();
    headers.find(|header| header.key == ID).and_then(|header| header.value).and_then(EventId::parse)
}

/// What sets producers of one cluster apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Kind {
    /// Largest batch in bytes that the topics take, if that is known.
    pub(crate) batch_limit: Option<usize>,
    /// Every event in a batch of its own.
    pub(crate) alone: bool,
}

/// The producers of one cluster; each lives as long as somebody uses it.
#[derive(Default)]
pub(crate) struct Producers(Mutex<HashMap<Kind, Weak<Producer>>>);

impl Producers {
    /// The producer of that kind.
    ///
    /// # Errors
    /// One sentence when none can be made.
    pub(crate) fn of_kind(
        &self,
        settings: &Settings,
        diagnosis: &Arc<Diagnosis>,
        kind: Kind,
    ) -> Result<Arc<Producer>, String> {
        let mut producers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        producers.retain(|_, producer| producer.strong_count() > 0);
        let found = producers.get(&kind).and_then(Weak::upgrade).filter(|producer| !producer.is_dead());
        if let Some(producer) = found {
            return Ok(producer);
        }
        let config = settings.producer(kind.batch_limit, kind.alone);
        let producer = Arc::new(Producer::start(&config, Arc::clone(diagnosis), kind.alone)?);
        producers.insert(kind, Arc::downgrade(&producer));
        Ok(producer)
    }
}
