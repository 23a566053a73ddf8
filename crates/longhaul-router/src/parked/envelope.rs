//! The form of what is parked: a head in JSON, which says what it is, and the event as a batch of one, as it travels on a link.
//!
//! Any broker can keep it: pieces of bytes of bounded size under a name of hex digits.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use longhaul_broker::PIECE_BYTES_MAX;
use longhaul_event::{Event, EventId};
use longhaul_topology::FlowKey;
use longhaul_wire::{BatchEncoder, Chain, Compression, EVENT_BYTES_MAX, Limits, decode_batch};
use serde::{Deserialize, Serialize};

use super::Refused;
use crate::flow_status::wall_ms;

const VERSION: u32 = 1;
/// Characters of texts in a head; the event itself has them whole.
const SHOWN_MAX: usize = 1024;
/// Pieces that one event can have at the most.
const PIECES_MAX: usize = 2 + 2 * (EVENT_BYTES_MAX as usize) / PIECE_BYTES_MAX;

/// A parked event in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedView {
    /// Form of what follows.
    pub version: u32,
    /// The name by which it is shown, redriven and discarded.
    pub id: String,
    /// How many pieces it is kept in.
    pub pieces: u32,
    /// Name of the mesh.
    pub mesh: String,
    /// Name of the route.
    pub route: String,
    /// Region, broker and shard it was read from.
    pub from: (String, String, String),
    /// Region and broker that refused it.
    pub to: (String, String),
    /// The partition number at its source, if it has one.
    pub partition: Option<u32>,
    /// Life of the shard.
    pub incarnation: u64,
    /// Offset in the shard.
    pub offset: u64,
    /// Identity of the event.
    pub event: String,
    /// Its topic at the destination.
    pub topic: String,
    /// Its key as text, cut where it is long.
    pub key: Option<String>,
    /// When it was published, milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// Bytes of its payload.
    pub payload_bytes: u64,
    /// Kind of the refusal, as in metrics.
    pub kind: String,
    /// Why it was refused, in words.
    pub reason: String,
    /// When it was parked, milliseconds since the Unix epoch.
    pub parked_ms: u64,
}

/// A parked event, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedEvent {
    /// What it is and why it is here.
    #[serde(flatten)]
    pub about: ParkedView,
    /// Its headers; values that are no text have their odd bytes replaced.
    pub headers: Vec<(String, String)>,
    /// Its payload as text, where it is text.
    pub text: Option<String>,
    /// Its payload in Base64; `None` for an event without a payload.
    pub payload: Option<String>,
}

impl ParkedEvent {
    pub(super) fn new(about: ParkedView, event: &Event) -> Self {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = event.headers.iter().map(|header| (header.name.to_owned(), lossy(header.value))).collect();
        let text = event.payload.as_deref().and_then(|payload| std::str::from_utf8(payload).ok()).map(str::to_owned);
        Self { about, headers, text, payload: event.payload.as_deref().map(|payload| STANDARD.encode(payload)) }
    }
}

/// Whether a text can be the name of something parked.
pub(super) fn is_name(text: &str) -> bool {
    EventId::parse(text.as_bytes()).is_some()
}

/// The same event refused in the same flow has the same name, whatever happened in between.
fn name(flow: &FlowKey, event: &Event) -> String {
    let (flow, id) = (flow.id().to_string(), event.id.to_string());
    let key = event.key.as_deref().unwrap_or_default();
    let payload = event.payload.as_deref().unwrap_or_default();
    let parts = [flow.as_bytes(), id.as_bytes(), event.topic.as_str().as_bytes(), key, payload];
    EventId::of_parts(0, &parts).to_string()
}

/// The name and the pieces of an event, the head first.
///
/// # Errors
/// When the event has no form, in words.
pub(super) fn seal(
    flow: &FlowKey,
    partition: Option<u32>,
    event: &Event,
    refused: &Refused,
) -> Result<(String, Vec<Bytes>), String> {
    let mut encoder = BatchEncoder::new(Limits::new(EVENT_BYTES_MAX, u16::MAX));
    encoder.push(event, event.topic.as_str(), &event.provenance).map_err(|error| error.to_string())?;
    let (incarnation, last) = (refused.at.incarnation, event.offset);
    let chain = Chain { handle: 0, path_epoch: 0, start: false, incarnation, prev: last.wrapping_sub(1), last };
    let mut body = encoder.finish(chain, Compression::Lz4);
    let mut pieces = vec![Bytes::new()];
    while !body.is_empty() {
        pieces.push(body.split_to(body.len().min(PIECE_BYTES_MAX)));
    }
    let id = name(flow, event);
    let about = ParkedView {
        version: VERSION,
        id: id.clone(),
        pieces: u32::try_from(pieces.len()).map_err(|error| error.to_string())?,
        mesh: flow.mesh.clone(),
        route: flow.route.clone(),
        from: flow.from.clone(),
        to: flow.to.clone(),
        partition,
        incarnation,
        offset: event.offset,
        event: event.id.to_string(),
        topic: event.topic.as_str().to_owned(),
        key: event.key.as_deref().map(|key| cut(&String::from_utf8_lossy(key))),
        time_ms: event.time_ms,
        payload_bytes: event.payload.as_ref().map_or(0, |payload| payload.len() as u64),
        kind: refused.kind.as_str().to_owned(),
        reason: cut(&refused.reason),
        parked_ms: wall_ms(),
    };
    pieces[0] = serde_json::to_vec(&about).map_err(|error| error.to_string())?.into();
    Ok((id, pieces))
}

/// Reads a head.
///
/// # Errors
/// When it is not one of ours, in words.
pub(super) fn read_head(head: &[u8]) -> Result<ParkedView, String> {
    let about: ParkedView =
        serde_json::from_slice(head).map_err(|error| format!("what is parked cannot be read: {error}"))?;
    let fits =
        about.version == VERSION && (1..=PIECES_MAX).contains(&usize::try_from(about.pieces).unwrap_or(usize::MAX));
    if fits { Ok(about) } else { Err(format!("what is parked as {} is of another version", about.id)) }
}

/// Puts an event together from the pieces behind its head.
///
/// # Errors
/// When they are not what was parked, in words.
pub(super) fn open(pieces: &[Bytes]) -> Result<Event, String> {
    let mut body = BytesMut::new();
    pieces.iter().for_each(|piece| body.extend_from_slice(piece));
    let limits = Limits::new(EVENT_BYTES_MAX, u16::MAX);
    let (_, mut events) =
        decode_batch(body.freeze(), &limits).map_err(|error| format!("a parked event is damaged: {error}"))?;
    match (events.pop(), events.pop()) {
        (Some(event), None) => Ok(event),
        _ => Err("a parked event is damaged: it is not one event".to_owned()),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use longhaul_broker::Poison;
    use longhaul_event::{Headers, Identity, Position};
    use longhaul_topic::Topic;

    use super::*;

    fn flow() -> FlowKey {
        FlowKey {
            mesh: "m".into(),
            route: "r".into(),
            from: ("eu".into(), "a".into(), "orders/3".into()),
            to: ("us".into(), "b".into()),
        }
    }

    fn event(payload: usize) -> Event {
        // Bytes that do not shrink.
        let mut state = 7_u64;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        Event {
            offset: 41,
            topic: Topic::parse("orders.new").expect("a topic"),
            key: Some(Bytes::from_static(b"k\xff")),
            headers: Headers::default(),
            payload: Some((0..payload).map(|_| byte()).collect()),
            time_ms: -5,
            id: EventId(77),
            identity: Identity::Content,
            provenance: Bytes::from_static(b"a path"),
        }
    }

    fn refused() -> Refused {
        Refused { at: Position { incarnation: 9, offset: 41 }, kind: Poison::TooLarge, reason: "large".repeat(1000) }
    }

    #[test]
    fn an_event_is_whole_again_whatever_its_size() {
        for size in [0, 1, PIECE_BYTES_MAX - 100, 3 * PIECE_BYTES_MAX, 5 << 20] {
            let event = event(size);
            let (name, pieces) = seal(&flow(), Some(3), &event, &refused()).expect("a form");
            assert!(is_name(&name) && pieces.iter().all(|piece| piece.len() <= PIECE_BYTES_MAX));
            let about = read_head(&pieces[0]).expect("a head");
            assert_eq!((about.id, about.pieces as usize, about.offset), (name, pieces.len(), 41));
            assert_eq!((about.kind.as_str(), about.incarnation, about.partition), ("too_large", 9, Some(3)));
            assert_eq!(open(&pieces[1..]).expect("an event"), event);
        }
    }

    #[test]
    fn a_name_tells_events_and_flows_apart_and_nothing_else() {
        let of = |flow: &FlowKey, event: &Event| name(flow, event);
        assert_eq!(of(&flow(), &event(5)), of(&flow(), &Event { offset: 99, ..event(5) }));
        assert_ne!(of(&flow(), &event(5)), of(&flow(), &event(6)));
        assert_ne!(of(&flow(), &event(5)), of(&FlowKey { route: "s".into(), ..flow() }, &event(5)));
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let (_, pieces) = seal(&flow(), None, &event(100), &refused()).expect("a form");
        assert!(read_head(b"{}").is_err());
        assert!(
            read_head(&String::from_utf8_lossy(&pieces[0]).replace("\"version\":1", "\"version\":2").into_bytes())
                .is_err()
        );
        assert!(open(&[]).is_err());
        assert!(open(&[pieces[1].slice(1..)]).is_err());
    }
}
