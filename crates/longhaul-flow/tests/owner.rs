//! What an owner does in the cases that need exact words; all interleavings are in `model`.

use std::time::Duration;

use longhaul_event::Position;
use longhaul_flow::{
    Allowance, Credit, Fault, Heard, Owner, OwnerConfig, OwnerOutput, OwnerState, Reset, ResetCode, SPANS_MAX, Span,
};

const MS: Duration = Duration::from_millis(1);
const CREDIT: Credit = Credit { events_limit: 512, bytes_limit: 1_000 };
const INCARNATION: u64 = 9;

fn at(offset: u64) -> Position {
    Position { incarnation: INCARNATION, offset }
}

fn span(prev: u64, last: u64, bytes: u32) -> Span {
    Span { prev, last, events: 1, bytes }
}

fn idle(replayable: bool) -> Owner {
    Owner::new(OwnerConfig { owner_epoch: 3, replayable, back_off_min: MS * 100, back_off_max: MS * 1_000 })
}

fn outputs(owner: &mut Owner) -> Vec<OwnerOutput> {
    std::iter::from_fn(|| owner.poll_output()).collect()
}

/// An owner that streams after `resume`, its START or touch already sent.
fn streaming(resume: Option<Position>) -> Owner {
    let mut owner = idle(true);
    owner.handle_link_up(MS);
    assert_eq!(owner.handle_accept(MS, 1, resume, CREDIT), Heard::Taken);
    let after = resume.map_or(u64::MAX, |resume| resume.offset);
    assert!(owner.handle_seeked(MS, INCARNATION, after, resume.is_none()));
    outputs(&mut owner);
    owner
}

#[test]
fn a_new_flow_makes_its_start_durable() {
    let mut owner = idle(true);
    owner.handle_link_up(MS);
    assert_eq!(outputs(&mut owner), [OwnerOutput::Open { path_epoch: 1 }]);
    owner.handle_accept(MS, 1, None, CREDIT);
    assert_eq!(outputs(&mut owner), [OwnerOutput::Seek { resume: None }]);
    // Without a cursor the chain is new, whatever the driver says.
    assert!(owner.handle_seeked(MS, INCARNATION, u64::MAX, false));
    assert_eq!(owner.allowance(), None, "the START goes first");
    assert_eq!(outputs(&mut owner), [OwnerOutput::SendStart { incarnation: INCARNATION, after: u64::MAX }]);
    assert_eq!(owner.allowance(), Some(Allowance { events: 512, bytes: 1_000, overdraft: true }));
    // Durable before the first offset: nothing to release, and no floor of 2^64 - 1.
    assert_eq!(owner.handle_ack(MS, 1, u64::MAX, CREDIT), Heard::Taken);
    assert_eq!(outputs(&mut owner), []);
    assert_eq!(owner.acked(), Some(at(u64::MAX)));
}

#[test]
fn a_flow_that_goes_on_asks_what_is_durable() {
    let mut owner = idle(true);
    owner.handle_link_up(MS);
    owner.handle_accept(MS, 1, Some(at(20)), CREDIT);
    assert_eq!(outputs(&mut owner), [OwnerOutput::Open { path_epoch: 1 }, OwnerOutput::Seek { resume: Some(at(20)) }]);
    assert!(!owner.handle_seeked(MS, INCARNATION, 19, false), "not where the destination stands");
    assert!(owner.handle_seeked(MS, INCARNATION, 20, false));
    assert_eq!(outputs(&mut owner), [OwnerOutput::SendTouch { incarnation: INCARNATION, after: 20 }]);
    assert_eq!(owner.acked(), None);
    owner.handle_ack(MS, 1, 20, CREDIT);
    assert_eq!(outputs(&mut owner), [OwnerOutput::Release { floor: 20 }]);
}

#[test]
fn a_flow_without_credit_lets_the_applier_hear_of_its_path() {
    // Another applier of the same destination has said that more is durable than this one has accepted.
    let mut owner = streaming(Some(at(20)));
    owner.handle_ack(MS, 1, 20, CREDIT);
    owner.handle_link_down(MS);
    owner.handle_link_up(MS);
    owner.handle_accept(MS, 2, Some(at(20)), Credit { events_limit: 511, bytes_limit: 0 });
    assert!(owner.handle_seeked(MS, INCARNATION, 20, false));
    let said = outputs(&mut owner);
    assert_eq!(said.last(), Some(&OwnerOutput::SendTouch { incarnation: INCARNATION, after: 20 }));
}

#[test]
fn a_lost_touch_is_noticed() {
    let mut owner = streaming(Some(at(20)));
    let due = owner.poll_timeout().expect("an answer is awaited");
    owner.handle_timeout(due);
    assert_eq!((owner.state(), owner.last_fault()), (OwnerState::Faulted, Some(Fault::Stalled)));
    assert_eq!(outputs(&mut owner), [OwnerOutput::Cancel { path_epoch: 1 }]);
}

#[test]
fn a_destination_that_lost_its_tail_lowers_what_is_acknowledged() {
    let mut owner = streaming(Some(at(20)));
    owner.handle_ack(MS, 1, 20, CREDIT);
    owner.handle_link_down(MS);
    owner.handle_link_up(MS);
    owner.handle_accept(MS, 2, Some(at(12)), CREDIT);
    assert_eq!(owner.acked(), Some(at(12)));
    // One that says it has more is not believed before it acknowledges.
    owner.handle_link_down(MS);
    owner.handle_link_up(MS);
    owner.handle_accept(MS, 3, Some(at(30)), CREDIT);
    assert_eq!(owner.acked(), Some(at(12)));
}

#[test]
fn a_queue_goes_on_with_the_same_reader_and_begins_anew_with_another() {
    for (incarnation, after, fresh) in [(INCARNATION, 20, false), (10, u64::MAX, true)] {
        let mut owner = idle(false);
        owner.handle_link_up(MS);
        owner.handle_accept(MS, 1, Some(at(20)), CREDIT);
        assert_eq!(outputs(&mut owner)[1], OwnerOutput::Seek { resume: Some(at(20)) });
        assert!(!owner.handle_seeked(MS, 10, u64::MAX, false), "another reader is another chain");
        assert!(owner.handle_seeked(MS, incarnation, after, fresh));
        let begins = if fresh {
            OwnerOutput::SendStart { incarnation, after }
        } else {
            OwnerOutput::SendTouch { incarnation, after }
        };
        assert_eq!(outputs(&mut owner), [begins]);
        assert!(owner.allowance().is_some(), "another incarnation cannot be mistaken for the chain before it");
    }
}

#[test]
fn a_new_chain_of_the_same_incarnation_waits_for_its_start() {
    let mut owner = idle(true);
    owner.handle_link_up(MS);
    owner.handle_accept(MS, 1, Some(at(20)), CREDIT);
    assert!(owner.handle_seeked(MS, INCARNATION, 5, true));
    outputs(&mut owner);
    assert_eq!(owner.allowance(), None);
    assert!(owner.poll_timeout().is_some());
    owner.handle_ack(MS, 1, 5, CREDIT);
    assert!(owner.allowance().is_some());
}

#[test]
fn credit_is_spent_and_an_old_grant_takes_nothing_back() {
    let mut owner = streaming(None);
    assert!(owner.handle_sent(MS * 2, span(u64::MAX, 0, 999)));
    assert_eq!(owner.allowance(), Some(Allowance { events: 511, bytes: 1, overdraft: false }));
    assert!(owner.handle_sent(MS * 3, span(0, 1, 1)));
    assert_eq!((owner.allowance(), owner.credit_exhausted_since()), (None, Some(MS * 3)));
    assert_eq!((owner.in_flight(), owner.oldest_unacked_since()), ((2, 1_000), Some(MS * 2)));
    owner.handle_ack(MS * 7, 1, 0, Credit { events_limit: 600, bytes_limit: 1_500 });
    assert_eq!(owner.allowance(), Some(Allowance { events: 598, bytes: 500, overdraft: false }));
    assert_eq!((owner.credit_exhausted_since(), owner.credit_exhausted_total(MS * 9)), (None, MS * 4));
    owner.handle_ack(MS * 8, 1, 0, CREDIT);
    assert_eq!(owner.allowance(), Some(Allowance { events: 598, bytes: 500, overdraft: false }));
}

#[test]
fn batches_under_way_are_bounded_even_when_they_are_empty() {
    let mut owner = streaming(None);
    for last in 0..SPANS_MAX as u64 {
        assert!(owner.allowance().is_some());
        assert!(owner.handle_sent(MS, Span { prev: last.wrapping_sub(1), last, events: 0, bytes: 7 }));
    }
    assert_eq!((owner.allowance(), owner.in_flight()), (None, (0, 0)));
    owner.handle_ack(MS, 1, 0, CREDIT);
    assert!(owner.allowance().is_some());
}

#[test]
fn what_was_never_sent_cannot_be_acknowledged() {
    let mut owner = streaming(None);
    owner.handle_sent(MS, span(u64::MAX, 4, 10));
    assert_eq!(owner.handle_ack(MS, 1, 5, CREDIT), Heard::Violation);
    assert_eq!((owner.state(), owner.last_fault()), (OwnerState::Faulted, Some(Fault::AckBeyondSent)));
    assert_eq!(outputs(&mut owner), [OwnerOutput::Cancel { path_epoch: 1 }]);
    assert_eq!(owner.acked(), None);
}

#[test]
fn frames_of_a_path_that_is_over_are_stale() {
    let mut owner = streaming(None);
    owner.handle_sent(MS, span(u64::MAX, 4, 10));
    owner.handle_link_down(MS);
    assert_eq!(outputs(&mut owner), [OwnerOutput::Cancel { path_epoch: 1 }]);
    assert_eq!(owner.handle_ack(MS, 1, 4, CREDIT), Heard::Stale);
    assert!(!owner.handle_sent(MS, span(4, 5, 10)));
    owner.handle_link_up(MS);
    assert_eq!(owner.handle_accept(MS, 1, None, CREDIT), Heard::Stale);
    let reset = Reset { code: ResetCode::SinkLost, retry: MS };
    assert_eq!(owner.handle_reset(MS, 1, reset), Heard::Stale);
    assert_eq!(owner.state(), OwnerState::Opening);
}

#[test]
fn resets_back_off_until_something_is_durable() {
    let mut owner = idle(true);
    let mut now = MS;
    owner.handle_link_up(now);
    for (path_epoch, wait) in (1..).zip([100, 200, 400, 800, 1_000, 1_000]) {
        assert_eq!(outputs(&mut owner), [OwnerOutput::Open { path_epoch }]);
        let reset = Reset { code: ResetCode::SinkLost, retry: Duration::ZERO };
        assert_eq!(owner.handle_reset(now, path_epoch, reset), Heard::Taken);
        assert_eq!(owner.poll_timeout(), Some(now + MS * wait));
        owner.handle_timeout(now + MS * wait - MS);
        assert_eq!(owner.state(), OwnerState::Faulted);
        now += MS * wait;
        owner.handle_timeout(now);
    }
    // What the applier asks for counts when it is longer, up to a minute.
    let reset = Reset { code: ResetCode::Poison, retry: Duration::from_secs(1 << 40) };
    owner.handle_reset(now, 7, reset);
    assert_eq!(owner.poll_timeout(), Some(now + Duration::from_secs(60)));
}

#[test]
fn paths_that_end_early_are_not_waited_for_longer_while_the_destination_gets_further() {
    let mut owner = idle(true);
    let mut now = MS;
    owner.handle_link_up(now);
    for (path_epoch, (told, wait)) in (1..).zip([(0, 100), (1, 100), (2, 100), (2, 200), (2, 400), (3, 100)]) {
        assert_eq!(owner.handle_accept(now, path_epoch, Some(at(told)), CREDIT), Heard::Taken);
        let reset = Reset { code: ResetCode::Poison, retry: Duration::ZERO };
        assert_eq!(owner.handle_reset(now, path_epoch, reset), Heard::Taken);
        assert_eq!(owner.poll_timeout(), Some(now + MS * wait), "told {told}");
        now += MS * wait;
        owner.handle_timeout(now);
    }
}

#[test]
fn a_fault_of_the_source_outlasts_the_link_and_one_of_the_applier_does_not() {
    let mut owner = streaming(None);
    owner.handle_seek_failed(MS, MS * 500);
    owner.handle_link_down(MS * 2);
    owner.handle_link_down(MS * 3);
    owner.handle_link_up(MS * 4);
    assert_eq!((owner.state(), owner.poll_timeout()), (OwnerState::Faulted, Some(MS * 501)));
    owner.handle_timeout(MS * 501);
    assert_eq!(owner.state(), OwnerState::Opening);
    owner.handle_reset(MS * 502, 2, Reset { code: ResetCode::Draining, retry: MS * 900 });
    owner.handle_link_down(MS * 503);
    owner.handle_link_up(MS * 504);
    assert_eq!(owner.state(), OwnerState::Opening);
}

#[test]
fn an_open_without_an_answer_is_repeated_with_a_higher_epoch() {
    let mut owner = idle(true);
    owner.handle_link_up(MS);
    outputs(&mut owner);
    owner.handle_timeout(owner.poll_timeout().expect("an answer is awaited"));
    assert_eq!(owner.last_fault(), Some(Fault::OpenTimeout));
    owner.handle_timeout(owner.poll_timeout().expect("a retry is due"));
    assert_eq!(outputs(&mut owner), [OwnerOutput::Open { path_epoch: 2 }]);
}

#[test]
fn stalls_are_given_more_time_each_time() {
    let mut owner = streaming(None);
    let mut waits = Vec::new();
    for path_epoch in 1..=8 {
        let now = MS * 1_000 * path_epoch;
        if path_epoch > 1 {
            owner.handle_link_down(now);
            owner.handle_link_up(now);
            owner.handle_accept(now, path_epoch, None, CREDIT);
            owner.handle_seeked(now, INCARNATION, u64::MAX, true);
            outputs(&mut owner);
        }
        owner.handle_sent(now, span(u64::MAX, 0, 1));
        let due = owner.poll_timeout().expect("something is under way");
        waits.push((due - now).as_secs());
        owner.handle_timeout(due);
        assert_eq!(owner.last_fault(), Some(Fault::Stalled));
    }
    assert_eq!(waits, [30, 60, 120, 240, 480, 960, 960, 960]);
}
