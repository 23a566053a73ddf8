//! The Kafka connector: reads partitions in order, writes with an idempotent producer or in transactions, keeps cursors in a compacted
//! topic.
//!
//! Start with [`KafkaConnector`]. What happens where:
//!
//! | file | does |
//! | --- | --- |
//! | `config` | options for librdkafka; refuses those that would break a promise |
//! | `client`, `cluster` | what librdkafka says about itself; health, the list of topics, offsets of partitions |
//! | `member`, `ownership` | routers of a region share partitions: the member of the consumer group; what it owns, floors to commit |
//! | `life` | which life of a partition a position belongs to: topics made again, logs that were cut |
//! | `map`, `amqp`, `size` | records to events and back (pure) |
//! | `lane`, `pump`, `source` | one thread reads all partitions of a source into bounded lanes, one reader takes from each |
//! | `topics`, `producer` | what is known of a destination topic; producers, each with its delivery thread |
//! | `shape` | how an event becomes a record |
//! | `batch`, `flow`, `sink` | at least once: what was sent and what is confirmed; one flow in order |
//! | `bucket`, `group`, `transaction`, `atomic` | effectively once: flows that share transactions, and the thread that commits them |
//! | `cursor` | the compacted topic `__longhaul_cursors` |
//! | `parked` | the compacted topic `__longhaul_parked` |
//!
//! Limits. A header name with a zero byte is cut at that byte by librdkafka; one that is not UTF-8 stops its partition with an error.

mod amqp;
mod atomic;
mod batch;
mod bucket;
mod client;
mod cluster;
mod config;
mod connector;
mod cursor;
mod flow;
mod group;
mod lane;
mod life;
mod map;
mod member;
mod ownership;
mod parked;
mod producer;
mod pump;
mod shape;
mod sink;
mod size;
mod source;
mod topics;
mod transaction;

pub use connector::KafkaConnector;
pub use cursor::CURSORS;
pub use parked::PARKED;
