//! The decision, case by case and against a naive model.

use longhaul_event::Position;
use longhaul_event::cloudevents::Binding;
use longhaul_event::provenance::{HOPS_MAX, Hop, Place, Provenance, content_hash, mesh_hash};
use longhaul_topology::Predicate;
use proptest::prelude::*;

use super::*;
use crate::{IngressContext, Refusal, RouteTable, ingress};

const REGIONS: [&str; 4] = ["a", "x", "y", "z"];

fn place(region: &str) -> Place {
    Place::of("shop", region, "b")
}

fn compiled(route: Route) -> std::sync::Arc<CompiledRoute> {
    RouteTable::build(&mesh(&REGIONS, vec![route])).route("r").unwrap().clone()
}

/// An event that was first read at a region and has been written to others.
fn travelled(origin: &str, hops: &[&str]) -> Event {
    let event = event("t");
    let position = Position { incarnation: 1, offset: 2 };
    let mut provenance = Provenance::new(mesh_hash("shop"), place(origin), 5, position, content_hash(&event));
    provenance.hops = hops.iter().map(|region| Hop { place: place(region), topic: 0 }).collect();
    Event { provenance: provenance.encode(), ..event }
}

/// Admits and decides at region `a`.
fn decide(route: &CompiledRoute, event: Event) -> Result<Event, Refusal> {
    let mut event = event;
    let context = IngressContext::new("shop", "a", "b", "log");
    let admission = ingress(std::slice::from_mut(&mut event), &context, 1)[0];
    route.decide(0, &event, admission)?;
    let mut topic = String::new();
    route.render(0, &event, &mut topic);
    event.provenance = stamp(route, &event, admission, &topic);
    Ok(event)
}

fn clusters(event: &Event) -> Vec<u64> {
    Provenance::decode(&event.provenance).unwrap().hops.iter().map(|hop| hop.place.cluster).collect()
}

#[test]
fn a_chain_goes_on_and_a_loop_does_not() {
    let route = compiled(route("r", "a", &[">"], &["z"]));
    let chain = decide(&route, travelled("y", &["a"])).unwrap();
    assert_eq!(clusters(&chain), [place("a").cluster, place("z").cluster]);
    assert_eq!(decide(&route, travelled("z", &["a"])), Err(Refusal::Loop), "back to its origin");
    assert_eq!(decide(&route, travelled("y", &["z", "a"])), Err(Refusal::Loop), "back to where it was written");
    let itself = compiled(super::route("r", "a", &[">"], &["a"]));
    assert_eq!(decide(&itself, event("t")), Err(Refusal::Loop), "to where it was just read");
    assert_eq!(decide(&itself, travelled("x", &["y"])), Err(Refusal::Loop), "though its path does not say so");
}

#[test]
fn a_new_event_gets_one_hop_and_a_bridged_one_also_the_place_where_it_is() {
    let route = compiled(route("r", "a", &[">"], &["z"]));
    assert_eq!(clusters(&decide(&route, event("t")).unwrap()), [place("z").cluster]);
    let bridged = decide(&route, travelled("x", &["y"])).unwrap();
    assert_eq!(clusters(&bridged), [place("y").cluster, place("a").cluster, place("z").cluster]);
}

#[test]
fn the_hop_names_the_topic_that_is_written() {
    let mut declared = route("r", "a", &[">"], &["z"]);
    declared.to[0].topic = Template::parse("eu.{topic}").unwrap();
    let stamped = decide(&compiled(declared), event("t")).unwrap();
    let hop = Provenance::decode(&stamped.provenance).unwrap().hops[0];
    assert_eq!(hop.topic, longhaul_event::provenance::topic_hash("eu.t"));
}

#[test]
fn the_last_hop_is_allowed_and_one_more_is_not() {
    let route = compiled(route("r", "a", &[">"], &["z"]));
    let path = |others: usize, last: &'static str| {
        let mut hops = vec!["x"; others];
        hops.push(last);
        travelled("y", &hops)
    };
    assert_eq!(clusters(&decide(&route, path(HOPS_MAX - 2, "a")).unwrap()).len(), HOPS_MAX);
    assert_eq!(decide(&route, path(HOPS_MAX - 1, "a")), Err(Refusal::HopLimit));
    assert_eq!(clusters(&decide(&route, path(HOPS_MAX - 3, "x")).unwrap()).len(), HOPS_MAX, "brought by a bridge");
    assert_eq!(decide(&route, path(HOPS_MAX - 2, "x")), Err(Refusal::HopLimit));
}

#[test]
fn a_topic_that_cannot_be_made_is_refused_before_it_is_rendered() {
    let mut declared = route("r", "a", &[">"], &["z"]);
    declared.to[0].topic = Template::parse("{header.tenant}").unwrap();
    let route = compiled(declared);
    assert_eq!(decide(&route, event("t")), Err(Refusal::Topic));
    assert!(decide(&route, Event { headers: headers(&[("tenant", b"acme")]), ..event("t") }).is_ok());
}

#[test]
fn a_source_that_chooses_by_itself_is_not_filtered_again() {
    let filters = vec![Filter::parse("other").unwrap()];
    for (source, expected) in [
        (SourceKind::RabbitQueue { queue: "q".into() }, Ok(())),
        (SourceKind::RabbitStream { stream: "q".into() }, Ok(())),
        (SourceKind::RabbitExchange { exchange: "fanout".into(), topics: filters.clone() }, Ok(())),
        (SourceKind::JetStream { stream: Some("s".into()), topics: Vec::new() }, Ok(())),
        (SourceKind::JetStream { stream: None, topics: filters.clone() }, Err(Refusal::Filter)),
        (SourceKind::Kafka { topics: filters }, Err(Refusal::Filter)),
    ] {
        let mut declared = route("r", "a", &[], &["z"]);
        declared.from.source = source.clone();
        assert_eq!(decide(&compiled(declared), event("t")).map(|_| ()), expected, "{source:?}");
    }
}

#[test]
fn attributes_are_rebound_from_kind_to_kind() {
    let mut mesh = mesh(&["a", "z"], vec![route("r", "a", &[">"], &["z"])]);
    for (from, to, bindings, name) in [
        (BrokerKind::Kafka, BrokerKind::RabbitMq, (Binding::Kafka, Binding::Amqp), "cloudEvents_specversion"),
        (BrokerKind::Kafka, BrokerKind::Nats, (Binding::Kafka, Binding::Nats), "ce-specversion"),
        (BrokerKind::Kafka, BrokerKind::Embedded, (Binding::Kafka, Binding::Http), "ce-specversion"),
    ] {
        (mesh.regions[0].brokers[0].kind, mesh.regions[1].brokers[0].kind) = (from, to);
        let table = RouteTable::build(&mesh);
        let route = table.route("r").unwrap();
        assert_eq!(route.bindings(0), bindings);
        let rebound = route.rebind(0, &headers(&[("ce_specversion", b"1.0")])).unwrap();
        assert_eq!(rebound.iter().next().unwrap().name, name);
    }
}

#[test]
fn routes_are_found_by_name_in_document_order() {
    let table =
        RouteTable::build(&mesh(&REGIONS, vec![route("r", "a", &[">"], &["z"]), route("q", "z", &[">"], &["a"])]));
    assert_eq!(table.routes().map(|route| &*route.route().name).collect::<Vec<_>>(), ["r", "q"]);
    assert_eq!(table.route("q").unwrap().place(), place("z"));
    assert!(table.route("none").is_none());
}

/// One event in the words of the naive model.
#[derive(Debug, Clone)]
struct Sample {
    topic: &'static str,
    tenant: Option<&'static str>,
    origin: Option<usize>,
    hops: Vec<usize>,
    /// Transformed so often, with headers copied; `None` is the event as the mesh knows it.
    derived_from_depth: Option<u8>,
}

fn any_sample() -> impl Strategy<Value = Sample> {
    (
        prop::sample::select(&["t", "u", "t.v"][..]),
        prop::sample::select(&[None, Some("acme"), Some("other")][..]),
        prop::option::of(0_usize..4),
        prop::collection::vec(0_usize..4, 0..=HOPS_MAX),
        prop::sample::select(&[None, None, None, Some(0), Some(15), Some(16), Some(255)][..]),
    )
        .prop_map(|(topic, tenant, origin, hops, derived_from_depth)| Sample {
            topic,
            tenant,
            origin,
            hops,
            derived_from_depth,
        })
}

impl Sample {
    fn event(&self) -> Event {
        let mut sample = event(self.topic);
        if let Some(tenant) = self.tenant {
            sample.headers = headers(&[("tenant", tenant.as_bytes())]);
        }
        let Some(origin) = self.origin else { return sample };
        let hops: Vec<&str> = self.hops.iter().map(|at| REGIONS[*at]).collect();
        let mut provenance = Provenance::decode(&travelled(REGIONS[origin], &hops).provenance).unwrap();
        if let Some(depth) = self.derived_from_depth {
            (provenance.depth, provenance.content) = (depth, !provenance.content);
        }
        Event { provenance: provenance.encode(), ..sample }
    }

    /// Read at region 0, to go to region 3.
    fn expected(&self) -> Result<(), Refusal> {
        let derived = self.origin.is_some() && self.derived_from_depth.is_some();
        let known = self.origin.filter(|_| !derived);
        let mut been: Vec<usize> = if known.is_some() { self.hops.clone() } else { Vec::new() };
        let visited = |at: usize, been: &[usize]| known == Some(at) || been.contains(&at);
        if self.topic == "u" {
            return Err(Refusal::Filter);
        }
        if self.tenant != Some("acme") {
            return Err(Refusal::Predicate);
        }
        if derived && self.derived_from_depth >= Some(16) {
            return Err(Refusal::TransformLoop);
        }
        if visited(3, &been) {
            return Err(Refusal::Loop);
        }
        if known.is_some() && !visited(0, &been) {
            been.push(0);
        }
        been.push(3);
        if been.len() > HOPS_MAX { Err(Refusal::HopLimit) } else { Ok(()) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn decisions_agree_with_the_naive_model(samples in prop::collection::vec(any_sample(), 0..12)) {
        let mut declared = route("r", "a", &["t.#"], &["z"]);
        declared.predicate = Some(Predicate::Exact(vec![("tenant".to_owned(), "acme".to_owned())]));
        let route = compiled(declared);
        let mut events: Vec<Event> = samples.iter().map(Sample::event).collect();
        let admissions = ingress(&mut events, &IngressContext::new("shop", "a", "b", "log"), 1);
        let mut verdicts = vec![Err(Refusal::TooLarge); 3];
        route.decide_batch(0, &events, &admissions, &mut verdicts);
        prop_assert_eq!(verdicts.len(), samples.len());
        for (((sample, event), admission), verdict) in samples.iter().zip(&events).zip(&admissions).zip(verdicts) {
            prop_assert_eq!(verdict, sample.expected(), "{:?}", sample);
            prop_assert_eq!(verdict, route.decide(0, event, *admission));
            if verdict.is_ok() {
                let stamped = Provenance::decode(&stamp(&route, event, *admission, "t")).unwrap();
                prop_assert!(stamped.visited(place("z")) && stamped.visited(place("a")));
                prop_assert!(*admission != Admission::Same || stamped.visited(place(REGIONS[sample.origin.unwrap()])));
            }
        }
    }
}
