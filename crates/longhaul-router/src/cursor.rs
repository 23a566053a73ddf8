//! Where a flow reads: from the ring it shares, or by itself.

use longhaul_broker::{ReadBatch, Reader, SourceError};

/// Where the next events come from.
pub(crate) enum Cursor {
    /// Nowhere: not seeked yet.
    None,
    /// From the ring.
    Ring,
    /// From a reader of its own.
    Own(Box<dyn Reader>),
}

/// What seeking found.
pub(crate) enum Opened {
    /// A reader of its own on a replayable shard.
    Reader(Result<Box<dyn Reader>, SourceError>),
    /// Incarnation and first offset of the one reader of a shard that is not replayable.
    Base(u64, u64),
}

/// Reads from a reader of its own, if it has one. Cancel safe.
pub(crate) async fn read_own(cursor: &mut Cursor) -> Result<ReadBatch, SourceError> {
    match cursor {
        Cursor::Own(reader) => reader.read().await,
        Cursor::None | Cursor::Ring => std::future::pending().await,
    }
}
