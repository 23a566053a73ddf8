//! Headers survive their encoding, keep order and repeats, and keep their limits.

use proptest::prelude::*;

use super::*;
use crate::testing::any_header;

fn build(list: &[(String, HeaderTag, Vec<u8>)]) -> Headers {
    let mut builder = Headers::builder();
    for (name, tag, value) in list {
        builder.push_tagged(name, *tag, value).unwrap();
    }
    builder.finish()
}

proptest! {
    #[test]
    fn order_repeats_types_and_bytes_are_kept(list in prop::collection::vec(any_header(), 0..=HEADER_COUNT_MAX)) {
        let headers = build(&list);
        let read: Vec<_> = headers.iter().map(|h| (h.name.to_owned(), h.tag, h.value.to_vec())).collect();
        prop_assert_eq!(&read, &list);
        prop_assert_eq!(headers.is_empty(), list.is_empty());
        prop_assert_eq!(Headers::from_encoded(headers.encoded().clone()), Ok(headers.clone()));
        for (name, _, _) in &list {
            let first = list.iter().find(|(other, _, _)| other == name).unwrap();
            prop_assert_eq!(headers.first(name).map(|h| h.value), Some(&first.2[..]));
        }
    }

    #[test]
    fn any_bytes_are_headers_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        if let Ok(headers) = Headers::from_encoded(Bytes::from(bytes.clone())) {
            let list: Vec<_> = headers.iter().map(|h| (h.name.to_owned(), h.tag, h.value.to_vec())).collect();
            let again = build(&list);
            prop_assert_eq!(&again.encoded()[..], &bytes[..]);
        }
    }

    #[test]
    fn a_cut_is_noticed(list in prop::collection::vec(any_header(), 1..8), cut in 1_usize..7) {
        let encoded = build(&list).encoded().clone();
        let cut = encoded.slice(..encoded.len() - cut);
        // A cut inside the last header, which has seven bytes at least.
        prop_assert_eq!(Headers::from_encoded(cut), Err(HeaderError::Malformed));
    }
}

#[test]
fn the_limits_hold_for_building_and_for_reading() {
    let mut builder = Headers::builder();
    for _ in 0..HEADER_COUNT_MAX {
        builder.push("n", b"").unwrap();
    }
    assert_eq!(builder.push("n", b""), Err(HeaderError::TooMany));
    let most = builder.finish();
    assert!(Headers::from_encoded(most.encoded().clone()).is_ok());
    let one_more = [&most.encoded()[..], &most.encoded()[..FIXED_BYTES + 1]].concat();
    assert_eq!(Headers::from_encoded(one_more.into()), Err(HeaderError::TooMany));

    let mut builder = Headers::builder();
    builder.push("n", &vec![7; HEADER_BYTES_MAX - 2]).unwrap();
    assert_eq!(builder.push("n", b"x"), Err(HeaderError::TooLarge));
    builder.push("n", b"").unwrap();
    let largest = builder.finish();
    assert!(Headers::from_encoded(largest.encoded().clone()).is_ok(), "what was there before a refusal stays");
    let one_more = [&largest.encoded()[..], &most.encoded()[..FIXED_BYTES + 1]].concat();
    assert_eq!(Headers::from_encoded(one_more.into()), Err(HeaderError::TooLarge));
}

#[test]
fn a_name_that_is_no_text_is_malformed() {
    let bytes = Bytes::from_static(&[1, 0, 0, 0, 0, 0, 0, 0xff]);
    assert_eq!(Headers::from_encoded(bytes), Err(HeaderError::Malformed));
}
