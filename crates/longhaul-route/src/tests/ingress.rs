//! Admission, case by case.

use longhaul_event::provenance::{DEPTH_MAX, Place, Provenance, content_hash, mesh_hash};
use longhaul_event::{EventId, Identity, Position, hash64};
use proptest::prelude::*;

use super::*;
use crate::{Admission, IngressContext, Refusal, ingress};

fn context() -> IngressContext {
    IngressContext::new("shop", "a", "b", "orders/0")
}

fn admit_with(mut event: Event, context: IngressContext) -> (Event, Admission) {
    let admissions = ingress(std::slice::from_mut(&mut event), &context, 3);
    (event, admissions[0])
}

fn admit(event: Event) -> (Event, Admission) {
    admit_with(event, context())
}

fn elsewhere(event: &Event, mesh: &str) -> Provenance {
    let place = Place::of(mesh, "z", "b");
    Provenance::new(mesh_hash(mesh), place, 5, Position { incarnation: 1, offset: 2 }, content_hash(event))
}

#[test]
fn an_event_without_provenance_begins_here_and_keeps_its_identity() {
    for provenance in [&b""[..], b"\x01", &[1; 47], &[0; 500]] {
        let (admitted, admission) = admit(Event { provenance: Bytes::copy_from_slice(provenance), ..event("t") });
        assert_eq!((admission, admitted.id, admitted.identity), (Admission::New, EventId(1), Identity::Unique));
        let position = Position { incarnation: 3, offset: 7 };
        let expected = Provenance::new(
            mesh_hash("shop"),
            Place::of("shop", "a", "b"),
            hash64(b"orders/0"),
            position,
            content_hash(&event("t")),
        );
        assert_eq!(Provenance::decode(&admitted.provenance), Some(expected));
    }
}

#[test]
fn an_event_with_its_own_provenance_is_the_same_event() {
    let provenance = elsewhere(&event("t"), "shop").encode();
    let mut moved = Event { provenance: provenance.clone(), ..event("other.topic") };
    moved.offset = 99;
    let (admitted, admission) = admit(moved);
    assert_eq!((admission, admitted.id, &admitted.provenance), (Admission::Same, EventId(1), &provenance));
}

#[test]
fn provenance_of_another_mesh_is_not_ours_to_believe() {
    let provenance = elsewhere(&event("t"), "other").encode();
    let (admitted, admission) = admit(Event { provenance, ..event("t") });
    assert_eq!((admission, admitted.id), (Admission::New, EventId(1)));
    assert_eq!(Provenance::decode(&admitted.provenance).unwrap().mesh, mesh_hash("shop"));
}

#[test]
fn changed_content_under_copied_headers_is_a_new_event_with_an_identity_of_its_own() {
    let provenance = elsewhere(&event("t"), "shop").encode();
    for changed in [
        Event { payload: Some(Bytes::from_static(b"other")), ..event("t") },
        Event { payload: None, ..event("t") },
        Event { key: None, ..event("t") },
    ] {
        let (admitted, admission) = admit(Event { provenance: provenance.clone(), ..changed });
        assert_eq!((admission, admitted.identity), (Admission::Derived, Identity::Unique));
        let cluster = Place::of("shop", "a", "b").cluster;
        assert_eq!(admitted.id, EventId::of_position(cluster, 3, hash64(b"orders/0"), 7));
        let new = Provenance::decode(&admitted.provenance).unwrap();
        assert_eq!((new.depth, new.origin_cluster, new.hops.len()), (1, cluster, 0));
        assert_eq!(new.content, content_hash(&admitted));
    }
}

#[test]
fn what_a_queue_derives_is_known_by_ancestor_and_content_and_never_dropped() {
    let provenance = elsewhere(&event("t"), "shop").encode();
    let queue = context().with_replayable(false);
    let derived = |offset: u64, payload: &'static [u8], ancestor: u128| {
        let id = EventId(ancestor);
        let payload = Some(Bytes::from_static(payload));
        let (admitted, admission) =
            admit_with(Event { provenance: provenance.clone(), offset, payload, id, ..event("t") }, queue);
        assert_eq!((admission, admitted.identity), (Admission::Derived, Identity::Content));
        admitted.id
    };
    assert_eq!(derived(1, b"x", 1), derived(2, b"x", 1), "a redelivery has another offset");
    assert_ne!(derived(1, b"x", 1), derived(1, b"y", 1));
    assert_ne!(derived(1, b"x", 1), derived(1, b"x", 2));
}

#[test]
fn content_that_is_derived_for_ever_is_refused() {
    let mut last = event("t");
    for depth in 1..=DEPTH_MAX {
        last.payload = Some(Bytes::copy_from_slice(&[depth]));
        if depth == 1 {
            last.provenance = elsewhere(&event("t"), "shop").encode();
        }
        let (admitted, admission) = admit(last);
        assert_eq!(admission, Admission::Derived, "{depth}");
        assert_eq!(Provenance::decode(&admitted.provenance).unwrap().depth, depth);
        last = admitted;
    }
    last.payload = None;
    assert_eq!(admit(last).1, Admission::Refused(Refusal::TransformLoop));
}

proptest! {
    #[test]
    fn no_bytes_of_provenance_make_it_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0_usize..9) {
        let mut bytes = bytes;
        if length > 0 && bytes.len() > 46 {
            (bytes[0], bytes[46]) = (1, length as u8 - 1);
            bytes.resize(47 + 16 * (length - 1), 0);
            bytes[1..5].copy_from_slice(&mesh_hash("shop").to_le_bytes());
        }
        let (admitted, admission) = admit(Event { provenance: bytes.into(), ..event("t") });
        prop_assert!(Provenance::decode(&admitted.provenance).is_some());
        let is_bound = Provenance::decode(&admitted.provenance).unwrap().content == content_hash(&admitted);
        prop_assert_eq!(is_bound, admission != Admission::Refused(Refusal::TransformLoop));
    }

    #[test]
    fn a_batch_is_judged_event_by_event(kinds in prop::collection::vec(0_u8..4, 0..20)) {
        let make = |kind: &u8| match kind {
            0 => event("t"),
            1 => Event { provenance: elsewhere(&event("t"), "shop").encode(), ..event("t") },
            2 => Event { provenance: elsewhere(&event("t"), "shop").encode(), payload: None, ..event("t") },
            _ => Event { provenance: elsewhere(&event("t"), "other").encode(), ..event("t") },
        };
        let mut batch: Vec<Event> = kinds.iter().map(make).collect();
        let admissions = ingress(&mut batch, &context(), 3);
        for ((kind, event), admission) in kinds.iter().zip(batch).zip(admissions) {
            prop_assert_eq!((event, admission), admit(make(kind)));
        }
    }
}
