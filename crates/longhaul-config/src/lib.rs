//! YAML text to typed documents, every error with file, line and column.
//!
//! Start with [`Router`] and with [`longhaul_topology::Mesh`], the two documents once they are compiled, then [`load_mesh`] and
//! [`load_router`]. Text, environment and files are handed in: nothing here opens a file.
//!
//! A document goes through four steps: text to a tree with places (`yaml`), tree to raw structs without stopping at an error
//! (`decode`, `raw`), raw structs to values that mean something (`compile`), and for a mesh the checks of
//! [`longhaul_topology::check`]. Only a text that is no YAML stops early: what comes after its first syntax error is not known.

mod compile;
mod decode;
mod error;
mod field;
mod later;
mod load;
mod raw;
mod redact;
mod report;
mod router;
mod schema;
mod yaml;

pub use error::{Diagnostic, Diagnostics};
pub use load::{Kind, check_pair, check_pair_in, document_kind, load_mesh, load_mesh_noted, load_router};
pub use redact::{mask_text, mask_url};
pub use router::*;
pub use schema::{mesh_schema, router_schema, schema};
