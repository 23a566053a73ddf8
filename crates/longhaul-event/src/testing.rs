//! What the tests of this crate share.

use bytes::Bytes;
use proptest::prelude::*;

use crate::{Event, EventId, HeaderTag, Headers, Identity};

/// An event with that key and payload and nothing else of note.
pub(crate) fn event(key: Option<&[u8]>, payload: Option<&[u8]>) -> Event {
    Event {
        offset: 0,
        topic: longhaul_topic::Topic::parse("t").unwrap(),
        key: key.map(Bytes::copy_from_slice),
        headers: Headers::default(),
        payload: payload.map(Bytes::copy_from_slice),
        time_ms: 0,
        id: EventId::default(),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}

/// Headers with plain values.
pub(crate) fn headers(pairs: &[(&str, &[u8])]) -> Headers {
    let mut builder = Headers::builder();
    for (name, value) in pairs {
        builder.push(name, value).unwrap();
    }
    builder.finish()
}

/// Any header, with plain values more often than others.
pub(crate) fn any_header() -> impl Strategy<Value = (String, HeaderTag, Vec<u8>)> {
    let tag = prop_oneof![3 => Just(HeaderTag::BYTES), 1 => any::<u8>().prop_map(HeaderTag)];
    ("\\PC{0,12}", tag, prop::collection::vec(any::<u8>(), 0..24))
}
