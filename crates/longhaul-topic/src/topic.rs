//! A topic: the dotted address of an event. Checked once, then never again.
//!
//! A Kafka topic, an AMQP routing key and a NATS subject all map to it. Tokens are what stands between dots; a token may
//! be empty (Kafka allows `a..b`), and the empty topic has no token at all (a RabbitMQ fanout needs no routing key).
//! What a *destination* accepts is stricter and is its connector's business.

use std::fmt;

use bytes::Bytes;

/// Longest topic in bytes.
pub const TOPIC_BYTES_MAX: usize = 1024;

/// The dotted address of an event: UTF-8, at most [`TOPIC_BYTES_MAX`] bytes. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Topic(Bytes);

/// Why some bytes are no topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Longer than [`TOPIC_BYTES_MAX`].
    #[error("a topic has at most {TOPIC_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("a topic must be valid UTF-8")]
    NotUtf8,
}

impl Topic {
    /// Takes bytes as a topic without copying them.
    ///
    /// # Errors
    /// [`TopicError`] when they are too long or not UTF-8.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, TopicError> {
        if bytes.len() > TOPIC_BYTES_MAX {
            return Err(TopicError::TooLong(bytes.len()));
        }
        std::str::from_utf8(&bytes).map_err(|_| TopicError::NotUtf8)?;
        Ok(Self(bytes))
    }

    /// Copies text into a topic.
    ///
    /// # Errors
    /// [`TopicError::TooLong`].
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        Self::from_bytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// The whole topic as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a topic is checked to be UTF-8 when it is made")
    }

    /// The bytes of the topic, shared.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// What stands between the dots; nothing for the empty topic.
    pub fn tokens(&self) -> impl Iterator<Item = &str> + Clone {
        let text = self.as_str();
        text.split('.').take(if text.is_empty() { 0 } else { usize::MAX })
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.as_str())
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
