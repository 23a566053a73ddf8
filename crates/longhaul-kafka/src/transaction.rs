//! One transactional producer: begins, hands over, commits or aborts. Every call blocks; it belongs to the thread of a bucket.
//!
//! What failed says whether the producer may go on ([`Failed::broken`]): after anything whose outcome is open it may not, and only the
//! cursors tell what was committed. Making another one under the same name ends whatever this one has open.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longhaul_broker::SinkError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::Producer as _;

use crate::client::{Diagnosis, forbidden};
use crate::config::Settings;
use crate::producer::{NotTaken, Outgoing, Producer};

/// Longest time that taking over the name may take, what a former owner has open included.
const INIT_MAX: Duration = Duration::from_secs(20);
/// Longest time that the answer to a commit, or to an abort, is waited for.
const END_MAX: Duration = Duration::from_secs(30);
/// How long one attempt of an abort may take. A batch that is refused in mid-flight may be queued again after an abort has emptied the queues,
/// and then waits for ever; the next attempt empties them again.
const ABORT_TRY: Duration = Duration::from_secs(1);
/// Deliveries are counted down without a signal.
const SETTLE_POLL: Duration = Duration::from_micros(500);
const ROOM_POLL: Duration = Duration::from_millis(2);

/// Why a step of a transaction failed.
#[derive(Debug, Clone)]
pub(crate) struct Failed {
    pub(crate) error: SinkError,
    /// Whether the producer cannot go on.
    pub(crate) broken: bool,
}

/// Why a record is not in the transaction.
pub(crate) enum NotSent {
    /// There is no such record.
    Refused(SinkError),
    /// It is larger than the client takes.
    TooLarge,
    /// The transaction failed.
    Failed(Failed),
}

/// A transactional producer that has its name for itself.
pub(crate) struct Transactions {
    producer: Producer,
    diagnosis: Arc<Diagnosis>,
    name: String,
}

impl Transactions {
    /// Takes the name over: whoever had it before is fenced, and what it has open is aborted, or through.
    ///
    /// # Errors
    /// [`SinkError`] when the cluster is away, or does not allow it.
    pub(crate) fn start(
        settings: &Settings,
        diagnosis: &Arc<Diagnosis>,
        name: &str,
        batch_limit: Option<usize>,
        alone: bool,
    ) -> Result<Self, SinkError> {
        let config = settings.transactional(name, batch_limit, alone);
        let producer = Producer::start(&config, Arc::clone(diagnosis), alone)
            .map_err(|error| SinkError::Config(format!("no Kafka producer for transactions: {error}")))?;
        let transactions = Self { producer, diagnosis: Arc::clone(diagnosis), name: name.to_owned() };
        match transactions.producer.client().init_transactions(INIT_MAX) {
            Ok(()) => Ok(transactions),
            Err(error) => Err(transactions.failed("taking over the transactions", &error).error),
        }
    }

    /// Whether it failed for good.
    pub(crate) fn is_dead(&self) -> bool {
        self.producer.is_dead()
    }

    /// Begins a transaction.
    pub(crate) fn begin(&self) -> Result<(), Failed> {
        self.producer.forget_failures();
        self.producer.client().begin_transaction().map_err(|error| self.failed("beginning a transaction", &error))
    }

    /// Hands a record over, which is made anew after waiting for room.
    pub(crate) fn send<'a>(&self, record: impl Fn() -> Result<Outgoing<'a>, SinkError>) -> Result<(), NotSent> {
        loop {
            match self.producer.send(record().map_err(NotSent::Refused)?) {
                Ok(()) => return Ok(()),
                Err(NotTaken::Full) if !self.is_dead() => std::thread::sleep(ROOM_POLL),
                Err(NotTaken::TooLarge) => return Err(NotSent::TooLarge),
                Err(NotTaken::Full) => {
                    let error = KafkaError::Global(RDKafkaErrorCode::Fatal);
                    return Err(NotSent::Failed(self.failed("writing", &error)));
                }
                Err(NotTaken::Failed(error)) => return Err(NotSent::Failed(self.failed("writing", &error))),
            }
        }
    }

    /// Waits until every record that was handed over is reported, or one has failed: then librdkafka sends no other. It gives each of
    /// them up in time.
    pub(crate) fn settle(&self) {
        while !self.producer.has_failed() && self.producer.client().in_flight_count() > 0 {
            std::thread::sleep(SETTLE_POLL);
        }
    }

    /// Commits. What was handed over must have been reported.
    pub(crate) fn commit(&self) -> Result<(), Failed> {
        self.producer.client().commit_transaction(END_MAX).map_err(|error| self.failed("a commit", &error))
    }

    /// Aborts.
    pub(crate) fn abort(&self) -> Result<(), Failed> {
        let begun = Instant::now();
        loop {
            match self.producer.client().abort_transaction(ABORT_TRY) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && begun.elapsed() < END_MAX => {}
                Err(error) => return Err(Failed { broken: true, ..self.failed("an abort", &error) }),
            }
        }
    }

    /// The failure in words: what befell the producer as a whole counts more than what a single call says.
    pub(crate) fn failed(&self, what: &str, error: &KafkaError) -> Failed {
        let name = &self.name;
        if let Some((code, reason)) = self.producer.client().client().fatal_error() {
            if fenced(code) {
                let text = format!(
                    "Kafka: {what}: another router has taken over `{name}`, or the cluster has ended a transaction that took too long: {reason}"
                );
                return Failed { error: SinkError::Config(text), broken: true };
            }
            let text = format!("Kafka: {what} of `{name}`: {reason}");
            let error = if forbidden(code) { SinkError::Config(text) } else { SinkError::Transient(text) };
            return Failed { error, broken: true };
        }
        let KafkaError::Transaction(inner) = error else {
            return Failed {
                error: SinkError::Transient(format!("Kafka: {what} of `{name}`: {error}")),
                broken: false,
            };
        };
        let text = format!("Kafka: {what} of `{name}`: {inner}");
        let error = match inner.code() {
            code if forbidden(code) || lasting(code) => SinkError::Config(text),
            RDKafkaErrorCode::OperationTimedOut => {
                self.diagnosis.sink_error(&format!("Kafka: {what} of `{name}`"), error)
            }
            _ => SinkError::Transient(text),
        };
        Failed { error, broken: !inner.txn_requires_abort() }
    }
}

/// Whether somebody else has the name.
fn fenced(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced | RDKafkaErrorCode::InvalidProducerEpoch)
}

/// What the cluster will say again.
fn lasting(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::InvalidTransactionTimeout
            | RDKafkaErrorCode::UnsupportedFeature
            | RDKafkaErrorCode::UnsupportedVersion
            | RDKafkaErrorCode::NotConfigured
    )
}
