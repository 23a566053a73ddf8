//! The table: every route of a mesh, compiled. Immutable; a reload builds another one.

use std::collections::HashMap;
use std::sync::Arc;

use longhaul_event::cloudevents::{Binding, rebind};
use longhaul_event::provenance::Place;
use longhaul_event::{HeaderError, Headers};
use longhaul_topic::{Filter, FilterSet};
use longhaul_topology::{BrokerKind, Mesh, Part, Route, SourceKind, To};

use crate::CompiledPredicate;
use crate::fingerprint::fingerprint;

/// All routes of a mesh, those of other regions included: a destination must know what it is asked to write.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    routes: Vec<Arc<CompiledRoute>>,
    by_name: HashMap<String, usize>,
}

/// A route, ready to decide.
#[derive(Debug)]
pub struct CompiledRoute {
    pub(crate) route: Route,
    pub(crate) place: Place,
    /// `None` when the source itself chooses: a queue, an exchange, a whole stream.
    pub(crate) filters: Option<FilterSet>,
    pub(crate) predicate: Option<CompiledPredicate>,
    pub(crate) destinations: Vec<Destination>,
    hash: u64,
}

/// One writing end, ready to decide.
#[derive(Debug)]
pub(crate) struct Destination {
    pub(crate) place: Place,
    /// Whether the template may find something missing in an event.
    pub(crate) may_lack_topic: bool,
    bindings: (Binding, Binding),
    hash: u64,
}

impl RouteTable {
    /// Compiles every route. What [`longhaul_topology::check`] would refuse is compiled as it stands.
    #[must_use]
    pub fn build(mesh: &Mesh) -> Self {
        let routes: Vec<_> = mesh.routes.iter().map(|route| Arc::new(CompiledRoute::new(mesh, route))).collect();
        let by_name = routes.iter().enumerate().map(|(at, route)| (route.route.name.clone(), at)).collect();
        Self { routes, by_name }
    }

    /// The route of that name.
    #[must_use]
    pub fn route(&self, name: &str) -> Option<&Arc<CompiledRoute>> {
        self.by_name.get(name).map(|at| &self.routes[*at])
    }

    /// All routes, in document order.
    pub fn routes(&self) -> impl ExactSizeIterator<Item = &Arc<CompiledRoute>> {
        self.routes.iter()
    }
}

impl CompiledRoute {
    fn new(mesh: &Mesh, route: &Route) -> Self {
        let from = binding(mesh, &route.from.region, &route.from.broker);
        let destination = |to: &To| Destination {
            place: Place::of(&mesh.name, &to.region, &to.broker),
            may_lack_topic: !matches!(to.topic.parts(), [Part::Topic]),
            bindings: (from, binding(mesh, &to.region, &to.broker)),
            hash: fingerprint(route, std::slice::from_ref(to)),
        };
        Self {
            place: Place::of(&mesh.name, &route.from.region, &route.from.broker),
            filters: topics(&route.from.source).map(FilterSet::new),
            predicate: route.predicate.as_ref().map(CompiledPredicate::new),
            destinations: route.to.iter().map(destination).collect(),
            hash: fingerprint(route, &route.to),
            route: route.clone(),
        }
    }

    /// The route as it was declared: class, guarantee, start and poison policy stand there.
    #[must_use]
    pub fn route(&self) -> &Route {
        &self.route
    }

    /// The broker that it reads.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Hash of all that the declaration says, every destination included: when it changes, something about the route did. Stable over
    /// versions and machines.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The same without the other destinations: when it changes, the flows to that one do.
    ///
    /// # Panics
    /// When there is no such destination.
    #[must_use]
    pub fn hash_to(&self, to: usize) -> u64 {
        self.destinations[to].hash
    }

    /// The CloudEvents bindings of source and destination.
    ///
    /// # Panics
    /// When there is no such destination.
    #[must_use]
    pub fn bindings(&self, to: usize) -> (Binding, Binding) {
        self.destinations[to].bindings
    }

    /// The headers with their CloudEvents attributes in the destination's binding; shared and at once when there is nothing to do.
    ///
    /// # Errors
    /// [`HeaderError`] when they grow beyond the limits.
    ///
    /// # Panics
    /// When there is no such destination.
    pub fn rebind(&self, to: usize, headers: &Headers) -> Result<Headers, HeaderError> {
        let (from, to) = self.bindings(to);
        rebind(headers, from, to)
    }
}

/// The filters that events must pass; `None` when what the source gives is what the route asks for.
fn topics(source: &SourceKind) -> Option<&[Filter]> {
    match source {
        // The exchange's own type says what a pattern means there: a fanout ignores it.
        SourceKind::RabbitExchange { .. } | SourceKind::RabbitQueue { .. } | SourceKind::RabbitStream { .. } => None,
        SourceKind::Kafka { topics }
        | SourceKind::JetStream { topics, .. }
        | SourceKind::CoreNats { topics }
        | SourceKind::NatsCapture { topics }
        | SourceKind::Embedded { topics } => (!topics.is_empty()).then_some(topics),
    }
}

/// An undeclared broker never has a flow; what stands here for it does not matter.
fn binding(mesh: &Mesh, region: &str, broker: &str) -> Binding {
    match mesh.broker(region, broker).map(|broker| broker.kind) {
        Some(BrokerKind::Kafka) => Binding::Kafka,
        Some(BrokerKind::RabbitMq) => Binding::Amqp,
        Some(BrokerKind::Nats) => Binding::Nats,
        Some(BrokerKind::Embedded) | None => Binding::Http,
    }
}
