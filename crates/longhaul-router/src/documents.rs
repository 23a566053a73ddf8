//! Reading the two documents from disk, for the start and for every reload: one way, one set of errors.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use longhaul_config::{Diagnostics, Router as RouterDocument};
use longhaul_event::hash64;
use longhaul_link::{RouterName, TlsFiles};
use longhaul_topology::Mesh;

/// Both documents, compiled, with the hash of their texts and of the files of the link.
#[derive(Debug, Clone)]
pub struct Documents {
    /// Path of the router document.
    pub path: PathBuf,
    /// The router document.
    pub router: RouterDocument,
    /// The mesh document.
    pub mesh: Mesh,
    /// The text that it was compiled from.
    pub mesh_text: Arc<str>,
    /// Changes whenever a byte of either text does, or of the files of the link's certificates.
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
        let hash = hash(&router_text, &mesh_text, &router);
        Ok(Self { path: path.to_owned(), router, mesh, mesh_text: mesh_text.into(), hash })
    }

    /// Hash of both texts and the certificates as they stand on disk, without looking into them; `None` when a text cannot be read.
    #[must_use]
    pub fn hash_on_disk(&self) -> Option<u64> {
        let (router, mesh) = (read(&self.path).ok()?, read(&self.router.mesh).ok()?);
        Some(hash(&router, &mesh, &self.router))
    }

    /// Where the certificates of the link are.
    #[must_use]
    pub(crate) fn tls_files(&self) -> TlsFiles {
        let link = &self.router.link;
        TlsFiles { cert: link.cert.clone(), key: link.key.clone(), ca: link.ca.clone(), crl: link.crl.clone() }
    }

    /// Whether a certificate is that of this mesh, this region and this router.
    ///
    /// # Errors
    /// A sentence that says what it is for.
    pub(crate) fn check_name(&self, name: &RouterName) -> Result<(), String> {
        for (what, certified, declared) in [
            ("mesh", &name.mesh, &self.mesh.name),
            ("region", &name.region, &self.router.region),
            ("router", &name.router, &self.router.name),
        ] {
            if certified != declared {
                let cert = self.router.link.cert.display();
                return Err(format!("{cert} is for the {what} {certified}, the documents say {declared}"));
            }
        }
        Ok(())
    }
}

/// A file of the link that cannot be read counts as empty: whoever uses it says what is wrong with it.
fn hash(router_text: &str, mesh_text: &str, router: &RouterDocument) -> u64 {
    let link = &router.link;
    let mut all = format!("{router_text}\0{mesh_text}").into_bytes();
    for path in [&link.cert, &link.key, &link.ca].into_iter().chain(&link.crl) {
        all.push(0);
        all.extend(std::fs::read(path).unwrap_or_default());
    }
    hash64(&all)
}

fn read(path: &Path) -> Result<String, DocumentError> {
    std::fs::read_to_string(path).map_err(|error| DocumentError::Unreadable { path: path.to_owned(), error })
}
