//! The doors of this crate: text in, a document or all that is wrong with it out.

use std::path::Path;

use longhaul_topology::Mesh;

use crate::compile::pair::{self, Spots};
use crate::compile::secrets::{self, Sources};
use crate::compile::{self, Context};
use crate::decode::decode;
use crate::error::Diagnostics;
use crate::raw::mesh::RawMesh;
use crate::raw::router::RawRouter;
use crate::redact::mask_document;
use crate::report::{Report, Reports};
use crate::router::Router;
use crate::yaml::{self, Node, Value};

/// The two kinds of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What the mesh is.
    Mesh,
    /// What is local to one deployment.
    Router,
}

/// Which kind of document a text says it is; `None` when it says neither. Answers for text that is not valid YAML, too, if it
/// has a line `kind: ..`.
#[must_use]
pub fn document_kind(text: &str) -> Option<Kind> {
    let named = match yaml::parse(text) {
        Ok(Node { value: Value::Map(entries), .. }) => {
            entries.into_iter().find(|(key, _)| key.name == "kind").and_then(|(_, node)| match node.value {
                Value::Text(kind) => Some(kind),
                _ => None,
            })
        }
        Ok(_) => None,
        Err(_) => text.lines().find_map(|line| line.strip_prefix("kind:")).map(|kind| kind.trim().to_owned()),
    };
    match named.as_deref() {
        Some("Mesh") => Some(Kind::Mesh),
        Some("Router") => Some(Kind::Router),
        _ => None,
    }
}

/// Compiles a mesh document.
///
/// # Errors
/// All that is wrong with it.
pub fn load_mesh(path: &Path, text: &str) -> Result<Mesh, Diagnostics> {
    load_mesh_noted(path, text).map(|(mesh, _)| mesh)
}

/// Compiles a mesh document, and says what is worth knowing about it without being wrong.
///
/// # Errors
/// All that is wrong with it, notes included.
pub fn load_mesh_noted(path: &Path, text: &str) -> Result<(Mesh, Diagnostics), Diagnostics> {
    let root = yaml::parse(text).map_err(|report| Diagnostics::new(path, mask_document(text, None), vec![report]))?;
    let masked = mask_document(text, Some(&root));
    let reports = Reports::default();
    let cx = Context { text: &masked, reports: &reports };
    secrets::refuse(&root, cx);
    let mesh = decode::<RawMesh>(&root, cx).map(|raw| compile::mesh::mesh(&raw, cx));
    finish(path, masked, &root, mesh, reports)
}

/// Compiles a router document. `env` looks up environment variables, `file` reads small files, for `${env:NAME}` and
/// `${file:PATH}`.
///
/// # Errors
/// All that is wrong with it. No value that came from `env` or `file` is in there, and no secret of the text.
pub fn load_router(
    path: &Path,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    file: &dyn Fn(&Path) -> std::io::Result<String>,
) -> Result<Router, Diagnostics> {
    let mut root =
        yaml::parse(text).map_err(|report| Diagnostics::new(path, mask_document(text, None), vec![report]))?;
    let masked = mask_document(text, Some(&root));
    let reports = Reports::default();
    let cx = Context { text: &masked, reports: &reports };
    let sources = Sources { env, file, folder: path.parent().unwrap_or(Path::new("")) };
    secrets::fill(&mut root, &sources, cx);
    let router = decode::<RawRouter>(&root, cx).and_then(|raw| compile::router::router(&raw, &sources, cx));
    finish(path, masked, &root, router, reports).map(|(router, _)| router)
}

/// The document when there are only notes; everything that was found when there is an error.
fn finish<T>(
    path: &Path,
    masked: String,
    root: &Node,
    document: Option<T>,
    reports: Reports,
) -> Result<(T, Diagnostics), Diagnostics> {
    let mut reports = reports.into_sorted();
    let good = reports.iter().all(|report| report.note);
    if document.is_none() && good {
        // Every step that gives nothing has said why; should one not, silence would be the worst answer.
        reports.push(Report::new(root.span, "here", "this document cannot be used"));
    }
    let found = Diagnostics::new(path, masked, reports);
    match document {
        Some(document) if good => Ok((document, found)),
        _ => Err(found),
    }
}

/// Whether a router document fits its mesh document: its region is there, and it says how to reach each broker of that region,
/// and no other.
///
/// # Errors
/// All that does not fit, without places; [`check_pair_in`] has them.
pub fn check_pair(router: &Router, mesh: &Mesh) -> Result<(), Diagnostics> {
    pair_checked(Path::new("router document"), String::new(), &Spots::default(), router, mesh)
}

/// As [`check_pair`], with places in the text of the router document.
///
/// # Errors
/// All that does not fit.
pub fn check_pair_in(path: &Path, text: &str, router: &Router, mesh: &Mesh) -> Result<(), Diagnostics> {
    let root = yaml::parse(text).ok();
    let spots = root.as_ref().map(Spots::of).unwrap_or_default();
    pair_checked(path, mask_document(text, root.as_ref()), &spots, router, mesh)
}

fn pair_checked(path: &Path, masked: String, spots: &Spots, router: &Router, mesh: &Mesh) -> Result<(), Diagnostics> {
    let reports = Reports::default();
    pair::check(router, mesh, spots, &reports);
    let reports = reports.into_sorted();
    if reports.is_empty() { Ok(()) } else { Err(Diagnostics::new(path, masked, reports)) }
}
