//! The hash of a route's declaration, by which owner and applier know that they mean the same.
//!
//! Everything goes in with a tag or a length, so that no two declarations read alike. Frozen: routers of two versions must agree.

use longhaul_event::hash64;
use longhaul_topic::Filter;
use longhaul_topology::{
    Class, Guarantee, OnGap, OnPoison, Partition, Predicate, Route, RouteStart, SinkKind, SourceKind, To,
};

/// Hash of a route with those of its destinations.
pub(crate) fn fingerprint(route: &Route, to: &[To]) -> u64 {
    let mut bytes = Writer(Vec::new());
    bytes.text(&route.name);
    bytes.text(&route.from.region);
    bytes.text(&route.from.broker);
    bytes.source(&route.from.source);
    match &route.predicate {
        None => bytes.tag(0),
        Some(predicate) => {
            bytes.tag(1);
            bytes.predicate(predicate);
        }
    }
    bytes.count(to.len());
    for to in to {
        bytes.text(&to.region);
        bytes.text(&to.broker);
        bytes.text(&to.topic.to_string());
        bytes.sink(&to.sink);
    }
    bytes.policies(route);
    hash64(&bytes.0)
}

struct Writer(Vec<u8>);

impl Writer {
    fn tag(&mut self, tag: u8) {
        self.0.push(tag);
    }

    fn count(&mut self, count: usize) {
        self.0.extend_from_slice(&(count as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn topics(&mut self, topics: &[Filter]) {
        self.count(topics.len());
        topics.iter().for_each(|topic| self.text(topic.as_str()));
    }

    fn source(&mut self, source: &SourceKind) {
        match source {
            SourceKind::Kafka { topics } => {
                self.tag(1);
                self.topics(topics);
            }
            SourceKind::RabbitExchange { exchange, topics } => {
                self.tag(2);
                self.text(exchange);
                self.topics(topics);
            }
            SourceKind::RabbitQueue { queue } => {
                self.tag(3);
                self.text(queue);
            }
            SourceKind::JetStream { stream, topics } => {
                self.tag(4);
                self.tag(u8::from(stream.is_some()));
                self.text(stream.as_deref().unwrap_or_default());
                self.topics(topics);
            }
            SourceKind::CoreNats { topics } => {
                self.tag(5);
                self.topics(topics);
            }
            SourceKind::NatsCapture { topics } => {
                self.tag(6);
                self.topics(topics);
            }
            SourceKind::Embedded { topics } => {
                self.tag(7);
                self.topics(topics);
            }
            SourceKind::RabbitStream { stream } => {
                self.tag(8);
                self.text(stream);
            }
        }
    }

    fn sink(&mut self, sink: &SinkKind) {
        match sink {
            SinkKind::Kafka { partition, tombstone_on_empty } => {
                self.tag(1);
                self.tag(match partition {
                    Partition::Key => 0,
                    Partition::Same => 1,
                });
                self.tag(u8::from(*tombstone_on_empty));
            }
            SinkKind::RabbitExchange { exchange } => {
                self.tag(2);
                self.text(exchange);
            }
            SinkKind::RabbitQueue { queue } => {
                self.tag(3);
                self.text(queue);
            }
            SinkKind::JetStream => self.tag(4),
            SinkKind::CoreNats => self.tag(5),
            SinkKind::Embedded => self.tag(6),
            SinkKind::RabbitStream { stream } => {
                self.tag(7);
                self.text(stream);
            }
        }
    }

    fn predicate(&mut self, predicate: &Predicate) {
        match predicate {
            Predicate::Exact(pairs) => self.pairs(1, pairs),
            Predicate::Prefix(pairs) => self.pairs(2, pairs),
            Predicate::Suffix(pairs) => self.pairs(3, pairs),
            Predicate::All(inner) => self.predicates(4, inner),
            Predicate::Any(inner) => self.predicates(5, inner),
            Predicate::Not(inner) => {
                self.tag(6);
                self.predicate(inner);
            }
        }
    }

    fn pairs(&mut self, tag: u8, pairs: &[(String, String)]) {
        self.tag(tag);
        self.count(pairs.len());
        for (name, text) in pairs {
            self.text(name);
            self.text(text);
        }
    }

    fn predicates(&mut self, tag: u8, inner: &[Predicate]) {
        self.tag(tag);
        self.count(inner.len());
        inner.iter().for_each(|predicate| self.predicate(predicate));
    }

    fn policies(&mut self, route: &Route) {
        self.tag(match route.guarantee {
            Guarantee::EffectivelyOnce => 1,
            Guarantee::AtLeastOnce => 2,
            Guarantee::AtMostOnce => 3,
        });
        match route.start {
            RouteStart::Latest => self.tag(1),
            RouteStart::Earliest => self.tag(2),
            RouteStart::Time(ms) => {
                self.tag(3);
                self.0.extend_from_slice(&ms.to_le_bytes());
            }
        }
        self.tag(match route.on_poison {
            OnPoison::Halt => 1,
            OnPoison::Drop => 2,
            OnPoison::Park => 3,
        });
        self.tag(match route.class {
            Class::Realtime => 1,
            Class::Normal => 2,
            Class::CatchUp => 3,
        });
        // What stands for every route from before there was a choice says nothing: older routers know it in these words.
        if route.on_gap == OnGap::Continue {
            self.tag(9);
        }
    }
}
