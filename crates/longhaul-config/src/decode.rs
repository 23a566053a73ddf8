//! From the tree of a document to raw structs, without stopping at an error.
//!
//! A `serde::Deserializer` that reports and goes on: unknown and duplicate keys are reported and left out, missing keys are
//! reported and stand as empty [`Field`](crate::field::Field)s, and a wrong value empties only the field that it stands in.
//! No message quotes a value, which might be a secret; where one of a few words is expected, what is written in the masked text
//! of the document.

use std::fmt;

use longhaul_topology::{nearest, suggest_name};
use serde::de::value::{BoolDeserializer, StrDeserializer, UsizeDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

use crate::compile::Context;
use crate::field::{AMOUNT, FIELD};
use crate::later;
use crate::report::{Report, Span};
use crate::yaml::{Key, Node, Value};

/// Reads a raw struct from a tree. `None` when the root itself is of a wrong type.
pub(crate) fn decode<'a, T: de::Deserialize<'a>>(root: &'a Node, cx: Context<'a>) -> Option<T> {
    T::deserialize(Decoder { node: root, cx }).ok()
}

/// Reads one node.
#[derive(Clone, Copy)]
struct Decoder<'a> {
    node: &'a Node,
    cx: Context<'a>,
}

/// An error on its way to the decoder that knows its place; `None` once it is reported.
#[derive(Debug)]
pub(crate) struct Fault(Option<String>);

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_deref().unwrap_or("already reported"))
    }
}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Some(message.to_string()))
    }

    // The default quotes what it found, which may be a secret.
    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(Some(format!("expected {expected}")))
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(Some(format!("expected {expected}")))
    }
}

impl<'a> Decoder<'a> {
    fn refuse<V>(&self, report: Report) -> Result<V, Fault> {
        self.cx.report(report);
        Err(Fault(None))
    }

    fn wrong<V>(&self, expected: &str) -> Result<V, Fault> {
        let found = match &self.node.value {
            Value::Wrong => return Err(Fault(None)),
            Value::Null => "nothing",
            Value::Bool(_) => "`true` or `false`",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "keys with values",
        };
        let report =
            Report::new(self.node.span, format!("expected {expected}"), format!("expected {expected}, found {found}"));
        self.refuse(match (&self.node.value, expected) {
            (Value::Number(_) | Value::Bool(_), "text") => report.help("put it in quotes to make it text"),
            (Value::Text(_), "a list") => report.help("put it in brackets: `[..]`"),
            _ => report,
        })
    }

    /// Reports an error that a visitor raised, with the place of this node.
    fn settle<V>(&self, result: Result<V, Fault>) -> Result<V, Fault> {
        result.or_else(|fault| match fault.0 {
            Some(message) => self.refuse(Report::new(self.node.span, "here", message)),
            None => Err(fault),
        })
    }

    fn unsigned(&self, max: u64) -> Result<u64, Fault> {
        let (Value::Number(text) | Value::Text(text)) = &self.node.value else {
            return self.wrong("a whole number");
        };
        // Text is taken as well: `${env:NAME}` gives text.
        match text.parse::<u64>() {
            Ok(number) if number <= max => Ok(number),
            _ => {
                let expected = format!("a whole number from 0 to {max}");
                self.refuse(Report::new(
                    self.node.span,
                    format!("expected {expected}"),
                    format!("this is not {expected}"),
                ))
            }
        }
    }

    /// The entries whose key is new; the others are reported.
    fn unique(&self, entries: &'a [(Key, Node)]) -> Vec<(&'a Key, &'a Node)> {
        let mut seen: std::collections::BTreeMap<&str, Span> = std::collections::BTreeMap::new();
        let mut kept = Vec::new();
        for (key, value) in entries {
            if let Some(first) = seen.get(key.name.as_str()) {
                let message = format!("the key `{}` is given twice", key.name);
                self.cx.report(Report::new(key.span, "second time", message).with(*first, "first time"));
            } else {
                seen.insert(&key.name, key.span);
                kept.push((key, value));
            }
        }
        kept
    }

    fn unknown_key(&self, what: &str, key: &Key, fields: &[&str]) {
        let report = match later::key(what, &key.name) {
            Some(sentence) => Report::new(key.span, "not available yet", sentence),
            None => Report::new(key.span, "unknown key", format!("this {what} has no key `{}`", key.name))
                .help(suggest_name(&key.name, fields.iter().copied(), "its keys are")),
        };
        self.cx.report(report);
    }
}

macro_rules! unsigned {
    ($($method:ident $visit:ident $kind:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let number = self.unsigned(<$kind>::MAX.into())?;
            self.settle(visitor.visit_u64(number))
        }
    )*};
}

impl<'de> Deserializer<'de> for Decoder<'de> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        self.wrong("something else")
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let value = match &self.node.value {
            Value::Bool(value) => *value,
            Value::Text(text) if text == "true" => true,
            Value::Text(text) if text == "false" => false,
            _ => return self.wrong("`true` or `false`"),
        };
        self.settle(visitor.visit_bool(value))
    }

    unsigned!(deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64);

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Text(text) => self.settle(visitor.visit_str(text)),
            _ => self.wrong("text"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        match (name, &self.node.value) {
            (FIELD, _) => {
                let reported = self.cx.reports.len();
                visitor.visit_seq(FieldParts { span: self.node.span, at: 0, decoder: Some(self), reported })
            }
            (AMOUNT, Value::Text(text) | Value::Number(text)) => self.settle(visitor.visit_str(text)),
            (AMOUNT, Value::Bool(value)) => self.settle(visitor.visit_str(if *value { "true" } else { "false" })),
            (AMOUNT, _) => self.wrong("a number with a unit"),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::List(items) => {
                let items = items.iter();
                let result = visitor.visit_seq(Items { items, cx: self.cx });
                self.settle(result)
            }
            _ => self.wrong("a list"),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Value::Map(entries) = &self.node.value else { return self.wrong("keys with values") };
        let present = self.unique(entries);
        self.settle(visitor.visit_map(Fields {
            owner: self,
            present,
            absent: Vec::new(),
            suspected: Vec::new(),
            what: "",
            pending: None,
        }))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        what: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Map(entries) = &self.node.value else { return self.wrong("keys with values") };
        let (present, unknown): (Vec<_>, Vec<_>) =
            self.unique(entries).into_iter().partition(|(key, _)| fields.contains(&key.name.as_str()));
        for (key, _) in &unknown {
            self.unknown_key(what, key, fields);
        }
        let suspected = unknown.iter().filter_map(|(key, _)| nearest(&key.name, fields.iter().copied())).collect();
        let absent =
            fields.iter().filter(|field| !present.iter().any(|(key, _)| key.name == **field)).copied().collect();
        self.settle(visitor.visit_map(Fields { owner: self, present, absent, suspected, what, pending: None }))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        what: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Text(word) = &self.node.value else { return self.wrong("a word") };
        if !variants.contains(&word.as_str()) {
            let message = format!("`{}` is no {what}", self.cx.written(self.node.span));
            let report = Report::new(self.node.span, format!("not a {what}"), message);
            return self.refuse(report.help(suggest_name(word, variants.iter().copied(), "expected is one of")));
        }
        let word: StrDeserializer<'_, Fault> = word.as_str().into_deserializer();
        self.settle(visitor.visit_enum(word))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// Start, end, value and maimed, as a [`Field`](crate::field::Field) takes them. Without a decoder there is no value.
struct FieldParts<'a> {
    span: Span,
    at: usize,
    decoder: Option<Decoder<'a>>,
    /// How much had been reported before.
    reported: usize,
}

impl<'de> SeqAccess<'de> for FieldParts<'de> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.at += 1;
        let number = |number: usize| -> UsizeDeserializer<Fault> { number.into_deserializer() };
        match (self.at, self.decoder) {
            (1, _) => seed.deserialize(number(self.span.start)).map(Some),
            (2, _) => seed.deserialize(number(self.span.end)).map(Some),
            (3, Some(decoder)) => seed.deserialize(decoder).map(Some),
            (3, None) => Ok(None),
            (_, decoder) => {
                let maimed = decoder.is_none_or(|decoder| decoder.cx.reports.len() > self.reported);
                let maimed: BoolDeserializer<Fault> = maimed.into_deserializer();
                seed.deserialize(maimed).map(Some)
            }
        }
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Node>,
    cx: Context<'a>,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.items.next().map(|node| seed.deserialize(Decoder { node, cx: self.cx })).transpose()
    }
}

/// The keys of a mapping that are there, then those that are not.
struct Fields<'a> {
    owner: Decoder<'a>,
    present: Vec<(&'a Key, &'a Node)>,
    absent: Vec<&'static str>,
    /// Those of the absent that an unknown key was probably meant to be.
    suspected: Vec<&'static str>,
    what: &'static str,
    pending: Option<Pending<'a>>,
}

enum Pending<'a> {
    Present(&'a Node),
    Absent(&'static str),
}

impl<'de> MapAccess<'de> for Fields<'de> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        if !self.present.is_empty() {
            let (key, value) = self.present.remove(0);
            self.pending = Some(Pending::Present(value));
            return seed.deserialize(KeyName { name: &key.name, span: key.span }).map(Some);
        }
        let Some(name) = self.absent.pop() else { return Ok(None) };
        self.pending = Some(Pending::Absent(name));
        seed.deserialize(KeyName { name, span: Span::default() }).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let cx = self.owner.cx;
        match self.pending.take() {
            Some(Pending::Present(node)) => seed.deserialize(Decoder { node, cx }),
            Some(Pending::Absent(name)) => {
                let suspected = self.suspected.contains(&name);
                seed.deserialize(Absent { name, what: self.what, span: self.owner.node.span, suspected, cx })
            }
            None => Err(Fault(Some("a value before its key".to_owned()))),
        }
    }
}

/// A key, as the name of a field or as a [`Field`](crate::field::Field) of text.
struct KeyName<'a> {
    name: &'a str,
    span: Span,
}

impl<'de> Deserializer<'de> for KeyName<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_str(self.name)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(KeyParts { key: self, at: 0 })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

struct KeyParts<'a> {
    key: KeyName<'a>,
    at: usize,
}

impl<'de> SeqAccess<'de> for KeyParts<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        self.at += 1;
        let number = |number: usize| -> UsizeDeserializer<Fault> { number.into_deserializer() };
        match self.at {
            1 => seed.deserialize(number(self.key.span.start)).map(Some),
            2 => seed.deserialize(number(self.key.span.end)).map(Some),
            3 => seed.deserialize(KeyName { name: self.key.name, span: self.key.span }).map(Some),
            _ => Ok(None),
        }
    }
}

/// A key that is not there: nothing for an option, a report for a field.
struct Absent<'a> {
    name: &'static str,
    what: &'static str,
    span: Span,
    suspected: bool,
    cx: Context<'a>,
}

impl<'de> Deserializer<'de> for Absent<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Fault> {
        Err(Fault(Some(format!("`{}` is missing", self.name))))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_none()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        let message = format!("this {} has no `{}`, which it needs", self.what, self.name);
        // An unknown key that is nearly this one has been reported with the suggestion.
        if !self.suspected {
            self.cx.report(Report::new(self.span, format!("`{}` is missing", self.name), message));
        }
        visitor.visit_seq(FieldParts { span: self.span, at: 0, decoder: None, reported: 0 })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}
