//! Each dialect in words, and all of them against a naive evaluation.

use std::collections::BTreeMap;

use longhaul_event::Headers;
use proptest::prelude::*;

use super::*;
use crate::tests::{event, headers};

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

fn holds_for(predicate: &Predicate, headers: Headers) -> bool {
    let mut event = event("t");
    event.headers = headers;
    CompiledPredicate::new(predicate).matches(&event)
}

#[test]
fn the_dialects_compare_as_they_say() {
    let made = || headers(&[("ce_type", b"order.made"), ("Tenant", b"acme")]);
    for (predicate, expected) in [
        (Predicate::Exact(pairs(&[("type", "order.made")])), true),
        (Predicate::Exact(pairs(&[("type", "order.made"), ("tenant", "acme")])), true),
        (Predicate::Exact(pairs(&[("type", "order.made"), ("tenant", "other")])), false),
        (Predicate::Exact(pairs(&[("type", "Order.made")])), false),
        (Predicate::Prefix(pairs(&[("TYPE", "order.")])), true),
        (Predicate::Prefix(pairs(&[("type", "made")])), false),
        (Predicate::Suffix(pairs(&[("type", ".made")])), true),
        (Predicate::Suffix(pairs(&[("type", "order")])), false),
        (Predicate::Exact(pairs(&[("missing", "")])), false),
        (Predicate::Not(Box::new(Predicate::Exact(pairs(&[("missing", "")])))), true),
        (Predicate::Exact(vec![]), true),
        (Predicate::All(vec![]), true),
        (Predicate::Any(vec![]), false),
        (Predicate::Any(vec![Predicate::Any(vec![]), Predicate::All(vec![])]), true),
    ] {
        assert_eq!(holds_for(&predicate, made()), expected, "{predicate:?}");
    }
}

#[test]
fn attributes_come_before_headers_of_the_same_name() {
    let both = headers(&[("type", b"header"), ("ce-type", b"attribute")]);
    assert!(holds_for(&Predicate::Exact(pairs(&[("type", "attribute")])), both.clone()));
    assert!(!holds_for(&Predicate::Exact(pairs(&[("type", "header")])), both.clone()));
    assert!(holds_for(&Predicate::Exact(pairs(&[("ce-type", "attribute")])), both));
}

#[test]
fn attributes_of_structured_mode_are_in_the_payload() {
    let mut event = event("t");
    event.payload = Some(br#"{"type":"order.made","data":{"type":"x"}}"#[..].into());
    let predicate = CompiledPredicate::new(&Predicate::Exact(pairs(&[("type", "order.made")])));
    assert!(!predicate.matches(&event), "without the content type it is just a payload");
    event.headers = headers(&[("content-type", b"application/cloudevents+json"), ("type", b"header")]);
    assert!(predicate.matches(&event));
    event.payload = Some(b"no json"[..].into());
    assert!(!predicate.matches(&event));
    event.payload = None;
    assert!(!predicate.matches(&event));
}

#[test]
fn a_null_header_is_no_value() {
    let mut builder = Headers::builder();
    builder.push_tagged("tenant", longhaul_event::HeaderTag::NULL, b"").unwrap();
    builder.push_tagged("size", longhaul_event::HeaderTag(b'I'), &7_i32.to_be_bytes()).unwrap();
    let headers = builder.finish();
    assert!(!holds_for(&Predicate::Exact(pairs(&[("tenant", "")])), headers.clone()));
    assert!(holds_for(&Predicate::Exact(pairs(&[("size", "7")])), headers));
}

fn any_predicate() -> impl Strategy<Value = Predicate> {
    let pairs = || prop::collection::vec(("[ab]", "[xy]{0,2}"), 0..3);
    let leaf = prop_oneof![
        pairs().prop_map(Predicate::Exact),
        pairs().prop_map(Predicate::Prefix),
        pairs().prop_map(Predicate::Suffix),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Predicate::All),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Predicate::Any),
            inner.prop_map(|inner| Predicate::Not(Box::new(inner))),
        ]
    })
}

fn naive(predicate: &Predicate, values: &BTreeMap<String, String>) -> bool {
    let every = |pairs: &[(String, String)], test: fn(&str, &str) -> bool| {
        pairs.iter().all(|(name, text)| values.get(name).is_some_and(|value| test(value, text)))
    };
    match predicate {
        Predicate::Exact(pairs) => every(pairs, |value, text| value == text),
        Predicate::Prefix(pairs) => every(pairs, |value, text| value.starts_with(text)),
        Predicate::Suffix(pairs) => every(pairs, |value, text| value.ends_with(text)),
        Predicate::All(inner) => inner.iter().all(|inner| naive(inner, values)),
        Predicate::Any(inner) => inner.iter().any(|inner| naive(inner, values)),
        Predicate::Not(inner) => !naive(inner, values),
    }
}

proptest! {
    #[test]
    fn evaluation_agrees_with_the_naive_one(
        predicate in any_predicate(),
        values in prop::collection::btree_map("[ab]", "[xy]{0,3}", 0..3),
        as_attributes in any::<bool>(),
    ) {
        let mut builder = Headers::builder();
        for (name, value) in &values {
            let name = if as_attributes { format!("cloudEvents:{name}") } else { name.to_uppercase() };
            builder.push(&name, value.as_bytes()).unwrap();
        }
        prop_assert_eq!(holds_for(&predicate, builder.finish()), naive(&predicate, &values));
    }
}
