//! Two ways by which one event arrives twice at one topic: two routes, or a route and a chain of routes.
//!
//! Two ways count when they begin at the same place with topics in common, end at the same place, and make the same topic of
//! them. Ways with different predicates may share the events out among them, so they do not count.

use std::collections::BTreeMap;

use super::carriers::{Carrier, Spot};
use super::{Place, Problem, ProblemKind};
use crate::Predicate;
use crate::pattern::Pattern;

/// Longer chains are not followed; the routers' own limit of hops is no larger.
const HOPS_MAX: usize = 8;
/// More chains than that, beyond the routes themselves, are not compared: a mesh of so many is dense enough that its shorter
/// ones, which come first, tell.
const CHAINS_MAX: usize = 2_000;
/// More problems than that are not listed.
const PROBLEMS_MAX: usize = 50;

/// Carriers in the order in which an event takes them.
type Way = Vec<usize>;

pub(super) fn check(carriers: &[Carrier<'_>], problems: &mut Vec<Problem>) {
    let mut groups: BTreeMap<(Spot<'_>, Spot<'_>), Vec<Way>> = BTreeMap::new();
    for way in ways(carriers) {
        let (first, last) = (&carriers[way[0]], &carriers[way[way.len() - 1]]);
        groups.entry((first.from, last.to)).or_default().push(way);
    }
    let mut found = 0;
    for ways in groups.values() {
        for (at, second) in ways.iter().enumerate() {
            let twice =
                ways[..at].iter().find(|first| distinct(carriers, first, second) && meet(carriers, first, second));
            if let Some(first) = twice {
                found += 1;
                if found > PROBLEMS_MAX {
                    return;
                }
                problems.push(problem(carriers, first, second));
            }
        }
    }
}

/// Every chain of carriers that passes no carrier twice, shortest first.
fn ways(carriers: &[Carrier<'_>]) -> Vec<Way> {
    let mut all: Vec<Way> = (0..carriers.len()).map(|at| vec![at]).collect();
    let mut from = 0;
    for _ in 1..HOPS_MAX {
        let until = all.len();
        for at in from..until {
            let last = all[at][all[at].len() - 1];
            for next in 0..carriers.len() {
                if all.len() >= carriers.len() + CHAINS_MAX {
                    return all;
                }
                if !all[at].contains(&next)
                    && carriers[last].to.feeds(&carriers[next].from)
                    && !follow(carriers, &all[at], next).is_empty()
                {
                    let way = [all[at].as_slice(), &[next]].concat();
                    all.push(way);
                }
            }
        }
        from = until;
    }
    all
}

/// What arrives when a way is lengthened by one carrier.
fn follow(carriers: &[Carrier<'_>], way: &[usize], next: usize) -> Vec<Pattern> {
    let whole = [way, &[next]].concat();
    carriers[whole[0]].sources.iter().flat_map(|source| carry(carriers, &whole, source)).collect()
}

/// The topics at the end of a way for some topics at its beginning.
fn carry(carriers: &[Carrier<'_>], way: &[usize], start: &Pattern) -> Vec<Pattern> {
    let mut at = vec![start.clone()];
    for hop in way {
        let carrier = &carriers[*hop];
        let taken: Vec<Pattern> =
            at.iter().flat_map(|topics| carrier.sources.iter().filter_map(|source| source.meet(topics))).collect();
        at = taken.iter().flat_map(|topics| carrier.image(topics)).collect();
        at.sort();
        at.dedup();
    }
    at
}

/// Whether an event that takes the one may take the other as well: no predicates that could tell them apart, and not the
/// destinations of one route counted against each other at their common beginning.
fn distinct(carriers: &[Carrier<'_>], first: &[usize], second: &[usize]) -> bool {
    let (a, b) = (predicates(carriers, first), predicates(carriers, second));
    first != second && (a == b || a.is_empty() || b.is_empty()) && !ends_alike(first, second)
}

/// Two ways that share their last carrier meet before it: that meeting is the problem, and reported as such.
fn ends_alike(first: &[usize], second: &[usize]) -> bool {
    first.last() == second.last()
}

fn predicates<'a>(carriers: &[Carrier<'a>], way: &[usize]) -> Vec<&'a Predicate> {
    way.iter().filter_map(|at| carriers[*at].predicate).collect()
}

fn meet(carriers: &[Carrier<'_>], first: &[usize], second: &[usize]) -> bool {
    let (a, b) = (&carriers[first[0]], &carriers[second[0]]);
    let common = a.sources.iter().flat_map(|left| b.sources.iter().filter_map(|right| left.meet(right)));
    common.into_iter().any(|topics| {
        // One template makes one topic of one topic; two templates may make the same.
        let (left, right) = (carry(carriers, first, &topics), carry(carriers, second, &topics));
        left.iter().any(|made| right.iter().any(|other| made.overlaps(other)))
    })
}

fn problem(carriers: &[Carrier<'_>], first: &[usize], second: &[usize]) -> Problem {
    let name = |way: &[usize]| way.iter().map(|at| carriers[*at].name.as_str()).collect::<Vec<_>>().join("` then `");
    let last = &carriers[second[second.len() - 1]];
    let start = &carriers[second[0]].from;
    let message = format!(
        "events of {}/{} arrive twice at one topic of {}/{}: by `{}` and by `{}`",
        start.region,
        start.broker,
        last.to.region,
        last.to.broker,
        name(first),
        name(second)
    );
    let mut places: Vec<Place> = Vec::new();
    for at in first.iter().chain(second).filter(|at| **at != second[second.len() - 1]) {
        if !places.contains(&carriers[*at].place) {
            places.push(carriers[*at].place);
        }
    }
    let problem = Problem::new(ProblemKind::DuplicateDelivery, last.place, "arrives a second time", message);
    let problem = places.into_iter().fold(problem, |problem, place| problem.with(place, "takes the same events"));
    problem.help("narrow the topics of one of them, or let it write to other topics")
}
