//! Whether a route can keep what it promises with the ends that it has.

use super::{Place, Problem, ProblemKind};
use crate::{Guarantee, Mesh, Route, SinkKind, SourceKind};

pub(super) fn check(mesh: &Mesh, problems: &mut Vec<Problem>) {
    for (at, route) in mesh.routes.iter().enumerate() {
        match route.guarantee {
            Guarantee::EffectivelyOnce => effectively_once(at, route, problems),
            Guarantee::AtLeastOnce => at_least_once(at, route, problems),
            Guarantee::AtMostOnce => at_most_once(at, route, problems),
        }
    }
}

/// Both ends must be able to: a source that can be read again from a position, and a destination that takes events and cursor as one, or
/// knows an event that it has.
fn effectively_once(at: usize, route: &Route, problems: &mut Vec<Problem>) {
    const HELP: &str = "say `guarantee: at-least-once`: it loses nothing, and a duplicate comes only after a crash and always has the \
                        identity of the first, by which the reader can leave it out";
    let cannot = |reason: &str| {
        let message = format!("route `{}` cannot keep effectively-once: {reason}", route.name);
        Problem::new(ProblemKind::Guarantee, Place::Guarantee(at), "cannot be kept", message).help(HELP)
    };
    let source = match &route.from.source {
        SourceKind::RabbitExchange { .. } | SourceKind::RabbitQueue { .. } => {
            Some("what was taken from a RabbitMQ queue cannot be read again from a position")
        }
        SourceKind::CoreNats { .. } => Some("core NATS forgets what nobody takes at once"),
        _ => None,
    };
    problems.extend(source.map(|reason| cannot(reason).with(Place::From(at), "this source")));
    for (i, to) in route.to.iter().enumerate() {
        let reason = match to.sink {
            SinkKind::RabbitExchange { .. } | SinkKind::RabbitQueue { .. } | SinkKind::RabbitStream { .. } => {
                "RabbitMQ does not take events and their cursor as one"
            }
            SinkKind::CoreNats => "core NATS confirms nothing",
            SinkKind::Kafka { .. } | SinkKind::JetStream | SinkKind::Embedded => continue,
        };
        problems.push(cannot(reason).with(Place::To(at, i), "this destination"));
    }
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
