//! What every target begins with: files that are committed. Those of the documents are the examples of the repository, good and broken.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use longhaul_event::provenance::{Hop, Place, Provenance};
use longhaul_event::{EventId, HeaderTag, Headers, Position};
use longhaul_link::certs;
use longhaul_wire::{BatchEncoder, Chain, Compression, FlowOpen, Frame, Hello, Limits, encode_frame};

use crate::{folder, targets::event};

/// The inputs of a target, in the order of their names.
pub(crate) fn of(name: &str) -> Vec<Vec<u8>> {
    let found = match name {
        "mesh_document" => read(&folder().join("../topology"), "yaml"),
        "router_document" => read(&folder().join("../configs"), "yaml"),
        _ => read(&folder().join("fuzz/corpus").join(name), ""),
    };
    assert!(!found.is_empty(), "{name} has no corpus");
    found
}

fn read(folder: &Path, ending: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(ending));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a file of the corpus")).collect()
}

/// Writes the corpora that are bytes, or made by a program.
pub(crate) fn write() {
    let all = |frames: &[Frame]| {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| encode_frame(frame, &mut bytes).expect("a frame"));
        bytes.to_vec()
    };
    let frames = frames();
    for (number, frame) in frames.iter().enumerate() {
        put("frames", &format!("{number}"), &all(std::slice::from_ref(frame)));
    }
    put("frames", "all", &all(&frames));
    let batches = [
        batch(0, Compression::None),
        batch(1, Compression::None),
        batch(40, Compression::Lz4),
        batch(40, Compression::Zstd),
    ];
    for (number, batch) in batches.iter().enumerate() {
        put("batches", &format!("{number}"), batch);
    }
    put("parcels", "all", &batches.concat());
    put("parcels", "one", &batches[1]);
    put("headers", "some", headers().encoded());
    put("headers", "none", Headers::builder().finish().encoded());
    let place = Place::of("mesh", "region", "broker");
    let first = Provenance::new(7, place, 9, Position { incarnation: 3, offset: 11 }, 13);
    put("provenance", "first", &first.encode());
    let longer = first.extended(Hop { place, topic: 6 });
    put("provenance", "longer", &longer.expect("one hop more").encode());
    let ca = certs::make_ca("mesh").expect("an authority");
    let router = certs::make_router(&ca, "mesh", "region", "router", &[]).expect("a certificate");
    put("certificates", "router", router.cert.as_bytes());
    put("certificates", "chain", format!("{}{}", router.cert, ca.cert).as_bytes());
    put("certificates", "list", certs::make_crl(&ca, 1, &[&router.cert]).expect("a list").as_bytes());
    put("identities", "one", EventId::of_position(1, 2, 3, 4).to_string().as_bytes());
}

fn put(target: &str, name: &str, bytes: &[u8]) {
    let folder = folder().join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(name), bytes).expect("a file of the corpus");
}

fn frames() -> Vec<Frame> {
    let text = str::to_owned;
    let hello = Hello {
        version: 1,
        mesh: text("mesh"),
        region: text("eu"),
        router: text("eu-1"),
        instance: 7,
        event_bytes_max: 1 << 20,
        headers_max: 64,
        features: 0,
    };
    let open = FlowOpen {
        handle: 1,
        mesh: text("mesh"),
        route: text("orders"),
        from: (text("eu"), text("events"), text("log")),
        to: (text("us"), text("events")),
        partition: Some(3),
        owner_epoch: 4,
        path_epoch: 5,
        route_hash: 6,
        class: 1,
        links: 1,
    };
    let (handle, path_epoch, events_limit, bytes_limit) = (1, 5, 512, 1 << 18);
    let resume = Some(Position { incarnation: 1, offset: 2 });
    vec![
        Frame::Hello(hello),
        Frame::Heartbeat { at_micros: 1 << 40 },
        Frame::HeartbeatEcho { at_micros: 1 << 40 },
        Frame::Open(open),
        Frame::Accept { handle, path_epoch, resume, events_limit, bytes_limit },
        Frame::Ack { handle, path_epoch, durable: 9, events_limit, bytes_limit },
        Frame::Reset { handle, path_epoch, code: 2, text: text("why"), retry_ms: 500 },
        Frame::Close { handle, path_epoch },
        Frame::Goodbye { text: text("drained") },
    ]
}

fn headers() -> Headers {
    let mut headers = Headers::builder();
    for (name, value) in [("ce_type", &b"order"[..]), ("ce-id", b"%201"), ("cloudEvents:source", b"/s"), ("x", b"\xff")]
    {
        headers.push(name, value).expect("a header");
    }
    headers.push_tagged("number", HeaderTag(b'l'), &7_i64.to_be_bytes()).expect("a header");
    headers.finish()
}

fn batch(events: u64, compression: Compression) -> Bytes {
    let mut encoder = BatchEncoder::new(Limits::default());
    for offset in 1..=events {
        let mut event = event(headers(), &[7; 20]);
        event.offset = offset;
        if offset % 5 == 0 {
            (event.payload, event.key) = (None, None);
        }
        encoder
            .push(&event, if offset % 3 == 0 { "orders.old" } else { "orders.new" }, b"provenance")
            .expect("it fits");
    }
    let chain = Chain { handle: 1, path_epoch: 2, start: true, incarnation: 3, prev: 0, last: events };
    encoder.finish(chain, compression)
}
