//! Whether the regions of every route are joined: by a link of their own, or by few links over regions that can be dialled. Nothing stays
//! inside one region.

use super::{Place, Problem, ProblemKind};
use crate::{Graph, Mesh, WAY_LINKS_MAX};

pub(super) fn check(mesh: &Mesh, problems: &mut Vec<Problem>) {
    let graph = Graph::of(mesh);
    let silent = mesh.regions.iter().filter(|region| region.routers.is_empty());
    let silent: Vec<&str> = silent.map(|region| region.name.as_str()).collect();
    for (at, route) in mesh.routes.iter().enumerate() {
        for (i, to) in route.to.iter().enumerate() {
            let (a, b) = (route.from.region.as_str(), to.region.as_str());
            let Some(region) = mesh.regions.iter().position(|region| region.name == b) else { continue };
            if mesh.region(a).is_none() {
                continue;
            }
            if a == b {
                let message = format!(
                    "route `{}` begins and ends in `{a}`: a route inside one region is not available yet",
                    route.name
                );
                let problem =
                    Problem::new(ProblemKind::Unreachable, Place::ToRegion(at, i), "the same region", message);
                problems.push(problem.with(Place::FromRegion(at), "from here").help("a route leads to another region"));
                continue;
            }
            let between: Vec<&str> = silent.iter().copied().filter(|region| *region != a && *region != b).collect();
            if graph.next_hops(a, b, WAY_LINKS_MAX, &between).is_empty() {
                problems.push(unreachable(&graph, (a, b), &route.name, (at, i)));
            }
            if mesh.regions[region].routers.is_empty() {
                let message = format!("route `{}` leads to `{b}`, whose routers have no address", route.name);
                let problem = Problem::new(ProblemKind::Incomplete, Place::Region(region), "no `routers`", message);
                problems.push(problem.with(Place::ToRegion(at, i), "needed here").help(
                    "give it `routers: [\"HOST:PORT\"]`, where the routers of other regions reach those of this one",
                ));
            }
        }
    }
}

fn unreachable(graph: &Graph<'_>, (a, b): (&str, &str), route: &str, (at, i): (usize, usize)) -> Problem {
    let way = match graph.shortest_path(a, b) {
        Some(path) => {
            let over = &path.regions[1..path.regions.len() - 1];
            format!(
                "the way over {} is not taken: it has more than {WAY_LINKS_MAX} links, or passes a region without `routers`",
                over.join(" and ")
            )
        }
        None => "and no chain of links joins them either".to_owned(),
    };
    let message = format!("route `{route}` leads from `{a}` to `{b}`, but no link joins the two; {way}");
    Problem::new(ProblemKind::Unreachable, Place::ToRegion(at, i), format!("not linked to `{a}`"), message)
        .with(Place::FromRegion(at), "from here")
        .help(format!("add to `links`: {{between: [{a}, {b}]}}"))
}
