//! The network: every datagram gets a verdict by the [`Weather`] of its way and by dice, and a time of arrival.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    dice::Dice,
    port::{Datagram, Port},
    weather::Weather,
};

/// Datagrams under way in the whole network; far more than all windows together let out.
const UNDER_WAY_MAX: usize = 200_000;

/// What became of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It arrived.
    Arrived,
    /// The way was cut when it was sent, or while it was under way.
    Cut,
    /// Lost by chance.
    Lost,
    /// Larger than what the path takes.
    Swallowed,
    /// Dropped by the queue before the way.
    Overflow,
    /// Overtaken by others.
    Reordered,
    /// Arrives twice.
    Duplicated,
    /// Arrives with a bit turned over.
    Spoilt,
    /// There is no socket at the address.
    Nobody,
    /// The receiver had no room for it.
    NoRoom,
}

/// A line of the log of datagrams: when (in microseconds), from where, to where, how long, and what became of it.
pub type Packet = (u64, SocketAddr, SocketAddr, usize, Verdict);

/// How often each verdict was given.
pub type Tally = BTreeMap<Verdict, u64>;

/// The network. Ways are between hosts, each way for itself.
pub struct Net {
    state: Mutex<State>,
    sooner: Notify,
    began: Instant,
}

struct State {
    dice: Dice,
    ports: BTreeMap<SocketAddr, Arc<Port>>,
    ways: BTreeMap<(IpAddr, IpAddr), Way>,
    under_way: BinaryHeap<Reverse<Flight>>,
    sent: u64,
    tally: Tally,
    log: Vec<Packet>,
}

struct Way {
    weather: Weather,
    free_at: u64,
}

struct Flight {
    at: u64,
    number: u64,
    datagram: Datagram,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Flight {}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Net {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        let state = State {
            dice: Dice::new(seed, 1),
            ports: BTreeMap::new(),
            ways: BTreeMap::new(),
            under_way: BinaryHeap::new(),
            sent: 0,
            tally: Tally::new(),
            log: Vec::new(),
        };
        Arc::new(Self { state: Mutex::new(state), sooner: Notify::new(), began: Instant::now() })
    }

    /// Microseconds since the world began.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap()
    }

    pub(crate) fn lay(&self, from: IpAddr, to: IpAddr, weather: Weather) {
        self.lock().ways.insert((from, to), Way { weather, free_at: 0 });
    }

    /// Changes the weather of one way.
    pub fn change(&self, from: IpAddr, to: IpAddr, change: impl FnOnce(&mut Weather)) {
        let mut state = self.lock();
        change(&mut state.ways.get_mut(&(from, to)).expect("a way between two routers").weather);
    }

    /// The weather of one way.
    #[must_use]
    pub fn weather(&self, from: IpAddr, to: IpAddr) -> Weather {
        self.lock().ways[&(from, to)].weather
    }

    /// What became of all datagrams so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.lock().tally.clone()
    }

    /// Every datagram and what became of it.
    #[must_use]
    pub fn log(&self) -> Vec<Packet> {
        self.lock().log.clone()
    }

    /// Datagrams under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.lock().under_way.len()
    }

    pub(crate) fn open(self: &Arc<Self>, addr: SocketAddr) -> Arc<Port> {
        let port = Port::new(Arc::clone(self), addr);
        let before = self.lock().ports.insert(addr, Arc::clone(&port));
        assert!(before.is_none(), "the socket at {addr} is in use");
        port
    }

    pub(crate) fn close(&self, addr: SocketAddr) {
        let port = self.lock().ports.remove(&addr);
        port.expect("an open socket").kill();
    }

    pub(crate) fn send(&self, datagram: Datagram) {
        let now = self.now();
        self.lock().send(now, datagram);
        self.sooner.notify_one();
    }

    /// Delivers what is due, for ever.
    pub(crate) async fn carry(self: Arc<Self>) {
        loop {
            let next = self.lock().deliver(self.now());
            let due = async {
                match next {
                    Some(at) => tokio::time::sleep_until(self.began + Duration::from_micros(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = due => {}
                () = self.sooner.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn send(&mut self, now: u64, mut datagram: Datagram) {
        let route = (datagram.from.ip(), datagram.to.ip());
        let Some(way) = self.ways.get_mut(&route) else { return self.note(now, &datagram, Verdict::Nobody) };
        let weather = way.weather;
        let begins = way.free_at.max(now);
        let refused = if weather.cut {
            Some(Verdict::Cut)
        } else if datagram.bytes.len() > weather.payload_max {
            Some(Verdict::Swallowed)
        } else if begins - now > weather.queue {
            Some(Verdict::Overflow)
        } else {
            way.free_at = begins + datagram.bytes.len() as u64 * 1_000_000 / weather.rate;
            self.dice.per_mille(weather.loss).then_some(Verdict::Lost)
        };
        if let Some(verdict) = refused {
            return self.note(now, &datagram, verdict);
        }
        let mut at = begins + weather.delay;
        if self.dice.per_mille(weather.spoil) {
            self.note(now, &datagram, Verdict::Spoilt);
            let bit = usize::try_from(self.dice.draw() % (datagram.bytes.len() as u64 * 8)).unwrap();
            datagram.bytes[bit / 8] ^= 1 << (bit % 8);
        }
        if self.dice.per_mille(weather.duplicate) {
            self.note(now, &datagram, Verdict::Duplicated);
            let again = at + self.dice.range(0, 50_000);
            self.launch(again, datagram.clone());
        }
        if self.dice.per_mille(weather.reorder) {
            self.note(now, &datagram, Verdict::Reordered);
            at += self.dice.range(0, weather.late);
        }
        self.launch(at, datagram);
    }

    fn launch(&mut self, at: u64, datagram: Datagram) {
        self.sent += 1;
        self.under_way.push(Reverse(Flight { at, number: self.sent, datagram }));
        assert!(self.under_way.len() <= UNDER_WAY_MAX, "too much is under way");
    }

    /// Delivers what is due; returns when the next is.
    fn deliver(&mut self, now: u64) -> Option<u64> {
        while let Some(Reverse(next)) = self.under_way.peek() {
            if next.at > now {
                return Some(next.at);
            }
            let Reverse(Flight { datagram, .. }) = self.under_way.pop().expect("it was seen");
            let cut = self.ways.get(&(datagram.from.ip(), datagram.to.ip())).is_none_or(|way| way.weather.cut);
            let verdict = match self.ports.get(&datagram.to) {
                _ if cut => Verdict::Cut,
                None => Verdict::Nobody,
                Some(port) if port.deliver(datagram.clone()) => Verdict::Arrived,
                Some(_) => Verdict::NoRoom,
            };
            self.note(now, &datagram, verdict);
        }
        None
    }

    fn note(&mut self, now: u64, datagram: &Datagram, verdict: Verdict) {
        *self.tally.entry(verdict).or_default() += 1;
        self.log.push((now, datagram.from, datagram.to, datagram.bytes.len(), verdict));
    }
}
