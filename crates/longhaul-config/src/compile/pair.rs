//! Whether a router document and a mesh document fit each other.

use longhaul_topology::{BrokerKind, Mesh, suggest_name};

use crate::report::{Report, Reports, Span};
use crate::router::{BrokerAccess, Router};
use crate::yaml::{Node, Value};

/// Where the router document says something about the mesh; nothing is known without its text.
#[derive(Default)]
pub(crate) struct Spots {
    region: Span,
    brokers: Span,
    names: Vec<(String, Span)>,
}

impl Spots {
    /// From the tree of the router document.
    pub(crate) fn of(root: &Node) -> Self {
        let mut spots = Self::default();
        let Value::Map(entries) = &root.value else { return spots };
        for (key, value) in entries {
            match (key.name.as_str(), &value.value) {
                ("region", _) => spots.region = value.span,
                ("brokers", Value::Map(brokers)) => {
                    spots.brokers = key.span;
                    spots.names = brokers.iter().map(|(key, _)| (key.name.clone(), key.span)).collect();
                }
                _ => {}
            }
        }
        spots
    }

    fn broker(&self, name: &str) -> Span {
        self.names.iter().find(|(known, _)| known == name).map_or(self.brokers, |(_, span)| *span)
    }
}

impl BrokerAccess {
    /// Which kind of broker it reaches.
    #[must_use]
    pub fn kind(&self) -> BrokerKind {
        match self {
            Self::Kafka(_) => BrokerKind::Kafka,
            Self::RabbitMq(_) => BrokerKind::RabbitMq,
            Self::Nats(_) => BrokerKind::Nats,
            Self::Embedded(_) => BrokerKind::Embedded,
        }
    }
}

pub(crate) fn check(router: &Router, mesh: &Mesh, spots: &Spots, reports: &Reports) {
    let Some(region) = mesh.region(&router.region) else {
        let regions = mesh.regions.iter().map(|region| region.name.as_str());
        let message = format!("the mesh `{}` has no region called `{}`", mesh.name, router.region);
        let report = Report::new(spots.region, "not in the mesh document", message);
        reports.push(report.help(suggest_name(&router.region, regions, "its regions are")));
        return;
    };
    for broker in &region.brokers {
        let kind = broker.kind.as_str();
        match router.brokers.get(&broker.name) {
            None => {
                let message =
                    format!("nothing says how to reach the {kind} broker `{}` of `{}`", broker.name, region.name);
                let report = Report::new(spots.brokers, format!("`{}` is missing", broker.name), message);
                reports.push(report.help(format!("add `{}: {{{kind}: {{..}}}}` to `brokers`", broker.name)));
            }
            Some(access) if access.kind() != broker.kind => {
                let message = format!(
                    "broker `{}` is {kind} in the mesh document, but {} here",
                    broker.name,
                    access.kind().as_str()
                );
                reports.push(Report::new(spots.broker(&broker.name), format!("expected {kind}"), message));
            }
            Some(_) => {}
        }
    }
    for name in router.brokers.keys().filter(|name| mesh.broker(&region.name, name).is_none()) {
        let known = region.brokers.iter().map(|broker| broker.name.as_str());
        let message = format!("region `{}` of the mesh document has no broker called `{name}`", region.name);
        let report = Report::new(spots.broker(name), "not in the mesh document", message);
        reports.push(report.help(suggest_name(name, known, "its brokers are")));
    }
}
