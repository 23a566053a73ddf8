//! What is in force now: one immutable snapshot, replaced whole.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use longhaul_route::RouteTable;
use longhaul_topology::Mesh;

/// The mesh document in force and what was compiled from it.
pub(crate) struct World {
    /// The document.
    pub mesh: Mesh,
    /// The text that it was compiled from.
    pub text: Arc<str>,
    /// Its routes, compiled.
    pub table: RouteTable,
    /// Counts the documents that were taken up, from 1.
    pub generation: u64,
}

/// The snapshot that readers take.
pub(crate) struct Live {
    region: String,
    world: ArcSwap<World>,
}

impl Live {
    /// Starts with a world.
    #[must_use]
    pub(crate) fn new(region: String, world: World) -> Arc<Self> {
        Arc::new(Self { region, world: ArcSwap::from_pointee(world) })
    }

    /// Name of this router's region; never changes.
    #[must_use]
    pub(crate) fn region(&self) -> &str {
        &self.region
    }

    /// The world now. Not to be held over an await.
    #[must_use]
    pub(crate) fn load(&self) -> Guard<Arc<World>> {
        self.world.load()
    }

    /// Replaces it.
    pub(crate) fn store(&self, world: World) {
        self.world.store(Arc::new(world));
    }
}
