//! Starts a real rabbitmq.
