//! A filter: a pattern over topics, parsed once.

use std::fmt;

use crate::Topic;

/// A pattern over topics: `*` is one token, `>` is the rest (one token or more), `#` is zero or more tokens anywhere; every
/// other token is a literal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter {
    text: String,
}

/// Why some text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No text at all.
    #[error("a filter must not be empty")]
    Empty,
}

impl Filter {
    /// Parses a filter.
    ///
    /// # Errors
    /// [`FilterError`] says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        Ok(Self { text: text.to_owned() })
    }

    /// The filter as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the topic is one that this filter asks for.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        self.text == topic.as_str()
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({})", self.text)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
