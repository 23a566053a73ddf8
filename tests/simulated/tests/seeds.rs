//! Whole histories, each from a seed.

#![expect(clippy::print_stdout, reason = "what was covered is printed, as is a history that went wrong")]

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use longhaul_test_simulated::{Change, Outcome, Verdict, in_simulated_time, tell};

/// More with `LONGHAUL_SIMULATED_SEEDS`, others with `LONGHAUL_SIMULATED_FIRST`.
const SEEDS: u64 = 200;
/// What must have been begun at least once.
const FAULTS: [&str; 9] = [
    "cut way",
    "cut for longer than 3 s",
    "little loss",
    "much loss",
    "reordering",
    "duplicates",
    "spoilt datagrams",
    "path of 1280 bytes",
    "killed router",
];
/// What must have become of a datagram at least once.
const VERDICTS: [Verdict; 8] = [
    Verdict::Arrived,
    Verdict::Cut,
    Verdict::Lost,
    Verdict::Swallowed,
    Verdict::Reordered,
    Verdict::Duplicated,
    Verdict::Spoilt,
    Verdict::Nobody,
];
/// For what a link must have gone down at least once.
const ENDS: [&str; 3] = ["dead", "peer_restarted", "closed_by_peer"];

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn history(seed: u64) -> Outcome {
    in_simulated_time(tell(seed))
}

#[test]
fn everything_comes_once_in_order_and_every_fault_is_noticed() {
    let (first, count) = (number("LONGHAUL_SIMULATED_FIRST", 0), number("LONGHAUL_SIMULATED_SEEDS", SEEDS));
    let (next, began) = (AtomicU64::new(first), Instant::now());
    let outcomes = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let outcome = history(seed);
                    if !outcome.wrong.is_empty() {
                        println!("seed {seed}:\n{}", outcome.deeds.join("\n"));
                        outcome.notes.iter().for_each(|note| println!("{note:?}"));
                        outcome.wrong.iter().for_each(|wrong| println!("seed {seed}: wrong: {wrong}"));
                    }
                    outcomes.lock().unwrap().push((seed, Outcome { packets: Vec::new(), ..outcome }));
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap();
    println!("{} histories in {:?}", outcomes.len(), began.elapsed());
    report(&outcomes);
    let wrong: Vec<_> =
        outcomes.iter().filter(|(_, outcome)| !outcome.wrong.is_empty()).map(|(seed, _)| seed).collect();
    assert!(wrong.is_empty(), "of {} seeds, {} went wrong: {wrong:?}", outcomes.len(), wrong.len());
}

/// Prints what was covered. A fault that never happened is a failure.
fn report(outcomes: &[(u64, Outcome)]) {
    let (mut faults, mut tally, mut ends) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let (mut ups, mut refused, mut again, mut most) = (0, 0, 0, (0, 0));
    let mut back: Vec<_> = outcomes.iter().map(|(_, outcome)| outcome.back_after).collect();
    for (_, outcome) in outcomes {
        outcome.faults.iter().for_each(|(fault, count)| *faults.entry(*fault).or_insert(0) += count);
        outcome.tally.iter().for_each(|(verdict, count)| *tally.entry(*verdict).or_insert(0) += count);
        for note in &outcome.notes {
            match note.change {
                Change::Up => ups += 1,
                Change::Refused(_) => refused += 1,
                Change::Down(why) => *ends.entry(why).or_insert(0_u64) += 1,
            }
        }
        again += outcome.again;
        most = (most.0.max(outcome.most.0), most.1.max(outcome.most.1));
    }
    back.sort_unstable();
    println!("faults: {faults:?}\ndatagrams: {tally:?}\nends that went down: {ends:?}");
    println!("ends that came up: {ups}, dialled in vain: {refused}, batches handed to another link once more: {again}");
    println!("most bytes queued on a link and in open parcels: {most:?}");
    let at = |share: usize| back.get((back.len() * share / 100).min(back.len().saturating_sub(1)));
    println!("all links back after the faults: p50 {:?} ms, p99 {:?} ms, most {:?} ms", at(50), at(99), back.last());
    for fault in FAULTS {
        assert!(faults.get(fault).is_some_and(|count| *count > 0), "no {fault}");
    }
    for verdict in VERDICTS {
        assert!(tally.get(&verdict).is_some_and(|count| *count > 0), "no datagram was {verdict:?}");
    }
    for end in ENDS {
        assert!(ends.get(end).is_some_and(|count| *count > 0), "no link went down as {end}");
    }
}

#[test]
fn the_same_seed_is_the_same_history_datagram_by_datagram() {
    for seed in 0..8 {
        let (once, again) = (history(seed), history(seed));
        let differs = once.packets.iter().zip(&again.packets).position(|(a, b)| a != b);
        if let Some(at) = differs {
            panic!(
                "seed {seed}: datagram {at} of {}: {:?} and {:?}",
                once.packets.len(),
                once.packets[at],
                again.packets[at]
            );
        }
        assert!(once == again, "seed {seed}");
        // Certificates are the same in every process, so this is too, as long as nothing is changed.
        let mut digest = DefaultHasher::new();
        format!("{:?} {:?}", once.packets, once.notes).hash(&mut digest);
        println!("seed {seed}: {} datagrams, digest {:016x}", once.packets.len(), digest.finish());
    }
}
