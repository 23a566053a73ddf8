//! YAML text to a tree in which every key and value knows where it stands. The only file that knows the YAML library.
//!
//! Bounds: 1 MiB of text, 50,000 nodes, 64 aliases and 50,000 replayed events, 32 levels, one document. Duplicate keys are
//! kept, for [`decode`](crate::decode) to point at both.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Location, Spanned};

use crate::report::{Report, Span};

/// Largest document in bytes.
pub(crate) const DOCUMENT_BYTES_MAX: usize = 1 << 20;
const NODES_MAX: usize = 50_000;
const ALIASES_MAX: usize = 64;
const DEPTH_MAX: usize = 32;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Nothing was written.
    Null,
    /// Something was wrong with it, and has been reported.
    Wrong,
    Bool(bool),
    /// A number as it was written.
    Number(String),
    /// Text, after `${..}` was filled in.
    Text(String),
    List(Vec<Node>),
    /// Keys in order, duplicates kept.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) span: Span,
    pub(crate) name: String,
}

/// Parses one document.
pub(crate) fn parse(text: &str) -> Result<Node, Report> {
    if text.len() > DOCUMENT_BYTES_MAX {
        let message = format!("the document has {} bytes, and at most {DOCUMENT_BYTES_MAX} are read", text.len());
        return Err(Report::new(Span::default(), "too large", message));
    }
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_nodes: NODES_MAX,
            max_events: 4 * NODES_MAX,
            max_aliases: ALIASES_MAX,
            max_anchors: ALIASES_MAX,
            max_depth: DEPTH_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: NODES_MAX },
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        strict_booleans: true,
        emit_comments: false,
        with_snippet: false,
    };
    match serde_saphyr::from_str_with_options::<Node>(text, options) {
        Ok(mut root) => {
            keep_numbers(&mut root, text);
            Ok(root)
        }
        Err(error) => Err(syntax(&error, text)),
    }
}

fn syntax(error: &serde_saphyr::Error, text: &str) -> Report {
    // Errors of the scanner know line and column only.
    let span =
        error.location().map_or_else(Span::default, |location| character(text, location.line(), location.column()));
    let said = error.without_snippet().to_string();
    let first = said.lines().next().unwrap_or_default();
    // The library appends the place, which every diagnostic of ours begins with.
    let message = first.rfind(" at line ").map_or(first, |at| &first[..at]);
    let message = message.strip_prefix("error: ").unwrap_or(message);
    Report::new(span, "the document cannot be read from here on", format!("this is not valid YAML: {message}"))
        .help("what comes after it has not been looked at")
}

/// The character at a line and column, both counted from 1.
fn character(text: &str, line: u64, column: u64) -> Span {
    let at = |count: u64| usize::try_from(count.saturating_sub(1)).unwrap_or(usize::MAX);
    let line_start: usize = text.split_inclusive('\n').take(at(line)).map(str::len).sum();
    let line = text[line_start..].lines().next().unwrap_or_default();
    let (before, len) =
        line.char_indices().nth(at(column)).map_or((line.len(), 0), |(offset, c)| (offset, c.len_utf8()));
    Span { start: line_start + before, end: line_start + before + len }
}

/// Gives numbers back the form in which they were written: `1.10` is not `1.1` to a reader.
fn keep_numbers(node: &mut Node, text: &str) {
    match &mut node.value {
        Value::Number(number) => {
            if let Some(written) = text.get(node.span.start..node.span.end) {
                written.trim().clone_into(number);
            }
        }
        Value::List(items) => items.iter_mut().for_each(|item| keep_numbers(item, text)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| keep_numbers(value, text)),
        _ => {}
    }
}

impl Span {
    fn of(location: &Location) -> Self {
        let start = location.span().byte_offset().unwrap_or(0);
        let len = location.span().byte_len().unwrap_or(0);
        let start = usize::try_from(start).unwrap_or(0);
        Self { start, end: start.saturating_add(usize::try_from(len).unwrap_or(0)) }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { span: Span::of(&spanned.defined), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let key = Key { span: Span::of(&key.defined), name: key.value };
            map.push((key, entries.next_value()?));
        }
        Ok(Value::Map(map))
    }
}
