//! What the tests of this crate share: a matcher too simple to be wrong, and filters and topics over few tokens, so that they meet.

use proptest::prelude::*;

/// Straight from the definition, by recursion over tokens.
pub(crate) fn naive_matches(filter: &str, topic: &str) -> bool {
    fn go(filter: &[&str], topic: &[&str]) -> bool {
        match (filter.split_first(), topic.split_first()) {
            (None, None) => true,
            (Some((&"#", behind)), _) => (0..=topic.len()).any(|taken| go(behind, &topic[taken..])),
            (Some((&">", _)), rest) => rest.is_some(),
            (Some((&"*", behind)), Some((_, rest))) => go(behind, rest),
            (Some((literal, behind)), Some((token, rest))) => literal == token && go(behind, rest),
            _ => false,
        }
    }
    let topic: Vec<&str> = if topic.is_empty() { Vec::new() } else { topic.split('.').collect() };
    go(&filter.split('.').collect::<Vec<_>>(), &topic)
}

/// Filters of up to six tokens over three literals (one of them empty) and all wildcards.
pub(crate) fn any_filter_text() -> impl Strategy<Value = String> {
    filter_text(6)
}

/// Filters of up to that many tokens.
pub(crate) fn filter_text(tokens_max: usize) -> impl Strategy<Value = String> {
    let token = prop_oneof![3 => Just("x"), 3 => Just("y"), 1 => Just(""), 2 => Just("*"), 2 => Just("#")];
    (prop::collection::vec(token, 0..tokens_max), prop_oneof![Just(None), Just(Some(">")), Just(Some("x"))])
        .prop_map(|(mut tokens, last)| {
            tokens.extend(last);
            tokens.join(".")
        })
        .prop_filter("the empty text is no filter", |text| !text.is_empty())
}

/// Topics of up to eight tokens, among them some that are no literal of any filter, look like wildcards or are not ASCII.
pub(crate) fn any_topic_text() -> impl Strategy<Value = String> {
    let token =
        prop_oneof![4 => Just("x"), 4 => Just("y"), 1 => Just(""), 1 => Just("*"), 1 => Just("ü"), 1 => Just(">#")];
    prop::collection::vec(token, 0..8).prop_map(|tokens| tokens.join("."))
}
