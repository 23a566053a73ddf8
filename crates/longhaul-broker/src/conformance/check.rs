//! What was read against what was written.

use std::collections::HashMap;

use bytes::Bytes;
use longhaul_event::{Event, EventId, HeaderTag, Headers};

use super::tail::Found;
use super::{Expect, HeaderOrder, NullHeader, Tombstone, TypedHeader};

type OwnedHeader = (String, u8, Vec<u8>);

/// Every event came once (the reader saw to that), is what it was, and stands in order.
pub(super) fn all_arrived(expect: &Expect, written: &[Event], read: &[Found], shards: usize) {
    assert_eq!(written.len(), read.len(), "as many events are read as were written");
    let numbers: HashMap<EventId, usize> = written.iter().enumerate().map(|(at, event)| (event.id, at)).collect();
    for found in read {
        restored(expect, &written[numbers[&found.event.id]], &found.event);
    }
    in_order(read, &numbers, shards);
}

/// One event is what it was, apart from what the table allows.
pub(super) fn restored(expect: &Expect, was: &Event, is: &Event) {
    let at = was.offset;
    assert_eq!(was.topic, is.topic, "topic of the event written at offset {at}");
    assert_eq!(was.key, is.key, "key of the event written at offset {at}");
    assert_eq!(was.identity, is.identity, "where the identity came from, of the event written at offset {at}");
    assert_eq!(was.provenance, is.provenance, "provenance of the event written at offset {at}");
    let payload = match (&was.payload, expect.tombstone) {
        (None, Tombstone::Empty) => Some(Bytes::new()),
        (payload, _) => payload.clone(),
    };
    assert!(
        payload == is.payload,
        "payload of the event written at offset {at}: {} became {}",
        size(&payload),
        size(&is.payload)
    );
    let (was, is) = (expected_headers(expect, &was.headers), plain_headers(expect, &is.headers));
    assert_eq!(was, is, "headers of the event written at offset {at}");
}

fn size(payload: &Option<Bytes>) -> String {
    payload.as_ref().map_or_else(|| "none".to_owned(), |payload| format!("{} bytes", payload.len()))
}

fn expected_headers(expect: &Expect, headers: &Headers) -> Vec<OwnedHeader> {
    let mut expected = plain_headers(expect, headers);
    for (_, tag, value) in &mut expected {
        match HeaderTag(*tag) {
            HeaderTag::BYTES => {}
            HeaderTag::NULL if expect.null_header == NullHeader::Empty => *tag = HeaderTag::BYTES.0,
            HeaderTag::NULL => {}
            _ if expect.typed_header == TypedHeader::Text => {
                *tag = HeaderTag::BYTES.0;
                *value = b"42".to_vec();
            }
            _ => {}
        }
    }
    expected
}

/// The headers as they came, or sorted by name where their order is not kept; the order within one name always counts.
fn plain_headers(expect: &Expect, headers: &Headers) -> Vec<OwnedHeader> {
    let mut plain: Vec<OwnedHeader> =
        headers.iter().map(|header| (header.name.to_owned(), header.tag.0, header.value.to_vec())).collect();
    if expect.header_order == HeaderOrder::PerName {
        plain.sort_by(|a, b| a.0.cmp(&b.0));
    }
    plain
}

/// Events of one topic and key stand in one shard in the order of writing; if there is one shard, all events do.
fn in_order(read: &[Found], numbers: &HashMap<EventId, usize>, shards: usize) {
    let mut last_of_key: HashMap<(&str, &Bytes), (usize, &str)> = HashMap::new();
    let mut last_of_all = None;
    for found in read {
        let number = numbers[&found.event.id];
        if shards == 1 {
            assert!(last_of_all < Some(number), "event {number} came after event {last_of_all:?} in the only shard");
            last_of_all = Some(number);
        }
        let Some(key) = &found.event.key else { continue };
        let slot = (found.event.topic.as_str(), key);
        if let Some((before, shard)) = last_of_key.insert(slot, (number, &found.shard)) {
            assert!(before < number, "event {number} of key {key:?} came after event {before}");
            // An empty key is spread like no key by some partitioners; it orders nothing then, but is still in order per shard.
            assert!(
                key.is_empty() || shard == found.shard,
                "events of key {key:?} are in {shard} and in {}",
                found.shard
            );
        }
    }
}
