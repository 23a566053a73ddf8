//! Sets of topics, as the checks reason about them: what a filter takes, what a template makes of it, whether two meet.
//!
//! A filter cannot say "a token that begins with `eu-`", which is what the template `eu-{topic}` makes; so the checks use this
//! slightly richer form. Every answer errs on the side of "yes, they may meet": a set here never lacks a topic of the real one.

use longhaul_topic::Filter;

/// One token of a [`Pattern`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Token {
    /// Exactly this text.
    Literal(String),
    /// One token that begins and ends so, without overlap of the two; both empty: any token.
    Glob(String, String),
    /// Zero tokens or more.
    Rest,
}

/// A set of topics.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Pattern(pub(crate) Vec<Token>);

impl Token {
    pub(crate) const fn any() -> Self {
        Self::Glob(String::new(), String::new())
    }
}

impl Pattern {
    /// Every topic.
    pub(crate) fn all() -> Self {
        Self(vec![Token::Rest])
    }

    /// What a filter takes.
    pub(crate) fn of(filter: &Filter) -> Self {
        let mut tokens = Vec::new();
        for token in filter.as_str().split('.') {
            match token {
                "*" => tokens.push(Token::any()),
                "#" => tokens.push(Token::Rest),
                ">" => tokens.extend([Token::any(), Token::Rest]),
                literal => tokens.push(Token::Literal(literal.to_owned())),
            }
        }
        Self(tokens)
    }

    /// Whether some topic may be in both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (&self.0, &other.0);
        // reachable[j]: the first i tokens of `a` and the first j of `b` can stand for the same tokens of a topic.
        let mut reachable = vec![false; b.len() + 1];
        reachable[0] = true;
        for i in 0..=a.len() {
            let mut next = vec![false; b.len() + 1];
            for j in 0..=b.len() {
                if !reachable[j] {
                    continue;
                }
                if j < b.len() && (b[j] == Token::Rest || a.get(i) == Some(&Token::Rest)) {
                    reachable[j + 1] = true;
                }
                let Some(left) = a.get(i) else { continue };
                if *left == Token::Rest || b.get(j) == Some(&Token::Rest) {
                    next[j] = true;
                }
                if b.get(j).is_some_and(|right| meet_token(left, right).is_some()) {
                    next[j + 1] = true;
                }
            }
            if i < a.len() {
                reachable = next;
            }
        }
        reachable[b.len()]
    }

    /// A set that holds every topic that is in both; `None` when there is none.
    pub(crate) fn meet(&self, other: &Self) -> Option<Self> {
        if !self.overlaps(other) {
            return None;
        }
        let mut met = Vec::new();
        let (mut left, mut right) = (self.0.as_slice(), other.0.as_slice());
        loop {
            match (left, right) {
                // What a `Rest` leaves open is at most what the other side still asks for.
                ([Token::Rest, ..], rest) | (rest, [Token::Rest, ..]) => {
                    met.extend_from_slice(rest);
                    return Some(Self(met));
                }
                ([a, a_rest @ ..], [b, b_rest @ ..]) => {
                    met.push(meet_token(a, b)?);
                    (left, right) = (a_rest, b_rest);
                }
                _ => return Some(Self(met)),
            }
        }
    }
}

/// The tokens that are in both; `None` when there are none. `Rest` meets nothing here: it is no single token.
fn meet_token(a: &Token, b: &Token) -> Option<Token> {
    match (a, b) {
        (Token::Literal(a), Token::Literal(b)) => (a == b).then(|| Token::Literal(a.clone())),
        (Token::Literal(text), Token::Glob(prefix, suffix)) | (Token::Glob(prefix, suffix), Token::Literal(text)) => {
            let fits = text.len() >= prefix.len() + suffix.len() && text.starts_with(prefix) && text.ends_with(suffix);
            fits.then(|| Token::Literal(text.clone()))
        }
        (Token::Glob(p, s), Token::Glob(q, t)) => {
            let prefix = longer(p, q, str::starts_with)?;
            let suffix = longer(s, t, str::ends_with)?;
            Some(Token::Glob(prefix.to_owned(), suffix.to_owned()))
        }
        _ => None,
    }
}

fn longer<'a>(a: &'a str, b: &'a str, contains: fn(&'a str, &'a str) -> bool) -> Option<&'a str> {
    if contains(a, b) {
        Some(a)
    } else if contains(b, a) {
        Some(b)
    } else {
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn pattern(text: &str) -> Pattern {
        Pattern::of(&Filter::parse(text).unwrap())
    }

    /// The naive matcher that the properties compare with.
    pub(crate) fn holds(pattern: &[Token], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            ([Token::Rest, rest @ ..], _) => (0..=topic.len()).any(|skip| holds(rest, &topic[skip..])),
            ([token, rest @ ..], [first, others @ ..]) => {
                meet_token(token, &Token::Literal((*first).to_owned())).is_some() && holds(rest, others)
            }
            _ => false,
        }
    }

    #[test]
    fn overlap_is_as_filters_say() {
        for (a, b, expected) in [
            ("orders.>", "orders.>", true),
            ("orders.>", "orders", false),
            ("orders.#", "orders", true),
            ("*.eu", "orders.*", true),
            ("orders.>", "eu.>", false),
            ("#.x", "a.#", true),
            ("a.#.b", "a.b", true),
            ("a.#.b", "a.c", false),
            ("#", "#", true),
            ("*", "a.b", false),
            (">", "a.b.c", true),
        ] {
            assert_eq!(pattern(a).overlaps(&pattern(b)), expected, "{a} and {b}");
            assert_eq!(pattern(b).overlaps(&pattern(a)), expected, "{b} and {a}");
        }
    }

    #[test]
    fn globs_meet_where_a_token_fits_both() {
        let glob = |p: &str, s: &str| Pattern(vec![Token::Glob(p.to_owned(), s.to_owned())]);
        assert!(glob("eu-", "").overlaps(&glob("", "-x")));
        assert!(!glob("eu-", "").overlaps(&glob("us-", "")));
        assert!(glob("eu-", "").overlaps(&pattern("eu-orders")));
        assert!(!glob("eu-", "").overlaps(&pattern("orders")));
        assert!(!glob("aa", "aa").overlaps(&pattern("aaa")));
    }

    fn token() -> impl Strategy<Value = Token> {
        prop_oneof![
            "[ab]{1,2}".prop_map(Token::Literal),
            ("[ab]{0,1}", "[ab]{0,1}").prop_map(|(p, s)| Token::Glob(p, s)),
            Just(Token::Rest),
        ]
    }

    fn any_pattern() -> impl Strategy<Value = Pattern> {
        proptest::collection::vec(token(), 0..4).prop_map(Pattern)
    }

    proptest! {
        #[test]
        fn a_topic_in_both_means_they_overlap_and_is_in_their_meet(
            a in any_pattern(),
            b in any_pattern(),
            topic in proptest::collection::vec("[ab]{1,3}", 0..5),
        ) {
            let topic: Vec<&str> = topic.iter().map(String::as_str).collect();
            if holds(&a.0, &topic) && holds(&b.0, &topic) {
                prop_assert!(a.overlaps(&b));
                let met = a.meet(&b).expect("they overlap");
                prop_assert!(holds(&met.0, &topic), "{:?} is not in {:?}", topic, met);
            }
        }

        /// Exact the other way round too: two patterns that overlap share a topic of at most so many tokens.
        #[test]
        fn overlap_has_a_witness(a in any_pattern(), b in any_pattern()) {
            let words = ["a", "b", "aa", "ab", "ba", "bb", "aba", "aab", "abb", "bab", "baa", "bba"];
            let mut found = holds(&a.0, &[]) && holds(&b.0, &[]);
            let mut topics: Vec<Vec<&str>> = vec![vec![]];
            for _ in 0..3 {
                topics = topics.iter().flat_map(|t| words.iter().map(|w| [t.as_slice(), &[*w]].concat())).collect();
                found = found || topics.iter().any(|t| holds(&a.0, t) && holds(&b.0, t));
                if found { break; }
            }
            // Two patterns of three tokens each may need up to six; only the direction that three can decide is asserted.
            if found { prop_assert!(a.overlaps(&b)); }
            if a.0.len().max(b.0.len()) <= 1 { prop_assert_eq!(a.overlaps(&b), found); }
        }
    }
}
