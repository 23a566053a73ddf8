//! The embedded broker: a durable topic log inside the router, with HTTP in and server-sent events out.
//!
//! For first runs, tests and regions without a broker. It is a source and a sink like the others: [`Embedded`] is a
//! [`Connector`](longhaul_broker::Connector). All topics share one log with offsets from 1, in one store of `redb`; the cursors of
//! flows live in the same store. Nothing is confirmed before it is synced. It refuses to start over a store that is damaged or in
//! use, and keeps no event in memory beyond what is under way.
//!
//! The way of an event in: `http::publish` or [`sink`](self) to `record`, `log`, `writer` (one thread, one sync for all that
//! wait), `store`. The way out: `store`, `source`, `http::subscribe`.

mod clock;
mod connector;
mod error;
mod http;
mod log;
mod parking;
mod record;
mod retain;
mod sink;
mod source;
mod store;
mod writer;

pub use connector::Embedded;
pub use error::EmbeddedError;
