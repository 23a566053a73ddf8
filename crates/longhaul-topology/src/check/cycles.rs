//! Routes that carry an event back to where it was read, over any number of brokers, kinds and declared foreign mirrors.
//!
//! A node is a carrier with one of its filters; it leads to another one when what the first writes may match what the second
//! reads in the same place. Predicates are not looked at: they may hold for an event on every turn. A ring in which every
//! filter lets go of an event before it is home is no cycle here, because filters are followed one by one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::carriers::Carrier;
use super::{Problem, ProblemKind};

/// More cycles than that are not listed: mending these mends most of the others.
const CYCLES_MAX: usize = 20;

pub(super) fn check(carriers: &[Carrier<'_>], problems: &mut Vec<Problem>) {
    let nodes: Vec<(usize, usize)> = carriers
        .iter()
        .enumerate()
        .flat_map(|(at, carrier)| (0..carrier.sources.len()).map(move |filter| (at, filter)))
        .collect();
    let edges = trim(edges(carriers, &nodes));
    let mut reported: BTreeSet<BTreeSet<usize>> = BTreeSet::new();
    let mut covered = BTreeSet::new();
    for start in edges.keys() {
        if covered.contains(start) || reported.len() == CYCLES_MAX {
            continue;
        }
        let Some(cycle) = shortest_cycle(&edges, *start) else { continue };
        covered.extend(cycle.iter().copied());
        let through: Vec<&Carrier<'_>> = cycle.iter().map(|node| &carriers[nodes[*node].0]).collect();
        if reported.insert(cycle.iter().map(|node| nodes[*node].0).collect()) {
            problems.push(problem(&through));
        }
    }
}

type Edges = BTreeMap<usize, Vec<usize>>;

fn edges(carriers: &[Carrier<'_>], nodes: &[(usize, usize)]) -> Edges {
    let mut readers: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    for (node, (at, _)) in nodes.iter().enumerate() {
        let from = &carriers[*at].from;
        readers.entry((from.region, from.broker)).or_default().push(node);
    }
    let leads_to = |(at, filter): (usize, usize)| {
        let (carrier, images) = (&carriers[at], &carriers[at].images[filter]);
        let there = readers.get(&(carrier.to.region, carrier.to.broker)).into_iter().flatten().copied();
        there.filter(|node| {
            let (other, filter) = nodes[*node];
            let other = &carriers[other];
            carrier.to.feeds(&other.from) && images.iter().any(|image| image.overlaps(&other.sources[filter]))
        })
    };
    nodes.iter().enumerate().map(|(node, at)| (node, leads_to(*at).collect())).collect()
}

/// Takes away what leads nowhere, again and again: what is left lies on a cycle or between two, and in a good mesh is nothing.
fn trim(mut edges: Edges) -> Edges {
    loop {
        let dead: BTreeSet<usize> = edges.iter().filter(|(_, to)| to.is_empty()).map(|(node, _)| *node).collect();
        if dead.is_empty() {
            return edges;
        }
        edges.retain(|node, _| !dead.contains(node));
        for to in edges.values_mut() {
            to.retain(|node| !dead.contains(node));
        }
    }
}

/// The shortest way from a node back to itself: its nodes in order.
fn shortest_cycle(edges: &Edges, start: usize) -> Option<Vec<usize>> {
    let mut before: BTreeMap<usize, usize> = BTreeMap::new();
    let mut open = VecDeque::from([start]);
    while let Some(node) = open.pop_front() {
        for next in edges.get(&node).into_iter().flatten() {
            if *next == start {
                let mut cycle = vec![node];
                while let Some(node) = before.get(cycle.last()?) {
                    cycle.push(*node);
                }
                cycle.reverse();
                return Some(cycle);
            }
            if !before.contains_key(next) {
                before.insert(*next, node);
                open.push_back(*next);
            }
        }
    }
    None
}

fn problem(through: &[&Carrier<'_>]) -> Problem {
    let first = through[0];
    let way: String = through.iter().map(|hop| format!(" -> {}/{}", hop.to.region, hop.to.broker)).collect();
    let names: Vec<String> = through.iter().map(|carrier| in_words(carrier)).collect();
    let who = match names.as_slice() {
        [one] => format!("{one} forms a cycle with itself"),
        [front @ .., last] => format!("{} and {last} form a cycle", front.join(", ")),
        [] => String::new(),
    };
    let message =
        format!("{who}: {}/{}{way}; an event would be carried round and round", first.from.region, first.from.broker);
    let mut problem = Problem::new(ProblemKind::Cycle, first.place, "goes round from here", message);
    for (at, carrier) in through.iter().enumerate().skip(1) {
        problem =
            problem.with(carrier.place, if at + 1 < through.len() { "goes on here" } else { "and comes back here" });
    }
    problem.help(
        "narrow the topics of one of them, or give its destination a prefix that no other of them reads, such as \
         `topic: \"{region}.{topic}\"`; `where` is not looked at, as it may hold on every turn",
    )
}

fn in_words(carrier: &Carrier<'_>) -> String {
    match carrier.place {
        super::Place::Mirror(_) => carrier.name.clone(),
        _ => format!("route `{}`", carrier.name),
    }
}
