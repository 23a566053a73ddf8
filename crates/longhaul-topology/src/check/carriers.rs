//! Whatever carries events from one place to another: a route with one of its destinations, or a declared foreign mirror.

use super::Place;
use crate::image::image;
use crate::pattern::Pattern;
use crate::{Mesh, Predicate, SinkKind, SourceKind, Template};

/// One direction that events take.
#[derive(Debug)]
pub(super) struct Carrier<'a> {
    /// Name of the route, or of the mirror in words.
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) from: Spot<'a>,
    pub(super) to: Spot<'a>,
    pub(super) template: &'a Template,
    pub(super) predicate: Option<&'a Predicate>,
    /// What it reads, one entry per filter.
    pub(super) sources: Vec<Pattern>,
    /// What it writes, per entry of `sources`.
    pub(super) images: Vec<Vec<Pattern>>,
}

/// Where events lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Spot<'a> {
    pub(super) region: &'a str,
    pub(super) broker: &'a str,
    medium: Medium<'a>,
}

/// Where in a broker. What an exchange hands to which queue is the business of its bindings and not known here, so an
/// exchange and a queue are taken as two places; the routers stop a loop through a binding when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Medium<'a> {
    Topics,
    Exchange(&'a str),
    /// Or a stream: both are queues to RabbitMQ, and share their names.
    Queue(&'a str),
}

impl Spot<'_> {
    /// Whether what is written here can be read there.
    pub(super) fn feeds(&self, other: &Self) -> bool {
        let same = self.region == other.region && self.broker == other.broker;
        same && (self.medium == other.medium || [self.medium, other.medium].contains(&Medium::Topics))
    }
}

impl Carrier<'_> {
    /// What it makes of some topics.
    pub(super) fn image(&self, source: &Pattern) -> Vec<Pattern> {
        image(source, self.template, self.from.region, self.from.broker)
    }
}

/// What a source reads: every filter with its index, or everything where it has none.
pub(super) fn source_patterns(source: &SourceKind) -> Vec<(Option<usize>, Pattern)> {
    if source.is_whole() {
        return vec![(None, Pattern::all())];
    }
    source.topics().iter().enumerate().map(|(at, filter)| (Some(at), Pattern::of(filter))).collect()
}

/// All carriers of a mesh, routes first, in document order.
pub(super) fn carriers(mesh: &Mesh) -> Vec<Carrier<'_>> {
    let mut all = Vec::new();
    for (at, route) in mesh.routes.iter().enumerate() {
        let medium = match &route.from.source {
            SourceKind::RabbitExchange { exchange, .. } => Medium::Exchange(exchange),
            SourceKind::RabbitQueue { queue } | SourceKind::RabbitStream { stream: queue } => Medium::Queue(queue),
            _ => Medium::Topics,
        };
        let from = Spot { region: &route.from.region, broker: &route.from.broker, medium };
        let sources: Vec<Pattern> =
            source_patterns(&route.from.source).into_iter().map(|(_, pattern)| pattern).collect();
        for (i, to) in route.to.iter().enumerate() {
            let medium = match &to.sink {
                SinkKind::RabbitExchange { exchange } => Medium::Exchange(exchange),
                SinkKind::RabbitQueue { queue } | SinkKind::RabbitStream { stream: queue } => Medium::Queue(queue),
                _ => Medium::Topics,
            };
            let mut carrier = Carrier {
                name: route.name.clone(),
                place: Place::To(at, i),
                from,
                to: Spot { region: &to.region, broker: &to.broker, medium },
                template: &to.topic,
                predicate: route.predicate.as_ref(),
                sources: sources.clone(),
                images: Vec::new(),
            };
            carrier.images = match &to.sink {
                sink if sink.is_one_queue() => vec![vec![Pattern::all()]; sources.len()],
                _ => sources.iter().map(|source| carrier.image(source)).collect(),
            };
            all.push(carrier);
        }
    }
    all.extend(mirrors(mesh));
    all
}

fn mirrors(mesh: &Mesh) -> impl Iterator<Item = Carrier<'_>> {
    mesh.foreign_mirrors.iter().enumerate().map(|(at, mirror)| {
        let (from, to) = (&mirror.from, &mirror.to);
        let mut carrier = Carrier {
            name: format!("the foreign mirror from {}/{} to {}/{}", from.0, from.1, to.0, to.1),
            place: Place::Mirror(at),
            from: Spot { region: &mirror.from.0, broker: &mirror.from.1, medium: Medium::Topics },
            to: Spot { region: &mirror.to.0, broker: &mirror.to.1, medium: Medium::Topics },
            template: &mirror.topic,
            predicate: None,
            sources: mirror.topics.iter().map(Pattern::of).collect(),
            images: Vec::new(),
        };
        carrier.images = carrier.sources.iter().map(|source| carrier.image(source)).collect();
        carrier
    })
}
