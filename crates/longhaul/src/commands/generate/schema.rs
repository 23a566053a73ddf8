//! The JSON Schemas of both documents, from the code that reads them.

use longhaul_config::Kind;

pub(super) fn mesh() {
    println!("{}", longhaul_config::schema(Kind::Mesh));
}

pub(super) fn router() {
    println!("{}", longhaul_config::schema(Kind::Router));
}
