//! The checks over whole meshes, built by hand.

use longhaul_topic::Filter;

use super::*;
use crate::*;

fn filters(texts: &[&str]) -> Vec<Filter> {
    texts.iter().map(|text| Filter::parse(text).unwrap()).collect()
}

fn region(name: &str, broker: &str, kind: BrokerKind) -> Region {
    Region {
        name: name.to_owned(),
        routers: vec![format!("{name}.example.net:7443")],
        brokers: vec![Broker { name: broker.to_owned(), kind }],
    }
}

fn link(a: &str, b: &str) -> Link {
    Link {
        between: [a.to_owned(), b.to_owned()],
        cost: None,
        bandwidth_bits: None,
        rtt_ms: None,
        congestion: Congestion::default(),
    }
}

const HOMES: [(&str, &str); 3] = [("eu-west", "orders"), ("us-east", "billing"), ("ap-south", "analytics")];

fn source(region: &str, topics: &[&str]) -> From {
    let topics = filters(topics);
    let at = HOMES.iter().position(|(name, _)| *name == region).unwrap();
    let source = match at {
        0 => SourceKind::Kafka { topics },
        1 => SourceKind::RabbitExchange { exchange: "events".to_owned(), topics },
        _ => SourceKind::JetStream { stream: None, topics },
    };
    From { region: region.to_owned(), broker: HOMES[at].1.to_owned(), source }
}

fn sink(region: &str, topic: &str) -> To {
    let at = HOMES.iter().position(|(name, _)| *name == region).unwrap();
    let sink = match at {
        0 => SinkKind::Kafka { partition: Partition::Key, tombstone_on_empty: false },
        1 => SinkKind::RabbitExchange { exchange: "events".to_owned() },
        _ => SinkKind::JetStream,
    };
    To { region: region.to_owned(), broker: HOMES[at].1.to_owned(), topic: Template::parse(topic).unwrap(), sink }
}

fn route(name: &str, from: From, to: Vec<To>) -> Route {
    Route {
        name: name.to_owned(),
        from,
        predicate: None,
        to,
        guarantee: Guarantee::AtLeastOnce,
        start: RouteStart::Latest,
        on_poison: OnPoison::Halt,
        on_gap: OnGap::Halt,
        class: Class::Normal,
    }
}

/// Kafka, RabbitMQ and NATS, all linked, each region sending its own topics to the other two under its prefix.
pub(crate) fn mesh_of_three() -> Mesh {
    let mut routes = Vec::new();
    for (name, prefix, others) in [
        ("eu-west", "eu", ["us-east", "ap-south"]),
        ("us-east", "us", ["eu-west", "ap-south"]),
        ("ap-south", "ap", ["eu-west", "us-east"]),
    ] {
        let to = others.iter().map(|other| sink(other, &format!("{prefix}.{{topic}}"))).collect();
        routes.push(route(&format!("from-{name}"), source(name, &["orders.>"]), to));
    }
    Mesh {
        name: "shop".to_owned(),
        regions: vec![
            region("eu-west", "orders", BrokerKind::Kafka),
            region("us-east", "billing", BrokerKind::RabbitMq),
            region("ap-south", "analytics", BrokerKind::Nats),
        ],
        links: vec![link("eu-west", "us-east"), link("us-east", "ap-south"), link("ap-south", "eu-west")],
        routes,
        foreign_mirrors: Vec::new(),
    }
}

fn with_routes(routes: Vec<Route>) -> Mesh {
    Mesh { routes, ..mesh_of_three() }
}

/// The problems of a mesh as `kind at: message`.
fn said(mesh: &Mesh) -> Vec<String> {
    check(mesh).iter().map(|problem| format!("{:?} {:?}: {}", problem.kind, problem.at, problem.message)).collect()
}

#[track_caller]
fn only(mesh: &Mesh, kind: ProblemKind, part: &str) -> Problem {
    let problems = check(mesh);
    assert_eq!(problems.len(), 1, "{:#?}", said(mesh));
    assert_eq!(problems[0].kind, kind);
    assert!(problems[0].message.contains(part), "{}", problems[0].message);
    problems[0].clone()
}

#[track_caller]
fn fine(mesh: &Mesh) {
    assert_eq!(said(mesh), Vec::<String>::new());
}

#[test]
fn a_good_mesh_has_no_problem() {
    fine(&mesh_of_three());
}

#[test]
fn all_errors_come_at_once() {
    let mut mesh = mesh_of_three();
    mesh.links.push(link("eu-west", "us-esat"));
    mesh.links.push(link("eu-west", "eu-west"));
    mesh.links.push(link("us-east", "eu-west"));
    mesh.routes[0].to[0].broker = "bililng".to_owned();
    mesh.routes[1].name = "from-eu-west".to_owned();
    mesh.routes[2].guarantee = Guarantee::EffectivelyOnce;
    mesh.regions.push(region("ap-south", "x", BrokerKind::Kafka));
    let kinds: Vec<ProblemKind> = check(&mesh).iter().map(|problem| problem.kind).collect();
    assert_eq!(
        kinds,
        [
            ProblemKind::DuplicateName,
            ProblemKind::DuplicateName,
            ProblemKind::UnknownName,
            ProblemKind::SelfLink,
            ProblemKind::DuplicateLink,
            ProblemKind::UnknownName,
            ProblemKind::Guarantee,
        ]
    );
    let helps: Vec<String> = check(&mesh).into_iter().filter_map(|problem| problem.help).collect();
    assert!(helps.contains(&"did you mean `us-east`?".to_owned()), "{helps:?}");
    assert!(helps.contains(&"did you mean `billing`?".to_owned()), "{helps:?}");
}

#[test]
fn a_route_needs_a_link_or_a_way_over_others() {
    let mut mesh = with_routes(vec![route("a", source("eu-west", &["x"]), vec![sink("ap-south", "{topic}")])]);
    mesh.links.pop();
    fine(&mesh);
    let us_east = std::mem::take(&mut mesh.regions[1].routers);
    only(&mesh, ProblemKind::Unreachable, "the way over us-east is not taken");
    mesh.regions[1].routers = us_east;
    mesh.links.pop();
    only(&mesh, ProblemKind::Unreachable, "no chain of links");
    mesh.links.push(link("ap-south", "eu-west"));
    fine(&mesh);
    mesh.regions[2].routers.clear();
    only(&mesh, ProblemKind::Incomplete, "whose routers have no address");
}

#[test]
fn ends_fit_their_brokers() {
    let mut mesh = with_routes(vec![route("a", source("eu-west", &["x"]), vec![sink("us-east", "{topic}")])]);
    mesh.regions[0].brokers[0].kind = BrokerKind::Nats;
    only(&mesh, ProblemKind::SourceKind, "reads from `orders` as from kafka, but that broker is nats");
    mesh.regions[0].brokers[0].kind = BrokerKind::Kafka;
    mesh.regions[1].brokers[0].kind = BrokerKind::Embedded;
    only(&mesh, ProblemKind::SinkKind, "writes to `billing` as to rabbitmq, but that broker is embedded");
}

#[test]
fn a_route_has_topics_and_distinct_destinations() {
    let to = || vec![sink("us-east", "{topic}")];
    only(&with_routes(vec![route("a", source("eu-west", &[]), to())]), ProblemKind::Incomplete, "no topic filter");
    only(&with_routes(vec![route("a", source("eu-west", &["x"]), vec![])]), ProblemKind::Incomplete, "no destination");
    let twice = vec![sink("us-east", "a.{topic}"), sink("us-east", "b.{topic}")];
    let problem = only(
        &with_routes(vec![route("a", source("eu-west", &["x"]), twice)]),
        ProblemKind::DuplicateDestination,
        "twice",
    );
    assert_eq!((problem.at, problem.related[0].0), (Place::To(0, 1), Place::To(0, 0)));
}

#[test]
fn partition_same_needs_partitions() {
    let mut to = sink("eu-west", "us.{topic}");
    to.sink = SinkKind::Kafka { partition: Partition::Same, tombstone_on_empty: false };
    only(
        &with_routes(vec![route("a", source("us-east", &["x"]), vec![to])]),
        ProblemKind::SinkKind,
        "rabbitmq has no partitions",
    );
}

#[test]
fn guarantees_are_kept_or_refused() {
    let core_from =
        |topics: &[&str]| From { source: SourceKind::CoreNats { topics: filters(topics) }, ..source("ap-south", &[]) };
    let core_to = || To { sink: SinkKind::CoreNats, ..sink("ap-south", "{topic}") };
    let with = |guarantee, from: From, to: Vec<To>| with_routes(vec![Route { guarantee, ..route("a", from, to) }]);
    let eu = || source("eu-west", &["x"]);

    let mesh = with(Guarantee::AtLeastOnce, core_from(&["x"]), vec![sink("us-east", "{topic}")]);
    only(&mesh, ProblemKind::Guarantee, "core NATS forgets");
    fine(&with(Guarantee::AtMostOnce, core_from(&["x"]), vec![sink("us-east", "{topic}")]));
    only(&with(Guarantee::AtLeastOnce, eu(), vec![core_to()]), ProblemKind::Guarantee, "core NATS confirms nothing");
    fine(&with(Guarantee::AtMostOnce, eu(), vec![core_to()]));
    let mesh = with(Guarantee::AtMostOnce, eu(), vec![sink("us-east", "{topic}")]);
    only(&mesh, ProblemKind::Guarantee, "would get at-least-once");
    let mixed = vec![core_to(), sink("us-east", "{topic}")];
    let problem = only(&with(Guarantee::AtMostOnce, eu(), mixed), ProblemKind::Guarantee, "would get at-least-once");
    assert!(problem.help.unwrap().contains("two routes"));
    let effectively = |from, to| with(Guarantee::EffectivelyOnce, from, to);
    only(&effectively(eu(), vec![sink("us-east", "{topic}")]), ProblemKind::Guarantee, "their cursor as one");
    only(&effectively(eu(), vec![core_to()]), ProblemKind::Guarantee, "core NATS confirms nothing");
    let stream_to = || To { sink: SinkKind::JetStream, ..sink("ap-south", "{topic}") };
    fine(&effectively(eu(), vec![stream_to()]));
    only(
        &effectively(core_from(&["x"]), vec![sink("eu-west", "{topic}")]),
        ProblemKind::Guarantee,
        "core NATS forgets",
    );
}

#[test]
fn names_fit_the_destination() {
    let one = |from: From, to: To| with_routes(vec![route("a", from, vec![to])]);
    let us = |topics: &[&str]| source("us-east", topics);
    let said = |from, to, part: &str| only(&one(from, to), ProblemKind::TopicName, part);

    said(us(&["orders/eu"]), sink("eu-west", "{topic}"), "no `/`");
    said(us(&["x"]), sink("eu-west", "a b.{topic}"), "no ` `");
    said(us(&["x"]), sink("eu-west", &"y".repeat(250)), "at most 249");
    fine(&one(us(&["x"]), sink("eu-west", &"y".repeat(249))));
    said(us(&["x"]), sink("ap-south", "a..{topic}"), "no empty token");
    said(us(&["x"]), sink("ap-south", "a.{topic}."), "no empty token");
    said(us(&["x"]), sink("ap-south", "a b.{topic}"), "no white space");
    said(us(&["x"]), sink("ap-south", "a.>.{topic}"), "a wildcard there");
    said(us(&["x"]), sink("ap-south", "$JS.{topic}"), "to itself");
    said(source("eu-west", &["x"]), sink("us-east", &"y".repeat(256)), "at most 255");
    fine(&one(source("eu-west", &["x"]), sink("us-east", &"y".repeat(255))));
    said(source("eu-west", &["a/b.>"]), sink("us-east", "k"), "no topic can match the filter `a/b.>`");
}

#[test]
fn a_template_needs_the_tokens_that_it_names() {
    let mesh = with_routes(vec![route("a", source("eu-west", &["a.b.>", "c.*"]), vec![sink("us-east", "{topic[2]}")])]);
    let problem =
        only(&mesh, ProblemKind::Template, "no topic of the filter `c.*` has the token that `{topic[2]}` asks for");
    assert_eq!(problem.related[0].0, Place::FromTopic(0, 1));
}

#[test]
fn queues_have_their_own_rules() {
    let queue = |topic: &str| To { sink: SinkKind::RabbitQueue { queue: "q".to_owned() }, ..sink("us-east", topic) };
    let mesh = with_routes(vec![route("a", source("eu-west", &["x"]), vec![queue("eu.{topic}")])]);
    only(&mesh, ProblemKind::Template, "has no effect");
    fine(&with_routes(vec![route("a", source("eu-west", &["x"]), vec![queue("{topic}")])]));

    let from = From { source: SourceKind::RabbitQueue { queue: "q".to_owned() }, ..source("us-east", &[]) };
    let to = vec![sink("eu-west", "us.{topic}"), sink("ap-south", "us.{topic}")];
    let problem = only(&with_routes(vec![route("a", from, to)]), ProblemKind::Note, "takes a queue to 2 destinations");
    assert_eq!(problem.kind.severity(), Severity::Note);
}

#[test]
fn streams_of_rabbitmq_are_read_by_offset_and_written_like_queues() {
    let from = || From { source: SourceKind::RabbitStream { stream: "s".to_owned() }, ..source("us-east", &[]) };
    let into = |topic: &str| To { sink: SinkKind::RabbitStream { stream: "s".to_owned() }, ..sink("us-east", topic) };
    fine(&with_routes(vec![route("a", from(), vec![sink("eu-west", "us.{topic}"), sink("ap-south", "us.{topic}")])]));
    fine(&with_routes(vec![route("a", source("eu-west", &["x"]), vec![into("{topic}")])]));
    let mesh = with_routes(vec![route("a", source("eu-west", &["x"]), vec![into("eu.{topic}")])]);
    only(&mesh, ProblemKind::Template, "a stream is addressed by its own name");

    let once = |from, to| {
        let mut route = route("a", from, vec![to]);
        route.guarantee = Guarantee::EffectivelyOnce;
        with_routes(vec![route])
    };
    fine(&once(from(), To { sink: SinkKind::JetStream, ..sink("ap-south", "{topic}") }));
    only(&once(source("eu-west", &["x"]), into("{topic}")), ProblemKind::Guarantee, "their cursor as one");

    let mut mesh = pair([">", ">"], ["{topic}", "{topic}"]);
    mesh.routes[1].from = from();
    mesh.routes[0].to[0] = into("{topic}");
    only(&mesh, ProblemKind::Cycle, "");
}

fn pair(topics: [&str; 2], templates: [&str; 2]) -> Mesh {
    with_routes(vec![
        route("there", source("eu-west", &[topics[0]]), vec![sink("us-east", templates[0])]),
        route("back", source("us-east", &[topics[1]]), vec![sink("eu-west", templates[1])]),
    ])
}

#[test]
fn a_cycle_of_two_is_found() {
    let problem = only(
        &pair([">", ">"], ["{topic}", "{topic}"]),
        ProblemKind::Cycle,
        "route `there` and route `back` form a cycle",
    );
    assert!(problem.message.contains("eu-west/orders -> us-east/billing -> eu-west/orders"), "{}", problem.message);
    assert_eq!((problem.at, problem.related[0].0), (Place::To(0, 0), Place::To(1, 0)));
    only(&pair([">", ">"], ["eu.{topic}", "us.{topic}"]), ProblemKind::Cycle, "");
    only(&pair(["orders.>", "eu.>"], ["eu.{topic}", "{topic[1..]}"]), ProblemKind::Cycle, "");
    only(&pair(["*", "eu-orders"], ["eu-{topic}", "orders"]), ProblemKind::Cycle, "");
    only(&pair(["x", "y"], ["{key}", "{header.to}"]), ProblemKind::Cycle, "");
}

#[test]
fn prefixes_and_narrow_topics_break_a_cycle() {
    fine(&pair(["orders.>", "orders.>"], ["eu.{topic}", "us.{topic}"]));
    fine(&pair(["orders.>", "billing.>"], ["{topic}", "{topic}"]));
    fine(&pair(["*", "orders"], ["eu-{topic}", "us-{topic}"]));
}

#[test]
fn a_route_inside_one_region_is_refused_and_can_be_a_cycle_of_its_own() {
    let within =
        |topic: &str| with_routes(vec![route("self", source("eu-west", &["a.>"]), vec![sink("eu-west", topic)])]);
    only(&within("b.{topic}"), ProblemKind::Unreachable, "route `self` begins and ends in `eu-west`");
    let both = said(&within("a.{topic}"));
    assert_eq!(both.len(), 2, "{both:?}");
    assert!(both[1].contains("route `self` forms a cycle with itself"), "{both:?}");
}

#[test]
fn a_ring_whose_filters_let_go_is_no_cycle() {
    let ring = |topics: [[&str; 2]; 3]| {
        with_routes(vec![
            route("one", source("eu-west", &topics[0]), vec![sink("us-east", "{topic}")]),
            route("two", source("us-east", &topics[1]), vec![sink("ap-south", "{topic}")]),
            route("three", source("ap-south", &topics[2]), vec![sink("eu-west", "{topic}")]),
        ])
    };
    fine(&ring([["eu.>", "ap.>"], ["us.>", "eu.>"], ["ap.>", "us.>"]]));
    let problem = only(&ring([["eu.>", "ap.>"], ["us.>", "eu.>"], ["ap.>", "eu.x"]]), ProblemKind::Cycle, "");
    assert!(
        problem.message.starts_with("route `one`, route `two` and route `three` form a cycle"),
        "{}",
        problem.message
    );
}

#[test]
fn a_cycle_through_a_foreign_mirror_is_found() {
    let mut mesh =
        with_routes(vec![route("there", source("eu-west", &["orders.>"]), vec![sink("us-east", "eu.{topic}")])]);
    let mirror = |topics: &[&str], topic: &str| ForeignMirror {
        from: ("us-east".to_owned(), "billing".to_owned()),
        to: ("eu-west".to_owned(), "orders".to_owned()),
        topics: filters(topics),
        topic: Template::parse(topic).unwrap(),
    };
    mesh.foreign_mirrors = vec![mirror(&["eu.>"], "{topic}")];
    fine(&mesh);
    mesh.foreign_mirrors = vec![mirror(&["eu.>"], "{topic[1..]}")];
    only(
        &mesh,
        ProblemKind::Cycle,
        "route `there` and the foreign mirror from us-east/billing to eu-west/orders form a cycle",
    );
}

#[test]
fn an_exchange_and_a_queue_are_two_places() {
    let mut mesh = pair([">", ">"], ["{topic}", "{topic}"]);
    mesh.routes[1].from.source = SourceKind::RabbitQueue { queue: "out".to_owned() };
    fine(&mesh);
    mesh.routes[0].to[0].sink = SinkKind::RabbitQueue { queue: "out".to_owned() };
    only(&mesh, ProblemKind::Cycle, "");
}

#[test]
fn two_routes_that_bring_one_event_twice_are_found() {
    let two = |a: (&str, &str), b: (&str, &str)| {
        with_routes(vec![
            route("one", source("eu-west", &[a.0]), vec![sink("us-east", a.1)]),
            route("two", source("eu-west", &[b.0]), vec![sink("us-east", b.1)]),
        ])
    };
    let problem = only(
        &two(("orders.>", "{topic}"), ("orders.eu.*", "{topic}")),
        ProblemKind::DuplicateDelivery,
        "events of eu-west/orders arrive twice at one topic of us-east/billing: by `one` and by `two`",
    );
    assert_eq!((problem.at, problem.related[0].0), (Place::To(1, 0), Place::To(0, 0)));
    fine(&two(("orders.>", "{topic}"), ("orders.eu.*", "x.{topic}")));
    fine(&two(("orders.>", "{topic}"), ("payments.>", "{topic}")));
    fine(&two(("*.a", "x.{topic}"), ("x.>", "{topic}")));
    only(&two(("*.a", "x.{topic}"), ("x.>", "x.{topic}")), ProblemKind::DuplicateDelivery, "");

    let mut shared = two(("orders.>", "{topic}"), ("orders.>", "{topic}"));
    let tenant = |name: &str| Some(Predicate::Exact(vec![("tenant".to_owned(), name.to_owned())]));
    shared.routes[0].predicate = tenant("a");
    only(&shared, ProblemKind::DuplicateDelivery, "");
    shared.routes[1].predicate = tenant("b");
    fine(&shared);
    shared.routes[1].predicate = tenant("a");
    only(&shared, ProblemKind::DuplicateDelivery, "");
}

#[test]
fn a_chain_that_brings_what_a_route_brought_is_found() {
    let mesh = |onward: &str| {
        with_routes(vec![
            route(
                "direct",
                source("eu-west", &["orders.>"]),
                vec![sink("us-east", "eu.{topic}"), sink("ap-south", "eu.{topic}")],
            ),
            route("onward", source("us-east", &[onward]), vec![sink("ap-south", "{topic}")]),
        ])
    };
    only(&mesh("eu.>"), ProblemKind::DuplicateDelivery, "by `direct` and by `direct` then `onward`");
    fine(&mesh("us.>"));
}

#[test]
fn the_same_topic_from_two_origins_is_no_duplicate() {
    fine(&with_routes(vec![
        route("one", source("eu-west", &["orders.>"]), vec![sink("ap-south", "all.{topic}")]),
        route("two", source("us-east", &["orders.>"]), vec![sink("ap-south", "all.{topic}")]),
    ]));
}

#[test]
fn large_meshes_are_judged_in_time() {
    let names: Vec<String> = (0..300).map(|i| format!("t{i}.>")).collect();
    let routes = names
        .iter()
        .map(|topics| {
            route(
                topics,
                source("eu-west", &[topics]),
                vec![sink("us-east", "eu.{topic}"), sink("ap-south", "eu.{topic}")],
            )
        })
        .collect();
    fine(&with_routes(routes));
}
