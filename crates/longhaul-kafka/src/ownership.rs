//! Which partitions this router owns, how far they are delivered, and what stands in the way of owning any.
//!
//! A value with a lock; `member` changes it by what the cluster's group coordinator says, sources read it. A floor is only taken for a
//! partition that is owned: what comes late for one that was given up is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Partitions by topic.
pub(crate) type Partitions = BTreeMap<String, BTreeSet<i32>>;
/// The next offset to read of a partition: everything before it is delivered.
pub(crate) type Floor = (String, i32, u64);

/// What this router owns of one cluster.
pub(crate) struct Ownership {
    state: Mutex<State>,
    ending: AtomicBool,
    ended: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    owned: Arc<Partitions>,
    /// Floors that are not committed yet.
    due: BTreeMap<(String, i32), u64>,
}

impl State {
    fn owns(&self, topic: &str, partition: i32) -> bool {
        self.owned.get(topic).is_some_and(|partitions| partitions.contains(&partition))
    }
}

impl Ownership {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), ending: AtomicBool::new(false), ended: watch::Sender::new(false) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is owned now.
    pub(crate) fn owned(&self) -> Arc<Partitions> {
        Arc::clone(&self.state().owned)
    }

    /// These were given to us.
    pub(crate) fn add(&self, given: &[(String, i32)]) {
        let mut state = self.state();
        let owned = Arc::make_mut(&mut state.owned);
        for (topic, partition) in given {
            owned.entry(topic.clone()).or_default().insert(*partition);
        }
    }

    /// These are no longer ours; returns the floors of them that were still to be committed.
    pub(crate) fn remove(&self, taken: &[(String, i32)]) -> Vec<Floor> {
        let mut state = self.state();
        let owned = Arc::make_mut(&mut state.owned);
        for (topic, partition) in taken {
            if let Some(partitions) = owned.get_mut(topic) {
                partitions.remove(partition);
            }
        }
        owned.retain(|_, partitions| !partitions.is_empty());
        let due = &mut state.due;
        taken.iter().filter_map(|key| due.remove(key).map(|next| (key.0.clone(), key.1, next))).collect()
    }

    /// Nothing is ours any more.
    pub(crate) fn clear(&self) {
        *self.state() = State::default();
    }

    /// Everything before `next` is delivered.
    pub(crate) fn release(&self, address: &(String, i32), next: u64) {
        let mut state = self.state();
        if state.owns(&address.0, address.1) {
            state.due.insert(address.clone(), next);
        }
    }

    /// A commit failed: the floor is due again, unless a newer one is.
    pub(crate) fn give_back(&self, (topic, partition, next): Floor) {
        let mut state = self.state();
        if state.owns(&topic, partition) {
            state.due.entry((topic, partition)).or_insert(next);
        }
    }

    /// The floors that are to be committed.
    pub(crate) fn take_due(&self) -> Vec<Floor> {
        let due = std::mem::take(&mut self.state().due);
        due.into_iter().map(|((topic, partition), next)| (topic, partition, next)).collect()
    }

    /// Asks for the membership to end.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// Whether the membership is to end.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// The membership has ended.
    pub(crate) fn set_ended(&self) {
        self.ended.send_replace(true);
    }

    /// Whether the membership has ended.
    pub(crate) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32) -> (String, i32) {
        ("t".to_owned(), partition)
    }

    fn floor(partition: i32, next: u64) -> Floor {
        ("t".to_owned(), partition, next)
    }

    #[test]
    fn floors_of_what_is_not_owned_are_forgotten() {
        let ownership = Ownership::new();
        ownership.release(&at(0), 5);
        assert_eq!(ownership.take_due(), []);
        ownership.add(&[at(0), at(1)]);
        ownership.release(&at(0), 5);
        ownership.release(&at(0), 6);
        ownership.release(&at(1), 9);
        assert_eq!(ownership.remove(&[at(1), at(7)]), [floor(1, 9)], "the last floor of what is given up");
        assert_eq!(ownership.owned().get("t"), Some(&BTreeSet::from([0])));
        ownership.release(&at(1), 10);
        assert_eq!(ownership.take_due(), [floor(0, 6)]);
        assert_eq!(ownership.take_due(), []);
        ownership.remove(&[at(0)]);
        assert!(ownership.owned().is_empty());
    }

    #[test]
    fn a_failed_commit_is_due_again_unless_a_newer_floor_is() {
        let ownership = Ownership::new();
        ownership.add(&[at(0), at(1)]);
        ownership.release(&at(1), 8);
        ownership.give_back(floor(0, 3));
        ownership.give_back(floor(1, 7));
        ownership.give_back(floor(2, 7));
        assert_eq!(ownership.take_due(), [floor(0, 3), floor(1, 8)]);
        ownership.clear();
        ownership.give_back(floor(0, 3));
        assert_eq!(ownership.take_due(), []);
    }
}
