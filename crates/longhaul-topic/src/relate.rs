//! How two filters relate: do they share a topic, does one take all that the other takes.
//!
//! Topics are thought of as unbounded in length here: two filters that only share topics beyond the longest one overlap.

use crate::Filter;
use crate::pattern::{Token, canonical};

/// Most sets of states that [`covers`] looks at before it gives up. Filters that people write need fewer than a hundred; only
/// several `#` in both with long runs of `*` between them need more.
const STEPS_MAX: usize = 20_000;

/// What runs of tokens lead to a place, as bits: none at all, one empty token, any other. The second alone is no topic.
type Runs = u8;
const NOTHING: Runs = 1;
const EMPTY: Runs = 2;
const TOPIC: Runs = 4;

/// Whether some topic matches both. Exact.
#[must_use]
pub fn overlaps(a: &Filter, b: &Filter) -> bool {
    let (a, b) = (tokens(a), tokens(b));
    // `reach[j]`: the runs of tokens that both the first i tokens of a and the first j of b take.
    let mut reach = vec![0; b.len() + 1];
    reach[0] = NOTHING;
    skip_many(&b, &mut reach);
    for token in &a {
        let mut next = vec![0; b.len() + 1];
        for j in 0..=b.len() {
            let theirs = j.checked_sub(1).map(|before| b[before]);
            next[j] = match (token, theirs) {
                // Both take nothing, or anything.
                (Token::Many, Some(Token::Many)) => free(reach[j] | next[j - 1]),
                // Nothing, or what the other takes.
                (Token::Many, Some(theirs)) => reach[j] | with(next[j - 1], theirs, theirs),
                (Token::Many, None) => reach[j],
                (ours, Some(Token::Many)) => next[j - 1] | with(reach[j], *ours, *ours),
                (ours, Some(theirs)) => with(reach[j - 1], *ours, theirs),
                (_, None) => 0,
            };
        }
        reach = next;
    }
    reach[b.len()] & TOPIC != 0
}

fn skip_many(b: &[Token<'_>], reach: &mut [Runs]) {
    for j in 0..b.len() {
        if b[j] == Token::Many {
            reach[j + 1] |= reach[j];
        }
    }
}

/// The same runs, and those with more behind them.
fn free(runs: Runs) -> Runs {
    if runs == 0 { 0 } else { runs | TOPIC }
}

/// The runs with one token more, which fits both.
fn with(runs: Runs, a: Token<'_>, b: Token<'_>) -> Runs {
    let literal = match (a, b) {
        (Token::Literal(a), Token::Literal(b)) if a != b => return 0,
        (Token::Literal(literal), _) | (_, Token::Literal(literal)) => Some(literal),
        _ => None,
    };
    match literal {
        _ if runs == 0 => 0,
        Some([]) if runs == NOTHING => EMPTY,
        Some([]) => {
            if runs & NOTHING == 0 {
                TOPIC
            } else {
                EMPTY | TOPIC
            }
        }
        _ => TOPIC,
    }
}

/// Whether every topic that matches `b` also matches `a`.
///
/// A `true` is always right. A `false` is right unless it would take more than a fixed number of steps to prove the opposite, which
/// needs several `#` and long runs of `*` in both.
#[must_use]
pub fn covers(a: &Filter, b: &Filter) -> bool {
    let (a, b) = (tokens(a), tokens(b));
    // Walk through all topics of b, keeping the set of places in a where that topic may have got to. A token that b leaves open is
    // worst for a when it is none of a's literals, so only that one is tried. Where b may repeat, the walk branches.
    let mut seen: Vec<Vec<u64>> = vec![Vec::new(); b.len() + 1];
    let mut open = vec![(0, closure(&a, 1), NOTHING)];
    let mut steps = 0;
    while let Some((at, places, run)) = open.pop() {
        steps += 1;
        if places == 0 || steps > STEPS_MAX {
            return false;
        }
        // A set that holds another one is no harder to get through; one that was reached by no topic proves nothing about others.
        if seen[at].iter().any(|smaller| smaller & places == *smaller) {
            continue;
        }
        if run == TOPIC {
            seen[at].push(places);
        }
        match b.get(at) {
            None if run != EMPTY && places >> a.len() & 1 == 0 => return false,
            None => {}
            Some(Token::Many) => {
                open.push((at + 1, places, run));
                open.push((at, step(&a, places, None), TOPIC));
            }
            Some(Token::One) => open.push((at + 1, step(&a, places, None), TOPIC)),
            Some(Token::Literal(token)) => {
                open.push((at + 1, step(&a, places, Some(token)), with(run, Token::Literal(token), Token::One)));
            }
        }
    }
    true
}

/// Adds the places behind every `#` that may take nothing.
fn closure(a: &[Token<'_>], mut places: u64) -> u64 {
    for (i, token) in a.iter().enumerate() {
        if *token == Token::Many && places >> i & 1 == 1 {
            places |= 1 << (i + 1);
        }
    }
    places
}

/// Where one more token leads; `None` is a token that is no literal of `a`.
fn step(a: &[Token<'_>], places: u64, token: Option<&[u8]>) -> u64 {
    let mut next = 0;
    for (i, expected) in a.iter().enumerate().filter(|(i, _)| places >> i & 1 == 1) {
        next |= match expected {
            Token::Many => 1 << i,
            Token::One => 1 << (i + 1),
            Token::Literal(literal) if Some(*literal) == token => 1 << (i + 1),
            Token::Literal(_) => 0,
        };
    }
    // Whoever stands at a later `#` can still take what anyone before it could: earlier places add nothing.
    let last_many =
        a.iter().enumerate().filter(|(i, t)| **t == Token::Many && next >> i & 1 == 1).map(|(i, _)| i).next_back();
    closure(a, last_many.map_or(next, |i| next & (u64::MAX << i)))
}

fn tokens(filter: &Filter) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    canonical(filter.as_str().as_bytes(), &mut tokens);
    tokens
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{filter_text, naive_matches};

    fn filter(text: &str) -> Filter {
        Filter::parse(text).unwrap()
    }

    /// Every topic of up to `len_max` tokens over x, y, the empty token and one that no filter names.
    fn topics(len_max: usize) -> Vec<String> {
        let mut all = vec![String::new()];
        let mut longest: Vec<Vec<&str>> = vec![Vec::new()];
        for _ in 0..len_max {
            longest = longest
                .iter()
                .flat_map(|topic| ["x", "y", "", "new"].map(|token| topic.iter().copied().chain([token]).collect()))
                .collect();
            // One empty token alone reads as the topic without tokens, which is there already.
            all.extend(longest.iter().filter(|topic| topic.as_slice() != [""]).map(|topic| topic.join(".")));
        }
        all
    }

    /// Topics of a filter: every `*` is a token that no filter names, every `#` is zero to seven of them.
    fn instances(filter: &Filter) -> Vec<String> {
        let mut all: Vec<Vec<&str>> = vec![Vec::new()];
        for token in tokens(filter) {
            let choices = match token {
                Token::Literal(token) => vec![vec![std::str::from_utf8(token).unwrap()]],
                Token::One => vec![vec!["new"]],
                Token::Many => (0..=7).map(|count| vec!["new"; count]).collect(),
            };
            all = all.iter().flat_map(|head| choices.iter().map(move |tail| [&head[..], tail].concat())).collect();
        }
        all.retain(|topic| topic.as_slice() != [""]);
        all.iter().map(|topic| topic.join(".")).collect()
    }

    #[test]
    fn overlaps_in_words() {
        for (a, b, expected) in [
            ("orders.>", "orders.eu.*", true),
            ("orders.*", "orders.eu.*", false),
            ("*.eu", "orders.*", true),
            ("#.eu", "orders.#", true),
            ("a.#.z", "a.b", false),
            ("a.#", ">", true),
            ("#", "#", true),
            ("#.a.#", "#.b.#", true),
            ("a", "b", false),
            // All that they share is one empty token, which is no topic.
            ("#.", "*", false),
            ("#.", ".#", true),
            ("#.", "*.*", true),
            ("*.", "#.", true),
        ] {
            assert_eq!(overlaps(&filter(a), &filter(b)), expected, "{a} {b}");
        }
    }

    #[test]
    fn covers_in_words() {
        for (a, b, expected) in [
            ("orders.>", "orders.eu.*", true),
            ("orders.>", "orders", false),
            ("orders.#", "orders", true),
            ("#", ">", true),
            (">", "#", false),
            ("*.#", ">", true),
            ("#.x", "#.x.x", true),
            ("#.x.x", "#.x", false),
            ("x.#.x", "x", false),
            ("#.x.#", "*.x.>", true),
            (".>", ".#", true),
            ("#.", ".#", false),
            ("#.x", "#.", false),
        ] {
            assert_eq!(covers(&filter(a), &filter(b)), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_hardest_filters_end_within_the_bound() {
        let stars = ["*"; 20].join(".");
        let hard = filter(&format!("#.x.{stars}"));
        assert!(covers(&hard, &hard));
        let twice = filter(&format!("#.x.{}.#.x.{}", ["*"; 12].join("."), ["*"; 12].join(".")));
        assert!(covers(&twice, &twice) && covers(&filter("#"), &twice) && !covers(&twice, &filter("#")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn overlaps_is_exact(a in filter_text(3), b in filter_text(3)) {
            // Two filters of three tokens (four with `>`) that overlap share a topic of at most six tokens.
            let shared = topics(6).into_iter().find(|topic| naive_matches(&a, topic) && naive_matches(&b, topic));
            prop_assert_eq!(overlaps(&filter(&a), &filter(&b)), shared.is_some(), "{:?}", shared);
            prop_assert_eq!(overlaps(&filter(&b), &filter(&a)), shared.is_some());
        }

        #[test]
        fn covers_is_exact(a in filter_text(3), b in filter_text(3)) {
            let outside = topics(6).into_iter().find(|topic| naive_matches(&b, topic) && !naive_matches(&a, topic));
            prop_assert_eq!(covers(&filter(&a), &filter(&b)), outside.is_none(), "{:?}", outside);
        }

        #[test]
        fn covers_of_longer_filters_agrees_with_every_instance(a in filter_text(5), b in filter_text(5)) {
            let (a, b) = (filter(&a), filter(&b));
            prop_assume!(tokens(&b).iter().filter(|token| **token == Token::Many).count() <= 2);
            let outside = instances(&b).into_iter().find(|topic| !naive_matches(a.as_str(), topic));
            prop_assert_eq!(covers(&a, &b), outside.is_none(), "{:?}", outside);
        }

        #[test]
        fn covering_filters_cover_themselves_and_overlap(a in filter_text(8), b in filter_text(8)) {
            let (a, b) = (filter(&a), filter(&b));
            prop_assert!(covers(&a, &a) && covers(&filter("#"), &a) && overlaps(&a, &a));
            prop_assert!(!covers(&a, &b) || overlaps(&a, &b));
        }
    }
}
