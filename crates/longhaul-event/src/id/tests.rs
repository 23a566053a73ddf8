//! Identities never change between versions, and their text form is strict.

use proptest::prelude::*;

use super::*;

/// Frozen: an identity that changed would deliver every event of a mesh again after an upgrade.
#[test]
fn identities_are_frozen() {
    // Vectors of the algorithm itself: XXH3 over nothing.
    assert_eq!(hash64(b""), 0x2d06_8005_38d3_94c2);
    assert_eq!(xxh3::xxh3_128(b""), 0x99aa_06d3_0147_98d8_6001_c324_468d_497f);
    assert_eq!(hash64(b"orders/0"), 0x4064_0299_bddf_42d6);
    assert_eq!(EventId::of_position(1, 2, 3, 4).to_string(), "93e085440feb4ed733491ce3a4ecfabd");
    assert_eq!(EventId::of_parts(1, &[b"message", b""]).to_string(), "afc7bb292be1e74ab2185330b8b78347");
    assert_eq!(FlowId::of_parts(&["shop", "orders-to-billing"]).to_string(), "eabd3e5d78945b4944f75e47577916df");
}

#[test]
fn parts_do_not_run_into_each_other() {
    assert_ne!(EventId::of_parts(1, &[b"ab", b"c"]), EventId::of_parts(1, &[b"a", b"bc"]));
    assert_ne!(EventId::of_parts(1, &[b"a", b""]), EventId::of_parts(1, &[b"a"]));
    assert_ne!(EventId::of_parts(1, &[b"a"]), EventId::of_parts(2, &[b"a"]));
}

#[test]
fn only_32_hex_digits_are_an_identity() {
    let digits = "00112233445566778899aabbccddeeff";
    assert_eq!(EventId::parse(digits.as_bytes()).unwrap().to_string(), digits);
    assert_eq!(EventId::parse(digits.to_uppercase().as_bytes()), EventId::parse(digits.as_bytes()));
    for text in ["", &digits[1..], &format!("{digits}0"), &format!("+{}", &digits[1..]), &format!("g{}", &digits[1..])]
    {
        assert_eq!(EventId::parse(text.as_bytes()), None, "{text}");
    }
}

proptest! {
    #[test]
    fn the_text_form_is_read_back(id in any::<u128>()) {
        prop_assert_eq!(EventId::parse(EventId(id).to_string().as_bytes()), Some(EventId(id)));
        prop_assert_eq!(FlowId::parse(FlowId(id).to_string().as_bytes()), Some(FlowId(id)));
    }

    #[test]
    fn every_part_of_a_position_counts(parts in any::<[u64; 4]>(), which in 0_usize..4, other in any::<u64>()) {
        let id = |[cluster, incarnation, shard, offset]: [u64; 4]| EventId::of_position(cluster, incarnation, shard, offset);
        let mut changed = parts;
        changed[which] = other;
        prop_assert_eq!(id(parts) == id(changed), parts == changed);
    }
}
