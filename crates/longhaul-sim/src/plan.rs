//! What a seed stands for: a mesh, its routers, what is published, and the list of faults. The list can be shortened; all else stays.

use std::time::Duration;

use longhaul_route::RouteTable;
use longhaul_topic::Filter;
use longhaul_topology::{
    Broker, BrokerKind, Class, Congestion, From, Graph, Guarantee, Link, Mesh, OnGap, OnPoison, Partition, Region,
    Route, RouteStart, SinkKind, SourceKind, Template, To, WAY_LINKS_MAX,
};

use crate::fault::{Fault, faults};
use crate::rng::Rng;

/// Name of the mesh.
pub(crate) const MESH: &str = "sim";
/// Name of the broker of each region.
pub(crate) const BROKER: &str = "b";
/// When the faults end at the latest.
pub(crate) const FAULTS_END: Duration = Duration::from_secs(30);

/// Events of one read where there are many.
const READ_MAX_BIG: u64 = 400;

/// A model of a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Partitions; events and their cursor in one transaction, fenced by who opened last.
    KafkaTransactional,
    /// Partitions; a cursor of its own, written afterwards.
    KafkaIdempotent,
    /// A stream; atomic batches that expect the cursor which was read.
    JetStreamAtomic,
    /// A stream; message ids in a duplicate window.
    JetStreamMessageIds,
    /// An exchange with one queue for each reader: delivery tags, redelivery.
    Queue,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 5] = [
        Self::KafkaTransactional,
        Self::KafkaIdempotent,
        Self::JetStreamAtomic,
        Self::JetStreamMessageIds,
        Self::Queue,
    ];

    /// Whether events and cursor are written as one.
    pub(crate) fn is_atomic(self) -> bool {
        matches!(self, Self::KafkaTransactional | Self::JetStreamAtomic)
    }

    fn broker_kind(self) -> BrokerKind {
        match self {
            Self::KafkaTransactional | Self::KafkaIdempotent => BrokerKind::Kafka,
            Self::JetStreamAtomic | Self::JetStreamMessageIds => BrokerKind::Nats,
            Self::Queue => BrokerKind::RabbitMq,
        }
    }

    fn source(self, filters: Vec<Filter>) -> SourceKind {
        match self {
            Self::KafkaTransactional | Self::KafkaIdempotent => SourceKind::Kafka { topics: filters },
            Self::JetStreamAtomic | Self::JetStreamMessageIds => {
                SourceKind::JetStream { stream: None, topics: filters }
            }
            Self::Queue => SourceKind::RabbitQueue { queue: "all".to_owned() },
        }
    }

    fn sink(self) -> SinkKind {
        match self {
            Self::KafkaTransactional | Self::KafkaIdempotent => {
                SinkKind::Kafka { partition: Partition::Key, tombstone_on_empty: false }
            }
            Self::JetStreamAtomic | Self::JetStreamMessageIds => SinkKind::JetStream,
            Self::Queue => SinkKind::RabbitExchange { exchange: "x".to_owned() },
        }
    }
}

/// How the regions are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    /// One route between two regions.
    Pair,
    /// One route to two regions.
    Fan,
    /// Two regions that mirror each other.
    Mirror,
    /// Three regions, each sending to the next.
    Ring,
    /// More brokers in a row than provenance can name.
    Row,
    /// Two regions that mirror each other, joined also, or only, over others.
    Web,
}

/// Links of a web: the ends of the flows are regions 0 and 1. Of the last one, the long way has four links and may not be taken.
const WEBS: [&[(usize, usize, u32)]; 6] = [
    &[(0, 1, 50), (0, 2, 1), (2, 1, 2)],
    &[(0, 1, 9), (0, 2, 1), (2, 1, 1), (0, 3, 2), (3, 1, 1)],
    &[(0, 2, 1), (2, 1, 1), (0, 3, 1), (3, 1, 2)],
    &[(0, 2, 1), (2, 3, 1), (3, 1, 1)],
    &[(0, 1, 1), (0, 2, 1), (2, 3, 1), (3, 1, 1), (2, 1, 7)],
    &[(0, 1, 1), (0, 2, 1), (2, 3, 1), (3, 4, 1), (4, 1, 1), (0, 4, 30)],
];

/// A shard: a partition of a log, or a queue.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShardPlan {
    pub broker: usize,
    pub partition: u32,
    pub replayable: bool,
}

/// A flow, by index everywhere.
#[derive(Debug, Clone)]
pub(crate) struct FlowPlan {
    pub shard: usize,
    pub route: String,
    /// Which destination of the route.
    pub to: usize,
    pub from_broker: usize,
    pub to_broker: usize,
    /// A duplicate is a violation, whatever happened.
    pub exact: bool,
}

/// Something that happens to brokers from outside of the mesh.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// Somebody publishes so many events.
    Publish { broker: usize, events: u32 },
    /// The same content twice, without a message id.
    Twins { broker: usize },
    /// An application reads an event and publishes what it made of it, with all headers of the first.
    Transform { broker: usize },
    /// The same with what has been transformed most often: applications that feed each other.
    Feed { broker: usize },
    /// Somebody else's bridge copies an event with its headers.
    Bridge { from: usize, to: usize },
}

/// All that a seed says.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    pub(crate) shape: Shape,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) partitions: u32,
    /// Region of each router.
    pub(crate) routers: Vec<usize>,
    pub(crate) table: RouteTable,
    pub(crate) mesh: Mesh,
    /// Links of a web, by the regions that they join.
    pub(crate) links: Vec<(usize, usize)>,
    /// What a router has room for that waits for its next link.
    pub(crate) onward_bytes_max: usize,
    pub(crate) shards: Vec<ShardPlan>,
    pub(crate) flows: Vec<FlowPlan>,
    pub(crate) drops_poison: bool,
    /// What the destination refuses is parked there.
    pub(crate) parks: bool,
    pub(crate) latest: bool,
    pub(crate) passes_gaps: bool,
    pub(crate) event_bytes_max: u32,
    pub(crate) payload_bytes_max: u64,
    pub(crate) bytes_cap: u64,
    pub(crate) read_max: u64,
    pub(crate) net_ms: u64,
    pub(crate) disk_ms: u64,
    pub(crate) window: Duration,
    pub(crate) work: Vec<(Duration, Work)>,
    /// What goes wrong, and when.
    pub faults: Vec<(Duration, Fault)>,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed, 1);
        let shape =
            rng.pick(&[Shape::Pair, Shape::Pair, Shape::Pair, Shape::Fan, Shape::Mirror, Shape::Ring, Shape::Ring]);
        let shape = if rng.one_in(40) { Shape::Row } else { shape };
        let mut of_web = Rng::new(seed, 5);
        let shape = if shape != Shape::Row && of_web.one_in(6) { Shape::Web } else { shape };
        let web = if shape == Shape::Web { of_web.pick(&WEBS) } else { &[] };
        let regions = match shape {
            Shape::Web => web.iter().map(|(a, b, _)| a.max(b) + 1).max().unwrap_or_default(),
            Shape::Pair | Shape::Mirror => 2,
            Shape::Fan | Shape::Ring => 3,
            Shape::Row => 11,
        };
        let mut kinds: Vec<Kind> = (0..regions).map(|_| rng.pick(&Kind::ALL)).collect();
        if shape == Shape::Row && rng.one_in(2) {
            // Queues turn identities of derived events into those of their content: rows of logs keep them apart.
            kinds.iter_mut().for_each(|kind| *kind = Kind::KafkaTransactional);
        }
        let drops_poison = shape == Shape::Row || rng.one_in(2);
        let parks = !drops_poison && Rng::new(seed, 6).one_in(2);
        let latest = shape == Shape::Pair && kinds[0] != Kind::Queue && rng.one_in(8);
        let passes_gaps = Rng::new(seed, 4).one_in(2);
        let mesh = mesh(shape, web, &kinds, on_poison(drops_poison, parks), latest, passes_gaps);
        let partitions = if shape == Shape::Row { 1 } else { rng.between(1, 2) as u32 };
        let shards = shards(&kinds, partitions, &mesh);
        let flows = flows(&mesh, &shards, &kinds);
        let routers = (0..regions).flat_map(|region| vec![region; if rng.one_in(3) { 2 } else { 1 }]).collect();
        let big = rng.one_in(12);
        let mut plan = Self {
            seed,
            shape,
            partitions,
            routers,
            table: RouteTable::build(&mesh),
            mesh,
            links: web.iter().map(|(a, b, _)| (*a, *b)).collect(),
            onward_bytes_max: of_web.pick(&[700, 4_000, 64_000]),
            shards,
            flows,
            drops_poison,
            parks,
            latest,
            passes_gaps,
            event_bytes_max: if drops_poison { 2_048 } else { 1 << 20 },
            payload_bytes_max: rng.pick(&[8, 60, 400, 1_500]),
            bytes_cap: if big { 16 << 20 } else { rng.pick(&[1, 700, 2_000, 8_000, 64_000]) },
            read_max: if big { READ_MAX_BIG } else { rng.pick(&[1, 4, 16]) },
            net_ms: rng.pick(&[1, 10, 80]),
            disk_ms: rng.pick(&[1, 5, 40]),
            window: rng.ms(1_000, 20_000),
            work: Vec::new(),
            faults: Vec::new(),
            kinds,
        };
        plan.work = plan.work(&mut rng, big);
        plan.faults = faults(&plan, &mut Rng::new(seed, 2));
        plan
    }

    /// Numbers of the brokers between which the first flow goes; regions have the same numbers.
    #[must_use]
    pub fn ends(&self) -> (usize, usize) {
        (self.flows[0].from_broker, self.flows[0].to_broker)
    }

    /// Numbers of the routers of a region.
    #[must_use]
    pub fn routers_of(&self, region: usize) -> Vec<usize> {
        (0..self.routers.len()).filter(|router| self.routers[*router] == region).collect()
    }

    /// Whether a broker is a queue.
    #[must_use]
    pub fn is_queue(&self, broker: usize) -> bool {
        self.kinds[broker] == Kind::Queue
    }

    /// Whether a broker is a JetStream.
    #[must_use]
    pub fn is_stream(&self, broker: usize) -> bool {
        matches!(self.kinds[broker], Kind::JetStreamAtomic | Kind::JetStreamMessageIds)
    }

    /// Whether a broker leaves out what has a message id that it has seen lately.
    #[must_use]
    pub fn deduplicates(&self, broker: usize) -> bool {
        self.kinds[broker] == Kind::JetStreamMessageIds
    }

    /// Whether what a destination refuses is parked there.
    #[must_use]
    pub fn parks(&self) -> bool {
        self.parks
    }

    /// Whether flows have ways over other regions.
    #[must_use]
    pub fn has_detours(&self) -> bool {
        self.shape == Shape::Web
    }

    /// Whether a link of their own joins the ends of the first flow.
    #[must_use]
    pub fn has_own_link(&self) -> bool {
        self.shape != Shape::Web || self.links.contains(&(0, 1))
    }

    /// Routers of regions where no flow begins or ends.
    #[must_use]
    pub fn routers_on_the_way(&self) -> Vec<usize> {
        let is_end = |region: usize| self.flows.iter().any(|flow| [flow.from_broker, flow.to_broker].contains(&region));
        (0..self.routers.len()).filter(|router| !is_end(self.routers[*router])).collect()
    }

    /// Over which neighbours a region is reached, the one to be preferred first: as a router has it from the mesh document.
    pub(crate) fn ways(&self, from: usize, to: usize) -> Vec<usize> {
        if !self.has_detours() {
            return vec![to];
        }
        let hops = Graph::of(&self.mesh).next_hops(&region(from), &region(to), WAY_LINKS_MAX, &[]);
        hops.into_iter().map(number).collect()
    }

    /// The regions to which the routers of that one hold links.
    pub(crate) fn neighbours(&self, of: usize) -> Vec<usize> {
        let leads = |to: usize| self.flows.iter().any(|flow| flow.from_broker == of && flow.to_broker == to);
        let joined = |to: usize| self.links.contains(&(of, to)) || self.links.contains(&(to, of));
        (0..self.kinds.len()).filter(|to| if self.has_detours() { joined(*to) } else { leads(*to) }).collect()
    }

    /// Whether there are thousands of events.
    pub(crate) fn is_big(&self) -> bool {
        self.read_max == READ_MAX_BIG
    }

    /// Whether events of that broker are read by anybody.
    #[must_use]
    pub fn is_source(&self, broker: usize) -> bool {
        self.flows.iter().any(|flow| flow.from_broker == broker)
    }

    /// Whether everything that is written there can be read again where it comes from.
    #[must_use]
    pub fn may_lose_its_tail(&self, broker: usize) -> bool {
        let mut into = self.flows.iter().filter(|flow| flow.to_broker == broker);
        !self.latest && self.kinds[broker] != Kind::Queue && into.all(|flow| self.shards[flow.shard].replayable)
    }

    fn work(&self, rng: &mut Rng, big: bool) -> Vec<(Duration, Work)> {
        let sources: Vec<usize> = (0..self.kinds.len()).filter(|&broker| self.is_source(broker)).collect();
        let mut work = Vec::new();
        if self.shape == Shape::Row {
            work.push((rng.ms(0, 5_000), Work::Publish { broker: 0, events: 5 }));
            // The only way here on which an event gets somewhere new from where a bridge brought it.
            work.extend((8..11).map(|at| (Duration::from_secs(at), Work::Bridge { from: 1, to: 4 })));
            return work;
        }
        let bursts = rng.between(2, 12);
        for _ in 0..bursts {
            let events = if big { rng.between(100, 700) } else { rng.between(1, 14) } as u32;
            work.push((rng.ms(0, 20_000), Work::Publish { broker: rng.pick(&sources), events }));
        }
        for _ in 0..rng.below(4) {
            let broker = rng.pick(&sources);
            let other = rng.below(self.kinds.len());
            work.push(match rng.below(4) {
                0 if self.kinds[broker] == Kind::Queue => (rng.ms(0, 20_000), Work::Twins { broker }),
                1 if other != broker => (rng.ms(3_000, 20_000), Work::Bridge { from: other, to: broker }),
                _ => (rng.ms(3_000, 20_000), Work::Transform { broker }),
            });
        }
        if self.drops_poison && matches!(self.shape, Shape::Mirror | Shape::Ring | Shape::Web) && rng.one_in(8) {
            let feed = |nth: usize| Work::Feed { broker: sources[nth % sources.len()] };
            work.extend((0..40).map(|nth| (Duration::from_millis(2_000 + nth as u64 * 500), feed(nth))));
        }
        // After everything has healed, the flows must still live.
        work.extend(
            sources.iter().map(|&broker| (FAULTS_END + Duration::from_secs(2), Work::Publish { broker, events: 3 })),
        );
        work
    }
}

pub(crate) fn region(nth: usize) -> String {
    format!("r{nth}")
}

pub(crate) fn number(name: &str) -> usize {
    name[1..].parse().expect("regions are numbered")
}

fn on_poison(drops: bool, parks: bool) -> OnPoison {
    match (drops, parks) {
        (true, _) => OnPoison::Drop,
        (false, true) => OnPoison::Park,
        (false, false) => OnPoison::Halt,
    }
}

fn mesh(
    shape: Shape,
    web: &[(usize, usize, u32)],
    kinds: &[Kind],
    on_poison: OnPoison,
    latest: bool,
    passes_gaps: bool,
) -> Mesh {
    let last = kinds.len() - 1;
    let ways: Vec<(usize, Vec<usize>)> = match shape {
        Shape::Pair => vec![(0, vec![1])],
        Shape::Fan => vec![(0, vec![1, 2])],
        Shape::Mirror | Shape::Web => vec![(0, vec![1]), (1, vec![0])],
        Shape::Ring => vec![(0, vec![1]), (1, vec![2]), (2, vec![0])],
        Shape::Row => (0..last).map(|from| (from, vec![from + 1])).collect(),
    };
    let route = |(from, to): (usize, Vec<usize>)| Route {
        name: format!("from-{from}"),
        from: From {
            region: region(from),
            broker: BROKER.to_owned(),
            source: kinds[from].source(vec![Filter::parse("t.#").expect("a filter")]),
        },
        predicate: None,
        to: to
            .into_iter()
            .map(|to| To {
                region: region(to),
                broker: BROKER.to_owned(),
                topic: Template::identity(),
                sink: kinds[to].sink(),
            })
            .collect(),
        guarantee: Guarantee::AtLeastOnce,
        start: if latest { RouteStart::Latest } else { RouteStart::Earliest },
        on_poison,
        on_gap: if passes_gaps { OnGap::Continue } else { OnGap::Halt },
        class: Class::Normal,
    };
    let link = |(a, b, cost): &(usize, usize, u32)| Link {
        between: [region(*a), region(*b)],
        cost: Some(*cost),
        bandwidth_bits: None,
        rtt_ms: None,
        congestion: Congestion::default(),
    };
    let declared = |(nth, kind): (usize, &Kind)| Region {
        name: region(nth),
        routers: Vec::new(),
        brokers: vec![Broker { name: BROKER.to_owned(), kind: kind.broker_kind() }],
    };
    Mesh {
        name: MESH.to_owned(),
        regions: kinds.iter().enumerate().map(declared).collect(),
        links: web.iter().map(link).collect(),
        routes: ways.into_iter().map(route).collect(),
        foreign_mirrors: Vec::new(),
    }
}

fn shards(kinds: &[Kind], partitions: u32, mesh: &Mesh) -> Vec<ShardPlan> {
    let mut shards = Vec::new();
    for (broker, kind) in kinds.iter().enumerate() {
        let replayable = *kind != Kind::Queue;
        let is_read = mesh.routes.iter().any(|route| route.from.region == region(broker));
        let count = if replayable { partitions } else { u32::from(is_read) };
        shards.extend((0..count).map(|partition| ShardPlan { broker, partition, replayable }));
    }
    shards
}

fn flows(mesh: &Mesh, shards: &[ShardPlan], kinds: &[Kind]) -> Vec<FlowPlan> {
    let mut flows = Vec::new();
    for (shard, plan) in shards.iter().enumerate() {
        for route in mesh.routes.iter().filter(|route| number(&route.from.region) == plan.broker) {
            for (to, at) in route.to.iter().enumerate() {
                let to_broker = number(&at.region);
                let exact = plan.replayable && kinds[to_broker].is_atomic();
                let route = route.name.clone();
                flows.push(FlowPlan { shard, route, to, from_broker: plan.broker, to_broker, exact });
            }
        }
    }
    flows
}
