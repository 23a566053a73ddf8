//! Matching a filter's text against a topic's, and the canonical form that comparing and indexing use.
//!
//! Everything works on bytes: a dot and the wildcards are ASCII, so no UTF-8 sequence can be mistaken for them.
//! Canonical means: `>` is written as `*` and `#`, and within a run of wildcards all `*` stand before at most one `#`.

/// The tokens of a text that are still to come; nothing for the empty text.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a>(Option<&'a [u8]>);

impl<'a> Tokens<'a> {
    pub(crate) fn of(text: &'a [u8]) -> Self {
        Self((!text.is_empty()).then_some(text))
    }

    fn is_empty(self) -> bool {
        self.0.is_none()
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let text = self.0?;
        match text.iter().position(|byte| *byte == b'.') {
            Some(dot) => {
                self.0 = Some(&text[dot + 1..]);
                Some(&text[..dot])
            }
            None => self.0.take(),
        }
    }
}

/// Whether the topic is one that the filter text asks for; at most tokens of the filter times tokens of the topic steps.
pub(crate) fn matches(filter: &[u8], topic: &[u8]) -> bool {
    let (mut pattern, mut rest) = (Tokens::of(filter), Tokens::of(topic));
    // Behind the last `#`: what follows it in the filter, and where in the topic that was last tried. Only the last one needs to be
    // taken back: an earlier `#` that took more could only leave less for it.
    let mut again: Option<(Tokens<'_>, Tokens<'_>)> = None;
    loop {
        let fits = match pattern.next() {
            Some(b"#") => {
                again = Some((pattern, rest));
                true
            }
            Some(b">") => return !rest.is_empty(),
            Some(b"*") => match rest.next() {
                Some(_) => true,
                None => return false,
            },
            Some(literal) => match rest.next() {
                Some(token) => token == literal,
                None => return false,
            },
            None if rest.is_empty() => return true,
            None => false,
        };
        if !fits {
            let Some((behind, tried)) = &mut again else { return false };
            if tried.next().is_none() {
                return false;
            }
            (pattern, rest) = (*behind, *tried);
        }
    }
}

/// A token of the canonical form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// Exactly this one.
    Literal(&'a [u8]),
    /// Any one.
    One,
    /// Any number.
    Many,
}

/// Fills `tokens` with the canonical form of a filter text: at most one more than it has tokens.
pub(crate) fn canonical<'a>(filter: &'a [u8], tokens: &mut Vec<Token<'a>>) {
    tokens.clear();
    for token in Tokens::of(filter) {
        match token {
            b"*" => push_one(tokens),
            b"#" => push_many(tokens),
            b">" => {
                push_one(tokens);
                push_many(tokens);
            }
            literal => tokens.push(Token::Literal(literal)),
        }
    }
}

/// `#` `*` takes what `*` `#` takes.
fn push_one(tokens: &mut Vec<Token<'_>>) {
    match tokens.last_mut() {
        Some(last @ Token::Many) => {
            *last = Token::One;
            tokens.push(Token::Many);
        }
        _ => tokens.push(Token::One),
    }
}

/// `#` `#` takes what `#` takes.
fn push_many(tokens: &mut Vec<Token<'_>>) {
    if tokens.last() != Some(&Token::Many) {
        tokens.push(Token::Many);
    }
}

#[cfg(test)]
mod tests {
    use super::Token::{Literal, Many, One};
    use super::*;

    #[test]
    fn the_canonical_form_puts_one_many_behind_all_ones_of_a_run() {
        for (text, expected) in [
            ("a.>", vec![Literal(b"a"), One, Many]),
            ("#.*.#.*.a", vec![One, One, Many, Literal(b"a")]),
            ("*.#.a.#", vec![One, Many, Literal(b"a"), Many]),
            ("#.>", vec![One, Many]),
            (".", vec![Literal(b""), Literal(b"")]),
        ] {
            let mut tokens = Vec::new();
            canonical(text.as_bytes(), &mut tokens);
            assert_eq!(tokens, expected, "{text}");
        }
    }
}
