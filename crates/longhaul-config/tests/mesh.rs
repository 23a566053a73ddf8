//! Mesh documents: what they come to.

mod common;

use longhaul_topology::{
    BrokerKind, Class, Congestion, Guarantee, OnPoison, Partition, Predicate, RouteStart, SinkKind, SourceKind,
};

const HEAD: &str = "apiVersion: longhaul/v1\nkind: Mesh\nmetadata: {name: shop}\nregions:\n  \
    - {name: k, routers: [\"k:1\"], brokers: [{name: b, kafka: {}}]}\n  \
    - {name: r, routers: [\"r:1\"], brokers: [{name: b, rabbitmq: {}}]}\n  \
    - {name: n, routers: [\"n:1\"], brokers: [{name: b, nats: {}}]}\n  \
    - {name: e, routers: [\"[::1]:1\"], brokers: [{name: b, embedded: {}}]}\n  \
    - {name: z, routers: [\"z:1\"], brokers: [{name: b, kafka: {}}]}\n\
    links:\n  - {between: [k, r], cost: 7, bandwidth: 1Gbit/s, rtt: 80ms, congestion: newreno}\n  - {between: [k, n]}\n  - {between: [k, e]}\n  - {between: [r, n]}\n  - {between: [k, z]}\n\
    routes:\n";

fn mesh(routes: &str) -> longhaul_topology::Mesh {
    common::mesh(&format!("{HEAD}{routes}")).unwrap_or_else(|found| panic!("{found}")).0
}

#[test]
fn regions_brokers_and_links() {
    let mesh = mesh("  []\n");
    assert_eq!(mesh.name, "shop");
    let kinds: Vec<BrokerKind> = mesh.regions.iter().map(|region| region.brokers[0].kind).collect();
    assert_eq!(
        kinds,
        [BrokerKind::Kafka, BrokerKind::RabbitMq, BrokerKind::Nats, BrokerKind::Embedded, BrokerKind::Kafka]
    );
    let link = &mesh.links[0];
    assert_eq!((link.cost, link.bandwidth_bits, link.rtt_ms), (Some(7), Some(1_000_000_000), Some(80)));
    assert_eq!((link.congestion, mesh.links[1].congestion), (Congestion::NewReno, Congestion::Model));
    assert_eq!(mesh.links[1].cost, None);
}

#[test]
fn a_route_with_every_default() {
    let mesh = mesh("  - {name: a, from: {region: k, broker: b, topics: [x]}, to: [{region: n, broker: b}]}\n");
    let route = &mesh.routes[0];
    assert_eq!(route.predicate, None);
    assert_eq!((route.guarantee, route.start), (Guarantee::AtLeastOnce, RouteStart::Latest));
    assert_eq!((route.on_poison, route.class), (OnPoison::Halt, Class::Normal));
    assert!(route.to[0].topic.is_identity());
    assert_eq!(route.to[0].sink, SinkKind::JetStream);
}

#[test]
fn a_route_with_every_key() {
    let mesh = mesh(
        "  - name: a\n    from: {region: k, broker: b, topics: [\"x.>\", y]}\n    \
         where: {any: [{exact: {t: a, u: b}}, {all: [{prefix: {t: p}}, {not: {suffix: {t: s}}}]}]}\n    \
         to: [{region: z, broker: b, topic: \"z.{key}\", partition: same, tombstone_on_empty: true}]\n    \
         guarantee: at-least-once\n    start: 1970-01-01T00:00:01Z\n    on_poison: drop\n    class: catch-up\n",
    );
    let route = &mesh.routes[0];
    let pair = |value: &str| vec![("t".to_owned(), value.to_owned())];
    let exact = Predicate::Exact(vec![("t".to_owned(), "a".to_owned()), ("u".to_owned(), "b".to_owned())]);
    let not = Predicate::Not(Box::new(Predicate::Suffix(pair("s"))));
    let expected = Predicate::Any(vec![exact, Predicate::All(vec![Predicate::Prefix(pair("p")), not])]);
    assert_eq!(route.predicate, Some(expected));
    assert_eq!(route.start, RouteStart::Time(1000));
    assert_eq!((route.on_poison, route.class), (OnPoison::Drop, Class::CatchUp));
    assert_eq!(route.to[0].sink, SinkKind::Kafka { partition: Partition::Same, tombstone_on_empty: true });
    assert_eq!(route.from.source.topics().len(), 2);
}

#[test]
fn every_source_and_sink() {
    let from = |region: &str, keys: &str| {
        let guarantee = if keys.contains("core") { "guarantee: at-most-once, " } else { "" };
        let text = format!(
            "  - {{name: a, {guarantee}from: {{region: {region}, broker: b, {keys}}}, to: [{{region: k, broker: b, topic: z}}]}}\n"
        );
        mesh(&text).routes[0].from.source.clone()
    };
    let text = |text: &str| text.to_owned();
    let topics = vec![longhaul_topic::Filter::parse("x").unwrap()];
    assert_eq!(
        from("r", "exchange: ex, topics: [x]"),
        SourceKind::RabbitExchange { exchange: text("ex"), topics: topics.clone() }
    );
    assert_eq!(from("r", "queue: q"), SourceKind::RabbitQueue { queue: text("q") });
    assert_eq!(from("r", "stream: s"), SourceKind::RabbitStream { stream: text("s") });
    assert_eq!(from("n", "topics: [x]"), SourceKind::JetStream { stream: None, topics: topics.clone() });
    assert_eq!(
        from("n", "stream: s, topics: [x]"),
        SourceKind::JetStream { stream: Some(text("s")), topics: topics.clone() }
    );
    assert_eq!(from("n", "core: true, topics: [x]"), SourceKind::CoreNats { topics: topics.clone() });
    assert_eq!(from("n", "capture: true, topics: [x]"), SourceKind::NatsCapture { topics: topics.clone() });
    assert_eq!(from("e", "topics: [x]"), SourceKind::Embedded { topics });

    let to = |region: &str, keys: &str| {
        let guarantee = if keys.contains("core") { "guarantee: at-most-once, " } else { "" };
        let text = format!(
            "  - {{name: a, {guarantee}from: {{region: k, broker: b, topics: [x]}}, to: [{{region: {region}, broker: b{keys}}}]}}\n"
        );
        mesh(&text).routes[0].to[0].sink.clone()
    };
    assert_eq!(to("r", ", exchange: ex"), SinkKind::RabbitExchange { exchange: text("ex") });
    assert_eq!(to("r", ", queue: q"), SinkKind::RabbitQueue { queue: text("q") });
    assert_eq!(to("r", ", stream: s"), SinkKind::RabbitStream { stream: text("s") });
    assert_eq!(to("n", ", core: true"), SinkKind::CoreNats);
    assert_eq!(to("e", ""), SinkKind::Embedded);
}

#[test]
fn anchors_and_merge_keys_work() {
    let mesh = mesh(
        "  - {name: a, from: {region: k, broker: b, topics: &t [x, y]}, to: [&d {region: n, broker: b, topic: \"1.{topic}\"}]}\n  \
         - {name: b, from: {region: k, broker: b, topics: *t}, to: [{<<: *d, topic: \"2.{topic}\"}]}\n",
    );
    assert_eq!(mesh.routes[1].from.source.topics().len(), 2);
    assert_eq!(mesh.routes[1].to[0].topic.to_string(), "2.{topic}");
}

#[test]
fn a_note_is_given_and_does_not_refuse() {
    let text = format!(
        "{HEAD}  - {{name: a, from: {{region: r, broker: b, queue: q}}, to: [{{region: k, broker: b, topic: z}}, {{region: n, broker: b, topic: z}}]}}\n"
    );
    let (mesh, notes) = common::mesh(&text).unwrap();
    assert_eq!(mesh.routes.len(), 1);
    assert_eq!(notes.len(), 1);
    assert!(notes.iter().all(|note| note.note));
    assert!(notes.to_string().contains("note: route `a` takes a queue to 2 destinations"), "{notes}");
}

/// One error must not bring a second one about something that is right.
#[test]
fn errors_do_not_cascade() {
    for (what, text) in [
        ("a region without a name", HEAD.replace("name: k,", "nmae: k,")),
        ("a broker of an unknown kind", HEAD.replacen("kafka: {}", "kafak: {}", 1)),
        ("a link with a wrong end", HEAD.replace("between: [k, n]", "between: [k, 7]")),
    ] {
        let routes = "  - {name: a, from: {region: k, broker: b, topics: [x]}, to: [{region: n, broker: b}]}\n";
        let found = common::mesh(&format!("{text}{routes}")).expect_err(what);
        assert_eq!(found.len(), 1, "{what}: {found}");
    }
}

#[test]
fn sections_may_be_empty() {
    common::mesh("apiVersion: longhaul/v1\nkind: Mesh\nmetadata: {name: m}\nregions: [{name: a, brokers: []}]\nlinks:\nroutes:\n").unwrap();
    common::router(
        "apiVersion: longhaul/v1\nkind: Router\nregion: a\nname: r\nmesh: m.yaml\nlink: {tls: {cert: a, key: b, ca: c}}\n\
         admin: {token: test-token}\nbrokers:\nresolve:\n",
    )
    .unwrap();
}
