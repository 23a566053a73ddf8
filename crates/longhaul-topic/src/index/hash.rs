//! Hashes of a topic's tokens, mixed with their places.
//!
//! The hash only chooses where to look; what is found is compared as text. It is stable within a process and nowhere stored.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;

use crate::FILTER_TOKENS_MAX;
use crate::pattern::Tokens;

const SEED: u64 = 0x6c6f_6e67_6861_756c;
/// Odd, so that no two places mix alike.
const FRONT: u64 = 0x9e37_79b9_7f4a_7c15;
const BACK: u64 = 0xd1b5_4a32_d192_ed03;

/// The hashes of one topic.
#[derive(Clone)]
pub(super) struct Hashes {
    /// How many tokens the topic has; may be more than are hashed.
    pub(super) count: usize,
    /// By place from the first token on.
    pub(super) front: [u64; FILTER_TOKENS_MAX],
    /// By place from the last token back; zero unless asked for.
    pub(super) back: [u64; FILTER_TOKENS_MAX],
}

impl Hashes {
    pub(super) const NONE: Self = Self { count: 0, front: [0; FILTER_TOKENS_MAX], back: [0; FILTER_TOKENS_MAX] };

    pub(super) fn of(topic: &[u8], backs: bool) -> Self {
        let mut hashes = Self::NONE;
        hashes.fill(topic, backs);
        hashes
    }

    /// Takes another topic; with `backs` false the hashes from the back stay what they were, and nobody looks at them.
    pub(super) fn fill(&mut self, topic: &[u8], backs: bool) {
        // The last tokens, whichever they turn out to be.
        let mut last = [0; FILTER_TOKENS_MAX];
        let mut count = 0;
        for token in Tokens::of(topic) {
            let hash = token_hash(token);
            if count < FILTER_TOKENS_MAX {
                self.front[count] = at_front(hash, count);
            } else if !backs {
                // No filter looks at a token this far: only that there are more of them matters.
                count += Tokens::of(topic).skip(count).count();
                break;
            }
            last[count % FILTER_TOKENS_MAX] = hash;
            count += 1;
        }
        self.count = count;
        if backs {
            for place in 0..count.min(FILTER_TOKENS_MAX) {
                self.back[place] = at_back(last[(count - 1 - place) % FILTER_TOKENS_MAX], place);
            }
        }
    }
}

pub(super) fn token_hash(token: &[u8]) -> u64 {
    let mut hasher = FixedState::with_seed(SEED).build_hasher();
    hasher.write(token);
    hasher.finish()
}

/// The hash of a token as that place from the front.
pub(super) fn at_front(hash: u64, place: usize) -> u64 {
    mix(hash, place, FRONT)
}

/// The hash of a token as that place from the back.
pub(super) fn at_back(hash: u64, place: usize) -> u64 {
    mix(hash, place, BACK)
}

/// The sum of mixed hashes is the key of a table, so every bit of the hash must reach the upper and the lower half.
fn mix(hash: u64, place: usize, salt: u64) -> u64 {
    let salted = hash ^ salt.wrapping_mul(2 * place as u64 + 1);
    let wide = u128::from(salted) * u128::from(salt);
    (wide as u64) ^ (wide >> 64) as u64
}
