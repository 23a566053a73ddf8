//! The embedded broker: a durable topic log with HTTP in and server-sent events out
