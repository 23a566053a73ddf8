//! The filters that have no table: several `#`, or a rare shape.
//!
//! A trie over canonical tokens, walked with all places at once that the topic may have got to, so that several `#` cost no
//! backtracking: at most nodes times tokens steps.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::pattern::{Token, Tokens};

const ROOT: usize = 0;

/// The trie; without a node when it has no filter.
#[derive(Debug, Clone, Default)]
pub(super) struct Trie {
    nodes: Vec<Node>,
    len: usize,
}

#[derive(Debug, Clone, Default)]
struct Node {
    literals: HashMap<Box<[u8]>, usize, FixedState>,
    one: Option<usize>,
    many: Option<usize>,
    /// Stands behind a `#`: takes any token and stays.
    is_many: bool,
    ids: Vec<u32>,
}

impl Trie {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Adds a filter in canonical form.
    pub(super) fn insert(&mut self, tokens: &[Token<'_>], id: u32) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let mut at = ROOT;
        for token in tokens {
            let new = self.nodes.len();
            let node = &mut self.nodes[at];
            at = match token {
                Token::Literal(text) => match node.literals.get(*text) {
                    Some(child) => *child,
                    None => *node.literals.entry((*text).into()).or_insert(new),
                },
                Token::One => *node.one.get_or_insert(new),
                Token::Many => *node.many.get_or_insert(new),
            };
            if at == new {
                self.nodes.push(Node { is_many: *token == Token::Many, ..Node::default() });
            }
        }
        self.nodes[at].ids.push(id);
        self.len += 1;
    }

    pub(super) fn matches_any(&self, topic: &[u8]) -> bool {
        self.reached(topic).iter().any(|node| !self.nodes[*node].ids.is_empty())
    }

    pub(super) fn for_each_match(&self, topic: &[u8], found: &mut impl FnMut(u32)) {
        for node in self.reached(topic) {
            self.nodes[node].ids.iter().for_each(|id| found(*id));
        }
    }

    /// The nodes where a walk may end, each once.
    fn reached(&self, topic: &[u8]) -> Vec<usize> {
        let (mut here, mut next) = (Vec::new(), Vec::new());
        if self.nodes.is_empty() {
            return here;
        }
        self.enter(ROOT, &mut here);
        for token in Tokens::of(topic) {
            for at in here.drain(..) {
                let node = &self.nodes[at];
                if node.is_many {
                    next.push(at);
                }
                if let Some(child) = node.literals.get(token) {
                    self.enter(*child, &mut next);
                }
                if let Some(child) = node.one {
                    self.enter(child, &mut next);
                }
            }
            // A `#` is reached from before it and by staying in it.
            next.sort_unstable();
            next.dedup();
            std::mem::swap(&mut here, &mut next);
        }
        here
    }

    /// Arrives at a node, and behind the `#` that follows it, which may take nothing.
    fn enter(&self, node: usize, places: &mut Vec<usize>) {
        places.push(node);
        places.extend(self.nodes[node].many);
    }

    /// An estimate from below: what the maps allocate beside their entries is not known.
    pub(super) fn bytes(&self) -> usize {
        let entries: usize =
            self.nodes.iter().map(|node| node.literals.capacity() * size_of::<(Box<[u8]>, usize)>()).sum();
        let literals: usize = self.nodes.iter().flat_map(|node| node.literals.keys()).map(|text| text.len()).sum();
        let ids: usize = self.nodes.iter().map(|node| node.ids.capacity() * size_of::<u32>()).sum();
        self.nodes.capacity() * size_of::<Node>() + entries + literals + ids
    }
}
