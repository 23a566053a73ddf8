//! Reading the two documents from disk, for the start and for every reload: one way, one set of errors.

use std::path::{Path, PathBuf};

use longhaul_config::{Diagnostics, Router as RouterDocument};
use longhaul_event::hash64;
use longhaul_topology::Mesh;

/// Both documents, compiled, with the hash of their texts.
#[derive(Debug, Clone)]
pub struct Documents {
    /// Path of the router document.
    pub path: PathBuf,
    /// The router document.
    pub router: RouterDocument,
    /// The mesh document.
    pub mesh: Mesh,
    /// Changes whenever a byte of either text does.
    pub hash: u64,
}

/// Why documents are not taken up.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// What they say is wrong; all of it, with places.
    #[error("{0}")]
    Wrong(Diagnostics),
}

impl Documents {
    /// Reads and compiles the router document at that path and the mesh document that it names.
    ///
    /// # Errors
    /// [`DocumentError`] with everything that is wrong.
    pub fn load(path: &Path) -> Result<Self, DocumentError> {
        let router_text = read(path)?;
        let env = |name: &str| std::env::var(name).ok();
        let file = |path: &Path| std::fs::read_to_string(path);
        let router = longhaul_config::load_router(path, &router_text, &env, &file).map_err(DocumentError::Wrong)?;
        let mesh_text = read(&router.mesh)?;
        let mesh = longhaul_config::load_mesh(&router.mesh, &mesh_text).map_err(DocumentError::Wrong)?;
        longhaul_config::check_pair_in(path, &router_text, &router, &mesh).map_err(DocumentError::Wrong)?;
        let hash = hash64(format!("{router_text}\0{mesh_text}").as_bytes());
        Ok(Self { path: path.to_owned(), router, mesh, hash })
    }

    /// Hash of both texts as they stand on disk, without compiling them; `None` when one cannot be read.
    #[must_use]
    pub fn hash_on_disk(&self) -> Option<u64> {
        let (router, mesh) = (read(&self.path).ok()?, read(&self.router.mesh).ok()?);
        Some(hash64(format!("{router}\0{mesh}").as_bytes()))
    }
}

fn read(path: &Path) -> Result<String, DocumentError> {
    std::fs::read_to_string(path).map_err(|error| DocumentError::Unreadable { path: path.to_owned(), error })
}
