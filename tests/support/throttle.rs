//! A TCP relay that is as slow as a test wants towards whom it leads to: a broker that takes little, without being away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What is let through comes in so many portions a second.
const PORTIONS_PER_SECOND: u64 = 20;
/// The largest portion.
const PORTION_BYTES_MAX: u64 = 65_536;

/// A relay; ends when dropped.
pub struct Throttle {
    address: String,
    bytes_per_second: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Throttle {
    /// A relay to that address, `host:port`, without a limit yet.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn start(to: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        let bytes_per_second = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(accept(listener, to.to_owned(), Arc::clone(&bytes_per_second)));
        Self { address, bytes_per_second, task }
    }

    /// Where it is dialled, `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Lets so many bytes of each connection through in a second, from now on; 0 is no limit.
    pub fn limit(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Relaxed);
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, to: String, limit: Arc<AtomicU64>) {
    // Ends its connections together with this task.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect(&to).await else { continue };
        let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
        connections.spawn(carry(near_read, far_write, Arc::clone(&limit)));
        connections.spawn(carry(far_read, near_write, Arc::default()));
    }
}

/// One way, until either end is gone.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, limit: Arc<AtomicU64>) {
    let mut buffer = vec![0; usize::try_from(PORTION_BYTES_MAX).expect("small")];
    loop {
        let limited = limit.load(Relaxed);
        let portion =
            if limited == 0 { PORTION_BYTES_MAX } else { (limited / PORTIONS_PER_SECOND).clamp(1, PORTION_BYTES_MAX) };
        let read = from.read(&mut buffer[..usize::try_from(portion).expect("small")]).await;
        let Some(length) = read.ok().filter(|length| *length > 0) else { return };
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
        if limited > 0 {
            // The pace is what this is for.
            tokio::time::sleep(Duration::from_secs(1) / u32::try_from(PORTIONS_PER_SECOND).expect("small")).await;
        }
    }
}
