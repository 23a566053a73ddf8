//! What was set aside: a table of its own in the store, outside of the log and of its retention.

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use longhaul_broker::{ParkName, Parking, SinkError};

use crate::log::Log;
use crate::store::{ReadError, StoreError};

/// The place of one embedded broker.
pub(crate) struct LogParking {
    log: Arc<Log>,
}

impl LogParking {
    pub(crate) fn new(log: Arc<Log>) -> Self {
        Self { log }
    }
}

impl Parking for LogParking {
    fn put(&self, name: ParkName, piece: u32, value: Bytes) -> BoxFuture<'_, Result<(), SinkError>> {
        async move { self.log.park(name, piece, value).await.map_err(told) }.boxed()
    }

    fn heads(&self, max: usize) -> BoxFuture<'_, Result<Vec<(ParkName, Bytes)>, SinkError>> {
        async move { self.log.parked_heads(max).await.map_err(unread) }.boxed()
    }

    fn get(&self, name: ParkName, piece: u32) -> BoxFuture<'_, Result<Option<Bytes>, SinkError>> {
        async move { self.log.parked(name, piece).await.map_err(unread) }.boxed()
    }

    fn remove(&self, name: ParkName, pieces: u32) -> BoxFuture<'_, Result<(), SinkError>> {
        async move { self.log.unpark(name, pieces).await.map_err(told) }.boxed()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed over by map_err")]
fn told(error: StoreError) -> SinkError {
    SinkError::Transient(error.to_string())
}

fn unread(error: ReadError) -> SinkError {
    match error {
        ReadError::Store(error) => told(error),
        other => SinkError::Transient(format!("{other:?}")),
    }
}
