//! Seeds of every build: no violation, nothing that was never seen, and a history that is the same whenever it is told.

use longhaul_sim::{Coverage, Plan, run};

/// Beyond what a soak begins with, so that both together cover more.
const FROM: u64 = 1_000_000;
const SEEDS: u64 = 3_000;

#[test]
fn thousands_of_seeds_violate_nothing_and_see_everything() {
    let mut cover = Coverage::default();
    for seed in FROM..FROM + SEEDS {
        let outcome = run(Plan::new(seed), false);
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}: {}: {}; replay: longhaul-sim --seed {seed}", violation.check, violation.detail);
        }
        cover.add(&outcome.cover);
    }
    assert_eq!(cover.holes(), Vec::<String>::new());
}

#[test]
fn a_seed_tells_the_same_history_twice() {
    for seed in FROM..FROM + 20 {
        let (one, other) = (run(Plan::new(seed), true), run(Plan::new(seed), true));
        let (one, other) = (one.log.expect("it was asked for"), other.log.expect("it was asked for"));
        assert!(one.lines().count() > 10, "something happens");
        assert!(one == other, "seed {seed} tells two histories");
    }
}
