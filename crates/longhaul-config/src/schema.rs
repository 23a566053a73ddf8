//! JSON Schema of both documents, for editors. Generated from the structs that the documents are read into.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::Kind;
use crate::raw::mesh::RawMesh;
use crate::raw::router::RawRouter;

/// The schema of that kind of document (draft 2020-12), with a line break at its end.
#[must_use]
pub fn schema(kind: Kind) -> String {
    let schema = match kind {
        Kind::Mesh => generate::<RawMesh>("Longhaul mesh document"),
        Kind::Router => generate::<RawRouter>("Longhaul router document"),
    };
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is made of plain JSON values");
    text.push('\n');
    text
}

/// The schema of mesh documents.
#[must_use]
pub fn mesh_schema() -> String {
    schema(Kind::Mesh)
}

/// The schema of router documents.
#[must_use]
pub fn router_schema() -> String {
    schema(Kind::Router)
}

fn generate<T: JsonSchema>(title: &str) -> Schema {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), Value::String(title.to_owned()));
    schema
}
