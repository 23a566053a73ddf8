//! Whether the destinations of a route can follow its policies.

use super::{Place, Problem, ProblemKind};
use crate::{Mesh, OnPoison, SinkKind};

pub(super) fn check(mesh: &Mesh, problems: &mut Vec<Problem>) {
    for (at, route) in mesh.routes.iter().enumerate().filter(|(_, route)| route.on_poison == OnPoison::Park) {
        for (i, to) in route.to.iter().enumerate() {
            let Some(reason) = cannot_park(&to.sink) else { continue };
            let message = format!("route `{}` cannot park: {reason}", route.name);
            let problem = Problem::new(ProblemKind::Policy, Place::OnPoison(at), "cannot be followed", message);
            problems.push(
                problem
                    .with(Place::To(at, i), "this destination")
                    .help("`halt` keeps the data in its source and says so, `drop` counts it and leaves it out"),
            );
        }
    }
}

/// Why a destination has no place for what it refuses, beside what it takes.
fn cannot_park(sink: &SinkKind) -> Option<&'static str> {
    match sink {
        SinkKind::CoreNats => Some("core NATS keeps nothing"),
        _ => None,
    }
}
