//! Why bytes of a peer are refused. Every reason has a code that travels in the QUIC close, so that both ends can name it.

use longhaul_event::HeaderError;

/// Why a frame or a batch is refused, at the sender before it leaves or at the receiver before it is used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The bytes end before what they announce.
    #[error("the bytes end before the {0} does")]
    Truncated(&'static str),
    /// Not a batch at all.
    #[error("a batch begins with other bytes than it must")]
    Magic,
    /// A version of the layout that is not spoken here.
    #[error("version {0} of the batch layout is not known")]
    Version(u8),
    /// Flags or reserved bytes that have no meaning yet.
    #[error("unknown flags or reserved bytes that are not zero in the {0}")]
    Flags(&'static str),
    /// A codec that is not known.
    #[error("codec {0} is not known")]
    Codec(u8),
    /// Declared or real length of the events of a batch over the limit.
    #[error("a batch of {bytes} bytes is over the limit of {limit}")]
    BatchTooLarge {
        /// What it has.
        bytes: usize,
        /// What it may have.
        limit: usize,
    },
    /// More events than a batch may have, or than its bytes can hold.
    #[error("a batch cannot have {0} events")]
    TooManyEvents(u32),
    /// Lengths that contradict each other.
    #[error("the lengths in the header of a batch contradict each other")]
    Lengths,
    /// The checksum does not fit.
    #[error("the checksum of a batch does not fit its bytes")]
    Checksum,
    /// The compressed bytes are not what their codec makes, or not of the declared length.
    #[error("the events of a batch cannot be decompressed to their declared length")]
    Decompress,
    /// One event over the limit.
    #[error("an event of {bytes} bytes is over the limit of {limit}")]
    EventTooLarge {
        /// What it has: topic, key, headers, payload and provenance.
        bytes: usize,
        /// What it may have.
        limit: usize,
    },
    /// A key over the limit.
    #[error("a key of {0} bytes is over the limit")]
    KeyTooLarge(usize),
    /// Provenance over the limit.
    #[error("provenance of {0} bytes is over the limit")]
    ProvenanceTooLarge(usize),
    /// Headers that break their form or their limits.
    #[error("headers of an event: {0}")]
    Headers(#[from] HeaderError),
    /// A topic that is none.
    #[error("the topic of an event is too long, not UTF-8, or refers to an event before it that is not there")]
    Topic,
    /// Offsets that do not rise, or lie outside of what their batch covers.
    #[error("the offsets of a batch do not rise or lie outside of the range that it covers")]
    Order,
    /// A number or text that is not encoded as it must.
    #[error("the {0} is malformed")]
    Malformed(&'static str),
    /// The batch that is being written has no room for this event; finish it and push again.
    #[error("the batch is full")]
    BatchFull,
    /// A control frame over [`FRAME_BYTES_MAX`](crate::FRAME_BYTES_MAX).
    #[error("a control frame of {0} bytes is over the limit")]
    FrameTooLarge(usize),
    /// A control frame of a kind that is not known and must not be skipped.
    #[error("control frame kind {0} is not known")]
    FrameKind(u8),
    /// A control frame that has not the form of its kind here. QUIC lets no damage through, so that another build is what remains.
    #[error(
        "a control frame of kind {0} has another form than here: the peer is of a build that this one cannot speak with, so upgrade the older one"
    )]
    FrameForm(u8),
}

impl WireError {
    /// The code that travels in a QUIC close: 0x100 and up, never reused.
    #[must_use]
    pub fn code(&self) -> u32 {
        0x100
            + match self {
                Self::Truncated(_) => 0,
                Self::Magic => 1,
                Self::Version(_) => 2,
                Self::Flags(_) => 3,
                Self::Codec(_) => 4,
                Self::BatchTooLarge { .. } => 5,
                Self::TooManyEvents(_) => 6,
                Self::Lengths => 7,
                Self::Checksum => 8,
                Self::Decompress => 9,
                Self::EventTooLarge { .. } => 10,
                Self::KeyTooLarge(_) => 11,
                Self::ProvenanceTooLarge(_) => 12,
                Self::Headers(_) => 13,
                Self::Topic => 14,
                Self::Order => 15,
                Self::Malformed(_) => 16,
                Self::BatchFull => 17,
                Self::FrameTooLarge(_) => 18,
                Self::FrameKind(_) => 19,
                Self::FrameForm(_) => 20,
            }
    }
}
