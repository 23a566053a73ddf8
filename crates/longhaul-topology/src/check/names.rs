//! Names: each unique where it must be, each that is used defined somewhere.

use std::collections::BTreeMap;

use super::{Place, Problem, ProblemKind};
use crate::{Mesh, suggest_name};

pub(super) fn check(mesh: &Mesh, problems: &mut Vec<Problem>) {
    unique(mesh.regions.iter().map(|region| region.name.as_str()), "region", Place::Region, problems);
    unique(mesh.routes.iter().map(|route| route.name.as_str()), "route", Place::Route, problems);
    for (at, region) in mesh.regions.iter().enumerate() {
        let what = format!("broker of region `{}`", region.name);
        unique(region.brokers.iter().map(|broker| broker.name.as_str()), &what, |i| Place::Broker(at, i), problems);
    }
    links(mesh, problems);
    for (at, route) in mesh.routes.iter().enumerate() {
        let from = (route.from.region.as_str(), route.from.broker.as_str());
        broker(mesh, from, Place::FromRegion(at), Place::FromBroker(at), problems);
        for (i, to) in route.to.iter().enumerate() {
            let end = (to.region.as_str(), to.broker.as_str());
            broker(mesh, end, Place::ToRegion(at, i), Place::ToBroker(at, i), problems);
        }
    }
    for (at, mirror) in mesh.foreign_mirrors.iter().enumerate() {
        broker(mesh, (&mirror.from.0, &mirror.from.1), Place::MirrorFrom(at), Place::MirrorFrom(at), problems);
        broker(mesh, (&mirror.to.0, &mirror.to.1), Place::MirrorTo(at), Place::MirrorTo(at), problems);
    }
}

fn unique<'a>(
    names: impl Iterator<Item = &'a str>,
    what: &str,
    place: impl Fn(usize) -> Place,
    problems: &mut Vec<Problem>,
) {
    let mut seen = BTreeMap::new();
    for (at, name) in names.enumerate() {
        let first = *seen.entry(name).or_insert(at);
        if first != at {
            let message = format!("a {what} called `{name}` is declared twice");
            let problem = Problem::new(ProblemKind::DuplicateName, place(at), "second time", message);
            problems.push(problem.with(place(first), "first time").help("rename one of them, or remove it"));
        }
    }
}

fn links(mesh: &Mesh, problems: &mut Vec<Problem>) {
    let mut seen: BTreeMap<[&str; 2], usize> = BTreeMap::new();
    for (at, link) in mesh.links.iter().enumerate() {
        for (end, name) in link.between.iter().enumerate() {
            if mesh.region(name).is_none() {
                problems.push(unknown_region(mesh, name, Place::LinkEnd(at, end)));
            }
        }
        let [a, b] = &link.between;
        if a == b {
            let message = format!("region `{a}` is linked to itself");
            let problem = Problem::new(ProblemKind::SelfLink, Place::LinkEnd(at, 1), "the same region again", message);
            problems.push(problem.help("`between` names two different regions"));
            continue;
        }
        let mut pair = [a.as_str(), b.as_str()];
        pair.sort_unstable();
        let first = *seen.entry(pair).or_insert(at);
        if first != at {
            let message = format!("`{a}` and `{b}` are linked twice");
            let problem = Problem::new(ProblemKind::DuplicateLink, Place::Link(at), "second time", message);
            problems.push(problem.with(Place::Link(first), "first time").help("one link joins two regions both ways"));
        }
    }
}

fn broker(mesh: &Mesh, (region, name): (&str, &str), region_at: Place, broker_at: Place, problems: &mut Vec<Problem>) {
    let Some(found) = mesh.region(region) else {
        problems.push(unknown_region(mesh, region, region_at));
        return;
    };
    if mesh.broker(region, name).is_none() {
        let brokers = || found.brokers.iter().map(|broker| broker.name.as_str());
        let message = format!("region `{region}` has no broker called `{name}`");
        let problem = Problem::new(ProblemKind::UnknownName, broker_at, "not known there", message);
        let place = mesh.regions.iter().position(|r| r.name == region).map_or(broker_at, Place::Region);
        problems.push(problem.with(place, "the region").help(suggest_name(name, brokers(), "its brokers are")));
    }
}

fn unknown_region(mesh: &Mesh, name: &str, at: Place) -> Problem {
    let regions = mesh.regions.iter().map(|region| region.name.as_str());
    Problem::new(ProblemKind::UnknownName, at, "not known", format!("no region is called `{name}`")).help(suggest_name(
        name,
        regions,
        "the regions are",
    ))
}
