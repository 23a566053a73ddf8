//! Events as tests see them: what is produced, and what arrived. Every one has a number, which is how it is found again.

use std::fmt;

/// Header with the number of an event; where a client cannot vary headers, the payload is the number.
pub const NUMBER: &str = "n";

/// An event as an ordinary client produces or reads it, without anything that Longhaul adds.
#[derive(Clone, PartialEq, Eq)]
pub struct Sample {
    /// Where it is produced to, or was read from.
    pub topic: String,
    /// What orders it.
    pub key: Option<Vec<u8>>,
    /// In order, with repeats.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body.
    pub payload: Vec<u8>,
}

impl Sample {
    /// A small event with a key and nothing odd.
    #[must_use]
    pub fn plain(topic: &str, number: usize, keys: usize, payload_bytes: usize) -> Self {
        let mut payload = format!("event {number} ").into_bytes();
        payload.resize(payload.len().max(payload_bytes), b'.');
        Self {
            topic: topic.to_owned(),
            key: Some(format!("key-{}", number % keys).into_bytes()),
            headers: vec![(NUMBER.to_owned(), number.to_string().into_bytes())],
            payload,
        }
    }

    /// `0..count` of them.
    #[must_use]
    pub fn plain_many(topic: &str, count: usize, keys: usize, payload_bytes: usize) -> Vec<Self> {
        (0..count).map(|number| Self::plain(topic, number, keys, payload_bytes)).collect()
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> Option<usize> {
        let header = self.headers.iter().find(|(name, _)| name == NUMBER).map(|(_, value)| &value[..]);
        std::str::from_utf8(header.unwrap_or(&self.payload)).ok()?.trim().parse().ok()
    }
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.as_deref().map(short);
        write!(f, "{} key {key:?} payload {} headers [", self.topic, short(&self.payload))?;
        for (name, value) in &self.headers {
            write!(f, "{name}={} ", short(value))?;
        }
        f.write_str("]")
    }
}

/// The beginning of some bytes, and how many there are.
fn short(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=40 => bytes.escape_ascii().to_string(),
        len => format!("{}.. ({len} bytes)", bytes[..40].escape_ascii()),
    }
}

/// An event that came out at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// The event, without Longhaul's own headers.
    pub event: Sample,
    /// The identity that Longhaul gave it.
    pub id: Option<String>,
}

impl Arrived {
    /// The value of its first header of that name, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.event.headers.iter().find(|(found, _)| found == name);
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    }
}
