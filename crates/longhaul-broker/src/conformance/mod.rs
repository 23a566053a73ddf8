//! The suite that every connector passes against its real broker: the ports, defined by tests.
//!
//! A connector makes a [`Subject`] of a fresh broker, or of topics that nobody else uses, and awaits [`run`]. Every violation panics
//! with a sentence. What may differ between kinds of broker stands in one table, [`Expect`]; nothing else may differ.
//!
//! ```ignore
//! let subject = Subject { connector, kind: BrokerKind::Nats, source, sink, topics, mesh: "m".into(), .. };
//! conformance::run(&subject).await;
//! ```
//!
//! The subject's topics exist before the suite starts and hold nothing. The suite needs no more than the ports: it never speaks to
//! the broker by itself, so what only the broker's own tools can show is for the connector's own tests.

mod check;
mod events;
mod expect;
mod once;
mod parking;
mod stages;
mod tail;

use std::sync::Arc;

use longhaul_topic::Topic;
use longhaul_topology::{BrokerKind, FlowKey, Guarantee};

pub use events::{batch, event};
pub use expect::{Expect, HeaderOrder, NullHeader, Tombstone, TypedHeader};
pub use parking::parking;

use crate::{Connector, SinkSpec, SourceSpec};

/// What the suite is run against.
pub struct Subject {
    /// A connector that nobody else uses meanwhile.
    pub connector: Arc<dyn Connector>,
    /// Its kind: the row of [`Expect`].
    pub kind: BrokerKind,
    /// What is read; it covers all of `topics` and nothing that others write.
    pub source: SourceSpec,
    /// What is written. For Kafka: `partition: key`, no tombstone on empty.
    pub sink: SinkSpec,
    /// Two topics at least, that the sink accepts and the source reads; they exist and hold nothing.
    pub topics: Vec<Topic>,
    /// Name of the mesh, as in the connector's context.
    pub mesh: String,
    /// Name of the region, as in the connector's context.
    pub region: String,
    /// Name of the broker, as in the connector's context.
    pub broker: String,
    /// A payload size in bytes that the destination refuses for good; 0 when there is none.
    pub too_large_bytes: usize,
}

impl Subject {
    fn is_effectively_once(&self) -> bool {
        self.sink.guarantee == Guarantee::EffectivelyOnce
    }

    /// The key of a flow from elsewhere to this subject's broker, told apart by the name of its route.
    #[must_use]
    pub fn flow(&self, route: &str) -> FlowKey {
        FlowKey {
            mesh: self.mesh.clone(),
            route: route.to_owned(),
            from: ("elsewhere".to_owned(), "origin".to_owned(), "orders/0".to_owned()),
            to: (self.region.clone(), self.broker.clone()),
        }
    }
}

fn expect_of(subject: &Subject) -> Expect {
    Expect::of(subject.kind, &subject.source.source, &subject.sink.sink)
}

/// Runs the whole suite. Where `sink.guarantee` is effectively-once, every event is written with its cursor, and further stages check that
/// both are one.
///
/// # Panics
/// With a sentence on any violation, and when something takes longer than its limit (30 s to come up, 30 s between two events that are read back).
pub async fn run(subject: &Subject) {
    assert!(subject.topics.len() >= 2, "the suite needs two topics at least");
    let expect = expect_of(subject);
    stages::health_comes_up(subject).await;
    let source =
        subject.connector.source(subject.source.clone()).expect("the subject's source is one that it can serve");
    let sink = subject.connector.sink(subject.sink.clone()).expect("the subject's sink is one that it can serve");
    let shards = stages::shards_appear(subject, &*source).await;

    let mut tails = tail::Tails::open_latest(&*source, &shards).await;
    let written = stages::write_main(subject, &expect, &*sink).await;
    let read = tails.collect(&written).await;
    check::all_arrived(&expect, &written, &read, shards.len());
    tails.end_is_not_behind();
    stages::release_does_not_block(&mut tails);

    stages::replays(&*source, &shards, &read).await;
    stages::cursors(subject, &expect, &*sink).await;
    stages::tombstone(subject, &expect, &*sink, &mut tails).await;
    stages::poison_too_large(subject, &expect, &*sink, &mut tails).await;
    stages::nothing_more(&mut tails).await;
    if subject.is_effectively_once() {
        once::poison(subject, &*sink, &mut tails).await;
        once::dropped_writers(subject, &*sink, &mut tails, shards.len()).await;
    }
    stages::unreleased_comes_again(subject, &expect, &*source, &*sink, tails).await;
    // Last: a position beyond the end says that the log was cut, after which a source may have every reader begin again.
    stages::starts_elsewhere(&*source, &shards, &read).await;
}
