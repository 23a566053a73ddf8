//! The port of what is set aside: a place in a destination broker for what that broker refused.
//!
//! It keeps named pieces of bytes and knows nothing of events: what they mean is the router's business. A connector offers one place for
//! its whole broker, declared by us and apart from everything that routes read or write.

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::SinkError;

/// Largest piece that a place must be able to take: little, so that a broker with low limits takes it too.
pub const PIECE_BYTES_MAX: usize = 32 << 10;

/// What one thing that is kept is called: letters, digits, `-`, `_` and `.`, at most 128 bytes.
pub type ParkName = String;

/// A place for what a broker refused. Every call declares it if it is missing.
///
/// A thing is its pieces `0..n`. Piece 0 is its head, which is small and is written last and removed first: what has no head is not there.
pub trait Parking: Send + Sync + 'static {
    /// Keeps a piece; resolves when it is durable. A piece of the same name and number is replaced.
    fn put(&self, name: ParkName, piece: u32, value: Bytes) -> BoxFuture<'_, Result<(), SinkError>>;

    /// The heads of all things as they stand now, by name, at most `max` of them.
    fn heads(&self, max: usize) -> BoxFuture<'_, Result<Vec<(ParkName, Bytes)>, SinkError>>;

    /// A piece, if it is there.
    fn get(&self, name: ParkName, piece: u32) -> BoxFuture<'_, Result<Option<Bytes>, SinkError>>;

    /// Removes the pieces `0..pieces`, the head first; resolves when that is durable. What is gone already is no error.
    fn remove(&self, name: ParkName, pieces: u32) -> BoxFuture<'_, Result<(), SinkError>>;
}
