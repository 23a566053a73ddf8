//! Brokers joined by the mesh and by bridges of somebody else that copy headers: nothing circles, nothing is lost.

use std::collections::VecDeque;

use longhaul_event::provenance::{DEPTH_MAX, HOPS_MAX, Place, Provenance};
use longhaul_event::{EventId, hash64};
use proptest::prelude::*;

use super::*;
use crate::{IngressContext, Refusal, RouteTable, ingress};

const REGIONS: [&str; 6] = ["r0", "r1", "r2", "r3", "r4", "r5"];
/// More arrivals than any of the worlds below has when it ends.
const ARRIVALS_MAX: usize = 20_000;

/// Brokers in a world without time: whatever arrives is passed on until nothing moves.
struct World {
    table: RouteTable,
    /// Bridges that are not Longhaul's: they copy every event as it stands.
    bridges: Vec<(usize, usize)>,
    /// What each broker has, in order of arrival.
    logs: Vec<Vec<Event>>,
    refused: Vec<Refusal>,
}

impl World {
    fn new(brokers: usize, routes: &[(usize, usize)], bridges: Vec<(usize, usize)>) -> Self {
        let declare = |(at, (from, to)): (usize, &(usize, usize))| {
            route(&format!("route{at}"), REGIONS[*from], &["#"], &[REGIONS[*to]])
        };
        let mesh = mesh(&REGIONS[..brokers], routes.iter().enumerate().map(declare).collect());
        Self { table: RouteTable::build(&mesh), bridges, logs: vec![Vec::new(); brokers], refused: Vec::new() }
    }

    /// Publishes one event and lets it run; `false` when it never ends.
    fn publish(&mut self, at: usize, payload: u8) -> bool {
        let event = Event { payload: Some(Bytes::copy_from_slice(&[payload])), ..event("t") };
        let mut moving = VecDeque::from([(at, event)]);
        let mut arrivals = 0;
        while let Some((at, event)) = moving.pop_front() {
            arrivals += 1;
            if arrivals > ARRIVALS_MAX {
                return false;
            }
            let stored = Event { offset: self.logs[at].len() as u64, ..event };
            self.logs[at].push(stored.clone());
            moving.extend(self.bridges.iter().filter(|(from, _)| *from == at).map(|(_, to)| (*to, stored.clone())));
            moving.extend(self.forward(at, stored));
        }
        true
    }

    /// What the mesh makes of an event that it finds in a broker.
    fn forward(&mut self, at: usize, mut event: Event) -> Vec<(usize, Event)> {
        let place = Place::of("shop", REGIONS[at], "b");
        if event.provenance.is_empty() {
            // As a connector does for what has no identity in its headers.
            event.id = EventId::of_position(place.cluster, 1, hash64(b"log"), event.offset);
        }
        let context = IngressContext::new("shop", REGIONS[at], "b", "log");
        let admission = ingress(std::slice::from_mut(&mut event), &context, 1)[0];
        let before = Provenance::decode(&event.provenance).unwrap();
        let mut written = Vec::new();
        for route in self.table.routes().filter(|route| route.place() == place) {
            let to = REGIONS.iter().position(|region| *region == route.route().to[0].region).unwrap();
            match route.decide(0, &event, admission) {
                Ok(()) => {
                    assert!(!before.visited(Place::of("shop", REGIONS[to], "b")), "never where it has been");
                    let provenance = stamp(route, &event, admission, "t");
                    assert!(Provenance::decode(&provenance).unwrap().hops.len() <= HOPS_MAX);
                    written.push((to, Event { provenance, ..event.clone() }));
                }
                Err(refusal) => self.refused.push(refusal),
            }
        }
        written
    }

    fn copies(&self, at: usize, payload: u8) -> usize {
        self.logs[at].iter().filter(|event| event.payload.as_deref() == Some(&[payload])).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn in_a_ring_every_broker_has_every_event_and_at_most_one_copy_more(
        is_mesh in prop::collection::vec(any::<bool>(), 2..=6),
        published in prop::collection::vec(0_usize..6, 1..5),
    ) {
        // A ring of foreign bridges alone would circle without us: one edge is the mesh's.
        let mut is_mesh = is_mesh;
        is_mesh[0] = true;
        let brokers = is_mesh.len();
        let edges = |mesh: bool| {
            (0..brokers).filter(|from| is_mesh[*from] == mesh).map(|from| (from, (from + 1) % brokers)).collect::<Vec<_>>()
        };
        let mut world = World::new(brokers, &edges(true), edges(false));
        for (payload, at) in published.iter().enumerate() {
            prop_assert!(world.publish(at % brokers, payload as u8), "it ends");
        }
        let copies_max = if edges(false).is_empty() { 1 } else { 2 };
        for payload in 0..published.len() {
            for at in 0..brokers {
                let copies = world.copies(at, payload as u8);
                prop_assert!((1..=copies_max).contains(&copies), "broker {} has {} copies", at, copies);
            }
        }
        prop_assert!(world.refused.iter().all(|refusal| *refusal == Refusal::Loop));
    }

    #[test]
    fn any_mesh_with_bridges_that_do_not_circle_by_themselves_comes_to_rest(
        brokers in 2_usize..=4,
        routes in prop::collection::btree_set((0_usize..4, 0_usize..4), 1..12),
        bridges in prop::collection::btree_set((0_usize..4, 0_usize..4), 0..4),
        at in 0_usize..4,
    ) {
        let routes: Vec<_> = routes.into_iter().filter(|(from, to)| from.max(to) < &brokers).collect();
        let bridges: Vec<_> = bridges.into_iter().filter(|(from, to)| from < to && *to < brokers).collect();
        let mut world = World::new(brokers, &routes, bridges);
        prop_assert!(world.publish(at % brokers, 0), "it ends");
    }
}

#[test]
fn a_bridge_back_and_forth_gives_one_extra_copy_and_keeps_the_identity() {
    // The mesh copies 0 to 1, somebody else's bridge copies 1 to 0.
    let mut world = World::new(2, &[(0, 1)], vec![(1, 0)]);
    assert!(world.publish(0, 1) && world.publish(1, 2));
    assert_eq!((world.copies(0, 1), world.copies(1, 1)), (2, 1));
    // The bridge took it before the mesh ever saw it, and takes the mesh's copy as well.
    assert_eq!((world.copies(0, 2), world.copies(1, 2)), (2, 2));
    let ids = |at: usize, payload: u8| -> Vec<EventId> {
        world.logs[at]
            .iter()
            .filter(|event| event.payload.as_deref() == Some(&[payload]))
            .map(|event| event.id)
            .collect()
    };
    assert_eq!(ids(0, 1)[1], ids(1, 1)[0], "the copy is known by the identity of the original");
    assert_eq!(world.refused, [Refusal::Loop, Refusal::Loop]);
}

#[test]
fn applications_that_feed_each_other_are_stopped_after_the_deepest_chain() {
    // The mesh copies 0 to 1; an application reads 1, changes what it read, and publishes to 0 with the headers copied.
    let mut world = World::new(2, &[(0, 1)], Vec::new());
    let mut rounds = 0_u8;
    let mut next = Some(event("t"));
    while let Some(mut event) = next.take() {
        rounds += 1;
        assert!(rounds < 100, "it ends");
        event.payload = Some(Bytes::copy_from_slice(&[rounds]));
        next = world.forward(0, event).pop().map(|(_, event)| event);
    }
    // The first round is no derivation.
    assert_eq!(rounds, DEPTH_MAX + 2);
    assert_eq!(world.refused, [Refusal::TransformLoop]);
}
