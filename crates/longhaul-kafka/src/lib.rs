//! The Kafka connector
