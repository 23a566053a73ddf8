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
    /// Whether the coordinator no longer knows of what is owned, and has not decided again.
    held: bool,
    floors: BTreeMap<(String, i32), Mark>,
}

/// How far a partition is delivered.
struct Mark {
    next: u64,
    /// Whether that was not committed yet, as far as we know.
    due: bool,
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

    /// These were given to us: beside what is ours, or instead of what was only held.
    pub(crate) fn add(&self, given: &[(String, i32)]) {
        let mut state = self.state();
        if std::mem::take(&mut state.held) {
            state.owned = Arc::default();
        }
        // What was sent around a meeting of the group may have been refused.
        state.floors.values_mut().for_each(|mark| mark.due = true);
        let owned = Arc::make_mut(&mut state.owned);
        for (topic, partition) in given {
            owned.entry(topic.clone()).or_default().insert(*partition);
        }
        let State { owned, floors, .. } = &mut *state;
        floors.retain(|(topic, partition), _| owned.get(topic).is_some_and(|ours| ours.contains(partition)));
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
        let marks = taken.iter().filter_map(|key| state.floors.remove_entry(key));
        marks.filter(|(_, mark)| mark.due).map(|((topic, partition), mark)| (topic, partition, mark.next)).collect()
    }

    /// What is ours stays ours until the coordinator decides again.
    pub(crate) fn hold(&self) {
        self.state().held = true;
    }

    /// Nothing is ours any more.
    pub(crate) fn clear(&self) {
        *self.state() = State::default();
    }

    /// Everything before `next` is delivered.
    pub(crate) fn release(&self, address: &(String, i32), next: u64) {
        let mut state = self.state();
        if state.owns(&address.0, address.1) {
            state.floors.insert(address.clone(), Mark { next, due: true });
        }
    }

    /// The floors that are to be committed: those that are due, or all of them. None while the coordinator does not know us.
    pub(crate) fn take_due(&self, all: bool) -> Vec<Floor> {
        let mut state = self.state();
        if state.held {
            return Vec::new();
        }
        let due = |((topic, partition), mark): (&(String, i32), &mut Mark)| {
            let wanted = std::mem::take(&mut mark.due) || all;
            wanted.then(|| (topic.clone(), *partition, mark.next))
        };
        state.floors.iter_mut().filter_map(due).collect()
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
        assert_eq!(ownership.take_due(true), []);
        ownership.add(&[at(0), at(1), at(2)]);
        ownership.release(&at(2), 1);
        assert_eq!(ownership.take_due(false), [floor(2, 1)]);
        ownership.release(&at(0), 5);
        ownership.release(&at(0), 6);
        ownership.release(&at(1), 9);
        assert_eq!(ownership.remove(&[at(1), at(2), at(7)]), [floor(1, 9)], "the last floor of what is given up");
        assert_eq!(ownership.owned().get("t"), Some(&BTreeSet::from([0])));
        ownership.release(&at(1), 10);
        assert_eq!(ownership.take_due(false), [floor(0, 6)]);
        assert_eq!(ownership.take_due(false), []);
        ownership.remove(&[at(0)]);
        assert!(ownership.owned().is_empty());
        assert_eq!(ownership.take_due(true), []);
    }

    #[test]
    fn floors_are_due_again_after_a_meeting_and_when_all_are_asked_for() {
        let ownership = Ownership::new();
        ownership.add(&[at(0), at(1)]);
        ownership.release(&at(0), 3);
        ownership.release(&at(1), 8);
        assert_eq!(ownership.take_due(false), [floor(0, 3), floor(1, 8)]);
        assert_eq!(ownership.take_due(true), [floor(0, 3), floor(1, 8)]);
        ownership.add(&[at(2)]);
        assert_eq!(ownership.take_due(false), [floor(0, 3), floor(1, 8)]);
        ownership.clear();
        assert_eq!(ownership.take_due(true), []);
    }

    #[test]
    fn what_is_held_lasts_until_the_next_decision() {
        let ownership = Ownership::new();
        ownership.add(&[at(0), at(1)]);
        ownership.hold();
        ownership.release(&at(0), 5);
        ownership.release(&at(1), 6);
        assert_eq!(ownership.take_due(true), [], "nobody would take them");
        assert_eq!(ownership.owned().get("t"), Some(&BTreeSet::from([0, 1])));
        ownership.add(&[at(1)]);
        assert_eq!(ownership.take_due(false), [floor(1, 6)], "of what is ours again");
        ownership.add(&[at(2)]);
        assert_eq!(ownership.owned().get("t"), Some(&BTreeSet::from([1, 2])), "replaced, then extended");
        ownership.hold();
        ownership.add(&[]);
        assert!(ownership.owned().is_empty());
    }
}
