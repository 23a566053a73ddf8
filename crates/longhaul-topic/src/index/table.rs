//! The filters of one shape: an open-addressing table from a key to a record of the store.
//!
//! ```text
//! slot u64 = tag u32 (lower half of the key) | record u32        EMPTY when the record is NONE
//! ```
//! The upper half of the key chooses the first slot; half of the slots are empty, so a probe ends after 2.5 of them on average,
//! nearly always in one cache line.

use super::store::{NONE, Store};

const EMPTY: u64 = NONE as u64;
const SLOTS_PER_FILTER: usize = 2;

/// An immutable table once it is built.
#[derive(Debug, Clone)]
pub(super) struct Table {
    slots: Vec<u64>,
}

impl Table {
    /// A table that has room for so many filters.
    pub(super) fn new(filters: usize) -> Self {
        Self { slots: vec![EMPTY; (filters * SLOTS_PER_FILTER).max(2)] }
    }

    /// Adds a filter; one that is there already gets another id. `None` when the store has no room.
    pub(super) fn insert(&mut self, key: u64, text: &[u8], id: u32, store: &mut Store) -> Option<()> {
        let mut at = self.first(key);
        while self.slots[at] != EMPTY {
            if tag(self.slots[at]) == key as u32 && store.text(record(self.slots[at])) == text {
                return store.push_same(record(self.slots[at]), id);
            }
            at = self.after(at);
        }
        self.slots[at] = u64::from(key as u32) << 32 | u64::from(store.push(text, id)?);
        Some(())
    }

    /// The heads of all chains whose filter takes the topic: one, or several when filters of different text mean the same.
    pub(super) fn heads<'a>(&'a self, key: u64, store: &'a Store, topic: &'a [u8]) -> impl Iterator<Item = u32> + 'a {
        self.candidates(self.first(key), key).map(|(_, record)| record).filter(move |head| store.matches(*head, topic))
    }

    /// The records from that slot on that may be of that key, each with its slot.
    pub(super) fn candidates(&self, first: usize, key: u64) -> impl Iterator<Item = (usize, u32)> + '_ {
        let mut at = first;
        std::iter::from_fn(move || {
            loop {
                let (slot, here) = (self.slots[at], at);
                if slot == EMPTY {
                    return None;
                }
                at = self.after(at);
                if tag(slot) == key as u32 {
                    return Some((here, record(slot)));
                }
            }
        })
    }

    /// The first slot to look at for a key: its share of the table, so that any number of slots will do.
    pub(super) fn first(&self, key: u64) -> usize {
        ((u128::from(key) * self.slots.len() as u128) >> 64) as usize
    }

    pub(super) fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    /// Whether the slot is empty; asking also brings it into the cache.
    pub(super) fn is_empty_at(&self, at: usize) -> bool {
        self.slots[at] == EMPTY
    }

    pub(super) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u64>()
    }
}

fn tag(slot: u64) -> u32 {
    (slot >> 32) as u32
}

fn record(slot: u64) -> u32 {
    slot as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collision_of_whole_keys_gives_no_wrong_answer() {
        for key in [0, 7, u64::MAX] {
            let (mut table, mut store) = (Table::new(3), Store::default());
            for (id, text) in ["a.b", "a.c", "a.b"].into_iter().enumerate() {
                table.insert(key, text.as_bytes(), id as u32, &mut store).unwrap();
            }
            let ids = |topic: &str| {
                let mut ids = Vec::new();
                for head in table.heads(key, &store, topic.as_bytes()) {
                    store.for_each_id(head, &mut |id| ids.push(id));
                }
                ids
            };
            assert_eq!((ids("a.b"), ids("a.c"), ids("a.d")), (vec![0, 2], vec![1], vec![]));
        }
    }
}
