//! QUIC links with mutual TLS: dialling, accepting, parcels and the fair scheduler.
//!
//! Links are directional in data: who dials sends batches ([`OutLink`]), who accepts receives them ([`InLink`]); control frames go
//! both ways. Read [`Dialer`] and [`Listener`] first. A link ends as a whole: on any fault both ends learn a code and a sentence, and
//! all its tasks end with it. Nothing here retries, reconnects or keeps events; that is the business of who owns the flows.

mod accept;
pub mod certs;
mod congestion;
mod control;
mod dial;
mod endpoint;
mod error;
mod link;
mod outbox;
mod parcel;
mod scheduler;
mod strangers;
mod tls;
mod transport;
mod verify;

pub use accept::{InLink, InReceiver, InSender, Listener};
pub use dial::{Dialer, OutLink, OutSender};
pub use endpoint::{Carrier, LinkConfig};
pub use error::{CertificateFault, IdentityError, LinkError, Violation, close};
pub use link::{FrameReceiver, LinkHandle, LinkStats};
pub use longhaul_topology::{Class, Congestion};
pub use parcel::BatchHandler;
pub use scheduler::{Gate, Offer, Parcel, Scheduler, class_from_wire, class_to_wire};
pub use tls::{Fresh, Identity, IdentityWatch, RouterName, TlsFiles};
pub use transport::{MTU_MAX, WindowHint};
