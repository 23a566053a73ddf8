//! A filter: a pattern over topics, parsed once.
//!
//! ```text
//! filter = token ("." token)*      token = "*" | "#" | ">" (last only) | literal
//! ```
//! A literal token may be empty, since a Kafka topic may be `a..b`; the filter as a whole may not. A token that merely contains
//! a wildcard character (`a*`) is a literal. It refuses more than [`FILTER_BYTES_MAX`] bytes or [`FILTER_TOKENS_MAX`] tokens.

use std::fmt;

use crate::Topic;
use crate::pattern;

/// Longest filter in bytes.
pub const FILTER_BYTES_MAX: usize = 1024;
/// Most tokens that a filter may have.
pub const FILTER_TOKENS_MAX: usize = 32;

/// A pattern over topics: `*` is one token, `>` is the rest (one token or more), `#` is zero or more tokens anywhere; every
/// other token is a literal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter {
    text: String,
}

/// One token of a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FilterToken<'a> {
    /// That token, which may be empty.
    Literal(&'a str),
    /// `*`: any one token.
    One,
    /// `>`: one token or more, up to the end.
    Rest,
    /// `#`: zero tokens or more.
    Many,
}

/// Why some text is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No text at all.
    #[error("a filter must not be empty (`#` takes every topic)")]
    Empty,
    /// Longer than [`FILTER_BYTES_MAX`].
    #[error("a filter has at most {FILTER_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// More tokens than [`FILTER_TOKENS_MAX`].
    #[error("a filter has at most {FILTER_TOKENS_MAX} tokens, this one has {0}")]
    TooManyTokens(usize),
    /// A `>` with something behind it.
    #[error("`>` takes the rest of a topic, so nothing may follow it (`*` takes one token, `#` any number)")]
    RestNotLast,
}

impl Filter {
    /// Parses a filter.
    ///
    /// # Errors
    /// [`FilterError`] says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.is_empty() {
            return Err(FilterError::Empty);
        }
        if text.len() > FILTER_BYTES_MAX {
            return Err(FilterError::TooLong(text.len()));
        }
        let count = text.split('.').count();
        if count > FILTER_TOKENS_MAX {
            return Err(FilterError::TooManyTokens(count));
        }
        if text.split('.').take(count - 1).any(|token| token == ">") {
            return Err(FilterError::RestNotLast);
        }
        Ok(Self { text: text.to_owned() })
    }

    /// The filter as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its tokens in order, at least one.
    pub fn tokens(&self) -> impl Iterator<Item = FilterToken<'_>> + Clone {
        self.text.split('.').map(|token| match token {
            "*" => FilterToken::One,
            ">" => FilterToken::Rest,
            "#" => FilterToken::Many,
            literal => FilterToken::Literal(literal),
        })
    }

    /// Whether the topic is one that this filter asks for.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        pattern::matches(self.text.as_bytes(), topic.bytes())
    }

    /// [`matches`](Self::matches) for a topic that is only text, as a broker's client lists it.
    #[must_use]
    pub fn matches_text(&self, topic: &str) -> bool {
        pattern::matches(self.text.as_bytes(), topic.as_bytes())
    }

    /// Whether it has no wildcard, so that it takes exactly the topic of the same text.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.tokens().all(|token| matches!(token, FilterToken::Literal(_)))
    }

    /// The literal tokens before the first wildcard, without a dot behind them. Every topic that the filter takes begins with this
    /// text; it is the whole filter when [`is_literal`](Self::is_literal).
    #[must_use]
    pub fn literal_prefix(&self) -> &str {
        let mut end = 0_usize;
        for token in self.text.split('.') {
            if matches!(token, "*" | ">" | "#") {
                return &self.text[..end.saturating_sub(1)];
            }
            end += token.len() + 1;
        }
        &self.text
    }
}

/// Whether at least one of the filters takes the topic: how a source of topics with names (Kafka) chooses what to read.
#[must_use]
pub fn any_matches(filters: &[Filter], topic: &str) -> bool {
    filters.iter().any(|filter| filter.matches_text(topic))
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

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{any_filter_text, any_topic_text, naive_matches};

    fn takes(filter: &str, topic: &str) -> bool {
        Filter::parse(filter).unwrap().matches(&Topic::parse(topic).unwrap())
    }

    #[test]
    fn each_wildcard_takes_what_it_says() {
        for (filter, yes, no) in [
            ("a.b", &["a.b"][..], &["a", "a.b.c", "a.", "A.b"][..]),
            ("a.*", &["a.b", "a."], &["a", "a.b.c"]),
            ("a.>", &["a.b", "a.b.c", "a."], &["a", "b.a", ""]),
            ("a.#", &["a", "a.b", "a.b.c"], &["", "ab"]),
            ("#", &["", "a", "a.b", ".."], &[]),
            (">", &["a", "a.b", "."], &[""]),
            ("*", &["a"], &["", "a.b"]),
            ("#.z", &["z", "a.z", "z.z", "a.b.z"], &["", "z.a"]),
            ("a.#.z", &["a.z", "a.b.z", "a.z.z"], &["a", "z", "a.z.b"]),
            ("#.m.#", &["m", "a.m", "m.a", "a.m.b.m"], &["", "a.b"]),
            ("a..b", &["a..b"], &["a.b", "a.x.b"]),
            ("a.*.b", &["a..b", "a.x.b"], &["a.b"]),
            ("a*", &["a*"], &["ab", "a"]),
            ("#.>", &["a", "a.b"], &[""]),
        ] {
            for topic in yes {
                assert!(takes(filter, topic), "{filter} must take {topic:?}");
            }
            for topic in no {
                assert!(!takes(filter, topic), "{filter} must not take {topic:?}");
            }
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_with_its_reason() {
        assert_eq!(Filter::parse(""), Err(FilterError::Empty));
        assert_eq!(Filter::parse("a.>.b"), Err(FilterError::RestNotLast));
        assert_eq!(Filter::parse(">.>"), Err(FilterError::RestNotLast));
        let tokens = |count: usize| vec!["*"; count].join(".");
        assert!(Filter::parse(&tokens(FILTER_TOKENS_MAX)).is_ok());
        assert_eq!(Filter::parse(&tokens(FILTER_TOKENS_MAX + 1)), Err(FilterError::TooManyTokens(33)));
        assert!(Filter::parse(&"x".repeat(FILTER_BYTES_MAX)).is_ok());
        assert_eq!(Filter::parse(&"x".repeat(FILTER_BYTES_MAX + 1)), Err(FilterError::TooLong(1025)));
    }

    #[test]
    fn the_literal_prefix_ends_before_the_first_wildcard() {
        for (filter, prefix) in
            [("a.b.>", "a.b"), ("a.b", "a.b"), ("#.a", ""), ("a.*.c", "a"), ("..>", "."), ("a.", "a.")]
        {
            assert_eq!(Filter::parse(filter).unwrap().literal_prefix(), prefix, "{filter}");
        }
    }

    #[test]
    fn a_list_of_filters_takes_what_one_of_them_takes() {
        let filters = ["orders.>", "stock"].map(|text| Filter::parse(text).unwrap());
        assert!(any_matches(&filters, "stock") && any_matches(&filters, "orders.eu"));
        assert!(!any_matches(&filters, "orders") && !any_matches(&[], "stock"));
    }

    proptest! {
        #[test]
        fn matching_agrees_with_the_naive_matcher(filter in any_filter_text(), topic in any_topic_text()) {
            prop_assert_eq!(takes(&filter, &topic), naive_matches(&filter, &topic));
        }

        #[test]
        fn every_match_begins_with_the_literal_prefix(filter in any_filter_text(), topic in any_topic_text()) {
            let filter = Filter::parse(&filter).unwrap();
            if filter.matches_text(&topic) {
                prop_assert!(topic.starts_with(filter.literal_prefix()));
                prop_assert!(!filter.is_literal() || topic == filter.as_str());
            }
        }

        #[test]
        fn parsing_any_text_ends_in_a_filter_or_a_reason(text in ".{0,64}") {
            if let Ok(filter) = Filter::parse(&text) {
                prop_assert_eq!(filter.as_str(), &text);
            }
        }
    }
}
