//! The RabbitMQ connector: AMQP 0-9-1 through lapin, with reconnecting of our own.
//!
//! Sources are an exchange (spooled by a queue that Longhaul declares), an existing queue or a stream; sinks are an exchange, a queue or a
//! stream. What it refuses to do: to declare, change or delete anything whose name does not start with `longhaul`; to hand a message back as
//! back-pressure (prefetch is the only bound); to acknowledge a delivery on another channel than the one it came on.
//!
//! Start with [`RabbitMqConnector`]. How an event looks as a message, header by header, is told in the file `map.rs`.

mod cell;
mod client;
mod config;
mod connector;
mod cursor;
mod fault;
mod lock;
mod map;
mod names;
mod owner;
mod parked;
mod publish;
mod reader;
mod sink;
mod source;
mod spool;
mod stream;
mod task;
mod window;
mod writer;

pub use connector::RabbitMqConnector;
