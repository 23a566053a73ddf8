//! An index over many filters: which of them take this topic?
//!
//! Tuple-space search. The *shape* of a filter is where its literals stand; all filters of one shape share one open-addressing
//! table whose key is a hash of those literals with their places. A topic is hashed once and then costs one probe for each shape,
//! independent of the number of filters; the probes do not depend on each other, so the processor overlaps their cache misses, and
//! [`FilterSet::for_each_match_batch`] overlaps them over 32 topics. A `#` has a shape too as long as it is the only one: its front
//! is counted from the first token and its back from the last.
//!
//! A probe that hits is verified against the filter's text: a collision costs time, never a wrong answer.
//! What has more than one `#`, a shape beyond the [`SHAPES_MAX`] most frequent ones, or no room in the 4 GiB that a table can point
//! into, stands in a trie.

mod batch;
mod build;
mod hash;
mod shape;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod trie;

use crate::{Filter, Topic};
use hash::Hashes;
use shape::Shape;
use store::Store;
use table::Table;
use trie::Trie;

/// Most shapes that have a table, and so the most probes that a topic costs.
pub const SHAPES_MAX: usize = 64;

/// An immutable index of filters, each with a number. Equal filters may come several times.
#[derive(Debug, Clone, Default)]
pub struct FilterSet {
    shapes: Vec<(Shape, Table)>,
    store: Store,
    trie: Trie,
    len: usize,
    has_backs: bool,
}

impl FilterSet {
    /// An index of filters that are numbered in order, from 0.
    #[must_use]
    pub fn new<'a>(filters: impl IntoIterator<Item = &'a Filter>) -> Self {
        Self::with_ids(filters.into_iter().zip(0..))
    }

    /// An index of filters with numbers of the caller's, which need not differ.
    #[must_use]
    pub fn with_ids<'a>(filters: impl IntoIterator<Item = (&'a Filter, u32)>) -> Self {
        build::build(&filters.into_iter().collect::<Vec<_>>())
    }

    /// How many filters there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none, so that nothing matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether at least one filter takes the topic.
    #[must_use]
    pub fn matches_any(&self, topic: &Topic) -> bool {
        let text = topic.bytes();
        let hashes = Hashes::of(text, self.has_backs);
        self.shapes.iter().any(|(shape, table)| {
            shape.fits(hashes.count) && table.heads(shape.key(&hashes), &self.store, text).next().is_some()
        }) || self.trie.matches_any(text)
    }

    /// Calls `found` with the number of every filter that takes the topic, in no particular order.
    pub fn for_each_match(&self, topic: &Topic, mut found: impl FnMut(u32)) {
        let text = topic.bytes();
        let hashes = Hashes::of(text, self.has_backs);
        for (shape, table) in &self.shapes {
            if shape.fits(hashes.count) {
                for head in table.heads(shape.key(&hashes), &self.store, text) {
                    self.store.for_each_id(head, &mut found);
                }
            }
        }
        self.trie.for_each_match(text, &mut found);
    }

    /// Calls `found` with the place of the topic in the batch and the number of a filter that takes it, for all of them, in no
    /// particular order. On an index that is larger than the processor's cache this is faster than one topic at a time.
    pub fn for_each_match_batch<'t>(&self, topics: impl IntoIterator<Item = &'t Topic>, found: impl FnMut(usize, u32)) {
        batch::for_each_match(self, topics, found);
    }

    /// How many tables a topic is looked up in at most.
    #[must_use]
    pub fn shapes(&self) -> usize {
        self.shapes.len()
    }

    /// How many filters stand in the trie because their shape has no table.
    #[must_use]
    pub fn residual(&self) -> usize {
        self.trie.len()
    }

    /// Bytes that the index holds, the texts of its filters included.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let tables: usize = self.shapes.iter().map(|(_, table)| table.bytes()).sum();
        tables + self.shapes.capacity() * size_of::<(Shape, Table)>() + self.store.bytes() + self.trie.bytes()
    }
}
