//! The shape of a filter: where its literals stand.

use super::hash::{Hashes, at_back, at_front, token_hash};
use crate::pattern::Token;

/// Where the literals of a filter stand, counted from the front up to its `#`, and behind it from the back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    front_len: u8,
    back_len: u8,
    /// Whether there is a `#`, so that longer topics fit too.
    open: bool,
    front_literals: u32,
    back_literals: u32,
}

impl Shape {
    /// The shape of a filter in canonical form and the key of its literals; `None` when it has more than one `#`.
    pub(super) fn of(tokens: &[Token<'_>]) -> Option<(Self, u64)> {
        let many = tokens.iter().position(|token| *token == Token::Many);
        let front = &tokens[..many.unwrap_or(tokens.len())];
        let back = many.map_or(&[][..], |many| &tokens[many + 1..]);
        if back.contains(&Token::Many) {
            return None;
        }
        let (front_literals, front_key) = literals(front.iter(), at_front);
        let (back_literals, back_key) = literals(back.iter().rev(), at_back);
        let shape = Self {
            front_len: length(front),
            back_len: length(back),
            open: many.is_some(),
            front_literals,
            back_literals,
        };
        Some((shape, front_key.wrapping_add(back_key)))
    }

    /// Whether a topic of so many tokens can match a filter of this shape.
    pub(super) fn fits(&self, count: usize) -> bool {
        let fixed = usize::from(self.front_len) + usize::from(self.back_len);
        count == fixed || (self.open && count > fixed)
    }

    /// The key of a topic: of those of its tokens that stand where the literals of this shape do.
    pub(super) fn key(&self, hashes: &Hashes) -> u64 {
        sum(self.front_literals, &hashes.front).wrapping_add(sum(self.back_literals, &hashes.back))
    }

    /// Whether the key looks at tokens from the back.
    pub(super) fn has_back(&self) -> bool {
        self.back_literals != 0
    }
}

fn literals<'a>(tokens: impl Iterator<Item = &'a Token<'a>>, at: fn(u64, usize) -> u64) -> (u32, u64) {
    let (mut places, mut key) = (0, 0_u64);
    for (place, token) in tokens.enumerate() {
        if let Token::Literal(token) = token {
            places |= 1 << place;
            key = key.wrapping_add(at(token_hash(token), place));
        }
    }
    (places, key)
}

fn length(tokens: &[Token<'_>]) -> u8 {
    u8::try_from(tokens.len()).expect("a filter has at most 32 tokens")
}

fn sum(mut places: u32, hashes: &[u64; 32]) -> u64 {
    let mut key = 0_u64;
    while places != 0 {
        key = key.wrapping_add(hashes[places.trailing_zeros() as usize]);
        places &= places - 1;
    }
    key
}
