//! The two documents as they are written: structs for the decoder and for the JSON Schema.
//!
//! Every `serde(rename)` on a struct is the word by which messages speak of it, and its title in the schema. Values are only
//! as typed as YAML is; [`compile`](crate::compile) makes them mean something.

pub(crate) mod mesh;
pub(crate) mod router;
