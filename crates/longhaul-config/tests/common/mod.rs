//! The documents at the root of the repository, as tests read them.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests read the documents of the repository, which are there"
)]
#![allow(dead_code, reason = "not every test uses every helper")]

use std::path::{Path, PathBuf};

use longhaul_config::{Diagnostics, Kind, Router, document_kind, load_mesh_noted, load_router};
use longhaul_topology::Mesh;

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The YAML files of a folder, by name.
pub(crate) fn documents(folder: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = std::fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    found.sort();
    found
}

/// An environment in which every secret of the examples is set.
pub(crate) fn env(name: &str) -> Option<String> {
    (name != "NOT_SET").then(|| format!("long-value-of-{name}"))
}

/// Files, of which every one under `secrets` is there.
pub(crate) fn file(path: &Path) -> std::io::Result<String> {
    if path.to_str().is_some_and(|path| path.contains("secrets/")) {
        return Ok("value-of-a-file\n".to_owned());
    }
    Err(std::io::Error::from(std::io::ErrorKind::NotFound))
}

/// A mesh from its text.
pub(crate) fn mesh(text: &str) -> Result<(Mesh, Diagnostics), Diagnostics> {
    load_mesh_noted(Path::new("mesh.yaml"), text)
}

/// A router document from its text.
pub(crate) fn router(text: &str) -> Result<Router, Diagnostics> {
    load_router(Path::new("configs/router.yaml"), text, &env, &file)
}

/// What is wrong with a document of whichever kind it says it is.
pub(crate) fn wrong(text: &str) -> Option<Diagnostics> {
    match document_kind(text) {
        Some(Kind::Mesh) => mesh(text).err(),
        Some(Kind::Router) => router(text).err(),
        None => panic!("neither Mesh nor Router"),
    }
}
