//! Routes: which source and sink a route's keys mean, by the kind of the broker that they name.

use longhaul_topic::Filter;
use longhaul_topology::{
    BrokerKind, Class, From, Guarantee, Mesh, OnGap, OnPoison, Partition, Place, Route, RouteStart, SinkKind,
    SourceKind, Template, To, suggest_name,
};

use crate::compile::mesh::{Compiled, topic_or_identity};
use crate::compile::predicate::predicate;
use crate::compile::{Context, units};
use crate::field::{Field, List, Maybe, items};
use crate::raw::mesh::{RawClass, RawFrom, RawGuarantee, RawOnGap, RawOnPoison, RawPartition, RawRoute, RawTo};
use crate::report::{Report, Span};

/// `None` when something in it was wrong, which is reported.
pub(crate) fn route(raw: &RawRoute, span: Span, compiled: &mut Compiled, cx: Context<'_>) -> Option<Route> {
    let at = compiled.mesh.routes.len();
    let name = cx.name(&raw.name);
    compiled.places.put(Place::Route(at), if raw.name.value.is_some() { raw.name.span } else { span });
    compiled.places.put(Place::From(at), raw.from.span);
    let from = raw.from.value.as_ref().and_then(|from| source(from, (at, raw.from.maimed), compiled, cx));
    let predicate = raw.predicate.as_ref().map(|field| predicate(field, cx));
    let to = destinations(&raw.to, at, compiled, cx);
    if let Some(guarantee) = &raw.guarantee {
        compiled.places.put(Place::Guarantee(at), guarantee.span);
    }
    if let Some(on_poison) = &raw.on_poison {
        compiled.places.put(Place::OnPoison(at), on_poison.span);
    }
    let start = match raw.start.as_ref() {
        Some(field) => start(field, cx),
        None => Some(RouteStart::Latest),
    };
    Some(Route {
        name: name?,
        from: from?,
        predicate: match predicate {
            Some(predicate) => Some(predicate?),
            None => None,
        },
        to: to?,
        guarantee: match word(raw.guarantee.as_ref(), RawGuarantee::AtLeastOnce)? {
            RawGuarantee::EffectivelyOnce => Guarantee::EffectivelyOnce,
            RawGuarantee::AtLeastOnce => Guarantee::AtLeastOnce,
            RawGuarantee::AtMostOnce => Guarantee::AtMostOnce,
        },
        start: start?,
        on_poison: match word(raw.on_poison.as_ref(), RawOnPoison::Halt)? {
            RawOnPoison::Halt => OnPoison::Halt,
            RawOnPoison::Park => OnPoison::Park,
            RawOnPoison::Drop => OnPoison::Drop,
        },
        on_gap: match word(raw.on_gap.as_ref(), RawOnGap::Halt)? {
            RawOnGap::Halt => OnGap::Halt,
            RawOnGap::Continue => OnGap::Continue,
        },
        class: match word(raw.class.as_ref(), RawClass::Normal)? {
            RawClass::Realtime => Class::Realtime,
            RawClass::Normal => Class::Normal,
            RawClass::CatchUp => Class::CatchUp,
        },
    })
}

/// One of a few words, the default when it is left out, nothing when it was wrong.
fn word<T: Copy>(field: Option<&Field<T>>, default: T) -> Option<T> {
    field.map_or(Some(default), |field| field.value)
}

fn start(field: &Field<String>, cx: Context<'_>) -> Option<RouteStart> {
    let (text, span) = field.get()?;
    match units::start(text) {
        Ok(start) => Some(start),
        Err(expected) => cx.refuse(span, "not understood", format!("`{}` is no start: {expected}", cx.written(span))),
    }
}

fn destinations(raw: &List<RawTo>, at: usize, compiled: &mut Compiled, cx: Context<'_>) -> Option<Vec<To>> {
    let list = raw.value.as_ref()?;
    let mut all = Some(Vec::new());
    for (i, field) in list.iter().enumerate() {
        compiled.places.put(Place::To(at, i), field.span);
        let to = field.value.as_ref().and_then(|raw| sink(raw, (at, i), (field.span, field.maimed), compiled, cx));
        all = all.zip(to).map(|(mut all, to)| {
            all.push(to);
            all
        });
    }
    all
}

/// The kind of a broker that a route names; reported when it is not there. Silent while parts of the mesh are missing because
/// they were wrong themselves.
fn kind(region: &Field<String>, broker: &Field<String>, compiled: &Compiled, cx: Context<'_>) -> Option<BrokerKind> {
    let ((region_name, region_span), broker) = (region.get()?, broker.get());
    let mesh: &Mesh = &compiled.mesh;
    let Some(found) = mesh.region(region_name) else {
        if !compiled.is_maimed() {
            let regions = mesh.regions.iter().map(|region| region.name.as_str());
            let report = Report::new(region_span, "not known", format!("no region is called `{region_name}`"));
            cx.report(report.help(suggest_name(region_name, regions, "the regions are")));
        }
        return None;
    };
    let (broker_name, broker_span) = broker?;
    let known = mesh.broker(region_name, broker_name);
    if known.is_none() && !compiled.is_maimed() {
        let message = format!("region `{region_name}` has no broker called `{broker_name}`");
        let brokers = found.brokers.iter().map(|broker| broker.name.as_str());
        let help = suggest_name(broker_name, brokers, "its brokers are");
        let report = Report::new(broker_span, "not known there", message).help(help);
        cx.report(match mesh.regions.iter().position(|region| region.name == *region_name) {
            Some(region) => report.with(compiled.places.span(Place::Region(region)), "the region"),
            None => report,
        });
    }
    known.map(|broker| broker.kind)
}

fn source(raw: &RawFrom, (at, maimed): (usize, bool), compiled: &mut Compiled, cx: Context<'_>) -> Option<From> {
    let kind = kind(&raw.region, &raw.broker, compiled, cx);
    compiled.places.put(Place::FromRegion(at), raw.region.span);
    compiled.places.put(Place::FromBroker(at), raw.broker.span);
    let topics =
        raw.topics.as_ref().map(|list| filters(list, |i, span| compiled.places.put(Place::FromTopic(at, i), span), cx));
    let kind = kind?;
    let given: Vec<Given> = [
        given("exchange", raw.exchange.as_ref()),
        given("queue", raw.queue.as_ref()),
        given("stream", raw.stream.as_ref()),
        given("core", raw.core.as_ref()),
        given("capture", raw.capture.as_ref()),
    ]
    .into_iter()
    .flatten()
    .collect();
    let allowed: &[&str] = match kind {
        BrokerKind::Kafka | BrokerKind::Embedded => &[],
        BrokerKind::RabbitMq => &["exchange", "queue", "stream"],
        BrokerKind::Nats => &["stream", "core", "capture"],
    };
    let fits = fitting(&given, allowed, kind, "source", cx);
    let named = if raw.queue.is_some() { Some("queue") } else { raw.stream.as_ref().map(|_| "stream") };
    let from_whole = named.filter(|_| kind == BrokerKind::RabbitMq);
    if let (Some(topics), Some(what)) = (&raw.topics, from_whole) {
        let message = format!("a {what} gives whatever is in it: `topics` has no effect here");
        let report = Report::new(topics.span, "has no effect", message);
        cx.report(report.help("read an `exchange` with these topics, or choose by `where`"));
        return None;
    }
    let topics = match topics {
        Some(topics) => topics,
        None if from_whole.is_some() => Some(Vec::new()),
        None if maimed => None,
        None => {
            let report = Report::new(
                compiled.places.span(Place::From(at)),
                "`topics` is missing",
                "this source has no `topics`",
            );
            cx.report(report.help("`topics: [\"#\"]` takes every topic"));
            None
        }
    };
    if !fits {
        return None;
    }
    let whole = (compiled.places.span(Place::From(at)), maimed);
    let source = source_kind(raw, kind, topics?, whole, cx)?;
    Some(From { region: raw.region.value.clone()?, broker: raw.broker.value.clone()?, source })
}

fn source_kind(
    raw: &RawFrom,
    kind: BrokerKind,
    topics: Vec<Filter>,
    whole: (Span, bool),
    cx: Context<'_>,
) -> Option<SourceKind> {
    let yes = |field: &Maybe<bool>| field.as_ref().is_some_and(|field| field.value == Some(true));
    let source = match kind {
        BrokerKind::Kafka => SourceKind::Kafka { topics },
        BrokerKind::Embedded => SourceKind::Embedded { topics },
        BrokerKind::RabbitMq => match (&raw.exchange, &raw.queue, &raw.stream) {
            (Some(exchange), None, None) => SourceKind::RabbitExchange { exchange: cx.filled(exchange)?, topics },
            (None, Some(queue), None) => SourceKind::RabbitQueue { queue: cx.filled(queue)? },
            (None, None, Some(stream)) => SourceKind::RabbitStream { stream: cx.filled(stream)? },
            (exchange, queue, stream) => {
                return one_of_three(whole, exchange.is_some() || queue.is_some() || stream.is_some(), cx);
            }
        },
        BrokerKind::Nats => match (&raw.stream, yes(&raw.core), yes(&raw.capture)) {
            (None, true, false) => SourceKind::CoreNats { topics },
            (None, false, true) => SourceKind::NatsCapture { topics },
            (None, false, false) => SourceKind::JetStream { stream: None, topics },
            (Some(stream), false, false) => SourceKind::JetStream { stream: Some(cx.filled(stream)?), topics },
            _ => {
                return cx.refuse(
                    whole.0,
                    "more than one of them",
                    "a NATS source has at most one of `stream`, `core` and `capture`",
                );
            }
        },
    };
    Some(source)
}

fn one_of_three<T>((span, maimed): (Span, bool), some: bool, cx: Context<'_>) -> Option<T> {
    if maimed {
        return None;
    }
    if some {
        return cx.refuse(
            span,
            "more than one of them",
            "RabbitMQ needs one of `exchange`, `queue` and `stream`, not more",
        );
    }
    cx.refuse(span, "none of them", "RabbitMQ needs `exchange`, `queue` or `stream` here")
}

fn sink(
    raw: &RawTo,
    (at, i): (usize, usize),
    whole: (Span, bool),
    compiled: &mut Compiled,
    cx: Context<'_>,
) -> Option<To> {
    let kind = kind(&raw.region, &raw.broker, compiled, cx);
    let places = &mut compiled.places;
    places.put(Place::ToRegion(at, i), raw.region.span);
    places.put(Place::ToBroker(at, i), raw.broker.span);
    if let Some(topic) = &raw.topic {
        places.put(Place::ToTopic(at, i), topic.span);
    }
    if let Some(partition) = &raw.partition {
        places.put(Place::ToPartition(at, i), partition.span);
    }
    let topic = topic_or_identity(raw.topic.as_ref(), cx);
    let kind = kind?;
    let given: Vec<Given> = [
        given("partition", raw.partition.as_ref()),
        given("tombstone_on_empty", raw.tombstone_on_empty.as_ref()),
        given("exchange", raw.exchange.as_ref()),
        given("queue", raw.queue.as_ref()),
        given("stream", raw.stream.as_ref()),
        given("core", raw.core.as_ref()),
    ]
    .into_iter()
    .flatten()
    .collect();
    let allowed: &[&str] = match kind {
        BrokerKind::Kafka => &["partition", "tombstone_on_empty"],
        BrokerKind::RabbitMq => &["exchange", "queue", "stream"],
        BrokerKind::Nats => &["core"],
        BrokerKind::Embedded => &[],
    };
    if !fitting(&given, allowed, kind, "destination", cx) {
        return None;
    }
    let sink = match kind {
        BrokerKind::Kafka => SinkKind::Kafka {
            partition: match word(raw.partition.as_ref(), RawPartition::Key)? {
                RawPartition::Key => Partition::Key,
                RawPartition::Same => Partition::Same,
            },
            tombstone_on_empty: word(raw.tombstone_on_empty.as_ref(), false)?,
        },
        BrokerKind::RabbitMq => match (&raw.exchange, &raw.queue, &raw.stream) {
            (Some(exchange), None, None) => SinkKind::RabbitExchange { exchange: cx.filled(exchange)? },
            (None, Some(queue), None) => SinkKind::RabbitQueue { queue: cx.filled(queue)? },
            (None, None, Some(stream)) => SinkKind::RabbitStream { stream: cx.filled(stream)? },
            (exchange, queue, stream) => {
                return one_of_three(whole, exchange.is_some() || queue.is_some() || stream.is_some(), cx);
            }
        },
        BrokerKind::Nats if word(raw.core.as_ref(), false)? => SinkKind::CoreNats,
        BrokerKind::Nats => SinkKind::JetStream,
        BrokerKind::Embedded => SinkKind::Embedded,
    };
    Some(To { region: raw.region.value.clone()?, broker: raw.broker.value.clone()?, topic: topic?, sink })
}

/// A key that is there, and where.
type Given = (&'static str, Span);

fn given<T>(key: &'static str, field: Option<&Field<T>>) -> Option<Given> {
    field.map(|field| (key, field.span))
}

/// Whether all keys that are there are for this kind of broker; reports those that are not.
fn fitting(given: &[Given], allowed: &[&str], kind: BrokerKind, what: &str, cx: Context<'_>) -> bool {
    let mut fits = true;
    for (key, span) in given.iter().filter(|(key, _)| !allowed.contains(key)) {
        fits = false;
        let message = format!("`{key}` is not for a {} {what}", kind.as_str());
        let keys: Vec<String> = allowed.iter().map(|key| format!("`{key}`")).collect();
        let report = Report::new(*span, format!("not for {}", kind.as_str()), message);
        cx.report(match keys.as_slice() {
            [] => report,
            keys => report.help(format!("for {} there is {}", kind.as_str(), keys.join(", "))),
        });
    }
    fits
}

/// Filters; `place` hears where each of them stands.
pub(crate) fn filters(list: &List<String>, mut place: impl FnMut(usize, Span), cx: Context<'_>) -> Option<Vec<Filter>> {
    let all = list.value.as_ref()?;
    let mut parsed = Vec::new();
    for (text, span) in items(Some(list)) {
        match Filter::parse(text) {
            Ok(filter) => {
                place(parsed.len(), span);
                parsed.push(filter);
            }
            Err(error) => {
                let message = format!("`{}` is no topic filter: {error}", cx.written(span));
                cx.report(Report::new(span, "no filter", message));
            }
        }
    }
    (parsed.len() == all.len()).then_some(parsed)
}

/// A topic template.
pub(crate) fn template(field: &Field<String>, cx: Context<'_>) -> Option<Template> {
    let (text, span) = field.get()?;
    match Template::parse(text) {
        Ok(template) => Some(template),
        Err(error) => cx.refuse(span, "no template", error.to_string()),
    }
}
