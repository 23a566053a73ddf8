//! The hash of a declaration changes with everything in it, and with nothing else.

use std::collections::BTreeSet;

use longhaul_topology::{OnGap, Partition, Predicate};

use super::*;
use crate::RouteTable;

fn hash(route: Route) -> u64 {
    RouteTable::build(&mesh(&["a", "z"], vec![route])).routes().next().unwrap().hash()
}

fn pairs(name: &str, text: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), text.to_owned())]
}

fn with(change: impl FnOnce(&mut Route)) -> Route {
    let mut route = route("r", "a", &["t"], &["z"]);
    change(&mut route);
    route
}

#[test]
fn every_part_of_a_declaration_counts() {
    let topics = |texts: &[&str]| texts.iter().map(|text| Filter::parse(text).unwrap()).collect::<Vec<_>>();
    let source = |source: SourceKind| with(|route| route.from.source = source);
    let sink = |sink: SinkKind| with(|route| route.to[0].sink = sink);
    let predicate = |predicate: Predicate| with(|route| route.predicate = Some(predicate));
    let kafka = |partition, tombstone_on_empty| sink(SinkKind::Kafka { partition, tombstone_on_empty });
    let routes = vec![
        with(|_| ()),
        with(|route| route.name = "s".into()),
        with(|route| route.from.region = "b".into()),
        with(|route| route.from.broker = "c".into()),
        source(SourceKind::Embedded { topics: topics(&["u"]) }),
        source(SourceKind::Embedded { topics: topics(&["t", "u"]) }),
        source(SourceKind::Kafka { topics: topics(&["t"]) }),
        source(SourceKind::RabbitExchange { exchange: "e".into(), topics: topics(&["t"]) }),
        source(SourceKind::RabbitQueue { queue: "e".into() }),
        source(SourceKind::RabbitStream { stream: "e".into() }),
        source(SourceKind::JetStream { stream: None, topics: topics(&["t"]) }),
        source(SourceKind::JetStream { stream: Some(String::new()), topics: topics(&["t"]) }),
        source(SourceKind::CoreNats { topics: topics(&["t"]) }),
        source(SourceKind::NatsCapture { topics: topics(&["t"]) }),
        predicate(Predicate::Exact(pairs("a", "b"))),
        predicate(Predicate::Exact(pairs("ab", ""))),
        predicate(Predicate::Prefix(pairs("a", "b"))),
        predicate(Predicate::Suffix(pairs("a", "b"))),
        predicate(Predicate::All(vec![Predicate::Exact(pairs("a", "b"))])),
        predicate(Predicate::Any(vec![Predicate::Exact(pairs("a", "b"))])),
        predicate(Predicate::Not(Box::new(Predicate::Exact(pairs("a", "b"))))),
        with(|route| route.to[0].region = "y".into()),
        with(|route| route.to[0].broker = "y".into()),
        with(|route| route.to[0].topic = Template::parse("x.{topic}").unwrap()),
        kafka(Partition::Key, false),
        kafka(Partition::Key, true),
        kafka(Partition::Same, false),
        sink(SinkKind::RabbitExchange { exchange: "e".into() }),
        sink(SinkKind::RabbitQueue { queue: "e".into() }),
        sink(SinkKind::RabbitStream { stream: "e".into() }),
        sink(SinkKind::JetStream),
        sink(SinkKind::CoreNats),
        with(|route| route.guarantee = Guarantee::AtMostOnce),
        with(|route| route.start = RouteStart::Earliest),
        with(|route| route.start = RouteStart::Time(5)),
        with(|route| route.start = RouteStart::Time(6)),
        with(|route| route.on_poison = OnPoison::Drop),
        with(|route| route.on_poison = OnPoison::Park),
        with(|route| route.on_gap = OnGap::Continue),
        with(|route| route.class = Class::Realtime),
    ];
    let count = routes.len();
    let hashes: BTreeSet<u64> = routes.into_iter().map(hash).collect();
    assert_eq!(hashes.len(), count);
}

#[test]
fn another_destination_leaves_the_flows_to_the_first_alone() {
    let build = |to: &[&str]| RouteTable::build(&mesh(&["a", "y", "z"], vec![route("r", "a", &["t"], to)]));
    let (one, two) = (build(&["z"]), build(&["y", "z"]));
    let (one, two) = (one.route("r").unwrap(), two.route("r").unwrap());
    assert_ne!(one.hash(), two.hash());
    assert_eq!(one.hash_to(0), two.hash_to(1));
    assert_ne!(two.hash_to(0), two.hash_to(1));
}

/// Frozen: routers of two versions must agree on what a route is.
#[test]
fn the_hash_is_frozen() {
    let whole = with(|route| route.predicate = Some(Predicate::All(vec![Predicate::Prefix(pairs("type", "order."))])));
    assert_eq!(hash(whole), 0xcfa6_9230_162b_f516);
}
