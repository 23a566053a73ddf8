//! Starts a real nats.
