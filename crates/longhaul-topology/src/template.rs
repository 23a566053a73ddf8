//! Topic templates: `eu.{topic}`, `{topic[1]}`, `{topic[2..]}`, `{region}`, `{broker}`, `{key}`, `{header.name}`.
//!
//! Parsed once; a text with a placeholder that nobody fills is refused here, never at the first event. There is no escape for
//! braces: no broker's topic names need them. Rendering is the router's business.

use std::fmt;

use longhaul_topic::TOPIC_BYTES_MAX;

use crate::nearest;

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

/// What a misspelt placeholder is compared with.
const KNOWN: [&str; 7] = ["topic", "topic[0]", "topic[0..]", "region", "broker", "key", "header.NAME"];

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateError`] names the placeholder that is not known or not closed.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.is_empty() {
            return Err(error("a topic template must not be empty; `{topic}` keeps every topic as it is"));
        }
        if text.len() > TOPIC_BYTES_MAX {
            return Err(error(format!(
                "a topic template has at most {TOPIC_BYTES_MAX} bytes, this one has {}",
                text.len()
            )));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (literal, from_brace) = rest.split_at(open);
            push_literal(&mut parts, literal);
            let Some(inside) = from_brace.strip_prefix('{') else {
                return Err(error(format!("`}}` without a `{{` before it, after `{literal}`")));
            };
            let close = inside.find(['}', '{']).filter(|at| inside.as_bytes()[*at] == b'}');
            let Some(close) = close else {
                return Err(error(format!("the placeholder `{{{inside}` is not closed by a `}}`")));
            };
            parts.push(placeholder(&inside[..close])?);
            rest = &inside[close + 1..];
        }
        push_literal(&mut parts, rest);
        Ok(Self { text: text.to_owned(), parts })
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

fn push_literal(parts: &mut Vec<Part>, text: &str) {
    if !text.is_empty() {
        parts.push(Part::Literal(text.to_owned()));
    }
}

fn placeholder(name: &str) -> Result<Part, TemplateError> {
    match name {
        "topic" => return Ok(Part::Topic),
        "region" => return Ok(Part::Region),
        "broker" => return Ok(Part::Broker),
        "key" => return Ok(Part::Key),
        _ => {}
    }
    if let Some(header) = name.strip_prefix("header.") {
        return if header.is_empty() || header.chars().any(char::is_whitespace) {
            Err(error(format!("`{{{name}}}` does not name a header: write `{{header.NAME}}`")))
        } else {
            Ok(Part::Header(header.to_owned()))
        };
    }
    if let Some(index) = name.strip_prefix("topic[").and_then(|rest| rest.strip_suffix(']')) {
        return token(name, index);
    }
    let hint = match nearest(name, KNOWN) {
        Some(near) => format!("did you mean `{{{near}}}`?"),
        None => {
            "known are `{topic}`, `{topic[1]}`, `{topic[2..]}`, `{region}`, `{broker}`, `{key}` and `{header.NAME}`"
                .to_owned()
        }
    };
    Err(error(format!("no placeholder is called `{{{name}}}`: {hint}")))
}

/// `N` or `N..`, the inside of the brackets of `{topic[..]}`.
fn token(name: &str, index: &str) -> Result<Part, TemplateError> {
    let (digits, open_ended) = match index.strip_suffix("..") {
        Some(digits) => (digits, true),
        None => (index, false),
    };
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse::<usize>().ok().filter(|at| plain && *at < TOPIC_BYTES_MAX) {
        Some(at) if open_ended => Ok(Part::TokensFrom(at)),
        Some(at) => Ok(Part::Token(at)),
        None => Err(error(format!(
            "`{{{name}}}` does not say which token: write `{{topic[1]}}` for one, counted from 0, or `{{topic[1..]}}` for all from there on"
        ))),
    }
}

fn error(text: impl Into<String>) -> TemplateError {
    TemplateError(text.into())
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse_error(text: &str) -> String {
        Template::parse(text).expect_err(text).0
    }

    #[test]
    fn knows_every_placeholder() {
        let template =
            Template::parse("eu.{topic}-{topic[1]}.{topic[12..]}.{region}{broker}.{key}.{header.x-tenant}").unwrap();
        let literal = |text: &str| Part::Literal(text.to_owned());
        let expected = [
            literal("eu."),
            Part::Topic,
            literal("-"),
            Part::Token(1),
            literal("."),
            Part::TokensFrom(12),
            literal("."),
            Part::Region,
            Part::Broker,
            literal("."),
            Part::Key,
            literal("."),
            Part::Header("x-tenant".to_owned()),
        ];
        assert_eq!(template.parts(), expected);
        assert!(!template.is_identity());
        assert_eq!(Template::parse("{topic}").unwrap(), Template::identity());
    }

    #[test]
    fn says_what_is_wrong() {
        assert_eq!(parse_error("{topc}"), "no placeholder is called `{topc}`: did you mean `{topic}`?");
        assert!(parse_error("a.{whatever}").contains("known are `{topic}`"));
        assert_eq!(parse_error("a.{topic"), "the placeholder `{topic` is not closed by a `}`");
        assert_eq!(parse_error("{to{pic}"), "the placeholder `{to{pic}` is not closed by a `}`");
        assert_eq!(parse_error("a}b"), "`}` without a `{` before it, after `a`");
        assert!(parse_error("{topic[x]}").contains("counted from 0"));
        assert!(parse_error("{topic[]}").contains("counted from 0"));
        assert!(parse_error("{topic[+1]}").contains("counted from 0"));
        assert!(parse_error("{topic[99999999999999999999]}").contains("counted from 0"));
        assert!(parse_error("{header.}").contains("does not name a header"));
        assert!(parse_error("").contains("must not be empty"));
        assert!(Template::parse(&"x".repeat(TOPIC_BYTES_MAX)).is_ok());
        assert!(parse_error(&"x".repeat(TOPIC_BYTES_MAX + 1)).contains("at most 1024 bytes"));
    }

    fn part() -> impl Strategy<Value = Part> {
        prop_oneof![
            "[a-z.-]{1,6}".prop_map(Part::Literal),
            Just(Part::Topic),
            (0usize..1024).prop_map(Part::Token),
            (0usize..1024).prop_map(Part::TokensFrom),
            Just(Part::Region),
            Just(Part::Broker),
            Just(Part::Key),
            "[a-z-]{1,6}".prop_map(Part::Header),
        ]
    }

    fn write(part: &Part) -> String {
        match part {
            Part::Literal(text) => text.clone(),
            Part::Topic => "{topic}".to_owned(),
            Part::Token(at) => format!("{{topic[{at}]}}"),
            Part::TokensFrom(at) => format!("{{topic[{at}..]}}"),
            Part::Region => "{region}".to_owned(),
            Part::Broker => "{broker}".to_owned(),
            Part::Key => "{key}".to_owned(),
            Part::Header(name) => format!("{{header.{name}}}"),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(parts in proptest::collection::vec(part(), 1..8)) {
            let text: String = parts.iter().map(write).collect();
            let template = Template::parse(&text).unwrap();
            prop_assert_eq!(template.to_string(), text.as_str());
            prop_assert_eq!(template.parts().iter().map(write).collect::<String>(), text);
        }

        #[test]
        fn any_text_is_a_template_or_an_error(text in ".{0,40}") {
            if let Ok(template) = Template::parse(&text) {
                prop_assert_eq!(template.parts().iter().map(write).collect::<String>(), text);
            }
        }
    }
}
