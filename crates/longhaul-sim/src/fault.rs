//! What can go wrong, and how a seed chooses from it.

use std::time::Duration;

use crate::plan::{Kind, Plan, Shape};
use crate::rng::Rng;

/// One fault. Numbers are indices of brokers, routers and regions of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of the fields say what they are")]
pub enum Fault {
    /// A router dies at once and comes back later.
    RouterCrash { router: usize, down: Duration },
    /// A router drains, ends and comes back later.
    RouterStop { router: usize, down: Duration },
    /// A router stands still (SIGSTOP) and wakes: as a zombie, if others took over.
    RouterPause { router: usize, still: Duration },
    /// The shards of a region get another owner, while the old one does not know it yet.
    Takeover { region: usize },
    /// A reload withdraws a route and the next one brings it back; each router hears of both in its own time.
    Reload { flow: usize, away: Duration },
    /// The budget of a router is divided anew.
    Budget { router: usize, bytes_cap: u64 },
    /// A broker dies and comes back with all that it had confirmed.
    BrokerCrash { broker: usize, down: Duration },
    /// A broker dies and comes back without the last of what it had confirmed.
    TailLost { broker: usize, down: Duration, window: Duration },
    /// A broker answers late.
    BrokerSlow { broker: usize, slow: Duration, by: Duration },
    /// A broker takes requests and does not answer.
    BrokerHang { broker: usize, hang: Duration },
    /// Every session of a broker is cut: what was asked may have been done.
    SessionsCut { broker: usize },
    /// The next write is done in part, then the session is cut.
    TornWrite { broker: usize },
    /// What a broker has as a destination is gone, cursors too.
    SinkRecreated { broker: usize },
    /// The shards of a broker are deleted and made again.
    SourceRecreated { broker: usize },
    /// Retention removes what was not read yet.
    RetentionOverrun { broker: usize },
    /// A destination refuses the next event for good.
    Poison { broker: usize },
    /// All connections between two regions break.
    LinkCut { a: usize, b: usize },
    /// Nothing gets from here to there; the other way works.
    OneWayCut { from: usize, to: usize, lasts: Duration },
    /// Nothing gets either way.
    Partition { a: usize, b: usize, lasts: Duration },
    /// A link goes up and down.
    Flapping { a: usize, b: usize },
    /// So many of the next parcels come twice.
    ParcelsTwice { count: u32 },
    /// So many of the next parcels come much later than those behind them.
    ParcelsLate { count: u32, by: Duration },
    /// A parcel is lost though its connection lives.
    ParcelLost,
    /// A bit of a parcel flips.
    ParcelCorrupted,
    /// What passes through a router waits for its next link.
    OnwardSlow { router: usize, slow: Duration, by: Duration },
}

impl Fault {
    /// Its name, for the table of what was covered.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RouterCrash { .. } => "router crash",
            Self::RouterStop { .. } => "router stop",
            Self::RouterPause { .. } => "router pause",
            Self::Takeover { .. } => "takeover",
            Self::Reload { .. } => "route withdrawn",
            Self::Budget { .. } => "budget divided anew",
            Self::BrokerCrash { .. } => "broker crash",
            Self::TailLost { .. } => "tail lost",
            Self::BrokerSlow { .. } => "broker slow",
            Self::BrokerHang { .. } => "broker hangs",
            Self::SessionsCut { .. } => "sessions cut",
            Self::TornWrite { .. } => "torn write",
            Self::SinkRecreated { .. } => "sink recreated",
            Self::SourceRecreated { .. } => "source recreated",
            Self::RetentionOverrun { .. } => "retention overrun",
            Self::Poison { .. } => "poison",
            Self::LinkCut { .. } => "link cut",
            Self::OneWayCut { .. } => "one-way cut",
            Self::Partition { .. } => "partition",
            Self::Flapping { .. } => "link flaps",
            Self::ParcelsTwice { .. } => "parcels twice",
            Self::ParcelsLate { .. } => "parcels late",
            Self::ParcelLost => "parcel lost",
            Self::ParcelCorrupted => "parcel corrupted",
            Self::OnwardSlow { .. } => "next link slow",
        }
    }

    /// Every name: one that is never injected in a run is a hole in the run. The last ones are consequences that the world counts.
    pub const NAMES: [&'static str; 41] = [
        "router crash",
        "router stop",
        "router pause",
        "takeover",
        "route withdrawn",
        "budget divided anew",
        "broker crash",
        "tail lost",
        "broker slow",
        "broker hangs",
        "sessions cut",
        "torn write",
        "sink recreated",
        "source recreated",
        "retention overrun",
        "poison",
        "link cut",
        "one-way cut",
        "partition",
        "link flaps",
        "parcels twice",
        "parcels late",
        "parcel lost",
        "parcel corrupted",
        "next link slow",
        "woke as a zombie",
        "took a detour",
        "back on a better way with events under way",
        "no way on",
        "no room on the way",
        "died with flows passing through",
        "woke with flows passing through",
        "parcel of an older way",
        "writer fenced",
        "source truncated",
        "event refused",
        "event parked",
        "parked again",
        "redelivered",
        "cursor lost",
        "commit unheard",
    ];
}

/// The faults of a seed: one seed in twelve has none, the others have up to nine.
pub(crate) fn faults(plan: &Plan, rng: &mut Rng) -> Vec<(Duration, Fault)> {
    let count = if rng.one_in(12) { 0 } else { rng.between(1, 9) };
    let mut faults: Vec<_> = (0..count).map(|_| (rng.ms(200, 25_000), choose(plan, rng))).collect();
    // Drawn last: the other faults of a seed do not depend on it.
    let flow = rng.below(plan.flows.len());
    if rng.one_in(8) && plan.shards[plan.flows[flow].shard].replayable {
        let reload = |rng: &mut Rng| (rng.ms(200, 20_000), Fault::Reload { flow, away: rng.ms(0, 5_000) });
        faults.extend((0..rng.between(1, 5)).map(|_| reload(rng)));
    }
    let on_the_way = plan.routers_on_the_way();
    if plan.has_detours() && rng.one_in(2) {
        faults.extend((0..rng.between(1, 3)).map(|_| (rng.ms(200, 25_000), on_the_way_fault(plan, rng, &on_the_way))));
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

/// What befalls routers that flows pass through, and the link for whose sake they do.
fn on_the_way_fault(plan: &Plan, rng: &mut Rng, routers: &[usize]) -> Fault {
    let router = rng.pick(routers);
    match rng.below(5) {
        0 => Fault::RouterCrash { router, down: rng.ms(50, 4_000) },
        1 => Fault::RouterPause { router, still: rng.ms(100, 25_000) },
        2 => Fault::OnwardSlow { router, slow: rng.ms(500, 15_000), by: rng.ms(20, 1_500) },
        _ => Fault::Partition { a: plan.ends().0, b: plan.ends().1, lasts: rng.ms(1_000, 12_000) },
    }
}

fn choose(plan: &Plan, rng: &mut Rng) -> Fault {
    let flow = &plan.flows[rng.below(plan.flows.len())];
    let (source, sink) = (flow.from_broker, flow.to_broker);
    let (a, b) = if plan.has_detours() { rng.pick(&plan.links) } else { (source, sink) };
    let broker = if rng.one_in(3) { source } else { sink };
    let router = rng.below(plan.routers.len());
    let (from, to) = if rng.one_in(2) { (a, b) } else { (b, a) };
    let down = rng.ms(50, 4_000);
    let ends_flows = rng.one_in(3);
    match rng.below(30) {
        0 | 1 => Fault::RouterCrash { router, down },
        2 => Fault::RouterStop { router, down },
        3 | 4 => Fault::RouterPause { router, still: rng.ms(100, 25_000) },
        5 => Fault::Takeover { region: plan.routers[router] },
        6 => {
            // One event for each round trip is no fault, but takes thousands of them too long.
            let least = if plan.is_big() { 100_000 } else { 0 };
            Fault::Budget { router, bytes_cap: rng.pick(&[1, 900, 5_000, 100_000]).max(least) }
        }
        7 | 8 => Fault::BrokerCrash { broker, down },
        9..=11 if plan.may_lose_its_tail(sink) => Fault::TailLost { broker: sink, down, window: rng.ms(10, 5_000) },
        12 => Fault::BrokerSlow { broker, slow: rng.ms(500, 8_000), by: rng.ms(50, 2_000) },
        13 => Fault::BrokerHang { broker, hang: rng.ms(500, 20_000) },
        14 | 15 => Fault::SessionsCut { broker },
        16 => Fault::TornWrite { broker: sink },
        17 if plan.may_lose_its_tail(sink) && !plan.is_source(sink) => Fault::SinkRecreated { broker: sink },
        18 if ends_flows && plan.kinds[source] != Kind::Queue => Fault::SourceRecreated { broker: source },
        18 if plan.kinds[source] != Kind::Queue => Fault::RetentionOverrun { broker: source },
        19 | 20 => Fault::Poison { broker: sink },
        21 => Fault::LinkCut { a, b },
        22 | 23 => Fault::OneWayCut { from, to, lasts: rng.ms(100, 25_000) },
        24 => Fault::Partition { a, b, lasts: rng.ms(100, 25_000) },
        25 => Fault::Flapping { a, b },
        26 => Fault::ParcelsTwice { count: rng.between(1, 4) as u32 },
        27 | 28 => Fault::ParcelsLate { count: rng.between(1, 8) as u32, by: rng.ms(50, 3_000) },
        29 if plan.shape == Shape::Pair && rng.one_in(2) => Fault::ParcelCorrupted,
        29 => Fault::ParcelLost,
        _ => Fault::LinkCut { a, b },
    }
}
