//! Control frames: what two routers say to each other beside the events.
//!
//! ```text
//! frame = length u32 LE (of what follows, at most 64 KiB) | kind u8 | fields (postcard, in the order of the struct)
//! ```
//! The kind is the number of the variant, so variants are only ever added at the end. An unknown kind from
//! [`SKIPPABLE_FROM`] on is skipped; any other unknown kind is an error, and ends the link. Only `Hello` may have bytes after its
//! last field: a later version may say more there.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use longhaul_event::Position;
use serde::{Deserialize, Serialize};

use crate::WireError;

/// Version of the protocol that the `Hello` names; [`agreed_version`](crate::agreed_version) says whom it speaks with.
pub const PROTOCOL_VERSION: u16 = 1;
/// Longest control frame, its length prefix not counted.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// Longest text of a reason; longer ones are cut when they are written.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Kinds from here on may be skipped by who does not know them.
pub const SKIPPABLE_FROM: u8 = 64;
const KNOWN_KINDS: u8 = 9;
const HELLO_KIND: u8 = 0;
const PREFIX_BYTES: usize = 4;

/// What is said on the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// The first frame of each side.
    Hello(Hello),
    /// Sent every second; carries the sender's clock.
    Heartbeat {
        /// Microseconds on a clock of the sender's choice.
        at_micros: u64,
    },
    /// The answer to a heartbeat, with its clock value.
    HeartbeatEcho {
        /// As it came.
        at_micros: u64,
    },
    /// Owner to applier: opens a flow, or opens it again at a higher path epoch.
    Open(FlowOpen),
    /// Applier to owner: the flow is open, and where it goes on.
    Accept {
        /// Which flow.
        handle: u32,
        /// As in the `Open` that it answers.
        path_epoch: u32,
        /// The last position that needs not be sent again; `None` for a flow without a cursor.
        resume: Option<Position>,
        /// Events that the owner may send since the flow was opened, in all.
        events_limit: u64,
        /// Bytes that the owner may send since the flow was opened, in all.
        bytes_limit: u64,
    },
    /// Applier to owner: durable up to here, and new limits. Cumulative: a lost or repeated one does no harm.
    Ack {
        /// Which flow.
        handle: u32,
        /// Of which epoch.
        path_epoch: u32,
        /// Last durable offset of the flow's incarnation.
        durable: u64,
        /// As in `Accept`.
        events_limit: u64,
        /// As in `Accept`.
        bytes_limit: u64,
    },
    /// Applier to owner: the flow cannot go on; open it again after `retry_ms`.
    Reset {
        /// Which flow.
        handle: u32,
        /// Of which epoch.
        path_epoch: u32,
        /// Why, for machines.
        code: u8,
        /// Why, for people.
        text: String,
        /// Not before.
        retry_ms: u32,
    },
    /// Owner to applier: the flow ends here.
    Close {
        /// Which flow.
        handle: u32,
        /// Of which epoch.
        path_epoch: u32,
    },
    /// The sender is about to close the link, in good order.
    Goodbye {
        /// Why, for people.
        text: String,
    },
}

/// Who speaks, and what it accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`].
    pub version: u16,
    /// Name of the mesh; must be the one in the certificate.
    pub mesh: String,
    /// Name of the region; must be the one in the certificate.
    pub region: String,
    /// Name of the router; must be the one in the certificate.
    pub router: String,
    /// Which life of that router: changes with every start.
    pub instance: u64,
    /// Largest event that it takes.
    pub event_bytes_max: u32,
    /// Most headers of one event that it takes.
    pub headers_max: u16,
    /// Bits for what may be understood beyond this version.
    pub features: u64,
}

/// What a flow is, and under which epochs it is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowOpen {
    /// Number of the flow on this link, chosen by the owner.
    pub handle: u32,
    /// Name of the mesh.
    pub mesh: String,
    /// Name of the route.
    pub route: String,
    /// Region, broker and shard (without its partition) that it comes from.
    pub from: (String, String, String),
    /// Region and broker that it goes to.
    pub to: (String, String),
    /// Partition of the shard, where shards have one.
    pub partition: Option<u32>,
    /// Epoch of the ownership; a lower one is refused.
    pub owner_epoch: u64,
    /// Epoch of the path; a lower one is refused.
    pub path_epoch: u32,
    /// Hash of the route's definition.
    pub route_hash: u64,
    /// Class of traffic: 0 realtime, 1 normal, 2 catch-up.
    pub class: u8,
    /// Links that this frame has come over, this one included: 1 from the owner itself, one more from every router that passes it on.
    pub links: u8,
}

/// Appends a frame with its length. Texts of reasons are cut to [`TEXT_BYTES_MAX`].
///
/// # Errors
/// [`WireError::FrameTooLarge`]; then nothing is appended.
pub fn encode_frame(frame: &Frame, out: &mut BytesMut) -> Result<(), WireError> {
    let body = match cut(frame) {
        Some(shorter) => postcard::to_allocvec(&shorter),
        None => postcard::to_allocvec(frame),
    }
    .map_err(|_| WireError::Malformed("frame"))?;
    let len = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_BYTES_MAX);
    let len = len.ok_or(WireError::FrameTooLarge(body.len()))?;
    out.reserve(PREFIX_BYTES + body.len());
    out.put_u32_le(len);
    out.put_slice(&body);
    Ok(())
}

/// Takes the next whole frame out of a buffer; `None` when there is none yet. Frames that may be skipped are.
///
/// # Errors
/// [`WireError`] when the frame is too long (told from its length alone), unknown or malformed; the link cannot go on then.
pub fn next_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, WireError> {
    while let Some(body) = split_body(buffer)? {
        if let Some(frame) = decode_body(&body)? {
            return Ok(Some(frame));
        }
    }
    Ok(None)
}

fn split_body(buffer: &mut BytesMut) -> Result<Option<Bytes>, WireError> {
    let Some(prefix) = buffer.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    let len = usize::try_from(u32::from_le_bytes(*prefix)).unwrap_or(usize::MAX);
    if len > FRAME_BYTES_MAX {
        return Err(WireError::FrameTooLarge(len));
    }
    if buffer.len() < PREFIX_BYTES + len {
        return Ok(None);
    }
    buffer.advance(PREFIX_BYTES);
    Ok(Some(buffer.split_to(len).freeze()))
}

fn decode_body(body: &[u8]) -> Result<Option<Frame>, WireError> {
    let kind = *body.first().ok_or(WireError::Truncated("frame"))?;
    match kind {
        SKIPPABLE_FROM.. => return Ok(None),
        KNOWN_KINDS.. => return Err(WireError::FrameKind(kind)),
        _ => {}
    }
    let (frame, rest) = postcard::take_from_bytes(body).map_err(|_| WireError::FrameForm(kind))?;
    if !rest.is_empty() && kind != HELLO_KIND {
        return Err(WireError::FrameForm(kind));
    }
    Ok(Some(frame))
}

/// The frame with its text cut, when it is too long to travel.
fn cut(frame: &Frame) -> Option<Frame> {
    let (Frame::Reset { text, .. } | Frame::Goodbye { text }) = frame else { return None };
    if text.len() <= TEXT_BYTES_MAX {
        return None;
    }
    let mut shorter = frame.clone();
    if let Frame::Reset { text, .. } | Frame::Goodbye { text } = &mut shorter {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    }
    Some(shorter)
}

#[cfg(test)]
mod tests;
