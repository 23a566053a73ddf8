//! A simulated UDP socket: what quinn sends goes into the [`Net`], what arrives waits here, bounded as by the kernel.

use std::{
    collections::VecDeque,
    fmt,
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{EcnCodepoint, RecvMeta, Transmit},
};

use crate::net::Net;

/// Datagrams that wait to be received.
const INBOX_MAX: usize = 2048;
/// Datagrams that are handed over at once, as with GSO.
const SEGMENTS_MAX: usize = 10;

/// A datagram.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) bytes: Vec<u8>,
}

/// A socket at an address of the network.
pub(crate) struct Port {
    net: Arc<Net>,
    addr: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    inbox: VecDeque<Datagram>,
    waker: Option<Waker>,
    dead: bool,
}

impl Port {
    pub(crate) fn new(net: Arc<Net>, addr: SocketAddr) -> Arc<Self> {
        Arc::new(Self { net, addr, state: Mutex::default() })
    }

    /// Takes a datagram that has arrived; `false` when there is no room.
    pub(crate) fn deliver(&self, datagram: Datagram) -> bool {
        let mut state = self.lock();
        if state.inbox.len() >= INBOX_MAX {
            return false;
        }
        state.inbox.push_back(datagram);
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        true
    }

    /// The process is gone: nothing is sent or received any more.
    pub(crate) fn kill(&self) {
        let mut state = self.lock();
        state.dead = true;
        state.inbox.clear();
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncUdpSocket for Port {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.lock().dead {
            return Ok(());
        }
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for bytes in transmit.contents.chunks(segment) {
            let (from, to) = (self.addr, transmit.destination);
            self.net.send(Datagram { from, to, ecn: transmit.ecn, bytes: bytes.to_vec() });
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if state.dead {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the process was killed")));
        }
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(datagram) = state.inbox.pop_front() else { break };
            let len = datagram.bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&datagram.bytes[..len]);
            *meta = RecvMeta::default();
            (meta.addr, meta.len, meta.stride, meta.ecn) = (datagram.from, len, len, datagram.ecn);
            meta.dst_ip = Some(self.addr.ip());
            count += 1;
        }
        if count == 0 {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn max_transmit_segments(&self) -> usize {
        SEGMENTS_MAX
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// What the network has no room for, it drops, as a kernel does whose device is slower than its senders.
#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
