//! The NATS connector
