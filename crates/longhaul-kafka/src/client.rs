//! What librdkafka says about itself: the last reason of a failure, in words, and the contexts that collect it.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use longhaul_broker::{SinkError, SourceError};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use tracing::debug;

use crate::life::Heard;

/// The last failure that any client of a cluster reported, until one succeeds.
#[derive(Debug, Default)]
pub(crate) struct Diagnosis(Mutex<Option<Failure>>);

#[derive(Debug, Clone)]
struct Failure {
    reason: String,
    lasting: bool,
}

impl Diagnosis {
    fn note(&self, error: &KafkaError, reason: &str) {
        debug!(target: "librdkafka", %error, reason, "a Kafka client reports");
        let code = error.rdkafka_error_code();
        // Which of the brokers are down says less than why one of them is.
        if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            return;
        }
        let lasting = code.is_some_and(refused_login);
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A lost connection follows on a refused login and must not cover it up.
        if lasting || !slot.as_ref().is_some_and(|failure| failure.lasting) {
            *slot = Some(Failure { reason: reason.to_owned(), lasting });
        }
    }

    /// Forgets: a client has just succeeded.
    pub(crate) fn clear(&self) {
        self.take();
    }

    fn take(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn last(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The error, and the reason that was reported meanwhile.
    pub(crate) fn explain(&self, error: &KafkaError) -> String {
        match self.last() {
            Some(failure) => failure.reason,
            None => error.to_string(),
        }
    }

    /// As the error of a source: lasting when the login is refused.
    pub(crate) fn source_error(&self, what: &str, error: &KafkaError) -> SourceError {
        let text = format!("{what}: {}", self.explain(error));
        if self.is_lasting(error) { SourceError::Config(text) } else { SourceError::Transient(text) }
    }

    /// As the error of a sink: lasting when the login is refused.
    pub(crate) fn sink_error(&self, what: &str, error: &KafkaError) -> SinkError {
        let text = format!("{what}: {}", self.explain(error));
        if self.is_lasting(error) { SinkError::Config(text) } else { SinkError::Transient(text) }
    }

    fn is_lasting(&self, error: &KafkaError) -> bool {
        error.rdkafka_error_code().is_some_and(|code| refused_login(code) || forbidden(code))
            || self.last().is_some_and(|failure| failure.lasting)
    }
}

fn refused_login(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::Authentication
            | RDKafkaErrorCode::SaslAuthenticationFailed
            | RDKafkaErrorCode::UnsupportedSASLMechanism
    )
}

/// Whether the broker knows us and says no.
pub(crate) fn forbidden(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::TransactionalIdAuthorizationFailed
    )
}

/// Whether the broker does not know the topic or partition.
pub(crate) fn unknown_topic(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownPartition
    )
}

/// The context of every client that is neither a producer nor the member of the group.
pub(crate) struct Events {
    diagnosis: Arc<Diagnosis>,
    /// The newest statistics, until the consumer's own thread takes them.
    statistics: Mutex<Option<Statistics>>,
    /// What it said about topics.
    pub(crate) heard: Heard,
}

impl Events {
    pub(crate) fn new(diagnosis: Arc<Diagnosis>) -> Self {
        Self { diagnosis, statistics: Mutex::new(None), heard: Heard::default() }
    }

    /// The newest statistics that nobody took yet.
    pub(crate) fn take_statistics(&self) -> Option<Statistics> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Events {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.heard.hear(fac, message);
        log_line(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.diagnosis.note(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        *self.statistics.lock().unwrap_or_else(PoisonError::into_inner) = Some(statistics);
    }
}

impl ConsumerContext for Events {}

/// A line of librdkafka. What matters to an operator shows in health and in errors of flows; these lines repeat it many times.
pub(crate) fn log_line(level: RDKafkaLogLevel, fac: &str, message: &str) {
    debug!(target: "librdkafka", ?level, fac, "{message}");
}

/// Notes what a client with a context of its own reports.
pub(crate) fn note(diagnosis: &Diagnosis, error: &KafkaError, reason: &str) {
    diagnosis.note(error, reason);
}

/// A client whose destruction waits for threads and connections: it is destroyed on a thread of its own, never on the runtime.
pub(crate) struct Offloaded<T: Send + 'static>(Option<T>);

impl<T: Send> Offloaded<T> {
    pub(crate) fn new(client: T) -> Self {
        Self(Some(client))
    }
}

impl<T: Send> Deref for Offloaded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().expect("the client is there until it is dropped")
    }
}

impl<T: Send> Drop for Offloaded<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        // Without a thread to be had, it is destroyed here: late is better than leaked.
        let _ = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || drop(client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_is_not_covered_up_by_what_follows() {
        let diagnosis = Diagnosis::default();
        let lost = KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure);
        diagnosis.note(&lost, "connection refused");
        assert!(matches!(diagnosis.source_error("offsets", &lost), SourceError::Transient(_)));
        diagnosis.note(&KafkaError::Global(RDKafkaErrorCode::Authentication), "wrong password");
        diagnosis.note(&lost, "disconnected");
        diagnosis.note(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        match diagnosis.source_error("offsets", &lost) {
            SourceError::Config(text) => assert_eq!(text, "offsets: wrong password"),
            other => panic!("{other:?}"),
        }
        diagnosis.clear();
        assert!(matches!(diagnosis.sink_error("offsets", &lost), SinkError::Transient(_)));
    }
}
