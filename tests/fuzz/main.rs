//! What comes from outside is thrown at what reads it: changed at random, from a seed, and for a bounded time.
//!
//! Every target holds to the same: no panic, no memory beyond the limits that are declared, and what was read and is written again reads
//! the same. A target begins with its corpus and keeps nothing between runs; the same seed tries the same inputs in the same order, so that a
//! failure is found again. `LONGHAUL_FUZZ_SECONDS` is how long each runs (2 when it is not set), `LONGHAUL_FUZZ_SEED` the seed.

mod corpus;
mod http;
mod mutate;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mutate::Mutator;

/// Most that a run of one target may add to the address space of this process: far beyond every limit that is declared, far below what
/// a length that was believed would take.
const MEMORY_MAX: u64 = 512 << 20;

/// Longest that one input may take: far above what any does, far below what one does whose cost is not bounded by its length.
const SLOWEST: Duration = Duration::from_secs(20);

fn number(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => otherwise,
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The highest that the address space of this process ever was.
fn address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmPeak:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Runs a target until its time is over.
fn run(name: &str, target: impl Fn(&[u8])) {
    let corpus = corpus::of(name);
    let seed = number("LONGHAUL_FUZZ_SEED", 1);
    let mut mutator = Mutator::new(seed, &corpus);
    let (until, memory) = (Instant::now() + Duration::from_secs(number("LONGHAUL_FUZZ_SECONDS", 2)), address_space());
    let (mut tried, mut slowest) = (0_u64, Duration::ZERO);
    let mut attempt = |input: &[u8]| {
        let began = Instant::now();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
            let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("{name}: input {tried} of seed {seed} fails: {hex}\n{}", String::from_utf8_lossy(input));
            std::panic::resume_unwind(panic);
        }
        tried += 1;
        slowest = slowest.max(began.elapsed());
    };
    corpus.iter().for_each(|input| attempt(input));
    while Instant::now() < until {
        attempt(mutator.next());
    }
    let grown = address_space().saturating_sub(memory);
    eprintln!(
        "{name}: {} seeds, {tried} inputs, the slowest {slowest:?}, {} MiB more of address space",
        corpus.len(),
        grown >> 20
    );
    assert!(slowest < SLOWEST, "{name}: an input took {slowest:?}");
    assert!(grown < MEMORY_MAX, "{name}: {grown} bytes more of address space");
}

macro_rules! fuzz {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            run(stringify!($name), targets::$name);
        })+
    };
}

/// Writes the corpora of what is not text anew, after a change of the formats.
#[test]
#[ignore = "writes files of the repository"]
fn write_corpora() {
    corpus::write();
}

fuzz!(
    frames,
    batches,
    parcels,
    mesh_document,
    router_document,
    filters,
    predicates,
    headers,
    provenance,
    identities,
    cloudevents,
    certificates
);
