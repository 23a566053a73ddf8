//! Shortest paths between regions, by the cost of links.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::{Edge, Graph};

/// A way from one region to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path<'a> {
    /// The regions on the way, both ends included.
    pub regions: Vec<&'a str>,
    /// Sum of the costs of its links.
    pub cost: u64,
}

/// Most links on the way of a flow: two regions may lie between its ends.
pub const WAY_LINKS_MAX: usize = 3;

impl<'a> Graph<'a> {
    /// Over which neighbours a region can be reached with at most `links_max` links and without passing through `not`: the link of their
    /// own first, if there is one, then by cost; of equal ones always in the same order.
    #[must_use]
    pub fn next_hops(&self, from: &str, to: &str, links_max: usize, not: &[&str]) -> Vec<&'a str> {
        let beyond: Vec<&str> = not.iter().copied().chain([from]).collect();
        let way = |edge: &Edge<'a>| {
            let onward = self.cheapest(edge.to, to, links_max.checked_sub(1)?, &beyond)?;
            Some((edge.to != to, onward + u64::from(edge.cost), edge.to))
        };
        let mut ways: Vec<_> = self.edges(from).iter().filter_map(way).collect();
        ways.sort_unstable();
        let mut hops: Vec<&str> = ways.into_iter().map(|(_, _, hop)| hop).collect();
        hops.dedup();
        hops
    }

    /// Whether the frames of a flow that begins at `source` may come to `here` over that neighbour, as the `links`th link of their way.
    #[must_use]
    pub fn may_come_over(&self, source: &str, neighbour: &str, here: &str, links: usize) -> bool {
        let before = links.checked_sub(1).filter(|before| *before < WAY_LINKS_MAX);
        before.is_some_and(|before| self.cheapest(source, neighbour, before, &[here]).is_some())
    }

    /// Over which neighbours a flow goes on to `to` that has come over `links` links, the last one from `neighbour`: never back.
    #[must_use]
    pub fn onward(&self, here: &str, to: &str, source: &str, neighbour: &str, links: usize) -> Vec<&'a str> {
        self.next_hops(here, to, WAY_LINKS_MAX.saturating_sub(links), &[source, neighbour])
    }

    /// Cost of the cheapest way with at most `links_max` links that does not pass through `not`, by Bellman and Ford.
    #[must_use]
    pub fn cheapest(&self, from: &str, to: &str, links_max: usize, not: &[&str]) -> Option<u64> {
        let from = self.regions().find(|region| *region == from && !not.contains(region))?;
        let mut best: BTreeMap<&str, u64> = BTreeMap::from([(from, 0)]);
        for _ in 0..links_max {
            let mut next = best.clone();
            for (region, cost) in best.iter().filter(|(region, _)| **region != to) {
                for edge in self.edges(region).iter().filter(|edge| !not.contains(&edge.to)) {
                    let onward = cost + u64::from(edge.cost);
                    next.entry(edge.to).and_modify(|known| *known = onward.min(*known)).or_insert(onward);
                }
            }
            best = next;
        }
        best.get(to).copied()
    }

    /// The cheapest way; of two equally cheap ones, always the same. `None` when there is none or a region is unknown.
    #[must_use]
    pub fn shortest_path(&self, from: &str, to: &str) -> Option<Path<'a>> {
        let from = self.regions().find(|region| *region == from)?;
        let mut best: BTreeMap<&str, (u64, Option<&'a str>)> = BTreeMap::from([(from, (0, None))]);
        let mut open = BinaryHeap::from([Reverse((0u64, from))]);
        while let Some(Reverse((cost, region))) = open.pop() {
            if region == to {
                return Some(Path { regions: walk_back(&best, region), cost });
            }
            if best.get(region).is_some_and(|(known, _)| *known < cost) {
                continue;
            }
            for edge in self.edges(region) {
                let onward = cost + u64::from(edge.cost);
                if best.get(edge.to).is_none_or(|(known, _)| onward < *known) {
                    best.insert(edge.to, (onward, Some(region)));
                    open.push(Reverse((onward, edge.to)));
                }
            }
        }
        None
    }
}

fn walk_back<'a>(best: &BTreeMap<&str, (u64, Option<&'a str>)>, end: &'a str) -> Vec<&'a str> {
    let mut regions = vec![end];
    let mut at = end;
    while let Some((_, Some(before))) = best.get(at) {
        regions.push(before);
        at = before;
    }
    regions.reverse();
    regions
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Link, Mesh, Region};

    fn mesh(regions: &[&str], links: &[(&str, &str, u32)]) -> Mesh {
        Mesh {
            name: "m".to_owned(),
            regions: regions
                .iter()
                .map(|name| Region { name: (*name).to_owned(), routers: Vec::new(), brokers: Vec::new() })
                .collect(),
            links: links
                .iter()
                .map(|(a, b, cost)| Link {
                    between: [(*a).to_owned(), (*b).to_owned()],
                    cost: Some(*cost),
                    bandwidth_bits: None,
                    congestion: crate::Congestion::default(),
                    rtt_ms: None,
                })
                .collect(),
            routes: Vec::new(),
            foreign_mirrors: Vec::new(),
        }
    }

    #[test]
    fn takes_the_cheaper_detour() {
        let mesh = mesh(&["a", "b", "c", "d"], &[("a", "c", 10), ("a", "b", 2), ("b", "c", 3)]);
        let graph = Graph::of(&mesh);
        let path = graph.shortest_path("c", "a").unwrap();
        assert_eq!((path.regions, path.cost), (vec!["c", "b", "a"], 5));
        assert_eq!(graph.shortest_path("a", "a").unwrap().regions, ["a"]);
        assert!(graph.shortest_path("a", "d").is_none());
        assert!(graph.shortest_path("a", "nowhere").is_none());
        assert!(graph.shortest_path("nowhere", "a").is_none());
        assert!(graph.linked("c", "a") && !graph.linked("c", "d"));
    }

    #[test]
    fn a_link_to_nowhere_or_to_itself_joins_nothing() {
        let mesh = mesh(&["a"], &[("a", "b", 1), ("a", "a", 1)]);
        assert!(Graph::of(&mesh).edges("a").is_empty());
    }

    #[test]
    fn the_link_of_their_own_comes_first_and_ways_are_short() {
        let links =
            [("a", "b", 50), ("a", "c", 1), ("c", "b", 2), ("a", "d", 1), ("d", "e", 1), ("e", "b", 1), ("e", "f", 1)];
        let mesh = mesh(&["a", "b", "c", "d", "e", "f"], &links);
        let graph = Graph::of(&mesh);
        assert_eq!(graph.next_hops("a", "b", 3, &[]), ["b", "c", "d"]);
        assert_eq!(graph.next_hops("a", "b", 2, &[]), ["b", "c"], "over d and e are three links");
        assert_eq!(graph.next_hops("a", "b", 1, &[]), ["b"]);
        assert_eq!(graph.next_hops("a", "b", 3, &["c"]), ["b", "d"]);
        assert_eq!(graph.next_hops("a", "f", 3, &[]), ["d", "b"]);
        assert!(graph.next_hops("c", "f", 2, &[]).is_empty(), "from c to f are three links");
        assert_eq!(graph.cheapest("c", "f", 3, &[]), Some(4));
        assert_eq!(graph.cheapest("a", "f", 3, &["e"]), None);
        assert!(
            graph.next_hops("a", "nowhere", 3, &[]).is_empty() && graph.next_hops("nowhere", "a", 3, &[]).is_empty()
        );
    }

    #[test]
    fn a_way_goes_on_for_three_links_and_never_back() {
        let links = [("a", "b", 1), ("b", "c", 1), ("c", "d", 1), ("d", "e", 1), ("b", "d", 9)];
        let mesh = mesh(&["a", "b", "c", "d", "e"], &links);
        let graph = Graph::of(&mesh);
        assert_eq!(graph.onward("b", "d", "a", "a", 1), ["d", "c"]);
        assert_eq!(graph.onward("c", "d", "a", "b", 2), ["d"]);
        assert!(graph.onward("c", "e", "a", "b", 2).is_empty(), "that would be the fourth link");
        assert!(graph.onward("b", "a", "a", "c", 1).is_empty() && graph.onward("d", "c", "a", "c", 1).is_empty());
        assert!(graph.may_come_over("a", "a", "b", 1) && graph.may_come_over("a", "b", "c", 2));
        assert!(graph.may_come_over("a", "c", "d", 3));
        assert!(!graph.may_come_over("a", "c", "d", 2), "c is two links away");
        assert!(!graph.may_come_over("a", "d", "e", 4) && !graph.may_come_over("a", "a", "b", 0));
        assert!(!graph.may_come_over("a", "c", "b", 3), "only by way of b itself");
    }

    proptest! {
        /// Against Floyd and Warshall.
        #[test]
        fn cost_is_the_least_of_all_ways(links in proptest::collection::vec((0usize..6, 0usize..6, 1u32..20), 0..15)) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let named: Vec<_> = links.iter().map(|(a, b, cost)| (names[*a], names[*b], *cost)).collect();
            let mesh = mesh(&names, &named);
            let mut cost = [[u64::MAX / 4; 6]; 6];
            for (i, row) in cost.iter_mut().enumerate() { row[i] = 0; }
            for (a, b, c) in &links {
                cost[*a][*b] = cost[*a][*b].min(u64::from(*c));
                cost[*b][*a] = cost[*b][*a].min(u64::from(*c));
            }
            for k in 0..6 { for i in 0..6 { for j in 0..6 {
                cost[i][j] = cost[i][j].min(cost[i][k] + cost[k][j]);
            } } }
            let graph = Graph::of(&mesh);
            for i in 0..6 { for j in 0..6 {
                let found = graph.shortest_path(names[i], names[j]).map_or(u64::MAX / 4, |path| path.cost);
                prop_assert_eq!(found, cost[i][j]);
            } }
        }
    }
}
