//! The whole protocol against a model: one owner, one applier, a source, a sink and a network that does what networks do, in any
//! order. What is checked stands in `world.rs`, where it happens; what must hold at the end, in `World::heal`.

mod action;
mod sink;
mod source;
mod world;

use proptest::prelude::*;

use crate::action::Action;
use crate::source::Kind;
use crate::world::World;

/// How often what is tried, in relation to each other.
const WEIGHTS: [(usize, Action); 21] = [
    (30, Action::Produce),
    (60, Action::Send),
    (60, Action::DeliverParcel),
    (40, Action::ToApplier),
    (40, Action::ToOwner),
    (40, Action::FinishWrite),
    (30, Action::FinishCommit),
    (20, Action::FinishSinkOpen),
    (20, Action::FinishSeek),
    (30, Action::Wait),
    (20, Action::LinkUp),
    (4, Action::LinkDown),
    (3, Action::PathLostAtApplier),
    (3, Action::SwitchConnection),
    (2, Action::RestartOwner),
    (2, Action::RestartApplier),
    (3, Action::FailSink),
    (2, Action::LoseTail),
    (2, Action::FailSource),
    (2, Action::LoseParcel),
    (2, Action::Recap),
];

/// Plain numbers, each an action and a choice within it: making and shrinking them costs little.
fn actions() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 0..300)
}

fn decode(number: u32) -> (Action, usize) {
    let number = number as usize;
    let mut at = (number >> 8) % WEIGHTS.iter().map(|(weight, _)| weight).sum::<usize>();
    let chosen = WEIGHTS.iter().find(|(weight, _)| {
        let here = at < *weight;
        at = at.saturating_sub(*weight);
        here
    });
    (chosen.expect("the weights cover their sum").1, number & 0xff)
}

fn caps() -> impl Strategy<Value = u64> {
    prop_oneof![Just(16 << 20), Just(300 << 10), Just(2_000), 1..5_000_u64]
}

fn run(kind: Kind, cap: u64, actions: impl IntoIterator<Item = (Action, usize)>) -> World {
    let mut world = World::new(kind, cap);
    for (action, choice) in actions {
        world.act(action, choice);
    }
    world.heal();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    /// A log that can be read again: nothing lost, order kept, duplicates only where a writer was lost.
    #[test]
    fn a_log_arrives_whole_and_in_order(cap in caps(), actions in actions()) {
        run(Kind::Log, cap, actions.into_iter().map(decode));
    }

    /// Where nothing fails, and parcels only arrive in any order, no repair is needed: nothing waits for a timeout.
    #[test]
    fn reordering_needs_no_repair(cap in caps(), actions in actions()) {
        let calm = actions.into_iter().map(decode).filter(|(action, _)| action.is_calm());
        let seen = run(Kind::Log, cap, calm).seen();
        prop_assert_eq!(seen.stalls(), 0);
    }

    /// A queue that gives what was not released once more: nothing is released that the destination does not have.
    #[test]
    fn a_queue_loses_nothing(cap in caps(), actions in actions()) {
        run(Kind::Queue, cap, actions.into_iter().map(decode));
    }

    /// While its reader and its writer live, a queue has no duplicate either.
    #[test]
    fn links_alone_never_duplicate_a_queue(cap in caps(), actions in actions()) {
        let gentle = actions.into_iter().map(decode);
        let gentle = gentle.filter(|(action, _)| !action.loses_the_writer() && !action.loses_the_reader());
        let world = run(Kind::Queue, cap, gentle);
        prop_assert_eq!(world.duplicates(), 0);
    }

    /// Without a crash at the destination there is no duplicate, whatever the links and the owner do.
    #[test]
    fn links_alone_never_duplicate(cap in caps(), actions in actions()) {
        let gentle = actions.into_iter().map(decode).filter(|(action, _)| !action.loses_the_writer());
        let world = run(Kind::Log, cap, gentle);
        prop_assert_eq!(world.duplicates(), 0);
    }
}

/// The end is not reached while the news is on its way that the sink has lost what was acknowledged.
#[test]
fn a_tail_that_is_lost_after_its_acknowledgement_is_sent_again() {
    use Action::{
        DeliverParcel, FinishCommit, FinishSeek, FinishSinkOpen, FinishWrite, LinkUp, LoseTail, Produce, Send,
        ToApplier, ToOwner,
    };

    let until_written = [LinkUp, ToApplier, FinishSinkOpen, ToOwner, Produce, FinishSeek, DeliverParcel, Send];
    let until_acknowledged = [FinishCommit, DeliverParcel, FinishWrite, FinishCommit];
    let actions = until_written.into_iter().chain(until_acknowledged).map(|action| (action, 0));
    let world = run(Kind::Log, 16 << 20, actions.chain([(LoseTail, 2)]));
    assert_eq!(world.seen().delivered(), 1);
}

/// The model must be able to fail: what it counts on really happens in it.
#[test]
fn the_model_reaches_what_it_tests() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut seen = world::Seen::default();
    for _ in 0..300 {
        let actions = actions().new_tree(&mut runner).expect("the strategy rejects nothing").current();
        seen.add(&run(Kind::Log, 300 << 10, actions.into_iter().map(decode)).seen());
    }
    println!("{seen:?}");
    seen.assert_all();
}
