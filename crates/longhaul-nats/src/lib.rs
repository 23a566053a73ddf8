//! The NATS connector: JetStream and core NATS, as source and sink.
//!
//! Start with [`NatsConnector`]. An event goes `writer (sink) -> publish -> map -> NATS`, and comes back
//! `NATS -> pull -> reader -> map`. Pure are `map`, `subject`, `reply`, `window`, `catalog`
//! and `members` (which router owns which stream, kept by `ownership` with the records of `roster`); everything else speaks to the server.
//!
//! Limits: streams are read when their retention is `limits`. A message whose header block is no UTF-8 ends the connection that
//! reads it, for the client cannot parse it.

mod api;
mod batch;
mod catalog;
mod client;
mod config;
mod connector;
mod core;
mod cursor;
mod health;
mod map;
mod members;
mod once;
mod ownership;
mod parked;
mod publish;
mod pull;
mod reader;
mod reply;
mod roster;
mod sink;
mod source;
mod subject;
mod tail;
mod window;

pub use connector::NatsConnector;
pub use parked::PARKED;
