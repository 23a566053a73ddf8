//! The targets: each reads an input, and writes again what it could read.

use std::path::Path;
use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use longhaul_event::cloudevents::{self, Binding, Structured};
use longhaul_event::provenance::{Place, Provenance};
use longhaul_event::{Event, EventId, FlowId, Headers, Identity};
use longhaul_link::{Fresh, TlsFiles, certs};
use longhaul_route::CompiledPredicate;
use longhaul_topic::{Filter, Topic, covers, overlaps};
use longhaul_wire::{
    BATCH_HEADER_BYTES, BatchEncoder, BatchHeader, Chain, Compression, Frame, Limits, TEXT_BYTES_MAX, decode_batch,
    decode_header, encode_frame, frame_len, next_frame,
};

pub(crate) fn frames(input: &[u8]) {
    let mut buffer = BytesMut::from(input);
    while let Ok(Some(frame)) = next_frame(&mut buffer) {
        let is_cut =
            matches!(&frame, Frame::Reset { text, .. } | Frame::Goodbye { text } if text.len() > TEXT_BYTES_MAX);
        let mut written = BytesMut::new();
        encode_frame(&frame, &mut written).expect("what was read can be written");
        let again = next_frame(&mut written).expect("and read").expect("whole");
        assert!(is_cut || again == frame, "{frame:?}, {again:?}");
    }
}

/// One batch, with its checksum set right: what is behind it is what is of interest.
pub(crate) fn batches(input: &[u8]) {
    let mut bytes = input.to_vec();
    if bytes.len() >= BATCH_HEADER_BYTES {
        let body = u32::try_from(bytes.len() - BATCH_HEADER_BYTES).expect("inputs are short");
        // Every second one says its length right, and every fourth that it is not compressed.
        if body % 2 == 0 {
            bytes[48..52].copy_from_slice(&body.to_le_bytes());
            if body % 4 == 0 {
                (bytes[12], bytes[2]) = (0, 1);
                bytes[44..48].copy_from_slice(&body.to_le_bytes());
            }
        }
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..52]), &bytes[BATCH_HEADER_BYTES..]);
        bytes[52..56].copy_from_slice(&crc.to_le_bytes());
    }
    let limits = Limits::default();
    if let Ok((header, events)) = decode_batch(bytes.into(), &limits) {
        let decoded: usize = events.iter().map(size).sum();
        let same_topics = events.len() * longhaul_topic::TOPIC_BYTES_MAX;
        assert!(decoded <= limits.batch_raw_bytes_max() + same_topics, "{decoded} bytes of {} events", events.len());
        write_again(&header, &events, limits);
    }
}

fn size(event: &Event) -> usize {
    let (key, payload) = (event.key.as_ref().map_or(0, Bytes::len), event.payload.as_ref().map_or(0, Bytes::len));
    event.topic.bytes().len() + key + payload + event.headers.encoded_len() + event.provenance.len()
}

fn write_again(header: &BatchHeader, events: &[Event], limits: Limits) {
    let BatchHeader { handle, path_epoch, start, incarnation, prev, last, .. } = *header;
    for compression in [Compression::None, Compression::Lz4] {
        let mut encoder = BatchEncoder::new(limits);
        for event in events {
            encoder.push(event, event.topic.as_str(), &event.provenance).expect("what was read can be written");
        }
        let written = encoder.finish(Chain { handle, path_epoch, start, incarnation, prev, last }, compression);
        let (again, events_again) = decode_batch(written, &limits).expect("and read");
        assert_eq!((again.count, again.prev, again.last), (header.count, prev, last));
        assert_eq!(events_again, events);
    }
}

/// Batch after batch, as a link takes them out of a stream.
pub(crate) fn parcels(input: &[u8]) {
    let (mut rest, limits) = (Bytes::copy_from_slice(input), Limits::default());
    while rest.len() >= BATCH_HEADER_BYTES {
        let Ok(header) = decode_header(&rest) else { return };
        let Ok(len) = frame_len(&header, &limits) else { return };
        assert!(len <= BATCH_HEADER_BYTES + limits.batch_raw_bytes_max());
        if rest.len() < len {
            return;
        }
        let _ = decode_batch(rest.split_to(len), &limits);
    }
}

pub(crate) fn mesh_document(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    match longhaul_config::load_mesh(Path::new("mesh.yaml"), &text) {
        Ok(mesh) => drop(longhaul_route::RouteTable::build(&mesh)),
        Err(wrong) => assert!(!wrong.to_string().is_empty()),
    }
}

pub(crate) fn router_document(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let env = |name: &str| (name.len() < 8).then(|| "value".to_owned());
    let file = |_: &Path| Ok("content".to_owned());
    if let Err(wrong) = longhaul_config::load_router(Path::new("router.yaml"), &text, &env, &file) {
        assert!(!wrong.to_string().is_empty());
    }
}

/// Filters, one a line, against each other and against every line as a topic.
pub(crate) fn filters(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let filters: Vec<Filter> = text.lines().take(8).filter_map(|line| Filter::parse(line).ok()).collect();
    let topics: Vec<Topic> = text.lines().take(8).filter_map(|line| Topic::parse(line).ok()).collect();
    for filter in &filters {
        assert_eq!(Filter::parse(filter.as_str()).as_ref(), Ok(filter));
        for other in &filters {
            let (meet, covered) = (overlaps(filter, other), covers(filter, other));
            assert_eq!(meet, overlaps(other, filter), "{filter:?}, {other:?}");
            for topic in &topics {
                let (one, two) = (filter.matches(topic), other.matches(topic));
                assert!(!(covered && two && !one), "{filter:?} covers {other:?}, not {topic:?}");
                assert!(meet || !(one && two), "{filter:?}, {other:?} do not meet in {topic:?}");
            }
        }
    }
}

/// The predicate of a route, within a document that is good.
pub(crate) fn predicates(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let document = format!(
        "apiVersion: longhaul/v1\nkind: Mesh\nmetadata: {{name: m}}\nregions:\n  \
         - {{name: a, routers: [\"a:1\"], brokers: [{{name: k, kafka: {{}}}}]}}\n  \
         - {{name: b, routers: [\"b:1\"], brokers: [{{name: k, kafka: {{}}}}]}}\nlinks: [{{between: [a, b]}}]\nroutes:\n  \
         - name: r\n    from: {{region: a, broker: k, topics: [x]}}\n    to: [{{region: b, broker: k, topic: y}}]\n    \
         where: {text}\n"
    );
    let Ok(mesh) = longhaul_config::load_mesh(Path::new("mesh.yaml"), &document) else { return };
    for predicate in mesh.routes.iter().filter_map(|route| route.predicate.as_ref()) {
        let compiled = CompiledPredicate::new(predicate);
        let _ = compiled.matches(&event(cloudevents_headers(), input));
    }
}

pub(crate) fn headers(input: &[u8]) {
    let Ok(headers) = Headers::from_encoded(Bytes::copy_from_slice(input)) else { return };
    let mut builder = Headers::builder();
    for header in headers.iter() {
        builder.push_tagged(header.name, header.tag, header.value).expect("what was read can be written");
    }
    let again = builder.finish();
    assert!(again.iter().eq(headers.iter()), "{headers:?}, {again:?}");
    for from in BINDINGS {
        for to in BINDINGS {
            if let Ok(bound) = cloudevents::rebind(&headers, from, to) {
                Headers::from_encoded(bound.encoded().clone()).expect("what was bound can be read");
            }
        }
    }
    for name in ["id", "type", "source", "subject"] {
        let _ = cloudevents::attribute(&headers, name);
    }
}

const BINDINGS: [Binding; 4] = [Binding::Kafka, Binding::Amqp, Binding::Nats, Binding::Http];

pub(crate) fn provenance(input: &[u8]) {
    let Some(read) = Provenance::decode(input) else { return };
    let written = read.encode();
    assert_eq!(Provenance::decode(&written).as_ref(), Some(&read));
    let _ = read.visited(Place::of("mesh", "region", "broker"));
    let hop = read.hops.first().copied();
    if let Some(longer) = hop.and_then(|hop| read.extended(hop)) {
        assert_eq!(Provenance::decode(&longer.encode()), Some(longer));
    }
}

pub(crate) fn identities(input: &[u8]) {
    if let Some(id) = EventId::parse(input) {
        assert_eq!(EventId::parse(id.to_string().as_bytes()), Some(id));
    }
    if let Some(id) = FlowId::parse(input) {
        assert_eq!(FlowId::parse(id.to_string().as_bytes()), Some(id));
    }
}

/// An event of CloudEvents in JSON, and what a predicate asks of it.
pub(crate) fn cloudevents(input: &[u8]) {
    if let Some(structured) = Structured::parse(input) {
        for name in ["id", "type", "source", "specversion", ""] {
            let _ = structured.attribute(name);
        }
    }
}

/// What a router reads from disk and from whom it meets: certificates, here each with the key of another.
pub(crate) fn certificates(input: &[u8]) {
    static PLACE: OnceLock<(tempfile::TempDir, TlsFiles)> = OnceLock::new();
    let (_, good) = PLACE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let ca = certs::make_ca("mesh").expect("an authority");
        let pem = certs::make_router(&ca, "mesh", "region", "router", &[]).expect("a certificate");
        let files = certs::write(folder.path(), "good", &ca.cert, &pem).expect("files");
        (folder, files)
    });
    let changed = good.cert.with_extension("changed");
    std::fs::write(&changed, input).expect("a file");
    for files in [
        TlsFiles { cert: changed.clone(), ..good.clone() },
        TlsFiles { ca: changed.clone(), ..good.clone() },
        TlsFiles { crl: Some(changed), ..good.clone() },
    ] {
        if let Err(wrong) = Fresh::read(files) {
            assert!(!wrong.to_string().is_empty());
        }
    }
}

fn cloudevents_headers() -> Headers {
    let mut headers = Headers::builder();
    headers.push("ce_type", b"order").expect("a header");
    headers.push("tenant", b"acme").expect("a header");
    headers.finish()
}

/// An event with that payload.
pub(crate) fn event(headers: Headers, payload: &[u8]) -> Event {
    Event {
        offset: 7,
        topic: Topic::parse("orders.new").expect("a topic"),
        key: Some(Bytes::from_static(b"key")),
        headers,
        payload: Some(Bytes::copy_from_slice(payload)),
        time_ms: 1_700_000_000_000,
        id: EventId(1),
        identity: Identity::Unique,
        provenance: Bytes::new(),
    }
}
