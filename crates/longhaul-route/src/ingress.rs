//! Admission: what does the provenance that an event came with say, and may it be believed?
//!
//! ```text
//! none, unreadable, or of another mesh       => New      begins here; the identity stays as the connector derived it
//! bound to this very content                 => Same     written by the mesh, or mirrored by somebody else's bridge
//! bound to another content                   => Derived  an application copied the headers of what it transformed
//! derived more than DEPTH_MAX times          => Refused  applications feed each other through the mesh
//! ```
//! Without the third case an application's output would pass for its input, and be dropped as a loop or a duplicate.
//! Afterwards `Event::provenance` is what the event carries on, whatever the case: only a hop is ever added to it.

use bytes::BytesMut;
use longhaul_event::provenance::{DEPTH_MAX, PROVENANCE_BYTES_MAX, Place, Provenance, View, content_hash, mesh_hash};
use longhaul_event::{Event, EventId, Identity, Position, hash64};

use crate::Refusal;

/// Where a batch of events was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngressContext {
    /// The broker.
    pub place: Place,
    /// Hash of the mesh's name.
    pub mesh: u32,
    /// Hash of the shard's name.
    pub shard: u64,
    /// Whether an offset names the same event whenever the shard is read. If not (a RabbitMQ queue), identities must not come
    /// from it.
    pub replayable: bool,
}

/// What an event is, as far as where it has been goes. Decided once for each event, for all routes and destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The mesh sees it for the first time.
    New,
    /// It has been where its provenance says.
    Same,
    /// New content under copied headers.
    Derived,
    /// It goes nowhere, for that reason.
    Refused(Refusal),
}

impl IngressContext {
    /// A shard of a broker, by their names; a shard whose positions can be read again until
    /// [`with_replayable`](Self::with_replayable) says otherwise.
    #[must_use]
    pub fn new(mesh: &str, region: &str, broker: &str, shard: &str) -> Self {
        Self {
            place: Place::of(mesh, region, broker),
            mesh: mesh_hash(mesh),
            shard: hash64(shard.as_bytes()),
            replayable: true,
        }
    }

    /// The same, with that said.
    #[must_use]
    pub fn with_replayable(mut self, replayable: bool) -> Self {
        self.replayable = replayable;
        self
    }
}

/// Judges the events of one shard and incarnation, gives derived ones their identity and all of them the provenance that they carry
/// on. One allocation for a batch.
#[must_use]
pub fn ingress(events: &mut [Event], context: &IngressContext, incarnation: u64) -> Vec<Admission> {
    let mut bytes = BytesMut::with_capacity(new_provenance_bytes(events, context));
    events.iter_mut().map(|event| admit(event, context, incarnation, &mut bytes)).collect()
}

/// Room for the provenance of those that bring none; a derived one makes the buffer grow.
fn new_provenance_bytes(events: &[Event], context: &IngressContext) -> usize {
    const NEW_BYTES: usize = 47;
    let is_new = |event: &&Event| View::new(&event.provenance).is_none_or(|view| view.mesh() != context.mesh);
    events.iter().filter(is_new).count() * NEW_BYTES
}

fn admit(event: &mut Event, context: &IngressContext, incarnation: u64, bytes: &mut BytesMut) -> Admission {
    debug_assert!(event.provenance.len() <= PROVENANCE_BYTES_MAX || View::new(&event.provenance).is_none());
    let content = content_hash(event);
    let position = Position { incarnation, offset: event.offset };
    let mut fresh = Provenance::new(context.mesh, context.place, context.shard, position, content);
    let admission = match View::new(&event.provenance).filter(|view| view.mesh() == context.mesh) {
        None => Admission::New,
        Some(view) if view.content() == content => return Admission::Same,
        Some(view) if view.depth() >= DEPTH_MAX => return Admission::Refused(Refusal::TransformLoop),
        Some(view) => {
            fresh.depth = view.depth() + 1;
            (event.id, event.identity) = derived_id(event, context, incarnation, content);
            Admission::Derived
        }
    };
    fresh.encode_into(bytes);
    event.provenance = bytes.split().freeze();
    admission
}

/// The identity that came with the event is its ancestor's. Where a position cannot stand for the event, ancestor and content do, and
/// no destination may drop an event because of it.
fn derived_id(event: &Event, context: &IngressContext, incarnation: u64, content: u64) -> (EventId, Identity) {
    let cluster = context.place.cluster;
    if context.replayable {
        (EventId::of_position(cluster, incarnation, context.shard, event.offset), Identity::Unique)
    } else {
        let ancestor = event.id.0.to_le_bytes();
        (EventId::of_parts(cluster, &[&ancestor, &content.to_le_bytes()]), Identity::Content)
    }
}
