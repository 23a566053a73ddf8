//! Which stream would take a subject, as far as that was listed when a flow was opened. Pure.
//!
//! It only spares mistakes that cannot be undone: what it does not know is tried with one message alone, and the server decides.

use std::collections::HashMap;

use longhaul_topic::Topic;

use crate::api::StreamConfig;
use crate::subject;

/// Topics that are remembered at most; beyond, all are forgotten and looked up again.
const KNOWN_MAX: usize = 4096;

/// The streams of an account.
#[derive(Debug)]
pub(crate) struct Catalog {
    streams: Vec<StreamConfig>,
    /// Largest message for a topic that some stream takes; `None` when it sets no limit.
    known: HashMap<Topic, Option<usize>>,
    /// Which of the streams takes a topic.
    placed: HashMap<Topic, usize>,
}

/// What is known about the stream for a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// A stream takes it, up to that many bytes.
    Yes(Option<usize>),
    /// No stream that we know.
    Unknown,
}

impl Catalog {
    /// A catalog of these streams.
    pub(crate) fn new(streams: Vec<StreamConfig>) -> Self {
        Self { streams, known: HashMap::new(), placed: HashMap::new() }
    }

    /// What stream takes the topic.
    pub(crate) fn held(&mut self, topic: &Topic) -> Held {
        if let Some(max) = self.known.get(topic) {
            return Held::Yes(*max);
        }
        let takes = |stream: &&StreamConfig| stream.subjects.iter().any(|held| subject::covers(held, topic.as_str()));
        let Some(stream) = self.streams.iter().find(takes) else { return Held::Unknown };
        let max = usize::try_from(stream.max_msg_size).ok().filter(|max| *max > 0);
        self.learn(topic.clone(), max);
        Held::Yes(max)
    }

    /// All that were listed.
    pub(crate) fn streams(&self) -> &[StreamConfig] {
        &self.streams
    }

    /// Number of the stream that takes the topic, if it was listed.
    pub(crate) fn place(&mut self, topic: &Topic) -> Option<usize> {
        if let Some(at) = self.placed.get(topic) {
            return Some(*at);
        }
        let takes = |stream: &StreamConfig| stream.subjects.iter().any(|held| subject::covers(held, topic.as_str()));
        let at = self.streams.iter().position(takes)?;
        if self.placed.len() >= KNOWN_MAX {
            self.placed.clear();
        }
        self.placed.insert(topic.clone(), at);
        Some(at)
    }

    /// A stream took a message of that topic.
    pub(crate) fn took(&mut self, topic: Topic) {
        self.learn(topic, None);
    }

    fn learn(&mut self, topic: Topic, max: Option<usize>) {
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(topic, max);
    }
}

/// A name and subjects for a stream that takes a topic and all that begin alike.
pub(crate) fn stream_for(topic: &Topic) -> (String, [String; 2]) {
    let first = topic.tokens().next().unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    let name: String = first.chars().take(64).map(safe).collect();
    (format!("longhaul_{name}"), [first.to_owned(), format!("{first}.>")])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::parse(text).unwrap()
    }

    #[test]
    fn the_stream_of_a_topic_is_known_or_learned() {
        let stream = |subjects: &[&str], max_msg_size| StreamConfig {
            name: "S".to_owned(),
            subjects: subjects.iter().map(|&subject| subject.to_owned()).collect(),
            max_msg_size,
            ..StreamConfig::default()
        };
        let mut catalog = Catalog::new(vec![stream(&["a.>"], 100), stream(&["b.*"], -1)]);
        assert_eq!(catalog.held(&topic("a.x.y")), Held::Yes(Some(100)));
        assert_eq!(catalog.held(&topic("b.x")), Held::Yes(None));
        assert_eq!(catalog.held(&topic("b.x.y")), Held::Unknown);
        catalog.took(topic("b.x.y"));
        assert_eq!(catalog.held(&topic("b.x.y")), Held::Yes(None));
    }

    #[test]
    fn a_stream_is_named_by_what_it_takes() {
        let (name, subjects) = stream_for(&topic("or ders.eu"));
        assert_eq!((name.as_str(), subjects), ("longhaul_or_ders", ["or ders".to_owned(), "or ders.>".to_owned()]));
    }
}
