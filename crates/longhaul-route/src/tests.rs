//! What the tests of this crate share: meshes of a few brokers, events, headers.

mod decide;
mod fingerprint;
mod ingress;
mod render;
mod rings;

use bytes::{Bytes, BytesMut};
use longhaul_event::{Event, EventId, Headers, Identity};
use longhaul_topic::{Filter, Topic};
use longhaul_topology::{
    Broker, BrokerKind, Class, From, Guarantee, Mesh, OnGap, OnPoison, Region, Route, RouteStart, SinkKind, SourceKind,
    Template, To,
};

use crate::{Admission, CompiledRoute};

pub(crate) fn event(topic: &str) -> Event {
    Event {
        offset: 7,
        topic: Topic::parse(topic).unwrap(),
        key: Some(Bytes::from_static(b"key")),
        headers: Headers::default(),
        payload: Some(Bytes::from_static(b"payload")),
        time_ms: 0,
        id: EventId(1),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}

/// The provenance that an event is written with at the first destination.
pub(crate) fn stamp(route: &CompiledRoute, event: &Event, admission: Admission, topic: &str) -> Bytes {
    let mut provenance = BytesMut::from("of the event before");
    route.stamp(0, event, &admission, topic, &mut provenance);
    provenance.freeze()
}

pub(crate) fn headers(pairs: &[(&str, &[u8])]) -> Headers {
    let mut builder = Headers::builder();
    for (name, value) in pairs {
        builder.push(name, value).unwrap();
    }
    builder.finish()
}

/// A route between embedded brokers, each called `b` in a region of its own.
fn route(name: &str, from: &str, topics: &[&str], to: &[&str]) -> Route {
    let topics = topics.iter().map(|topic| Filter::parse(topic).unwrap()).collect();
    let destination = |region: &&str| To {
        region: (*region).to_owned(),
        broker: "b".to_owned(),
        topic: Template::identity(),
        sink: SinkKind::Embedded,
    };
    Route {
        name: name.to_owned(),
        from: From { region: from.to_owned(), broker: "b".to_owned(), source: SourceKind::Embedded { topics } },
        predicate: None,
        to: to.iter().map(destination).collect(),
        guarantee: Guarantee::AtLeastOnce,
        start: RouteStart::Latest,
        on_poison: OnPoison::Halt,
        on_gap: OnGap::Halt,
        class: Class::Normal,
    }
}

fn mesh(regions: &[&str], routes: Vec<Route>) -> Mesh {
    let region = |name: &&str| Region {
        name: (*name).to_owned(),
        routers: Vec::new(),
        brokers: vec![Broker { name: "b".to_owned(), kind: BrokerKind::Embedded }],
    };
    Mesh {
        name: "shop".to_owned(),
        regions: regions.iter().map(region).collect(),
        links: Vec::new(),
        routes,
        foreign_mirrors: Vec::new(),
    }
}
