//! Everything that is wrong with a mesh, at once.
//!
//! [`check`] never stops at the first problem and never reads a file: a [`Problem`] says *where in the mesh* ([`Place`]), and
//! `longhaul-config` finds the line and column. It proves nothing about the brokers themselves (whether a topic exists); it
//! refuses what no broker could make right.

mod carriers;
mod cycles;
mod duplicates;
mod guarantees;
mod kinds;
mod names;
mod policies;
mod reach;
mod topics;

#[cfg(test)]
pub(crate) mod tests;

use crate::Mesh;

/// One thing that is wrong, or worth knowing, about a mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What sort of problem.
    pub kind: ProblemKind,
    /// Where.
    pub at: Place,
    /// A short label for that place.
    pub label: String,
    /// What is wrong: a sentence without a full stop.
    pub message: String,
    /// Other places that belong to it, each with a label.
    pub related: Vec<(Place, String)>,
    /// What to do about it.
    pub help: Option<String>,
}

/// The sorts of problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProblemKind {
    /// A name that nothing has.
    UnknownName,
    /// A name that two things have.
    DuplicateName,
    /// A link from a region to itself.
    SelfLink,
    /// The same two regions linked twice.
    DuplicateLink,
    /// A source that is not of its broker's kind.
    SourceKind,
    /// A sink that is not of its broker's kind.
    SinkKind,
    /// A route without filter, destination or address where one is needed.
    Incomplete,
    /// Two destinations of one route in the same place.
    DuplicateDestination,
    /// No link of their own joins the regions of a route, or they are one.
    Unreachable,
    /// A guarantee that cannot be kept.
    Guarantee,
    /// A policy that a destination cannot follow.
    Policy,
    /// Topics that the destination refuses, or that the source cannot have.
    TopicName,
    /// A template that fits no topic of the route, or has no effect.
    Template,
    /// Events come back to where they were read.
    Cycle,
    /// One event arrives twice at one topic.
    DuplicateDelivery,
    /// Allowed, and worth knowing.
    Note,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The mesh is refused.
    Error,
    /// The mesh is taken.
    Note,
}

impl ProblemKind {
    /// How bad it is.
    #[must_use]
    pub fn severity(self) -> Severity {
        if self == Self::Note { Severity::Note } else { Severity::Error }
    }
}

/// A place in a mesh, by index into its lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The name of a region.
    Region(usize),
    /// `routers` of a region.
    Routers(usize),
    /// The name of a broker: region, broker.
    Broker(usize, usize),
    /// A link as a whole.
    Link(usize),
    /// One end of a link: link, 0 or 1.
    LinkEnd(usize, usize),
    /// The name of a route.
    Route(usize),
    /// `from` as a whole.
    From(usize),
    /// `from.region`.
    FromRegion(usize),
    /// `from.broker`.
    FromBroker(usize),
    /// One filter of `from.topics`: route, filter.
    FromTopic(usize, usize),
    /// A destination as a whole: route, destination.
    To(usize, usize),
    /// `region` of a destination.
    ToRegion(usize, usize),
    /// `broker` of a destination.
    ToBroker(usize, usize),
    /// `topic` of a destination.
    ToTopic(usize, usize),
    /// `partition` of a destination.
    ToPartition(usize, usize),
    /// `guarantee` of a route.
    Guarantee(usize),
    /// `on_poison` of a route.
    OnPoison(usize),
    /// A foreign mirror as a whole.
    Mirror(usize),
    /// `from` of a foreign mirror.
    MirrorFrom(usize),
    /// `to` of a foreign mirror.
    MirrorTo(usize),
}

/// Judges a mesh. Empty means that nothing is wrong; problems come in the order of the checks, then of the document.
#[must_use]
pub fn check(mesh: &Mesh) -> Vec<Problem> {
    let mut problems = Vec::new();
    names::check(mesh, &mut problems);
    kinds::check(mesh, &mut problems);
    reach::check(mesh, &mut problems);
    guarantees::check(mesh, &mut problems);
    policies::check(mesh, &mut problems);
    topics::check(mesh, &mut problems);
    let carriers = carriers::carriers(mesh);
    cycles::check(&carriers, &mut problems);
    duplicates::check(&carriers, &mut problems);
    problems
}

impl Problem {
    fn new(kind: ProblemKind, at: Place, label: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind, at, label: label.into(), message: message.into(), related: Vec::new(), help: None }
    }

    fn with(mut self, place: Place, label: impl Into<String>) -> Self {
        self.related.push((place, label.into()));
        self
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
