//! What changed between two meshes, so that a reload touches only that.

use std::collections::BTreeSet;

use crate::{BrokerKind, Mesh, Route};

/// Names of routes, each in exactly one list, in the order of the document that they stand in (the old one for `removed`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MeshDiff {
    /// Only in the new mesh.
    pub added: Vec<String>,
    /// Only in the old mesh.
    pub removed: Vec<String>,
    /// In both and different: the route itself, the kind of a broker at one of its ends, or the name of the mesh, which is
    /// part of the identity of every flow.
    pub changed: Vec<String>,
    /// In both and the same.
    pub unchanged: Vec<String>,
    /// Regions that are new, gone, or whose router addresses or links differ: their connections are looked at again.
    pub regions: BTreeSet<String>,
}

impl MeshDiff {
    /// Whether nothing differs that anybody acts upon.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty() && self.regions.is_empty()
    }
}

/// Compares two meshes; routes are the same when they have the same name.
#[must_use]
pub fn diff(old: &Mesh, new: &Mesh) -> MeshDiff {
    let mut found = MeshDiff { regions: changed_regions(old, new), ..MeshDiff::default() };
    for route in &new.routes {
        let list = match old.route(&route.name) {
            None => &mut found.added,
            Some(before) if old.name == new.name && before == route && kinds(old, before) == kinds(new, route) => {
                &mut found.unchanged
            }
            Some(_) => &mut found.changed,
        };
        list.push(route.name.clone());
    }
    let gone = old.routes.iter().filter(|route| new.route(&route.name).is_none());
    found.removed = gone.map(|route| route.name.clone()).collect();
    found
}

/// The kinds of the brokers at the ends of a route.
fn kinds(mesh: &Mesh, route: &Route) -> Vec<Option<BrokerKind>> {
    let ends = route.to.iter().map(|to| (&to.region, &to.broker));
    let ends = std::iter::once((&route.from.region, &route.from.broker)).chain(ends);
    ends.map(|(region, broker)| mesh.broker(region, broker).map(|broker| broker.kind)).collect()
}

fn changed_regions(old: &Mesh, new: &Mesh) -> BTreeSet<String> {
    let names = old.regions.iter().chain(&new.regions).map(|region| region.name.clone());
    names.filter(|name| surroundings(old, name) != surroundings(new, name)).collect()
}

/// What the connections of a region depend on.
fn surroundings<'a>(mesh: &'a Mesh, name: &str) -> impl PartialEq + 'a + use<'a> {
    let routers = mesh.region(name).map(|region| &region.routers);
    let links = mesh.links.iter().filter(|link| link.between.iter().any(|end| end == name));
    (routers, links.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::mesh_of_three;

    #[test]
    fn nothing_differs_from_itself() {
        let mesh = mesh_of_three();
        let found = diff(&mesh, &mesh);
        assert!(found.is_empty());
        assert_eq!(found.unchanged.len(), mesh.routes.len());
    }

    #[test]
    fn routes_are_told_apart_by_name() {
        let old = mesh_of_three();
        let mut new = old.clone();
        new.routes[0].name = "renamed".to_owned();
        new.routes[1].to[0].topic = crate::Template::parse("other.{topic}").unwrap();
        let found = diff(&old, &new);
        assert_eq!(found.added, ["renamed"]);
        assert_eq!(found.removed, [old.routes[0].name.clone()]);
        assert_eq!(found.changed, [old.routes[1].name.clone()]);
        assert_eq!(found.unchanged, [old.routes[2].name.clone()]);
        assert!(found.regions.is_empty());
    }

    #[test]
    fn the_name_of_the_mesh_changes_every_route() {
        let old = mesh_of_three();
        let new = Mesh { name: "other".to_owned(), ..old.clone() };
        assert_eq!(diff(&old, &new).changed.len(), old.routes.len());
    }

    #[test]
    fn a_link_or_an_address_changes_its_regions() {
        let old = mesh_of_three();
        let mut new = old.clone();
        new.links[0].rtt_ms = Some(7);
        assert_eq!(diff(&old, &new).regions.len(), 2);
        let mut new = old.clone();
        new.regions[2].routers = vec!["elsewhere:1".to_owned()];
        let found = diff(&old, &new);
        assert_eq!(found.regions.into_iter().collect::<Vec<_>>(), ["ap-south"]);
        assert!(found.changed.is_empty());
    }
}
