//! What the scheduler promises: nothing lost or reordered within a flow, even shares, and no class starved.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const OPEN: Gate = Gate { open_bytes: 0, open_parcels: 0, budget_bytes: 1 << 20 };

/// A batch of that length that says whose it is.
fn batch(handle: u32, nth: u32, len: usize) -> Bytes {
    let mut bytes = vec![0; len.max(8)];
    bytes[..4].copy_from_slice(&handle.to_le_bytes());
    bytes[4..8].copy_from_slice(&nth.to_le_bytes());
    bytes.into()
}

fn read(batch: &Bytes) -> (u32, u32) {
    let part = |at: usize| u32::from_le_bytes(batch[at..at + 4].try_into().unwrap());
    (part(0), part(4))
}

fn offer(scheduler: &mut Scheduler, handle: u32, class: Class, len: usize) -> bool {
    matches!(scheduler.offer(handle, class, batch(handle, 0, len)), Offer::Taken)
}

proptest! {
    #[test]
    fn nothing_is_lost_doubled_or_reordered_within_a_flow(
        steps in proptest::collection::vec((0_u32..6, 1_usize..400_000, 0_u8..10), 1..120),
    ) {
        let mut scheduler = Scheduler::default();
        // Per flow, what a plain queue would hold.
        let mut queues: HashMap<u32, VecDeque<(u32, usize)>> = HashMap::new();
        let mut next = 0_u32;
        for (handle, len, what) in steps {
            let class = BY_URGENCY[usize::try_from(handle).unwrap() % CLASSES];
            let queue = queues.entry(handle).or_default();
            match what {
                0 => {
                    let queued: usize = queue.drain(..).map(|(_, len)| len).sum();
                    prop_assert_eq!(scheduler.cancel(handle), queued);
                }
                1..7 => {
                    let sent = batch(handle, next, len);
                    let queued: usize = queue.iter().map(|(_, len)| len).sum();
                    let room = queued < FLOW_QUEUE_BYTES_MAX;
                    let taken = scheduler.offer(handle, class, sent.clone());
                    prop_assert_eq!(&taken, &if room { Offer::Taken } else { Offer::Full(sent.clone()) });
                    if room {
                        queue.push_back((next, sent.len()));
                    }
                    next += 1;
                }
                _ => check_parcel(scheduler.next_parcel(&OPEN), &mut queues),
            }
        }
        while scheduler.queued_bytes() > 0 {
            let parcel = scheduler.next_parcel(&OPEN);
            prop_assert!(parcel.is_some(), "what is queued can be sent");
            check_parcel(parcel, &mut queues);
        }
        prop_assert!(queues.values().all(VecDeque::is_empty));
        prop_assert!(scheduler.flows.is_empty(), "a flow without batches costs nothing");
        prop_assert!(scheduler.classes.iter().all(|turns| turns.active.is_empty()));
    }

    #[test]
    fn flows_of_a_class_share_evenly_whatever_their_batches(
        lens in proptest::collection::vec(1_000_usize..200_000, 2..6), parcels in 1_usize..60,
    ) {
        let mut scheduler = Scheduler::default();
        let mut sent = vec![0_usize; lens.len()];
        for _ in 0..parcels {
            // All of them always have something queued.
            for (handle, &len) in (0..).zip(&lens) {
                while offer(&mut scheduler, handle, Class::Normal, len) {}
            }
            let parcel = scheduler.next_parcel(&OPEN).unwrap();
            for batch in &parcel.batches {
                sent[usize::try_from(read(batch).0).unwrap()] += batch.len();
            }
        }
        let spread = sent.iter().max().unwrap() - sent.iter().min().unwrap();
        let bound = 2 * QUANTUM_BYTES + 2 * lens.iter().max().unwrap();
        prop_assert!(spread <= bound, "{:?} is further apart than {}", sent, bound);
    }

    #[test]
    fn a_class_that_waits_gets_a_twentieth(
        lens in proptest::array::uniform3(1_000_usize..256_000), present in 1_usize..4, gate_shut_for_low in any::<bool>(),
    ) {
        let mut scheduler = Scheduler::default();
        let classes = [[true, true, true], [true, false, true], [false, true, true], [true, true, false]][present];
        let gate = if gate_shut_for_low { Gate { open_bytes: 1 << 20, open_parcels: 4, ..OPEN } } else { OPEN };
        let mut sent = [0_usize; CLASSES];
        for _ in 0..2000 {
            for (class, &len) in BY_URGENCY.iter().zip(&lens) {
                let handle = u32::from(class_to_wire(*class));
                while classes[index(*class)] && offer(&mut scheduler, handle, *class, len) {}
            }
            let Some(parcel) = scheduler.next_parcel(&gate) else { break };
            sent[index(parcel.class)] += parcel.bytes;
        }
        let all: usize = sent.iter().sum();
        prop_assume!(all > 0);
        let first = classes.iter().position(|&present| present).unwrap();
        for class in 0..CLASSES {
            if classes[class] && class != first {
                prop_assert!(sent[class] * 100 >= all * 5, "{:?} of {}", sent, all);
                prop_assert!(sent[class] * 100 <= all * 8, "{:?} of {}: and not much more", sent, all);
            }
        }
    }
}

fn check_parcel(parcel: Option<Parcel>, queues: &mut HashMap<u32, VecDeque<(u32, usize)>>) {
    let Some(parcel) = parcel else { return };
    assert_eq!(parcel.bytes, parcel.batches.iter().map(Bytes::len).sum::<usize>());
    assert!(parcel.bytes <= PARCEL_BYTES_MAX || parcel.batches.len() == 1, "only one batch alone may be larger");
    assert!(!parcel.batches.is_empty());
    for batch in &parcel.batches {
        let (handle, nth) = read(batch);
        assert_eq!(BY_URGENCY[usize::try_from(handle).unwrap() % CLASSES], parcel.class);
        assert_eq!(queues.get_mut(&handle).and_then(VecDeque::pop_front), Some((nth, batch.len())));
        assert!(parcel.flows.contains(&handle), "who waits for room must be told");
    }
}

#[test]
fn a_lone_batch_leaves_at_once() {
    let mut scheduler = Scheduler::default();
    assert_eq!(scheduler.next_parcel(&OPEN), None);
    assert!(offer(&mut scheduler, 1, Class::CatchUp, 100));
    assert_eq!(scheduler.next_parcel(&OPEN).unwrap().bytes, 100);
}

#[test]
fn the_more_urgent_class_goes_first() {
    let mut scheduler = Scheduler::default();
    for class in [Class::CatchUp, Class::Normal, Class::Realtime] {
        assert!(offer(&mut scheduler, u32::from(class_to_wire(class)), class, 100));
    }
    let order: Vec<_> = std::iter::from_fn(|| scheduler.next_parcel(&OPEN)).map(|parcel| parcel.class).collect();
    assert_eq!(order, BY_URGENCY);
}

#[test]
fn small_batches_of_many_flows_share_a_parcel_and_large_ones_do_not() {
    let mut scheduler = Scheduler::default();
    for handle in 0..10 {
        assert!(offer(&mut scheduler, handle, Class::Normal, 1000));
    }
    let parcel = scheduler.next_parcel(&OPEN).unwrap();
    assert_eq!((parcel.batches.len(), parcel.flows.len()), (10, 10));
    assert!(offer(&mut scheduler, 1, Class::Normal, PARCEL_BYTES_MAX + 1));
    assert!(offer(&mut scheduler, 2, Class::Normal, 1000));
    let sizes: Vec<_> = std::iter::from_fn(|| scheduler.next_parcel(&OPEN)).map(|parcel| parcel.bytes).collect();
    assert_eq!(sizes, [1000, PARCEL_BYTES_MAX + 1]);
}

#[test]
fn a_queue_is_full_from_its_limit_on_whatever_the_last_batch() {
    let mut scheduler = Scheduler::default();
    assert!(offer(&mut scheduler, 1, Class::Normal, FLOW_QUEUE_BYTES_MAX - 1));
    assert!(offer(&mut scheduler, 1, Class::Normal, 10 * FLOW_QUEUE_BYTES_MAX));
    assert!(!offer(&mut scheduler, 1, Class::Normal, 8));
    assert!(offer(&mut scheduler, 2, Class::Normal, FLOW_QUEUE_BYTES_MAX));
    assert!(!offer(&mut scheduler, 2, Class::Normal, 8));
}

#[test]
fn the_gate_keeps_room_for_what_is_urgent() {
    let admits = |open_bytes, open_parcels| {
        BY_URGENCY.map(|class| Gate { open_bytes, open_parcels, budget_bytes: 1 << 20 }.admits(class))
    };
    let budget = 1 << 20;
    assert_eq!(admits(budget - 1, 1), [true, true, true]);
    assert_eq!(admits(budget, 1), [true, true, false]);
    assert_eq!(admits(budget + RESERVE_BYTES, 1), [true, false, false]);
    assert_eq!(admits(budget + 2 * RESERVE_BYTES, 1), [false, false, false]);
    assert_eq!(admits(0, PARCELS_OPEN_MAX - 1), [true, false, false]);
    assert_eq!(admits(0, PARCELS_OPEN_MAX), [false, false, false]);
    assert_eq!(admits(usize::MAX / 2, 0), [true, true, true], "one parcel may always be open");
}

#[test]
fn classes_have_their_numbers() {
    assert_eq!(BY_URGENCY.map(class_to_wire), [0, 1, 2]);
    assert_eq!(BY_URGENCY.map(|class| class_from_wire(class_to_wire(class))), BY_URGENCY);
    assert_eq!(class_from_wire(200), Class::CatchUp);
}
