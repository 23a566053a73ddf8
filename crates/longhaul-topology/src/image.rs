//! What a template makes of the topics that a filter takes.
//!
//! Exact for `{topic}`, for prefixes and for suffixes, whether they are whole tokens (`eu.{topic}`) or parts of one
//! (`eu-{topic}`); a superset for the rest: the key and headers of an event can be anything.

use crate::pattern::{Pattern, Token};
use crate::{Part, Template};

/// A piece of the text that a template renders.
#[derive(Debug, Clone, PartialEq)]
enum Atom {
    /// Known text without a dot.
    Text(String),
    /// What separates tokens.
    Dot,
    /// Unknown text without a dot, perhaps empty.
    One,
    /// Unknown text, perhaps with dots, perhaps empty.
    Many,
    /// Zero tokens or more, where it stands alone between dots.
    Rest,
}

/// More variants than that are folded into one that is wider.
const VARIANTS_MAX: usize = 16;

/// The topics that come out. Empty when the template can be rendered for no topic of the pattern, as `{topic[3]}` for `a.*`.
pub(crate) fn image(source: &Pattern, template: &Template, region: &str, broker: &str) -> Vec<Pattern> {
    let parts = template.parts();
    let mut texts: Vec<Vec<Atom>> = vec![Vec::new()];
    for (at, part) in parts.iter().enumerate() {
        let glued_left = at > 0 && !ends_at_dot(&parts[at - 1], false);
        let glued_right = at + 1 < parts.len() && !ends_at_dot(&parts[at + 1], true);
        let choices = match part {
            Part::Literal(text) => vec![literal(text)],
            Part::Region => vec![literal(region)],
            Part::Broker => vec![literal(broker)],
            Part::Key | Part::Header(_) => vec![vec![Atom::Many]],
            Part::Token(index) => one_token(source, *index),
            Part::Topic => spread(&source.0, glued_left, glued_right),
            Part::TokensFrom(index) => match tail(source, *index) {
                Tail::None => Vec::new(),
                Tail::Known(tokens) => spread(tokens, glued_left, glued_right),
                Tail::Unknown => vec![vec![Atom::Many]],
            },
        };
        texts = texts.iter().flat_map(|text| choices.iter().map(|choice| [text.as_slice(), choice].concat())).collect();
        if texts.len() > VARIANTS_MAX {
            return vec![Pattern::all()];
        }
    }
    texts.iter().map(|atoms| to_pattern(atoms)).collect()
}

/// Whether the neighbouring part leaves a token boundary on the side that matters (`first`: its beginning).
fn ends_at_dot(part: &Part, first: bool) -> bool {
    match part {
        Part::Literal(text) if first => text.starts_with('.'),
        Part::Literal(text) => text.ends_with('.'),
        _ => false,
    }
}

fn literal(text: &str) -> Vec<Atom> {
    let mut atoms = Vec::new();
    for (at, piece) in text.split('.').enumerate() {
        if at > 0 {
            atoms.push(Atom::Dot);
        }
        if !piece.is_empty() {
            atoms.push(Atom::Text(piece.to_owned()));
        }
    }
    atoms
}

fn one_token(source: &Pattern, index: usize) -> Vec<Vec<Atom>> {
    let before = &source.0[..source.0.len().min(index + 1)];
    if before.contains(&Token::Rest) {
        return vec![vec![Atom::One]];
    }
    source.0.get(index).map(token_atoms).into_iter().collect()
}

enum Tail<'a> {
    None,
    Known(&'a [Token]),
    Unknown,
}

/// What is left of the source from that token on.
fn tail(source: &Pattern, index: usize) -> Tail<'_> {
    if source.0[..source.0.len().min(index)].contains(&Token::Rest) {
        Tail::Unknown
    } else {
        source.0.get(index..).filter(|tokens| !tokens.is_empty()).map_or(Tail::None, Tail::Known)
    }
}

fn token_atoms(token: &Token) -> Vec<Atom> {
    match token {
        Token::Literal(text) => vec![Atom::Text(text.clone())],
        Token::Glob(prefix, suffix) => vec![Atom::Text(prefix.clone()), Atom::One, Atom::Text(suffix.clone())],
        Token::Rest => vec![Atom::Rest],
    }
}

/// Tokens as text. A `Rest` that touches text of the template stands for "no token" or "one token or more": two choices.
fn spread(tokens: &[Token], glued_left: bool, glued_right: bool) -> Vec<Vec<Atom>> {
    let mut choices = vec![tokens.to_vec()];
    if glued_left && tokens.first() == Some(&Token::Rest) {
        choices = vec![tokens[1..].to_vec(), [&[Token::any()], tokens].concat()];
    }
    if glued_right {
        choices = choices
            .into_iter()
            .flat_map(|tokens| match tokens.split_last() {
                Some((Token::Rest, front)) => vec![front.to_vec(), [tokens.as_slice(), &[Token::any()]].concat()],
                _ => vec![tokens],
            })
            .collect();
    }
    choices.iter().map(|tokens| tokens.iter().map(token_atoms).collect::<Vec<_>>().join(&Atom::Dot)).collect()
}

fn to_pattern(atoms: &[Atom]) -> Pattern {
    let mut tokens = Vec::new();
    for group in atoms.split(|atom| *atom == Atom::Dot) {
        push_group(&mut tokens, group);
    }
    Pattern(tokens)
}

/// What stands between two dots: one token of the pattern, or more when it may hold dots itself.
fn push_group(tokens: &mut Vec<Token>, group: &[Atom]) {
    let leading: String = group.iter().map_while(known).collect();
    let unknown: Vec<&Atom> = group.iter().filter(|atom| !matches!(atom, Atom::Text(_))).collect();
    if unknown.is_empty() {
        tokens.push(Token::Literal(leading));
        return;
    }
    let trailing: Vec<&str> = group.iter().rev().map_while(known).collect();
    let trailing: String = trailing.into_iter().rev().collect();
    if unknown.iter().all(|atom| **atom == Atom::One) {
        tokens.push(Token::Glob(leading, trailing));
    } else if leading.is_empty() && trailing.is_empty() {
        tokens.push(Token::Rest);
    } else if leading.is_empty() {
        tokens.extend([Token::Rest, Token::Glob(String::new(), trailing)]);
    } else {
        tokens.extend([Token::Glob(leading, String::new()), Token::Rest]);
    }
}

fn known(atom: &Atom) -> Option<&str> {
    match atom {
        Atom::Text(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use longhaul_topic::Filter;
    use proptest::prelude::*;

    use super::*;
    use crate::pattern::tests::{holds, pattern};

    fn of(filter: &str, template: &str) -> Vec<Pattern> {
        image(&pattern(filter), &Template::parse(template).unwrap(), "eu-west", "orders")
    }

    #[test]
    fn whole_tokens_are_exact() {
        for (filter, template, expected) in [
            ("orders.>", "{topic}", "orders.>"),
            ("orders.>", "eu.{topic}", "eu.orders.>"),
            ("orders.*", "{topic}.eu", "orders.*.eu"),
            ("orders.>", "{topic}.eu", "orders.*.#.eu"),
            ("#", "eu.{topic}", "eu.#"),
            ("a.b.c", "{topic[1]}", "b"),
            ("a.*.c", "x.{topic[1]}.y", "x.*.y"),
            ("a.b.>", "{topic[1..]}", "b.>"),
            ("a", "{region}.{broker}.{topic}", "eu-west.orders.a"),
            ("a", "{key}.x", "#.x"),
            ("a", "fixed", "fixed"),
        ] {
            assert_eq!(of(filter, template), [pattern(expected)], "{filter} under {template}");
        }
    }

    #[test]
    fn a_token_that_no_topic_has_makes_nothing() {
        assert!(of("a.*", "x.{topic[2]}").is_empty());
        assert!(of("a.*", "x.{topic[2..]}").is_empty());
        assert!(!of("a.>", "x.{topic[2]}").is_empty());
    }

    fn overlaps(filter: &str, template: &str, other: &str) -> bool {
        of(filter, template).iter().any(|made| made.overlaps(&pattern(other)))
    }

    #[test]
    fn parts_of_tokens_are_exact() {
        assert!(overlaps("*", "eu-{topic}", "eu-orders"));
        assert!(!overlaps("*", "eu-{topic}", "orders"));
        assert!(!overlaps("*", "eu-{topic}", "us-orders"));
        assert!(overlaps("#.x", "eu-{topic}", "eu-x"));
        assert!(overlaps("#.x", "eu-{topic}", "eu-a.x"));
        assert!(!overlaps("#.x", "eu-{topic}", "a.x"));
        assert!(overlaps("a.#", "{topic}-eu", "a-eu"));
        assert!(overlaps("a.#", "{topic}-eu", "a.b-eu"));
        assert!(!overlaps("a.#", "{topic}-eu", "a.b"));
        assert!(!overlaps("a.#", "{topic}-eu", "b-eu"));
    }

    /// The naive renderer that the property compares with; `None` where a token is missing.
    fn render(template: &Template, topic: &[&str], key: &str) -> Option<String> {
        let mut text = String::new();
        for part in template.parts() {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Topic => text.push_str(&topic.join(".")),
                Part::Token(at) => text.push_str(topic.get(*at)?),
                Part::TokensFrom(at) => text.push_str(&topic.get(*at..).filter(|tokens| !tokens.is_empty())?.join(".")),
                Part::Region => text.push_str("eu-west"),
                Part::Broker => text.push_str("orders"),
                Part::Key | Part::Header(_) => text.push_str(key),
            }
        }
        Some(text)
    }

    fn template() -> impl Strategy<Value = Template> {
        let piece = prop_oneof![
            "[ab.-]{1,3}",
            Just("{topic}".to_owned()),
            Just("{topic[1]}".to_owned()),
            Just("{topic[1..]}".to_owned()),
            Just("{key}".to_owned()),
            Just("{region}".to_owned()),
        ];
        proptest::collection::vec(piece, 1..5).prop_map(|pieces| Template::parse(&pieces.concat()).unwrap())
    }

    fn filter() -> impl Strategy<Value = Filter> {
        let token = prop_oneof![Just("a"), Just("b"), Just("*"), Just("#")];
        (proptest::collection::vec(token, 1..4), any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest {
                tokens.push(">");
            }
            Filter::parse(&tokens.join(".")).unwrap()
        })
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_in_the_image(
            filter in filter(),
            template in template(),
            topic in proptest::collection::vec("[ab]{1,2}", 0..5),
            key in "[ab.]{0,4}",
        ) {
            let topic: Vec<&str> = topic.iter().map(String::as_str).collect();
            let source = Pattern::of(&filter);
            if holds(&source.0, &topic) && let Some(made) = render(&template, &topic, &key) {
                let made: Vec<&str> = if made.is_empty() { Vec::new() } else { made.split('.').collect() };
                let image = image(&source, &template, "eu-west", "orders");
                prop_assert!(image.iter().any(|pattern| holds(&pattern.0, &made)), "{:?} is not in {:?}", made, image);
            }
        }
    }
}
