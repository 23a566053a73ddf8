//! `longhaul-sim --seeds N [--from S]` runs seeds and prints what they covered; `longhaul-sim --seed S` replays one with its log.
//! Exit codes: 0 well, 1 a violation or a hole in what must be covered, 2 wrong use.

#![expect(clippy::print_stdout, reason = "a command prints what was asked for")]

use std::process::ExitCode;

use longhaul_sim::{Coverage, Plan, run, shrink};

const USAGE: &str = "usage: longhaul-sim --seeds N [--from S] [--quiet] | --seed S [--whole]";
/// Lines of the log of a failure that are shown.
const LOG_LINES_MAX: usize = 120;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    match (number("--seed"), number("--seeds")) {
        (Some(seed), _) => replay(seed, has("--whole")),
        (None, Some(seeds)) => many(number("--from").unwrap_or(0), seeds, has("--quiet")),
        (None, None) => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn replay(seed: u64, whole: bool) -> ExitCode {
    let plan = Plan::new(seed);
    let plan = if whole { plan } else { shrink(&plan) };
    let outcome = run(plan, true);
    print!("{}", outcome.log.unwrap_or_default());
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("seed {seed} violates: {}: {}", violation.check, violation.detail);
            ExitCode::FAILURE
        }
    }
}

fn many(from: u64, seeds: u64, quiet: bool) -> ExitCode {
    let mut cover = Coverage::default();
    for seed in from..from + seeds {
        let ran = std::panic::catch_unwind(|| run(Plan::new(seed), false));
        let Ok(outcome) = ran else {
            println!(
                "seed {seed} violates, after {} seeds: panic: an assertion of the product or of the simulator",
                seed - from + 1
            );
            return ExitCode::FAILURE;
        };
        if let Some(violation) = outcome.violation {
            println!(
                "seed {seed} violates, after {} seeds: {}: {}",
                seed - from + 1,
                violation.check,
                violation.detail
            );
            if !quiet {
                explain(seed);
            }
            return ExitCode::FAILURE;
        }
        cover.add(&outcome.cover);
    }
    print!("{}", cover.table());
    println!("{} seeds, 0 violations; longest drain {:?}", cover.runs, cover.longest_drain);
    let holes = cover.holes();
    if holes.is_empty() || quiet {
        return ExitCode::SUCCESS;
    }
    println!("never seen, so never tested:\n  {}", holes.join("\n  "));
    ExitCode::FAILURE
}

/// The shortest list of faults that still fails, and the end of what happened then.
fn explain(seed: u64) {
    let small = shrink(&Plan::new(seed));
    println!("faults that are needed:");
    small.faults.iter().for_each(|(at, fault)| println!("  {at:>12?} {fault:?}"));
    let outcome = run(small, true);
    let log = outcome.log.unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_MAX)..].iter().for_each(|line| println!("{line}"));
    if let Some(violation) = outcome.violation {
        println!("violates: {}: {}\nreplay: longhaul-sim --seed {seed}", violation.check, violation.detail);
    }
}
