//! Builds an index: sorts the filters into shapes, gives the most frequent ones a table each, and the rest to the trie.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::shape::Shape;
use super::store::Store;
use super::table::Table;
use super::trie::Trie;
use super::{FilterSet, SHAPES_MAX};
use crate::Filter;
use crate::pattern::canonical;

/// A shape while the filters are being counted.
struct Counted {
    shape: Shape,
    filters: usize,
}

/// Number of a filter's shape (`TRIE` when it has none) and its key.
type Sorted = (u32, u64);
const TRIE: u32 = u32::MAX;

pub(super) fn build(filters: &[(&Filter, u32)]) -> FilterSet {
    let (counted, sorted) = sort(filters);
    let mut order: Vec<usize> = (0..counted.len()).collect();
    order.sort_by_key(|shape| std::cmp::Reverse(counted[*shape].filters));
    order.truncate(SHAPES_MAX);
    let mut table_of = vec![None; counted.len()];
    let mut shapes = Vec::with_capacity(order.len());
    for shape in order {
        table_of[shape] = Some(shapes.len());
        shapes.push((counted[shape].shape, Table::new(counted[shape].filters)));
    }

    let has_table = |shape: u32| table_of.get(shape as usize).copied().flatten();
    let in_tables = || filters.iter().zip(&sorted).filter(|(_, (shape, _))| has_table(*shape).is_some());
    let text_bytes = in_tables().map(|((filter, _), _)| filter.as_str().len()).sum();
    let (mut store, mut trie) = (Store::with_capacity(in_tables().count(), text_bytes), Trie::default());
    let mut tokens = Vec::new();
    for ((filter, id), (shape, key)) in filters.iter().zip(&sorted) {
        let text = filter.as_str().as_bytes();
        let tabled = has_table(*shape).and_then(|table| shapes[table].1.insert(*key, text, *id, &mut store));
        if tabled.is_none() {
            canonical(text, &mut tokens);
            trie.insert(&tokens, *id);
        }
    }
    let has_backs = shapes.iter().any(|(shape, _)| shape.has_back());
    FilterSet { shapes, store, trie, len: filters.len(), has_backs }
}

fn sort(filters: &[(&Filter, u32)]) -> (Vec<Counted>, Vec<Sorted>) {
    let mut numbers: HashMap<Shape, u32, FixedState> = HashMap::default();
    let (mut counted, mut sorted) = (Vec::new(), Vec::with_capacity(filters.len()));
    let mut tokens = Vec::new();
    for (filter, _) in filters {
        canonical(filter.as_str().as_bytes(), &mut tokens);
        let Some((shape, key)) = Shape::of(&tokens) else {
            sorted.push((TRIE, 0));
            continue;
        };
        let number = *numbers.entry(shape).or_insert_with(|| {
            counted.push(Counted { shape, filters: 0 });
            u32::try_from(counted.len() - 1).unwrap_or(TRIE)
        });
        if let Some(counted) = counted.get_mut(number as usize) {
            counted.filters += 1;
        }
        sorted.push((number, key));
    }
    (counted, sorted)
}
