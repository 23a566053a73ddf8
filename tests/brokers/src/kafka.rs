//! Starts a real kafka.
