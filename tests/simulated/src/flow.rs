//! What is sent: flows of numbered batches, each due at a time and filled with what follows from its number.

use bytes::Bytes;
use longhaul_event::{Event, EventId, Headers, Identity};
use longhaul_link::{Class, Congestion};
use longhaul_topic::Topic;
use longhaul_wire::{BatchEncoder, Chain, Compression, FlowOpen, Limits};

use crate::dice::Dice;

/// Flows of a link, one of each class; handles count from 0.
pub const FLOWS: u32 = 3;
const TOPIC: &str = "orders";

/// What the flows of a link send.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Batches of each flow.
    pub batches: u64,
    /// Microseconds between two batches of a flow.
    pub every: u64,
    /// Most bytes of a small batch.
    pub small: u64,
    /// Most bytes of a large batch.
    pub large: u64,
    /// One batch in so many is large.
    pub large_one_in: u64,
    /// How many batches a flow may be ahead of what is acknowledged.
    pub window: u64,
    /// How links find their rate.
    pub congestion: Congestion,
}

/// The class of a flow.
pub(crate) fn class(handle: u32) -> Class {
    [Class::Realtime, Class::Normal, Class::CatchUp][usize::try_from(handle % FLOWS).unwrap()]
}

/// What the batch with that number carries; numbers count from 1.
pub(crate) fn payload(plan: &Plan, link: usize, handle: u32, number: u64) -> Bytes {
    let mut dice = Dice::new(number, 1000 + link as u64 * 10 + u64::from(handle));
    let is_large = dice.range(1, plan.large_one_in) == 1;
    let most = if is_large { plan.large } else { plan.small };
    let mut bytes = vec![0; usize::try_from(dice.range(most / 4, most)).unwrap()];
    // Enough to tell any piece of any batch from any other.
    for piece in bytes.chunks_mut(64) {
        let drawn = dice.draw().to_le_bytes();
        let len = piece.len().min(8);
        piece[..len].copy_from_slice(&drawn[..len]);
    }
    bytes.into()
}

pub(crate) fn batch(plan: &Plan, link: usize, handle: u32, path_epoch: u32, number: u64) -> Bytes {
    let event = Event {
        offset: number,
        topic: Topic::parse(TOPIC).unwrap(),
        key: None,
        headers: Headers::default(),
        payload: Some(payload(plan, link, handle, number)),
        time_ms: 0,
        id: EventId(u128::from(number)),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    };
    let mut encoder = BatchEncoder::new(Limits::new(u32::MAX, 64));
    encoder.push(&event, TOPIC, b"").unwrap();
    let chain = Chain { handle, path_epoch, start: false, incarnation: 1, prev: number - 1, last: number };
    encoder.finish(chain, Compression::None)
}

pub(crate) fn open(handle: u32, path_epoch: u32) -> FlowOpen {
    FlowOpen {
        handle,
        mesh: "earth".into(),
        route: format!("route-{handle}"),
        from: ("here".into(), "broker".into(), "orders".into()),
        to: ("there".into(), "broker".into()),
        partition: None,
        owner_epoch: 1,
        path_epoch,
        route_hash: 1,
        class: longhaul_link::class_to_wire(class(handle)),
        links: 1,
    }
}
