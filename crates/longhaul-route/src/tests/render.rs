//! Topics from templates.

use proptest::prelude::*;

use super::*;
use crate::render::{can_render, render};

fn rendered(template: &str, event: &Event) -> Option<String> {
    let template = Template::parse(template).unwrap();
    let mut topic = String::new();
    render(&template, event, "eu-west", "orders", &mut topic);
    can_render(&template, event, "eu-west", "orders").then_some(topic)
}

#[test]
fn every_part_is_filled() {
    let mut event = event("orders.eu.made");
    event.headers = headers(&[("X-Tenant", b"acme"), ("binary", b"\xff"), ("x-tenant", b"second")]);
    for (template, expected) in [
        ("{topic}", Some("orders.eu.made")),
        ("eu.{topic}", Some("eu.orders.eu.made")),
        ("{topic[0]}-{topic[2]}", Some("orders-made")),
        ("{topic[1..]}", Some("eu.made")),
        ("{topic[0..]}", Some("orders.eu.made")),
        ("{region}.{broker}.{key}", Some("eu-west.orders.key")),
        ("{header.x-tenant}.x", Some("acme.x")),
        ("fixed", Some("fixed")),
        ("{topic[3]}", None),
        ("{topic[3..]}", None),
        ("{header.none}", None),
        ("{header.binary}", None),
    ] {
        assert_eq!(rendered(template, &event).as_deref(), expected, "{template}");
    }
}

#[test]
fn a_key_that_is_missing_or_no_text_names_no_topic() {
    for (key, expected) in [(None, None), (Some(&b"\xff"[..]), None), (Some(b"k"), Some("k")), (Some(b""), Some(""))] {
        let event = Event { key: key.map(Bytes::copy_from_slice), ..event("t") };
        assert_eq!(rendered("{key}", &event).as_deref(), expected);
    }
}

#[test]
fn a_topic_is_at_most_1024_bytes() {
    let event = Event { key: Some(vec![b'k'; 1000].into()), ..event("t") };
    assert!(rendered(&format!("{{key}}{}", "x".repeat(24)), &event).is_some());
    assert!(rendered(&format!("{{key}}{}", "x".repeat(25)), &event).is_none());
}

#[test]
fn a_null_header_is_missing() {
    let mut builder = Headers::builder();
    builder.push_tagged("h", longhaul_event::HeaderTag::NULL, b"").unwrap();
    builder.push_tagged("n", longhaul_event::HeaderTag(b'I'), &7_i32.to_be_bytes()).unwrap();
    let event = Event { headers: builder.finish(), ..event("t") };
    assert_eq!((rendered("{header.h}", &event), rendered("{header.n}", &event)), (None, Some("7".to_owned())));
}

proptest! {
    #[test]
    fn tokens_put_together_again_are_the_topic(topic in "[a-c.]{0,12}", at in 0_usize..5) {
        let event = event(&topic);
        let count = event.topic.tokens().count();
        let rest = rendered(&format!("{{topic[{at}..]}}"), &event);
        prop_assert_eq!(rest.is_some(), at < count);
        let first: Vec<String> = (0..at).filter_map(|i| rendered(&format!("{{topic[{i}]}}"), &event)).collect();
        let whole: Vec<String> = first.into_iter().chain(rest).collect();
        prop_assert_eq!(whole.join("."), topic);
    }
}
