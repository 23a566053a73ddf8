//! The router: assembly, supervision, reload and drain.
//!
//! Start with [`Router`]. The way of an event through this crate: `shard` reads it into a `ring`, `ingress` takes it from there and
//! sends it over one of the `links`; at the far end `sessions` put it into a `mailbox`, and `egress` writes it. What decides is in
//! the pure crates; this crate waits, moves and shows.

mod appliers;
mod audit;
mod back_off;
mod budget;
mod cursor;
mod documents;
mod egress;
mod epochs;
mod flow_status;
mod gains;
mod ingress;
mod ledger;
mod links;
mod live;
mod mailbox;
mod misdeeds;
mod pace;
mod parked;
mod progress;
mod refusals;
mod reload;
mod renewal;
mod ring;
mod router;
mod sessions;
mod shard;
mod sources;
mod supervise;
mod tap;
#[cfg(test)]
mod tests;
mod traced;
mod transit;
mod view;
mod waiting;

pub use audit::AuditView;
pub use documents::{DocumentError, Documents};
pub use flow_status::{End, FlowView, GapView, Phase};
pub use links::LinkView;
pub use parked::{ParkedError, ParkedEvent, ParkedView};
pub use reload::ReloadError;
pub use router::{Router, StartError};
pub use sessions::{RefusalView, SessionView};
pub use sources::RouteView;
pub use tap::{Outcome, Tap, TapAsked, TapError, TapEvent, TapLine};
pub use view::{BrokerView, LinksView, MeshView};
