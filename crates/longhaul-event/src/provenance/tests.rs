//! Provenance survives its encoding, refuses what is none, and its hashes never change.

use longhaul_topic::Topic;
use proptest::prelude::*;

use super::*;
use crate::testing::event;

fn any_hop() -> impl Strategy<Value = Hop> {
    (any::<u32>(), any::<u64>(), any::<u32>())
        .prop_map(|(region, cluster, topic)| Hop { place: Place { region, cluster }, topic })
}

fn any_provenance() -> impl Strategy<Value = Provenance> {
    (any::<u32>(), any::<[u64; 5]>(), any::<u8>(), prop::collection::vec(any_hop(), 0..=HOPS_MAX)).prop_map(
        |(mesh, [origin_cluster, origin_shard, origin_incarnation, origin_offset, content], depth, hops)| Provenance {
            mesh,
            origin_cluster,
            origin_shard,
            origin_incarnation,
            origin_offset,
            content,
            depth,
            hops,
        },
    )
}

proptest! {
    #[test]
    fn it_survives_its_encoding(provenance in any_provenance()) {
        let bytes = provenance.encode();
        prop_assert!(bytes.len() <= PROVENANCE_BYTES_MAX);
        prop_assert_eq!(Provenance::decode(&bytes), Some(provenance.clone()));
        let view = View::new(&bytes).unwrap();
        prop_assert_eq!((view.mesh(), view.content(), view.depth()), (provenance.mesh, provenance.content, provenance.depth));
    }

    #[test]
    fn any_bytes_are_a_provenance_or_none(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(provenance) = Provenance::decode(&bytes) {
            prop_assert_eq!(&provenance.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn a_changed_length_or_version_is_refused(provenance in any_provenance(), cut in 1_usize..64, more in 1_usize..64) {
        let bytes = provenance.encode();
        prop_assert_eq!(Provenance::decode(&bytes[..bytes.len().saturating_sub(cut)]), None);
        prop_assert_eq!(Provenance::decode(&[&bytes[..], &vec![0; more]].concat()), None);
        let mut other = bytes.to_vec();
        other[0] = 2;
        prop_assert_eq!(Provenance::decode(&other), None);
    }

    #[test]
    fn extending_in_place_is_extending(provenance in any_provenance(), hops in prop::collection::vec(any_hop(), 0..3)) {
        let longer = hops.iter().try_fold(provenance.clone(), |provenance, hop| provenance.extended(*hop));
        let mut bytes = BytesMut::new();
        let fits = View::new(&provenance.encode()).unwrap().extend_into(&hops, &mut bytes);
        prop_assert_eq!(fits, longer.is_some());
        prop_assert_eq!(bytes.is_empty(), !fits);
        prop_assert_eq!(Provenance::decode(&bytes), longer);
    }

    #[test]
    fn it_has_been_at_its_origin_and_at_every_hop(provenance in any_provenance(), other in any_hop()) {
        let view = provenance.encode();
        let view = View::new(&view).unwrap();
        let origin = Place { region: 0, cluster: provenance.origin_cluster };
        for place in provenance.hops.iter().map(|hop| hop.place).chain([origin]) {
            prop_assert!(provenance.visited(place) && view.visited(place));
        }
        let known = provenance.hops.iter().map(|hop| hop.place.cluster).chain([provenance.origin_cluster]);
        let expected = known.into_iter().any(|cluster| cluster == other.place.cluster);
        prop_assert_eq!((provenance.visited(other.place), view.visited(other.place)), (expected, expected));
    }
}

#[test]
fn nine_hops_are_refused_in_bytes_too() {
    let mut bytes =
        Provenance::new(1, Place::of("m", "r", "b"), 2, Position { incarnation: 3, offset: 4 }, 5).encode().to_vec();
    for hops in 0..=9 {
        bytes.truncate(FIXED_BYTES);
        bytes[FIXED_BYTES - 1] = hops;
        bytes.resize(FIXED_BYTES + usize::from(hops) * HOP_BYTES, 7);
        assert_eq!(Provenance::decode(&bytes).is_some(), usize::from(hops) <= HOPS_MAX, "{hops}");
    }
}

#[test]
fn the_content_hash_tells_missing_from_empty_and_key_from_payload() {
    let parts = [None, Some(&b""[..]), Some(&b"x"[..])];
    let mut hashes: Vec<u64> =
        parts.iter().flat_map(|key| parts.iter().map(|payload| content_hash(&event(*key, *payload)))).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 9);
}

#[test]
fn topic_headers_and_time_are_no_content() {
    let plain = event(Some(b"k"), Some(b"v"));
    let other = Event { topic: Topic::parse("other").unwrap(), time_ms: 9, offset: 9, ..plain.clone() };
    assert_eq!(content_hash(&plain), content_hash(&other));
}

/// Frozen: what older routers wrote must be recognised for ever.
#[test]
fn hashes_and_layout_are_frozen() {
    let place = Place::of("shop", "eu-west", "orders");
    assert_eq!((place.region, place.cluster), (0x357d_bc7d, 0xda0f_a650_8e8d_01b8));
    assert_ne!(place.cluster, Place::of("shop", "eu-westo", "rders").cluster);
    assert_eq!((mesh_hash("shop"), topic_hash("orders.eu")), (0x4d51_8cd9, 0x79b0_d24d));
    assert_eq!(content_hash(&event(Some(b"key"), Some(b"value"))), 0x605a_1215_be60_f3fb);
    assert_eq!(content_hash(&event(None, None)), 0xb6c9_3fc0_3666_7dfb);
    let hop = Hop { place: Place { region: 0x0403_0201, cluster: 0x0807_0605_0403_0201 }, topic: 9 };
    let provenance =
        Provenance::new(0x0d0c_0b0a, Place { region: 0, cluster: 1 }, 2, Position { incarnation: 3, offset: 4 }, 5);
    let expected: Vec<u8> = [
        &[1, 0x0a, 0x0b, 0x0c, 0x0d][..],
        &[1, 2, 3, 4, 5].map(u64::to_le_bytes).concat(),
        &[0, 1],
        &[1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0],
    ]
    .concat();
    assert_eq!(provenance.extended(hop).unwrap().encode(), expected);
}
