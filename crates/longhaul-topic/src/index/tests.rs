//! The index against the naive matcher, for all shapes, alone and in batches.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::testing::{any_filter_text, any_topic_text, naive_matches};

fn filters(texts: &[String]) -> Vec<Filter> {
    texts.iter().map(|text| Filter::parse(text).unwrap()).collect()
}

fn found(set: &FilterSet, topic: &Topic) -> Vec<u32> {
    let mut ids = Vec::new();
    set.for_each_match(topic, |id| ids.push(id));
    ids.sort_unstable();
    ids
}

fn expected(texts: &[String], topic: &Topic) -> Vec<u32> {
    (0..).zip(texts).filter(|(_, text)| naive_matches(text, topic.as_str())).map(|(id, _)| id).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_index_agrees_with_the_naive_matcher(
        texts in prop::collection::vec(any_filter_text(), 0..120),
        topics in prop::collection::vec(any_topic_text(), 1..80),
    ) {
        let set = FilterSet::new(&filters(&texts));
        let topics: Vec<Topic> = topics.iter().map(|topic| Topic::parse(topic).unwrap()).collect();
        let mut batched = vec![Vec::new(); topics.len()];
        set.for_each_match_batch(&topics, |topic, id| batched[topic].push(id));
        for (topic, mut batched) in topics.iter().zip(batched) {
            let expected = expected(&texts, topic);
            batched.sort_unstable();
            prop_assert_eq!(&found(&set, topic), &expected, "{:?}", topic);
            prop_assert_eq!(batched, expected.clone(), "in a batch: {:?}", topic);
            prop_assert_eq!(set.matches_any(topic), !expected.is_empty());
        }
    }
}

#[test]
fn shapes_beyond_the_most_frequent_stand_in_the_trie() {
    // Every place a literal or `*`: 2^7 shapes, each filter of its own.
    let texts: Vec<String> = (0..128)
        .map(|bits| (0..7).map(|place| if bits >> place & 1 == 1 { "x" } else { "*" }).collect::<Vec<_>>().join("."))
        .collect();
    let set = FilterSet::new(&filters(&texts));
    assert_eq!((set.shapes(), set.residual(), set.len()), (SHAPES_MAX, 64, 128));
    for bits in 0..128 {
        let text: Vec<_> = (0..7).map(|place| if bits >> place & 1 == 1 { "x" } else { "y" }).collect();
        let topic = Topic::parse(&text.join(".")).unwrap();
        assert_eq!(found(&set, &topic), expected(&texts, &topic));
        assert!(set.matches_any(&topic));
    }
}

#[test]
fn equal_filters_and_filters_that_mean_the_same_all_answer() {
    let texts: Vec<String> = ["a.>", "a.*.#", "a.#.*", "a.>", "a.#.>", "#.#", "#"].map(str::to_owned).to_vec();
    let set = FilterSet::new(&filters(&texts));
    assert_eq!(found(&set, &Topic::parse("a.b").unwrap()), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(found(&set, &Topic::parse("a").unwrap()), [5, 6]);
}

#[test]
fn a_filter_that_comes_a_hundred_thousand_times_is_found_as_often() {
    let filter = Filter::parse("a.*.c").unwrap();
    let set = FilterSet::with_ids((0..100_000).map(|id| (&filter, id)));
    let ids: BTreeSet<u32> = found(&set, &Topic::parse("a.b.c").unwrap()).into_iter().collect();
    assert_eq!(ids, (0..100_000).collect());
}

#[test]
fn topics_with_many_tokens_are_matched_from_both_ends() {
    let texts: Vec<String> =
        ["x.#", "#.z", "x.>", "x.#.z", "*.#.y.z", "x.y", ">", "#.x.#.z"].map(str::to_owned).to_vec();
    let set = FilterSet::new(&filters(&texts));
    for middle in [0, 1, 29, 30, 31, 32, 33, 500] {
        let text = format!("x{}.y.z", ".q".repeat(middle));
        let topic = Topic::parse(&text).unwrap();
        assert_eq!(found(&set, &topic), expected(&texts, &topic), "{middle}");
        assert_eq!(found(&set, &topic), [0, 1, 2, 3, 4, 6, 7]);
    }
    let topic = Topic::parse(&".".repeat(1024)).unwrap();
    assert_eq!(found(&set, &topic), [6]);
    let fronts = FilterSet::new(&filters(&["x.>".to_owned(), "x".to_owned()]));
    assert_eq!(found(&fronts, &Topic::parse(&"x.".repeat(100)).unwrap()), [0]);
}

#[test]
fn an_empty_index_matches_nothing() {
    let set = FilterSet::default();
    assert!(set.is_empty() && !set.matches_any(&Topic::default()));
    assert!(!FilterSet::new([]).matches_any(&Topic::parse("a").unwrap()));
}

#[test]
fn the_index_holds_few_bytes_beside_the_texts() {
    let texts: Vec<String> = (0..20_000).map(|i| format!("region{}.*.orders.{i}.>", i % 7)).collect();
    let set = FilterSet::new(&filters(&texts));
    let text_bytes: usize = texts.iter().map(String::len).sum();
    assert!((set.bytes() - text_bytes) / texts.len() <= 32, "{}", (set.bytes() - text_bytes) / texts.len());
}
