//! A world: routers at addresses, links between them, a network; and what a test does to them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use longhaul_link::{Carrier, Dialer, LinkConfig, Listener};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    applier,
    books::Books,
    dice::Dice,
    flow::Plan,
    identity,
    net::Net,
    owner::{BackOff, Owner},
    port::Port,
    weather::Weather,
};

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
const LISTENER_PORT: u16 = 7400;
const DIALER_PORT: u16 = 50_000;
/// Links that one router serves at a time, those included that it does not yet know to be dead.
const SERVED_MAX: usize = 64;

/// Runs it on one thread, with a clock that stands still while there is anything to do and then jumps to the next timer.
pub fn in_simulated_time<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test)
}

/// Routers, links and the network between them.
pub struct World {
    /// The network.
    pub net: Arc<Net>,
    /// What was sent, what came, and what went wrong.
    pub books: Arc<Books>,
    /// The links: who dials, who listens.
    pub links: Vec<(usize, usize)>,
    seed: u64,
    began: Instant,
    routers: Vec<Router>,
    carrier: JoinSet<()>,
}

/// A router: a process that lives now or not.
struct Router {
    key: u8,
    lives: u64,
    alive: Option<JoinSet<()>>,
}

fn ip(router: usize) -> IpAddr {
    IpAddr::from(Ipv4Addr::new(10, 0, 0, u8::try_from(router + 1).unwrap()))
}

impl World {
    /// Routers with links between them; all live, no link is up yet. `delay` is that of every way, in microseconds.
    #[must_use]
    pub fn new(seed: u64, plan: Plan, links: &[(usize, usize)], delay: u64) -> Self {
        let net = Net::new(seed);
        let count = links.iter().map(|(a, b)| a.max(b) + 1).max().unwrap_or(0);
        for (a, b) in (0..count).flat_map(|a| (0..count).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            net.lay(ip(a), ip(b), Weather::fair(delay));
        }
        let router = |index| Router { key: u8::try_from(index + 1).unwrap(), lives: 0, alive: None };
        let mut carrier = JoinSet::new();
        carrier.spawn(Arc::clone(&net).carry());
        let mut world = Self {
            books: Arc::new(Books::new(plan, links.len())),
            net,
            links: links.to_vec(),
            seed,
            began: Instant::now(),
            routers: (0..count).map(router).collect(),
            carrier,
        };
        (0..count).for_each(|router| world.start(router));
        world
    }

    /// How many routers there are.
    #[must_use]
    pub fn routers(&self) -> usize {
        self.routers.len()
    }

    /// Whether a router lives.
    #[must_use]
    pub fn is_alive(&self, router: usize) -> bool {
        self.routers[router].alive.is_some()
    }

    /// Starts a router at its addresses.
    pub fn start(&mut self, router: usize) {
        let addrs = addrs(router);
        self.routers[router].lives += 1;
        let (key, life) = (self.routers[router].key, self.routers[router].lives);
        let config = config(REGIONS[router], key, life);
        let [listener, dialer] = addrs.map(|addr| self.carrier(self.net.open(addr), life));
        let listener = Listener::over(listener, &config).unwrap();
        let dialer = Arc::new(Dialer::over(dialer, &config).unwrap());
        let mut tasks = JoinSet::new();
        let numbered = self.links.iter().copied().enumerate();
        let accepted = numbered.clone().filter(|(_, (_, to))| *to == router);
        let accepted: BTreeMap<_, _> = accepted.map(|(link, (from, _))| (REGIONS[from].to_owned(), link)).collect();
        tasks.spawn(accept(listener, Arc::clone(&self.books), accepted));
        for (link, (_, to)) in numbered.filter(|(_, (from, _))| *from == router) {
            let (books, dialer) = (Arc::clone(&self.books), Arc::clone(&dialer));
            let [addr, _] = self::addrs(to);
            let owner = Owner { books, link, addr, region: REGIONS[to].into(), dialer, began: self.began };
            tasks.spawn(owner.run(BackOff::new(Dice::new(self.seed, 100 + link as u64))));
        }
        self.routers[router].alive = Some(tasks);
    }

    fn carrier(&self, port: Arc<Port>, life: u64) -> Carrier {
        let addr = quinn::AsyncUdpSocket::local_addr(&*port).unwrap();
        let mut dice = Dice::new(self.seed, u64::from(addr.port()) * 1000 + life);
        let mut seed = [0; 32];
        seed.chunks_mut(8).for_each(|part| part.copy_from_slice(&dice.draw().to_le_bytes()));
        seed[31] = if let IpAddr::V4(ip) = addr.ip() { ip.octets()[3] } else { 0 };
        Carrier { socket: port, seed }
    }

    /// Kills a router: it says nothing any more, and nobody is at its addresses.
    pub fn kill(&mut self, router: usize) {
        addrs(router).into_iter().for_each(|addr| self.net.close(addr));
        drop(self.routers[router].alive.take().expect("a router that lives"));
        for (link, (from, to)) in self.links.iter().enumerate() {
            for (_, dials) in [(from, true), (to, false)].iter().filter(|(end, _)| **end == router) {
                self.books.killed(link, *dials);
            }
        }
    }

    /// From its next start on, the router has another certificate with another key.
    pub fn change_key(&mut self, router: usize) {
        self.routers[router].key += 10;
    }

    /// Changes the weather from one router to another.
    pub fn change(&self, from: usize, to: usize, change: impl FnOnce(&mut Weather)) {
        self.net.change(ip(from), ip(to), change);
    }

    /// Changes the weather between two routers both ways.
    pub fn both_ways(&self, a: usize, b: usize, change: impl Fn(&mut Weather)) {
        self.change(a, b, &change);
        self.change(b, a, &change);
    }

    /// Whether both ends of every link are up and all that is sent has come.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        (0..self.links.len()).all(|link| self.books.stands(link) && self.books.is_complete(link))
    }

    /// Whether both ends of a link are up.
    #[must_use]
    pub fn stands(&self, link: usize) -> bool {
        self.books.stands(link)
    }

    /// The weather from one router to another.
    #[must_use]
    pub fn weather(&self, from: usize, to: usize) -> Weather {
        self.net.weather(ip(from), ip(to))
    }

    /// Waits until it is so; `false` when it is not within that time.
    pub async fn until(&self, within: Duration, mut so: impl FnMut(&Self) -> bool) -> bool {
        let deadline = Instant::now() + within;
        while !so(self) {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// Ends everything, and says how many tasks and datagrams are left when all that QUIC waits for has passed.
    pub async fn end(mut self) -> (usize, usize) {
        (0..self.routers())
            .filter(|router| self.is_alive(*router))
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|router| self.kill(router));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let under_way = self.net.under_way();
        self.carrier.shutdown().await;
        (tokio::runtime::Handle::current().metrics().num_alive_tasks(), under_way)
    }
}

fn addrs(router: usize) -> [SocketAddr; 2] {
    [LISTENER_PORT, DIALER_PORT].map(|port| SocketAddr::from((ip(router), port)))
}

async fn accept(mut listener: Listener, books: Arc<Books>, links: BTreeMap<String, usize>) {
    let mut served = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(ended) = served.join_next(), if !served.is_empty() => {
                if let Err(error) = ended {
                    books.blame(format!("a task of the applying end: {error}"));
                }
            }
            incoming = listener.accept() => match incoming {
                None => return,
                // Of a peer that began to dial and was cut off; the one that dials notes it.
                Some(Err(_)) => {}
                Some(Ok(incoming)) => {
                    let link = links[&incoming.peer().region];
                    served.spawn(applier::serve(books.clone(), link, incoming));
                    assert!(served.len() <= SERVED_MAX, "dead links must go");
                }
            },
        }
    }
}

/// Configurations are made once for all worlds of a process: keys are slow to read.
fn config(region: &str, key: u8, instance: u64) -> LinkConfig {
    static MADE: OnceLock<Mutex<BTreeMap<(String, u8), LinkConfig>>> = OnceLock::new();
    let mut made = MADE.get_or_init(Mutex::default).lock().unwrap();
    let config = made.entry((region.to_owned(), key)).or_insert_with(|| {
        let folder = tempfile::tempdir().unwrap();
        identity::config(folder.path(), region, key, instance)
    });
    LinkConfig { instance, ..config.clone() }
}
