//! A long wire between two network namespaces: delay, rate, a queue that overflows, random loss, jitter, reordering, cuts, each way for itself.
//!
//! Start with [`Wire::lay`], then [`End::within`]. A packet that enters one end is read by a thread of this process, kept as long as its
//! [`Shape`] says, and written to the other. The namespaces have no names: they, their devices and the thread are gone with the [`Wire`],
//! also when the process is killed. It needs root and `/dev/net/tun`; [`wire_or_skip`] says so, counts, and lets a test pass without.

mod carry;
pub mod link;
mod namespace;
mod shape;
mod skip;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use carry::Shared;
use namespace::Namespace;
pub use shape::{Counts, Shape};
pub use skip::wire_or_skip;

/// The two ends.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];

/// One end of a wire: a network namespace with an address, and nothing else but its own loopback.
pub struct End {
    namespace: Namespace,
    address: Ipv4Addr,
}

/// A wire; it is taken down when dropped.
pub struct Wire {
    ends: [End; 2],
    shared: Arc<Shared>,
    stop: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
}

impl Wire {
    /// Lays a wire that is the same both ways.
    ///
    /// # Errors
    /// In words, when the system does not let us.
    pub fn lay(shape: Shape) -> Result<Self, String> {
        let shared = Arc::new(Shared::new(shape));
        let stop = Arc::new(AtomicBool::new(false));
        let [a, b] = ADDRESSES.map(|address| Namespace::with_device(address).map(|made| (made, address)));
        let ((a, one), (b, other)) = (a?, b?);
        let end = |namespace, address| End { namespace, address };
        let ends = [end(a.0, one), end(b.0, other)];
        let (carried, ended) = (Arc::clone(&shared), Arc::clone(&stop));
        let carrier = std::thread::Builder::new()
            .name("wire".into())
            .spawn(move || carry::carry(&[a.1, b.1], &carried, &ended))
            .map_err(|error| format!("no thread for the wire: {error}"))?;
        Ok(Self { ends, shared, stop, carrier: Some(carrier) })
    }

    /// One end.
    #[must_use]
    pub fn near(&self) -> &End {
        &self.ends[0]
    }

    /// The other end.
    #[must_use]
    pub fn far(&self) -> &End {
        &self.ends[1]
    }

    /// Changes both ways, from the next packet on.
    pub fn reshape(&self, shape: Shape) {
        self.shared.set_shape(0, shape);
        self.shared.set_shape(1, shape);
    }

    /// Changes the way from the near end to the far one.
    pub fn reshape_there(&self, shape: Shape) {
        self.shared.set_shape(0, shape);
    }

    /// Changes the way from the far end to the near one.
    pub fn reshape_back(&self, shape: Shape) {
        self.shared.set_shape(1, shape);
    }

    /// What became of the packets so far: from the near end to the far one, and back.
    #[must_use]
    pub fn counts(&self) -> [Counts; 2] {
        [self.shared.counts(0), self.shared.counts(1)]
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}

impl End {
    /// Its address, which the other end reaches.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address.into()
    }

    /// Does something inside: sockets that are made there, and processes that are started there, stay there.
    ///
    /// # Panics
    /// When it panics, or the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.within(work)
    }
}
