//! Frames between routers as structs, and their bytes.
//!
//! Pure: bytes in, values out. Read [`Frame`] for what is said on the control stream and [`BatchHeader`] for how events travel.
//! Whatever a peer can send is refused by a [`WireError`] with a code; nothing here panics or allocates more than the [`Limits`] allow
//! because of a declared length.

mod batch;
mod error;
mod frame;
mod limits;
mod version;

pub use batch::{
    BATCH_HEADER_BYTES, BatchEncoder, BatchHeader, Chain, Codec, Compression, decode_batch, decode_header, frame_len,
    readdress,
};
pub use error::WireError;
pub use frame::{
    FRAME_BYTES_MAX, FlowOpen, Frame, Hello, PROTOCOL_VERSION, SKIPPABLE_FROM, TEXT_BYTES_MAX, encode_frame, next_frame,
};
pub use limits::{
    BATCH_EVENTS_MAX, BATCH_RAW_BYTES_MAX, EVENT_BYTES_DEFAULT, EVENT_BYTES_MAX, KEY_BYTES_MAX, Limits,
    PROVENANCE_BYTES_MAX,
};
pub use version::{VERSION_SKEW_MAX, agreed_version};
