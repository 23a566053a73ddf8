//! A UDP relay between two routers that can be cut, one way or both, healed, and made to lose datagrams: the network, as far as a test
//! needs one.
//!
//! It speaks for any number of dialling sockets: each gets a socket of its own towards the listener, as a NAT would give it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Larger than any datagram.
const DATAGRAM: usize = 65_536;

const THERE: usize = 0;
const BACK: usize = 1;

/// A relay; ends when dropped.
pub struct Relay {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    to: Mutex<SocketAddr>,
    /// The way from who dials to the listener, and the way back.
    cut: [AtomicBool; 2],
    /// Of how many datagrams one is lost; 0 for none.
    lose_one_of: AtomicU64,
    seen: AtomicU64,
    lost: AtomicU64,
}

impl State {
    fn to(&self) -> SocketAddr {
        *self.to.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn passes(&self, way: usize) -> bool {
        let number = self.seen.fetch_add(1, Relaxed) + 1;
        let one_of = self.lose_one_of.load(Relaxed);
        let passes = !self.cut[way].load(Relaxed) && (one_of == 0 || !number.is_multiple_of(one_of));
        if !passes {
            self.lost.fetch_add(1, Relaxed);
        }
        passes
    }
}

impl Relay {
    /// A relay to the listener at that address.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn start(to: &str) -> Self {
        let to: SocketAddr = to.parse().expect("an address of a listener");
        let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
        let address = socket.local_addr().expect("a bound socket has an address");
        let [lose_one_of, seen, lost] = [0; 3].map(AtomicU64::new);
        let state = Arc::new(State { to: Mutex::new(to), cut: Default::default(), lose_one_of, seen, lost });
        let task = tokio::spawn(forward(socket, Arc::clone(&state)));
        Self { address, state, task }
    }

    /// Where it is dialled.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Leads to another listener from now on.
    ///
    /// # Panics
    /// When that is no address.
    pub fn lead_to(&self, to: SocketAddr) {
        *self.state.to.lock().unwrap_or_else(PoisonError::into_inner) = to;
    }

    /// Lets nothing through, either way.
    pub fn cut(&self) {
        self.state.cut.iter().for_each(|cut| cut.store(true, Relaxed));
    }

    /// Lets nothing back to who dials; what they send still arrives.
    pub fn cut_back(&self) {
        self.state.cut[BACK].store(true, Relaxed);
    }

    /// Lets everything through again.
    pub fn heal(&self) {
        self.state.cut.iter().for_each(|cut| cut.store(false, Relaxed));
    }

    /// Loses every so many-th datagram; 0 loses none.
    pub fn lose_one_of(&self, datagrams: u64) {
        self.state.lose_one_of.store(datagrams, Relaxed);
    }

    /// How many datagrams were lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(dialled: Arc<UdpSocket>, state: Arc<State>) {
    let mut peers: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    // Ends the ways back together with this task.
    let mut back = tokio::task::JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        // An error tells of an earlier datagram that nobody took, as UDP does; the next one may be taken.
        let Ok((length, from)) = dialled.recv_from(&mut buffer).await else { continue };
        if let Entry::Vacant(peer) = peers.entry(from) {
            let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"));
            back.spawn(answer(Arc::clone(&socket), Arc::clone(&dialled), from, Arc::clone(&state)));
            peer.insert(socket);
        }
        if state.passes(THERE) {
            let _ = peers[&from].send_to(&buffer[..length], state.to()).await;
        }
    }
}

async fn answer(socket: Arc<UdpSocket>, dialled: Arc<UdpSocket>, to: SocketAddr, state: Arc<State>) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let Ok((length, _)) = socket.recv_from(&mut buffer).await else { continue };
        if state.passes(BACK) {
            let _ = dialled.send_to(&buffer[..length], to).await;
        }
    }
}
