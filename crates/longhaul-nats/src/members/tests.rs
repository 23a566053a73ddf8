//! Histories with the time as an argument.

use super::*;

const NO: u64 = 0;
const S: u64 = 7;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn serves(sources: &[u64]) -> BTreeSet<u64> {
    sources.iter().copied().collect()
}

fn record(life: &str) -> Option<Record> {
    Some(Record { life: life.to_owned(), serves: serves(&[S]) })
}

/// One router with its clock; `beat` stands for a look at nothing new, and a record that is stored at once.
struct Router {
    members: Members,
    zero: Instant,
    revision: u64,
}

impl Router {
    fn new(name: &str) -> Self {
        Self { members: Members::new(name, "mine"), zero: Instant::now(), revision: 1000 }
    }

    fn at(&self, millis: u64) -> Instant {
        self.zero + ms(millis)
    }

    fn hear(&mut self, at: u64, name: &str, revision: u64, record: Option<Record>) {
        self.members.heard(name, revision, record, self.at(at));
    }

    fn look(&mut self, at: u64) {
        self.members.watched(self.at(at));
    }

    fn beat(&mut self, at: u64) {
        self.revision += 1;
        let now = self.at(at);
        self.members.renewed(self.revision, &serves(&[S]), now, now);
    }

    /// Looks and beats every half second from one moment to another, both included.
    fn go_on(&mut self, from: u64, to: u64) {
        for at in (from..=to).step_by(500) {
            self.look(at);
            if self.members.wants_beat(&serves(&[S]), self.at(at)) {
                self.beat(at);
            }
        }
    }

    fn owns(&mut self, at: u64) -> Vec<usize> {
        let view = self.members.view(self.at(at));
        (0..40).filter(|shard| view.owns(S, &format!("s{shard}"))).collect()
    }
}

#[test]
fn alone_it_owns_everything_after_one_more_look() {
    let mut a = Router::new("a");
    a.look(0);
    assert_eq!(a.owns(0).len(), 0, "without a record nobody would know");
    a.beat(1);
    assert!(a.members.wants_look());
    assert_eq!(a.owns(2).len(), 0, "somebody may have come at the same time");
    a.look(3);
    assert_eq!(a.owns(3).len(), 40);
    assert!(!a.members.view(a.at(3)).owns(8, "s1"), "of a source that it serves");
}

#[test]
fn it_says_that_it_owns_nothing_before_another_may_say_so() {
    let mut a = Router::new("a");
    a.look(0);
    a.beat(0);
    a.look(1);
    assert_eq!(a.owns(4999).len(), 40);
    assert_eq!(a.owns(5000).len(), 0);
    // The other saw the record when it was sent, and looks as often as one can.
    let mut b = Router::new("b");
    b.hear(0, "a", 5, record("x"));
    b.go_on(0, 5999);
    assert!(b.owns(5999).len() < 40);
    b.look(6000);
    assert_eq!(b.owns(6000).len(), 40);
    assert_eq!(b.members.take_dead(), [("a".to_owned(), 5)]);
    // A lease that was lost is not taken up where it was: others may have what was ours.
    a.hear(9000, "b", 6, record("y"));
    a.look(9000);
    a.beat(9000);
    a.look(9001);
    assert_eq!(a.owns(9001).len(), 0);
}

#[test]
fn who_cannot_see_a_newcomer_does_not_go_on() {
    let mut a = Router::new("a");
    a.look(0);
    a.beat(0);
    a.look(100);
    a.beat(2000);
    a.beat(4000);
    assert_eq!(a.owns(5000).len(), 40);
    assert_eq!(a.owns(5100).len(), 0);
}

#[test]
fn a_newcomer_waits_until_it_was_seen_and_moves_only_what_becomes_its_own() {
    let (mut old, mut new) = (Router::new("old"), Router::new("new"));
    old.go_on(0, 1000);
    let before = old.owns(1000);
    assert_eq!(before.len(), 40);
    new.hear(1000, "old", 5, record("x"));
    new.go_on(1000, 2000);
    assert_eq!(new.owns(2499).len(), 0);
    old.hear(1500, "new", 6, record("y"));
    let kept = old.owns(1500);
    new.look(2500);
    let moved = new.owns(2500);
    assert!(kept.len() > 5 && moved.len() > 5, "{kept:?} {moved:?}");
    let mut all = [kept.clone(), moved.clone()].concat();
    all.sort_unstable();
    assert_eq!(all, before, "all of them, none twice");
    // A third takes from both and gives nothing from one to the other.
    for router in [&mut old, &mut new] {
        router.hear(2600, "third", 7, record("z"));
    }
    assert!(old.owns(2600).iter().all(|shard| kept.contains(shard)));
    assert!(new.owns(2600).iter().all(|shard| moved.contains(shard)));
    // A clean end gives them back at once.
    old.hear(2700, "third", 8, None);
    assert_eq!(old.owns(2700), kept);
}

#[test]
fn who_serves_another_source_is_no_rival() {
    let mut a = Router::new("a");
    a.hear(0, "b", 5, Some(Record { life: "x".to_owned(), serves: serves(&[8]) }));
    a.look(0);
    a.beat(1);
    a.look(2);
    assert_eq!(a.owns(2).len(), 40);
    a.hear(3, "b", 6, Some(Record { life: "x".to_owned(), serves: serves(&[8, S]) }));
    assert!(a.owns(3).len() < 40);
}

#[test]
fn dead_records_are_waited_for_once() {
    let mut a = Router::new("a");
    a.hear(0, "dead", 5, record("x"));
    a.go_on(0, 5500);
    assert!((5..40).contains(&a.owns(5500).len()), "its own part at once");
    a.look(6000);
    assert_eq!(a.owns(6000).len(), 40);
}

#[test]
fn who_did_not_watch_takes_nobody_for_dead() {
    let mut a = Router::new("a");
    a.hear(0, "b", 5, record("x"));
    a.go_on(0, 2000);
    // Paused for a minute; b went on, but its next record is not there yet.
    assert_eq!(a.owns(62_000).len(), 0);
    a.go_on(62_000, 64_000);
    assert!(a.members.take_dead().is_empty());
    assert!((5..40).contains(&a.owns(64_000).len()));
    a.hear(64_100, "b", 6, record("x"));
    a.go_on(64_500, 70_000);
    assert!(a.owns(70_000).len() < 40, "it moved within six seconds");
    a.look(70_100);
    assert_eq!(a.owns(70_100).len(), 40);
}

#[test]
fn of_two_with_the_same_name_the_later_one_wins() {
    let mut early = Router::new("a");
    early.go_on(0, 500);
    assert_eq!(early.owns(500).len(), 40);
    let mut late = Router::new("a");
    late.members.life = "other".to_owned();
    late.hear(600, "a", 1001, record("mine"));
    late.look(600);
    assert!(late.members.wants_beat(&serves(&[S]), late.at(600)) && late.members.revision() == 1001);
    late.beat(600);
    late.look(700);
    assert_eq!(late.owns(700).len(), 0, "the early one may not know yet");
    early.hear(1000, "a", 1002, record("other"));
    early.look(1000);
    assert!(early.members.has_twin());
    assert_eq!(early.owns(1000).len(), 0);
    assert!(!early.members.wants_beat(&serves(&[S]), early.at(3000)), "it leaves the record alone");
    late.look(2100);
    assert_eq!(late.owns(2100).len(), 40);
    // As long as the later one lives.
    for (revision, at) in [(1003, 2600), (1004, 4600)] {
        early.hear(at, "a", revision, record("other"));
        early.go_on(at, at + 1500);
    }
    early.go_on(6600, 10_500);
    assert!(early.members.has_twin());
    early.look(10_600);
    assert!(!early.members.has_twin() && early.members.wants_beat(&serves(&[S]), early.at(10_600)));
    assert_eq!(early.members.revision(), 1004);
}

#[test]
fn a_twin_that_ends_cleanly_leaves_its_place_at_once() {
    let mut a = Router::new("a");
    a.go_on(0, 500);
    a.hear(600, "a", 1002, record("other"));
    a.hear(700, "a", 1003, None);
    a.look(700);
    assert!(!a.members.has_twin() && a.members.wants_beat(&serves(&[S]), a.at(700)));
}

#[test]
fn a_record_that_was_removed_is_a_new_beginning() {
    let mut a = Router::new("a");
    a.go_on(0, 500);
    a.hear(600, "a", 1002, None);
    assert_eq!(a.owns(600).len(), 0);
    a.go_on(700, 1300);
    assert_eq!(a.owns(1300).len(), 40);
    a.members.doubt();
    assert_eq!(a.members.revision(), NO);
}
