//! Regions and links as a graph. Links join both ways; a link that names an unknown region joins nothing.

use std::collections::BTreeMap;

use crate::{Link, Mesh};

/// Cost of a link that declares neither a cost nor a round-trip time.
const COST_DEFAULT: u32 = 100;

/// Regions and the links between them.
#[derive(Debug, Clone)]
pub struct Graph<'a> {
    edges: BTreeMap<&'a str, Vec<Edge<'a>>>,
}

/// One direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge<'a> {
    /// The region at the far end.
    pub to: &'a str,
    /// Declared cost, else the expected round-trip time in milliseconds, else 100. At least 1.
    pub cost: u32,
}

impl<'a> Graph<'a> {
    /// The graph of a mesh.
    #[must_use]
    pub fn of(mesh: &'a Mesh) -> Self {
        let mut edges: BTreeMap<&str, Vec<Edge<'_>>> =
            mesh.regions.iter().map(|region| (region.name.as_str(), Vec::new())).collect();
        for link in &mesh.links {
            let [a, b] = &link.between;
            if a == b || !edges.contains_key(a.as_str()) || !edges.contains_key(b.as_str()) {
                continue;
            }
            for (from, to) in [(a, b), (b, a)] {
                edges.entry(from).or_default().push(Edge { to, cost: cost(link) });
            }
        }
        Self { edges }
    }

    /// The regions, by name.
    pub fn regions(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.edges.keys().copied()
    }

    /// What a region is joined to, in document order; nothing for an unknown one.
    #[must_use]
    pub fn edges(&self, region: &str) -> &[Edge<'a>] {
        self.edges.get(region).map_or(&[], Vec::as_slice)
    }

    /// Whether a link of their own joins two regions.
    #[must_use]
    pub fn linked(&self, a: &str, b: &str) -> bool {
        self.edges(a).iter().any(|edge| edge.to == b)
    }
}

fn cost(link: &Link) -> u32 {
    link.cost.or(link.rtt_ms).unwrap_or(COST_DEFAULT).max(1)
}
