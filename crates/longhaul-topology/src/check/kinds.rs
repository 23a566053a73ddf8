//! Ends of routes: whether source and sink are of their broker's kind, and whether nothing is missing or said twice.

use super::{Place, Problem, ProblemKind};
use crate::{Mesh, Partition, Route, SinkKind, SourceKind};

pub(super) fn check(mesh: &Mesh, problems: &mut Vec<Problem>) {
    for (at, route) in mesh.routes.iter().enumerate() {
        source(mesh, at, route, problems);
        sinks(mesh, at, route, problems);
        destinations(at, route, problems);
    }
}

fn source(mesh: &Mesh, at: usize, route: &Route, problems: &mut Vec<Problem>) {
    let from = &route.from;
    if let Some(broker) = mesh.broker(&from.region, &from.broker)
        && broker.kind != from.source.broker_kind()
    {
        let (is, wants) = (broker.kind.as_str(), from.source.broker_kind().as_str());
        let message =
            format!("route `{}` reads from `{}` as from {wants}, but that broker is {is}", route.name, from.broker);
        problems.push(Problem::new(ProblemKind::SourceKind, Place::FromBroker(at), format!("this is {is}"), message));
    }
    if from.source.topics().is_empty() && !from.source.is_whole() {
        let message = format!("route `{}` has no topic filter: it would carry nothing", route.name);
        let problem = Problem::new(ProblemKind::Incomplete, Place::From(at), "no `topics`", message);
        problems.push(problem.help("`topics: [\"#\"]` takes every topic"));
    }
    if matches!(from.source, SourceKind::RabbitQueue { .. }) && route.to.len() > 1 {
        let message = format!("route `{}` takes a queue to {} destinations", route.name, route.to.len());
        let problem = Problem::new(ProblemKind::Note, Place::From(at), "one queue", message);
        problems.push(problem.help(
            "a message leaves the queue when every destination has it: the slowest one sets the pace, and a message that \
             is redelivered goes to all of them again. An `exchange` gives every destination a queue of its own",
        ));
    }
}

fn sinks(mesh: &Mesh, at: usize, route: &Route, problems: &mut Vec<Problem>) {
    for (i, to) in route.to.iter().enumerate() {
        if let Some(broker) = mesh.broker(&to.region, &to.broker)
            && broker.kind != to.sink.broker_kind()
        {
            let (is, wants) = (broker.kind.as_str(), to.sink.broker_kind().as_str());
            let message =
                format!("route `{}` writes to `{}` as to {wants}, but that broker is {is}", route.name, to.broker);
            problems.push(Problem::new(
                ProblemKind::SinkKind,
                Place::ToBroker(at, i),
                format!("this is {is}"),
                message,
            ));
        }
        if to.sink.is_one_queue() && !to.topic.is_identity() {
            let what = if matches!(to.sink, SinkKind::RabbitStream { .. }) { "stream" } else { "queue" };
            let message =
                format!("the topic template `{}` has no effect: a {what} is addressed by its own name", to.topic);
            let problem = Problem::new(ProblemKind::Template, Place::ToTopic(at, i), "has no effect", message);
            problems
                .push(problem.help("remove `topic`, or write to an `exchange`, where the topic is the routing key"));
        }
        let same = matches!(to.sink, SinkKind::Kafka { partition: Partition::Same, .. });
        if same && !matches!(route.from.source, SourceKind::Kafka { .. }) {
            let from = route.from.source.broker_kind().as_str();
            let message = format!("`partition: same` needs a Kafka source: {from} has no partitions");
            let problem =
                Problem::new(ProblemKind::SinkKind, Place::ToPartition(at, i), "no partition to keep", message);
            problems.push(problem.help("use `partition: key`"));
        }
    }
}

fn destinations(at: usize, route: &Route, problems: &mut Vec<Problem>) {
    if route.to.is_empty() {
        let message = format!("route `{}` has no destination", route.name);
        problems.push(Problem::new(ProblemKind::Incomplete, Place::Route(at), "leads nowhere", message));
    }
    for (i, to) in route.to.iter().enumerate() {
        let same_place = |other: &&crate::To| other.region == to.region && other.broker == to.broker;
        if let Some(first) = route.to[..i].iter().position(|other| same_place(&other)) {
            let message = format!("route `{}` names broker `{}` of `{}` twice", route.name, to.broker, to.region);
            let problem = Problem::new(ProblemKind::DuplicateDestination, Place::To(at, i), "second time", message);
            problems.push(problem.with(Place::To(at, first), "first time").help("make it two routes"));
        }
    }
}
