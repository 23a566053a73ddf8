//! Whether a route can keep what it promises with the ends that it has.

use super::{Place, Problem, ProblemKind};
use crate::{Guarantee, Mesh, Route, SinkKind, SourceKind};

pub(super) fn check(mesh: &Mesh, problems: &mut Vec<Problem>) {
    for (at, route) in mesh.routes.iter().enumerate() {
        match route.guarantee {
            Guarantee::EffectivelyOnce => problems.push(effectively_once(at, route)),
            Guarantee::AtLeastOnce => at_least_once(at, route, problems),
            Guarantee::AtMostOnce => at_most_once(at, route, problems),
        }
    }
}

fn effectively_once(at: usize, route: &Route) -> Problem {
    let message = format!("route `{}` asks for effectively-once, which is not available yet", route.name);
    Problem::new(ProblemKind::Guarantee, Place::Guarantee(at), "not available yet", message).help(
        "at-least-once loses nothing; a duplicate comes only after a crash and always has the identity of the first, \
         by which the reader can leave it out",
    )
}

fn at_least_once(at: usize, route: &Route, problems: &mut Vec<Problem>) {
    if matches!(route.from.source, SourceKind::CoreNats { .. }) {
        let message =
            format!("route `{}` cannot keep at-least-once: core NATS forgets what nobody takes at once", route.name);
        let problem = Problem::new(ProblemKind::Guarantee, Place::Guarantee(at), "cannot be kept", message);
        problems.push(
            problem
                .with(Place::From(at), "core NATS")
                .help("read a stream, have one made with `capture: true`, or say `guarantee: at-most-once`"),
        );
    }
    for (i, _) in core_sinks(route) {
        let message = format!("route `{}` cannot keep at-least-once: core NATS confirms nothing", route.name);
        let problem = Problem::new(ProblemKind::Guarantee, Place::Guarantee(at), "cannot be kept", message);
        problems.push(
            problem
                .with(Place::To(at, i), "core NATS")
                .help("write to a stream (without `core: true`), or say `guarantee: at-most-once`"),
        );
    }
}

fn at_most_once(at: usize, route: &Route, problems: &mut Vec<Problem>) {
    if matches!(route.from.source, SourceKind::CoreNats { .. }) {
        return;
    }
    let core = core_sinks(route).count();
    for (i, to) in route.to.iter().enumerate().filter(|(_, to)| to.sink != SinkKind::CoreNats) {
        let message = format!(
            "route `{}` says at-most-once, but broker `{}` confirms what it takes and would get at-least-once",
            route.name, to.broker
        );
        let help = if core > 0 {
            "make it two routes: at-most-once is for core NATS (`core: true`), at-least-once for the rest"
        } else {
            "say `guarantee: at-least-once`: at-most-once is for core NATS (`core: true`) only"
        };
        let problem = Problem::new(ProblemKind::Guarantee, Place::Guarantee(at), "not what would happen", message);
        problems.push(problem.with(Place::To(at, i), "this destination").help(help));
    }
}

fn core_sinks(route: &Route) -> impl Iterator<Item = (usize, &crate::To)> {
    route.to.iter().enumerate().filter(|(_, to)| to.sink == SinkKind::CoreNats)
}
