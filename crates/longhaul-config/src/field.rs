//! A value of a raw document that knows where it stands, and may be missing because it was wrong and has been reported.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::report::Span;

/// A value that must be there. Its absence and every error inside it are reported by the decoder, so that reading goes on:
/// `value` is then `None`.
#[derive(Debug, Clone)]
pub(crate) struct Field<T> {
    pub(crate) span: Span,
    pub(crate) value: Option<T>,
    /// Something inside it was wrong and has been reported: what seems to be missing in it may be there under a wrong key.
    pub(crate) maimed: bool,
}

/// A value that may be left out.
pub(crate) type Maybe<T> = Option<Field<T>>;
/// Values that must be there, each on its own.
pub(crate) type List<T> = Field<Vec<Field<T>>>;
/// Values that may be left out.
pub(crate) type MaybeList<T> = Option<List<T>>;

/// By this name the decoder knows a [`Field`].
pub(crate) const FIELD: &str = "$longhaul::field";
/// By this name the decoder knows an [`Amount`].
pub(crate) const AMOUNT: &str = "$longhaul::amount";

impl<T> Field<T> {
    /// The value and its place, unless it was wrong.
    pub(crate) fn get(&self) -> Option<(&T, Span)> {
        self.value.as_ref().map(|value| (value, self.span))
    }
}

/// The items of a list that can be used.
pub(crate) fn items<T>(list: Option<&List<T>>) -> impl Iterator<Item = (&T, Span)> {
    list.and_then(|list| list.value.as_ref()).into_iter().flatten().filter_map(Field::get)
}

/// Whether something in the list was wrong.
pub(crate) fn damaged<T>(list: Option<&List<T>>) -> bool {
    list.is_some_and(|list| list.value.as_ref().is_none_or(|items| items.iter().any(|item| item.value.is_none())))
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(FIELD, FieldVisitor(PhantomData))
    }
}

struct FieldVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for FieldVisitor<T> {
    type Value = Field<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("start, end, value, and whether something in it was wrong")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Field<T>, A::Error> {
        let start = parts.next_element()?.unwrap_or_default();
        let end = parts.next_element()?.unwrap_or_default();
        // An error in here has been reported where it arose.
        let value = parts.next_element::<T>().ok().flatten();
        let maimed = parts.next_element()?.unwrap_or_default();
        Ok(Field { span: Span { start, end }, value, maimed })
    }
}

/// The entries of a mapping whose keys are names of the user's choice, in document order.
#[derive(Debug, Clone)]
pub(crate) struct Entries<T>(pub(crate) Vec<(Field<String>, Field<T>)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntriesVisitor(PhantomData))
    }
}

struct EntriesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for EntriesVisitor<T> {
    type Value = Entries<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys and values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Entries<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            list.push(entry);
        }
        Ok(Entries(list))
    }
}

/// A number with or without a unit, as it was written: `512MiB`, `80ms`, `200`.
#[derive(Debug, Clone)]
pub(crate) struct Amount(pub(crate) String);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Amount;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number with a unit")
            }

            fn visit_str<E>(self, text: &str) -> Result<Amount, E> {
                Ok(Amount(text.to_owned()))
            }
        }
        deserializer.deserialize_newtype_struct(AMOUNT, Text)
    }
}

/// To a reader of the schema, a field is its value.
impl<T: JsonSchema> JsonSchema for Field<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("entries of {}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}

impl JsonSchema for Amount {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "amount".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": ["string", "number"] })
    }
}
