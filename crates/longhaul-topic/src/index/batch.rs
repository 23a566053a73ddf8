//! Matching a batch of topics at once, so that their cache misses overlap.
//!
//! For each shape there are three short loops over the topics: look at the first slot, look at the record that it names, compare.
//! No step of a loop depends on the one before it, so the processor has many loads under way; a single topic would wait for each.

use super::FilterSet;
use super::hash::Hashes;
use super::shape::Shape;
use super::table::Table;
use crate::Topic;

const BATCH_TOPICS: usize = 32;

/// Scratch of one batch.
struct Scratch {
    hashes: Vec<Hashes>,
    /// Topic, key and first slot of those that the shape fits.
    probes: Vec<(usize, u64, usize)>,
    /// Topic, key, slot and record, of those whose first slots name a record.
    candidates: Vec<(usize, u64, usize, u32)>,
}

pub(super) fn for_each_match<'t>(
    set: &FilterSet,
    topics: impl IntoIterator<Item = &'t Topic>,
    mut found: impl FnMut(usize, u32),
) {
    let mut topics = topics.into_iter();
    let mut batch: Vec<&[u8]> = Vec::with_capacity(BATCH_TOPICS);
    let mut scratch = Scratch {
        hashes: Vec::new(),
        probes: Vec::with_capacity(BATCH_TOPICS),
        candidates: Vec::with_capacity(BATCH_TOPICS),
    };
    let mut done = 0;
    loop {
        batch.clear();
        batch.extend(topics.by_ref().take(BATCH_TOPICS).map(|topic| &topic.bytes()[..]));
        if batch.is_empty() {
            return;
        }
        scratch.hashes.resize(batch.len(), Hashes::NONE);
        for (topic, hashes) in batch.iter().zip(&mut scratch.hashes) {
            hashes.fill(topic, set.has_backs);
        }
        for (shape, table) in &set.shapes {
            probe(set, shape, table, &batch, &mut scratch, |topic, id| found(done + topic, id));
        }
        for (topic, text) in batch.iter().enumerate() {
            set.trie.for_each_match(text, &mut |id| found(done + topic, id));
        }
        done += batch.len();
    }
}

fn probe(
    set: &FilterSet,
    shape: &Shape,
    table: &Table,
    batch: &[&[u8]],
    scratch: &mut Scratch,
    mut found: impl FnMut(usize, u32),
) {
    let Scratch { hashes, probes, candidates } = scratch;
    probes.clear();
    for (topic, hashes) in hashes.iter().enumerate().filter(|(_, hashes)| shape.fits(hashes.count)) {
        let key = shape.key(hashes);
        probes.push((topic, key, table.first(key)));
    }
    probes.retain(|(_, _, first)| !table.is_empty_at(*first));

    candidates.clear();
    for (topic, key, first) in probes.iter() {
        if let Some((slot, record)) = table.candidates(*first, *key).next() {
            candidates.push((*topic, *key, slot, record));
        }
    }
    candidates.retain(|(_, _, _, record)| set.store.text_len(*record) > 0);

    for (topic, key, slot, record) in candidates.iter() {
        let others = table.candidates(table.after(*slot), *key).map(|(_, record)| record);
        for head in std::iter::once(*record).chain(others).filter(|head| set.store.matches(*head, batch[*topic])) {
            set.store.for_each_id(head, &mut |id| found(*topic, id));
        }
    }
}
