//! What an applier does in the cases that need exact words; all interleavings are in `model`.

use std::time::Duration;

use longhaul_event::Position;
use longhaul_flow::{
    Applier, ApplierConfig, ApplierOutput, ApplierState, BYTES_START, Credit, EVENTS_START, Offer, Reset, ResetCode,
    SPANS_MAX, Span, StaleEpoch,
};

const MS: Duration = Duration::from_millis(1);
const INCARNATION: u64 = 9;

type Subject = Applier<&'static str>;

fn at(offset: u64) -> Position {
    Position { incarnation: INCARNATION, offset }
}

fn span(prev: u64, last: u64) -> Span {
    Span { prev, last, events: 1, bytes: 10 }
}

fn empty(prev: u64, last: u64) -> Span {
    Span { prev, last, events: 0, bytes: 0 }
}

fn outputs(applier: &mut Subject) -> Vec<ApplierOutput> {
    std::iter::from_fn(|| applier.poll_output()).collect()
}

fn delivered(applier: &mut Subject) -> Vec<&'static str> {
    std::iter::from_fn(|| applier.poll_deliver()).map(|(_, batch)| batch).collect()
}

fn reset(code: ResetCode) -> ApplierOutput {
    ApplierOutput::Reset { path_epoch: 1, reset: Reset { code, retry: MS * 100 } }
}

/// An applier that serves path 1 of owner 1, with that cursor.
fn serving(cursor: Option<Position>) -> Subject {
    let mut applier = Applier::new(ApplierConfig::default());
    applier.handle_open(MS, 1, 1).expect("the first epoch");
    assert_eq!(outputs(&mut applier), [ApplierOutput::OpenSink]);
    applier.handle_sink_open(MS, cursor);
    let credit = Credit { events_limit: EVENTS_START, bytes_limit: BYTES_START };
    assert_eq!(outputs(&mut applier), [ApplierOutput::Accept { path_epoch: 1, resume: cursor, credit }]);
    applier
}

fn batch(applier: &mut Subject, span: Span, name: &'static str) -> Offer {
    applier.handle_batch(MS, applier.epochs().1, false, INCARNATION, span, name)
}

/// The durable offset of the acknowledgement among the outputs, if there is one.
fn acknowledged(applier: &mut Subject) -> Option<u64> {
    outputs(applier).into_iter().find_map(|output| match output {
        ApplierOutput::Ack { durable, .. } => Some(durable),
        _ => None,
    })
}

#[test]
fn an_idle_flow_is_acknowledged_at_once() {
    let mut applier = serving(Some(at(4)));
    assert_eq!(batch(&mut applier, span(4, 5), "a"), Offer::Accepted);
    // The chain is known: what was durable before is told soon, with the next news.
    assert_eq!(outputs(&mut applier), []);
    assert_eq!(delivered(&mut applier), ["a"]);
    applier.handle_written(MS, 5);
    assert_eq!(outputs(&mut applier), [ApplierOutput::Commit(at(5))]);
    applier.handle_committed(MS, at(5));
    assert_eq!(acknowledged(&mut applier), Some(5));
    assert_eq!(applier.poll_timeout(), None);
}

#[test]
fn a_busy_flow_is_acknowledged_every_five_milliseconds() {
    let mut applier = serving(Some(at(4)));
    batch(&mut applier, span(4, 5), "a");
    batch(&mut applier, span(5, 6), "b");
    delivered(&mut applier);
    applier.handle_written(MS, 5);
    outputs(&mut applier);
    applier.handle_committed(MS * 2, at(5));
    assert_eq!(acknowledged(&mut applier), None);
    assert_eq!(applier.poll_timeout(), Some(MS * 6));
    applier.handle_timeout(MS * 6);
    assert_eq!(acknowledged(&mut applier), Some(5));
}

#[test]
fn early_batches_wait_for_those_before_them() {
    let mut applier = serving(Some(at(4)));
    assert_eq!(batch(&mut applier, span(6, 7), "c"), Offer::Held);
    assert_eq!(batch(&mut applier, span(6, 7), "c"), Offer::Duplicate);
    assert_eq!(batch(&mut applier, span(5, 6), "b"), Offer::Held);
    assert_eq!((delivered(&mut applier).len(), applier.held()), (0, 2));
    assert_eq!(batch(&mut applier, span(4, 5), "a"), Offer::Accepted);
    assert_eq!(delivered(&mut applier), ["a", "b", "c"]);
    assert_eq!(batch(&mut applier, span(5, 6), "b"), Offer::Duplicate);
    assert_eq!((applier.held(), applier.accepted()), (0, Some(at(7))));
}

#[test]
fn a_duplicate_counts_against_credit_on_both_sides() {
    let mut applier = serving(Some(at(4)));
    batch(&mut applier, span(4, 5), "a");
    batch(&mut applier, span(4, 5), "a");
    assert_eq!(applier.outstanding(), (1, 10));
    delivered(&mut applier);
    applier.handle_written(MS, 5);
    outputs(&mut applier);
    applier.handle_committed(MS, at(5));
    outputs(&mut applier);
    assert_eq!(applier.granted(), Credit { events_limit: EVENTS_START + 2, bytes_limit: BYTES_START + 20 });
}

#[test]
fn empty_batches_move_the_cursor_behind_what_is_before_them() {
    let mut applier = serving(Some(at(4)));
    assert_eq!(batch(&mut applier, empty(4, 10), ""), Offer::Accepted);
    assert_eq!(outputs(&mut applier), [ApplierOutput::Commit(at(10))]);
    applier.handle_committed(MS, at(10));
    assert_eq!(acknowledged(&mut applier), Some(10));
    batch(&mut applier, span(10, 11), "a");
    batch(&mut applier, empty(11, 20), "");
    assert_eq!(delivered(&mut applier), ["a"]);
    assert_eq!(outputs(&mut applier), []);
    applier.handle_written(MS, 11);
    assert_eq!(outputs(&mut applier), [ApplierOutput::Commit(at(20))]);
}

#[test]
fn one_commit_at_a_time_and_of_the_newest_position() {
    let mut applier = serving(Some(at(4)));
    for (last, name) in [(5, "a"), (6, "b"), (7, "c")] {
        batch(&mut applier, span(last - 1, last), name);
    }
    delivered(&mut applier);
    applier.handle_written(MS, 5);
    assert_eq!(outputs(&mut applier), [ApplierOutput::Commit(at(5))]);
    applier.handle_written(MS, 6);
    applier.handle_written(MS, 7);
    assert_eq!(outputs(&mut applier), []);
    applier.handle_committed(MS, at(6));
    assert_eq!(applier.durable(), Some(at(4)), "nobody asked for that one");
    applier.handle_committed(MS, at(5));
    assert_eq!(outputs(&mut applier), [ApplierOutput::Commit(at(7))]);
}

#[test]
fn a_batch_may_be_written_in_part() {
    let mut applier = serving(Some(at(4)));
    let large = Span { prev: 4, last: 9, events: 5, bytes: 50 };
    batch(&mut applier, large, "a");
    applier.handle_written(MS, 9);
    assert_eq!(applier.written(), Some(at(4)), "nothing was delivered yet");
    delivered(&mut applier);
    applier.handle_written(MS, 7);
    applier.handle_written(MS, 6);
    assert_eq!((applier.written(), applier.outstanding()), (Some(at(7)), (5, 50)));
    applier.handle_written(MS, 9);
    assert_eq!((applier.written(), applier.outstanding()), (Some(at(9)), (0, 0)));
}

#[test]
fn a_start_without_a_cursor_is_committed_before_it_is_acknowledged() {
    let mut applier = serving(None);
    assert_eq!(batch(&mut applier, span(u64::MAX, 0), "a"), Offer::Held, "the START is not here yet");
    let start = applier.handle_batch(MS, 1, true, INCARNATION, empty(u64::MAX, u64::MAX), "");
    assert_eq!((start, applier.accepted()), (Offer::Accepted, Some(at(0))));
    assert_eq!(outputs(&mut applier), [ApplierOutput::Commit(at(u64::MAX))]);
    applier.handle_committed(MS, at(u64::MAX));
    applier.handle_timeout(MS * 6);
    assert_eq!(acknowledged(&mut applier), Some(u64::MAX));
}

#[test]
fn a_new_chain_waits_until_the_old_one_is_written() {
    let mut applier = serving(Some(at(4)));
    for (last, name) in [(5, "a"), (6, "b")] {
        batch(&mut applier, span(last - 1, last), name);
    }
    let (a, _) = applier.poll_deliver().expect("accepted");
    applier.handle_open(MS, 1, 2).expect("a higher path");
    outputs(&mut applier);
    let start = Span { prev: 100, last: 101, events: 1, bytes: 10 };
    assert_eq!(applier.handle_batch(MS, 2, true, 10, start, "c"), Offer::Held);
    assert_eq!(applier.handle_batch(MS, 2, false, 10, span(101, 102), "d"), Offer::Held);
    assert_eq!(delivered(&mut applier), ["b"], "what was accepted is never dropped");
    applier.handle_written(MS, a.last);
    assert_eq!(outputs(&mut applier), [ApplierOutput::Commit(at(5))]);
    applier.handle_written(MS, 6);
    assert_eq!(applier.accepted(), Some(at(6)), "a commit of the old chain is under way");
    applier.handle_committed(MS, at(5));
    assert_eq!(delivered(&mut applier), ["c", "d"]);
    let cursor = Position { incarnation: 10, offset: 100 };
    assert_eq!(outputs(&mut applier), [ApplierOutput::Commit(cursor)]);
    applier.handle_committed(MS, Position { incarnation: INCARNATION, offset: 100 });
    assert_eq!(applier.durable(), None, "of another incarnation");
    applier.handle_committed(MS, cursor);
    assert_eq!(applier.durable(), Some(cursor));
}

#[test]
fn nothing_of_the_old_chain_is_acknowledged_to_a_path_that_may_begin_a_new_one() {
    let mut applier = serving(Some(at(4)));
    batch(&mut applier, span(4, 5), "a");
    delivered(&mut applier);
    applier.handle_open(MS, 1, 2).expect("a higher path");
    outputs(&mut applier);
    applier.handle_written(MS, 5);
    outputs(&mut applier);
    applier.handle_committed(MS, at(5));
    applier.handle_timeout(MS * 50);
    assert_eq!(acknowledged(&mut applier), None);
    // A touch says which chain it is.
    assert_eq!(batch(&mut applier, empty(5, 5), ""), Offer::Accepted);
    assert_eq!(acknowledged(&mut applier), Some(5));
}

#[test]
fn a_new_path_over_a_live_writer_goes_on_where_it_was() {
    let mut applier = serving(Some(at(4)));
    batch(&mut applier, span(4, 5), "a");
    batch(&mut applier, span(6, 7), "c");
    applier.handle_flow_closed(MS);
    assert_eq!((applier.state(), applier.held()), (ApplierState::Severed, 0));
    assert_eq!(applier.handle_batch(MS, 1, false, INCARNATION, span(5, 6), "b"), Offer::Stale);
    assert_eq!(applier.handle_open(MS, 1, 1), Err(StaleEpoch { owner_epoch: 1, path_epoch: 1 }));
    applier.handle_open(MS, 1, 2).expect("a higher path");
    // What is still to be written is taken off the first credit.
    let credit = Credit { events_limit: EVENTS_START - 1, bytes_limit: BYTES_START - 10 };
    assert_eq!(outputs(&mut applier), [ApplierOutput::Accept { path_epoch: 2, resume: Some(at(5)), credit }]);
}

#[test]
fn a_later_owner_takes_over_and_the_earlier_one_is_refused() {
    let mut applier = serving(Some(at(4)));
    applier.handle_open(MS, 2, 1).expect("a later owner");
    assert_eq!(applier.handle_open(MS, 1, 99), Err(StaleEpoch { owner_epoch: 2, path_epoch: 1 }));
    assert_eq!(applier.epochs(), (2, 1));
}

#[test]
fn an_idle_applier_reads_the_cursor_again_when_others_may_have_moved_it() {
    for (owner_epoch, path_epoch) in [(2, 1), (1, 3)] {
        let mut applier = serving(Some(at(4)));
        applier.handle_flow_closed(MS);
        applier.handle_open(MS, owner_epoch, path_epoch).expect("higher epochs");
        assert_eq!(outputs(&mut applier), [ApplierOutput::OpenSink]);
        applier.handle_sink_open(MS, Some(at(9)));
        let said = outputs(&mut applier);
        assert!(matches!(said[..], [ApplierOutput::Accept { resume, .. }] if resume == Some(at(9))));
    }
}

#[test]
fn the_next_path_of_the_same_owner_finds_what_it_left() {
    let mut applier = serving(Some(at(4)));
    applier.handle_flow_closed(MS);
    applier.handle_open(MS, 1, 2).expect("a higher path");
    assert!(matches!(outputs(&mut applier)[..], [ApplierOutput::Accept { resume, .. }] if resume == Some(at(4))));
}

#[test]
fn a_lost_writer_voids_what_was_not_committed() {
    let mut applier = serving(Some(at(4)));
    batch(&mut applier, span(4, 5), "a");
    delivered(&mut applier);
    applier.handle_written(MS, 5);
    outputs(&mut applier);
    applier.handle_sink_failed(MS, ResetCode::SinkLost, MS * 700);
    let lost = Reset { code: ResetCode::SinkLost, retry: MS * 700 };
    assert_eq!(outputs(&mut applier), [ApplierOutput::Reset { path_epoch: 1, reset: lost }]);
    applier.handle_committed(MS, at(5));
    assert_eq!((applier.durable(), applier.outstanding()), (None, (0, 0)));
    applier.handle_open(MS, 1, 2).expect("a higher path");
    assert_eq!(outputs(&mut applier), [ApplierOutput::OpenSink]);
    applier.handle_sink_open(MS, Some(at(4)));
    assert!(
        matches!(outputs(&mut applier)[..], [ApplierOutput::Accept { path_epoch: 2, resume, .. }] if resume == Some(at(4)))
    );
}

#[test]
fn a_sink_that_opens_after_the_path_is_gone_waits_for_the_next() {
    let mut applier = Subject::new(ApplierConfig::default());
    applier.handle_open(MS, 1, 1).expect("the first epoch");
    outputs(&mut applier);
    applier.handle_flow_closed(MS);
    applier.handle_sink_open(MS, Some(at(4)));
    assert_eq!((applier.state(), outputs(&mut applier)), (ApplierState::Severed, vec![]));
    applier.handle_open(MS, 1, 2).expect("a higher path");
    assert!(matches!(outputs(&mut applier)[..], [ApplierOutput::Accept { .. }]));
}

#[test]
fn what_no_honest_owner_sends_ends_the_path_and_nothing_else() {
    let broken: [(bool, u64, Span, ResetCode); 7] = [
        (false, INCARNATION, span(5, 4), ResetCode::BadChain),
        (false, INCARNATION, Span { prev: 5, last: 6, events: 2, bytes: 1 }, ResetCode::BadChain),
        (false, INCARNATION, span(4, 7), ResetCode::BadChain),
        (false, 10, span(5, 6), ResetCode::BadChain),
        (true, INCARNATION, span(5, 6), ResetCode::BadChain),
        (false, INCARNATION, Span { prev: 5, last: 2_000, events: 600, bytes: 1 }, ResetCode::Limits),
        (false, INCARNATION, Span { prev: 5, last: 7, events: 2, bytes: 300 << 10 }, ResetCode::Limits),
    ];
    for (start, incarnation, span_, code) in broken {
        let mut applier = serving(Some(at(4)));
        batch(&mut applier, span(4, 5), "a");
        let offer = applier.handle_batch(MS, 1, start, incarnation, span_, "x");
        assert_eq!(offer, Offer::Refused(code), "{span_:?}");
        assert_eq!(outputs(&mut applier), [reset(code)]);
        assert_eq!(batch(&mut applier, span(5, 6), "b"), Offer::Stale);
        assert_eq!((delivered(&mut applier), applier.accepted()), (vec!["a"], Some(at(5))));
    }
}

#[test]
fn held_batches_that_contradict_each_other_are_found_out() {
    let mut applier = serving(Some(at(4)));
    assert_eq!(batch(&mut applier, span(6, 9), "b"), Offer::Held);
    assert_eq!(batch(&mut applier, span(8, 10), "c"), Offer::Held);
    assert_eq!(batch(&mut applier, span(4, 6), "a"), Offer::Refused(ResetCode::BadChain));
    assert_eq!((outputs(&mut applier), applier.held()), (vec![reset(ResetCode::BadChain)], 0));
    assert_eq!(applier.outstanding(), (2, 20), "what was accepted, and nothing that was held");
}

#[test]
fn one_event_may_overdraw_and_then_nothing_more_comes_in() {
    let mut applier = serving(Some(at(4)));
    let large = Span { prev: 4, last: 5, events: 1, bytes: 1 << 20 };
    assert_eq!(batch(&mut applier, large, "a"), Offer::Accepted);
    assert_eq!(batch(&mut applier, span(5, 6), "b"), Offer::Refused(ResetCode::Limits));
}

#[test]
fn early_batches_are_bounded_in_number() {
    let mut applier = serving(Some(at(4)));
    for n in 0..SPANS_MAX as u64 {
        assert_eq!(batch(&mut applier, empty(10 + n, 11 + n), ""), Offer::Held);
    }
    assert_eq!(batch(&mut applier, empty(5, 6), ""), Offer::Refused(ResetCode::Limits));
}

#[test]
fn credit_comes_back_when_it_is_written_and_not_only_when_it_is_durable() {
    let mut applier = serving(Some(at(4)));
    let half = Span { prev: 4, last: 5, events: 1, bytes: 128 << 10 };
    batch(&mut applier, half, "a");
    delivered(&mut applier);
    applier.handle_written(MS, 5);
    let granted = outputs(&mut applier);
    let credit = Credit { events_limit: EVENTS_START + 1, bytes_limit: BYTES_START + (128 << 10) };
    assert_eq!(
        granted,
        [ApplierOutput::Commit(at(5)), ApplierOutput::Ack { path_epoch: 1, durable: 4, credit }],
        "the commit takes its time; the owner runs short"
    );
}

#[test]
fn a_drain_finishes_what_was_accepted() {
    let mut applier = serving(Some(at(4)));
    batch(&mut applier, span(4, 5), "a");
    batch(&mut applier, span(6, 7), "c");
    applier.handle_drain(MS);
    assert_eq!(batch(&mut applier, span(5, 6), "b"), Offer::Stale);
    assert_eq!(delivered(&mut applier), ["a"]);
    applier.handle_written(MS, 5);
    assert_eq!(outputs(&mut applier), [ApplierOutput::Commit(at(5))]);
    applier.handle_committed(MS, at(5));
    let outputs_ = outputs(&mut applier);
    assert!(matches!(outputs_[0], ApplierOutput::Ack { durable: 5, .. }), "{outputs_:?}");
    assert_eq!(outputs_[1..], [reset(ResetCode::Draining)]);
    assert_eq!(applier.state(), ApplierState::Drained);
    applier.handle_open(MS, 1, 2).expect("a higher path");
    assert!(matches!(outputs(&mut applier)[..], [ApplierOutput::Reset { path_epoch: 2, .. }]));
}

#[test]
fn an_idle_flow_drains_at_once() {
    let mut applier = serving(Some(at(4)));
    applier.handle_drain(MS);
    assert_eq!(outputs(&mut applier), [reset(ResetCode::Draining)]);
    let mut closed = Subject::new(ApplierConfig::default());
    closed.handle_drain(MS);
    assert_eq!((closed.state(), outputs(&mut closed)), (ApplierState::Drained, vec![]));
}

#[test]
fn a_drain_before_the_sink_is_open_gives_the_path_up_at_once() {
    let mut applier = Subject::new(ApplierConfig::default());
    applier.handle_open(MS, 1, 1).expect("the first epoch");
    applier.handle_drain(MS);
    assert_eq!(outputs(&mut applier), [reset(ResetCode::Draining)]);
    assert_eq!(applier.state(), ApplierState::Drained);
}

#[test]
fn a_drain_drops_what_came_early() {
    let mut applier = serving(Some(at(4)));
    assert_eq!(batch(&mut applier, span(6, 7), "c"), Offer::Held);
    assert_eq!((applier.held(), applier.outstanding()), (1, (1, 10)));
    applier.handle_drain(MS);
    assert_eq!((applier.held(), applier.outstanding()), (0, (0, 0)));
}
