//! The mesh document: regions, brokers, links; routes are in [`route`](super::route).

use longhaul_topology::{
    Broker, BrokerKind, Congestion, ForeignMirror, Link, Mesh, Place, ProblemKind, Region, Template, check,
};

use crate::compile::places::Places;
use crate::compile::route::{filters, template};
use crate::compile::{Context, route, units};
use crate::field::{Amount, Field, damaged, items};
use crate::raw::mesh::{RawBroker, RawCongestion, RawEnd, RawLink, RawMesh, RawMirror, RawRegion};
use crate::report::{Report, Span};

/// What could be compiled, and where it stands.
pub(crate) struct Compiled {
    pub(crate) mesh: Mesh,
    pub(crate) places: Places,
    /// Some region, broker or link is not in `mesh` because it was wrong: what seems unknown or unlinked may be there.
    maimed: bool,
}

impl Compiled {
    /// Whether what seems unknown or unlinked may be there.
    pub(crate) fn is_maimed(&self) -> bool {
        self.maimed
    }
}

/// Compiles a mesh document and judges the mesh. Whether it is good is for the caller to see in the reports.
pub(crate) fn mesh(raw: &RawMesh, cx: Context<'_>) -> Mesh {
    let compiled = compile(raw, cx);
    for problem in check(&compiled.mesh) {
        let doubtful = matches!(problem.kind, ProblemKind::UnknownName | ProblemKind::Unreachable);
        if !(compiled.maimed && doubtful) {
            cx.report(compiled.places.report(&problem));
        }
    }
    compiled.mesh
}

fn compile(raw: &RawMesh, cx: Context<'_>) -> Compiled {
    cx.header(&raw.api_version, &raw.kind, "Mesh");
    let name = raw.metadata.value.as_ref().and_then(|metadata| cx.name(&metadata.name)).unwrap_or_default();
    let mesh = Mesh { name, regions: Vec::new(), links: Vec::new(), routes: Vec::new(), foreign_mirrors: Vec::new() };
    let maimed = damaged(Some(&raw.regions)) || damaged(raw.links.as_ref());
    let mut compiled = Compiled { mesh, places: Places::default(), maimed };
    for (raw, _) in items(Some(&raw.regions)) {
        region(raw, &mut compiled, cx);
    }
    if raw.regions.get().is_some_and(|(regions, _)| regions.is_empty()) {
        cx.report(Report::new(raw.regions.span, "empty", "a mesh has at least one region"));
    }
    for (raw, span) in items(raw.links.as_ref()) {
        let before = compiled.mesh.links.len();
        if link(raw, span, &mut compiled, cx).is_none() && compiled.mesh.links.len() == before {
            compiled.maimed = true;
        }
    }
    for (raw, span) in items(raw.routes.as_ref()) {
        if let Some(route) = route::route(raw, span, &mut compiled, cx) {
            compiled.mesh.routes.push(route);
        }
    }
    for (raw, span) in items(raw.foreign_mirrors.as_ref()) {
        if let Some(mirror) = mirror(raw, span, &mut compiled, cx) {
            compiled.mesh.foreign_mirrors.push(mirror);
        }
    }
    compiled
}

fn region(raw: &RawRegion, compiled: &mut Compiled, cx: Context<'_>) {
    let at = compiled.mesh.regions.len();
    compiled.maimed |= damaged(raw.brokers.as_ref());
    let mut brokers = Vec::new();
    let fields = raw.brokers.as_ref().and_then(|list| list.value.as_ref());
    for field in fields.into_iter().flatten() {
        match broker(field, cx) {
            Some(broker) => {
                let name = field.value.as_ref().map_or(field.span, |raw| raw.name.span);
                compiled.places.put(Place::Broker(at, brokers.len()), name);
                brokers.push(broker);
            }
            None => compiled.maimed = true,
        }
    }
    let mut routers: Vec<String> = Vec::new();
    for (text, span) in items(raw.routers.as_ref()) {
        // A wrong address is reported once; without it the region would be reported as having none.
        routers.push(cx.address(text, span).unwrap_or_else(|| text.clone()));
    }
    if damaged(raw.routers.as_ref()) {
        routers.push(String::new());
    }
    let Some(name) = cx.name(&raw.name) else {
        compiled.maimed = true;
        return;
    };
    compiled.places.put(Place::Region(at), raw.name.span);
    if let Some(routers) = &raw.routers {
        compiled.places.put(Place::Routers(at), routers.span);
    }
    compiled.mesh.regions.push(Region { name, routers, brokers });
}

fn broker(field: &Field<RawBroker>, cx: Context<'_>) -> Option<Broker> {
    let (raw, span) = field.get()?;
    let kinds = [
        raw.kafka.as_ref().map(|_| BrokerKind::Kafka),
        raw.rabbitmq.as_ref().map(|_| BrokerKind::RabbitMq),
        raw.nats.as_ref().map(|_| BrokerKind::Nats),
        raw.embedded.as_ref().map(|_| BrokerKind::Embedded),
    ];
    let kinds: Vec<BrokerKind> = kinds.into_iter().flatten().collect();
    let name = cx.name(&raw.name);
    let kind = one_kind(&kinds, (span, field.maimed), cx)?;
    Some(Broker { name: name?, kind })
}

/// A broker has one kind, here and in the router document.
pub(crate) fn one_kind(kinds: &[BrokerKind], (span, maimed): (Span, bool), cx: Context<'_>) -> Option<BrokerKind> {
    match kinds {
        [kind] => Some(*kind),
        [] if maimed => None,
        [] => {
            let report = Report::new(span, "no kind", "this broker does not say what it is");
            cx.report(report.help("give it exactly one of `kafka: {}`, `rabbitmq: {}`, `nats: {}` and `embedded: {}`"));
            None
        }
        several => {
            let names: Vec<&str> = several.iter().map(|kind| kind.as_str()).collect();
            cx.refuse(
                span,
                "more than one kind",
                format!("a broker has exactly one kind, this one is {}", names.join(" and ")),
            )
        }
    }
}

/// `None` when some of it was wrong; the link itself is kept as long as its ends are known.
fn link(raw: &RawLink, span: Span, compiled: &mut Compiled, cx: Context<'_>) -> Option<()> {
    let rtt = amount(raw.rtt.as_ref(), units::duration, cx).map(|rtt| rtt.as_millis());
    let rtt_ms = rtt.map(|millis| u32::try_from(millis).unwrap_or(u32::MAX).max(1));
    let bandwidth_bits = amount(raw.bandwidth.as_ref(), units::rate, cx);
    let cost = raw.cost.as_ref().and_then(Field::get).and_then(|(cost, span)| match cost {
        0 => cx.refuse(span, "expected 1 or more", "the cost of a link is at least 1"),
        cost => Some(*cost),
    });
    let (ends, between) = raw.between.get()?;
    let [(a, a_span), (b, b_span)]: [(&String, Span); 2] = match ends.as_slice() {
        [a, b] => [a.get()?, b.get()?],
        other => {
            let message = format!("a link is between two regions, this names {}", other.len());
            return cx.refuse(between, "expected two names", message);
        }
    };
    let congestion = match raw.congestion.as_ref().and_then(Field::get).map(|(word, _)| *word) {
        None | Some(RawCongestion::Model) => Congestion::Model,
        Some(RawCongestion::Cubic) => Congestion::Cubic,
        Some(RawCongestion::Bbr) => Congestion::Bbr,
        Some(RawCongestion::NewReno) => Congestion::NewReno,
    };
    let at = compiled.mesh.links.len();
    for (place, span) in [(Place::Link(at), span), (Place::LinkEnd(at, 0), a_span), (Place::LinkEnd(at, 1), b_span)] {
        compiled.places.put(place, span);
    }
    compiled.mesh.links.push(Link { between: [a.clone(), b.clone()], cost, bandwidth_bits, rtt_ms, congestion });
    Some(())
}

/// An amount that may be left out; reported when it is wrong.
pub(crate) fn amount<T>(
    raw: Option<&Field<Amount>>,
    parse: fn(&str) -> Result<T, String>,
    cx: Context<'_>,
) -> Option<T> {
    let (Amount(text), span) = raw?.get()?;
    match parse(text) {
        Ok(value) => Some(value),
        Err(expected) => {
            cx.refuse(span, "not understood", format!("`{}` is not understood: {expected}", cx.written(span)))
        }
    }
}

fn mirror(raw: &RawMirror, span: Span, compiled: &mut Compiled, cx: Context<'_>) -> Option<ForeignMirror> {
    let at = compiled.mesh.foreign_mirrors.len();
    let end = |raw: &Field<RawEnd>| -> Option<((String, String), Span)> {
        let (end, span) = raw.get()?;
        Some(((end.region.value.clone()?, end.broker.value.clone()?), span))
    };
    let topics = match &raw.topics {
        Some(list) => filters(list, |_, _| {}, cx),
        None => longhaul_topic::Filter::parse("#").ok().map(|all| vec![all]),
    };
    let topic = topic_or_identity(raw.topic.as_ref(), cx);
    let ((from, from_span), (to, to_span)) = (end(&raw.from)?, end(&raw.to)?);
    for (place, span) in [(Place::Mirror(at), span), (Place::MirrorFrom(at), from_span), (Place::MirrorTo(at), to_span)]
    {
        compiled.places.put(place, span);
    }
    Some(ForeignMirror { from, to, topics: topics?, topic: topic? })
}

/// A template, `{topic}` when it is left out.
pub(crate) fn topic_or_identity(raw: Option<&Field<String>>, cx: Context<'_>) -> Option<Template> {
    match raw {
        Some(field) => template(field, cx),
        None => Some(Template::identity()),
    }
}
