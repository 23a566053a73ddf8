//! Failure scenarios by name: the faults of each are put into the histories of many seeds that fit it, in place of their own.

use std::time::Duration;

use longhaul_sim::{Coverage, Fault, Plan, run};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// Histories of each scenario.
const RUNS: u64 = 150;

/// Runs the seeds that fit with those faults; says what was seen.
fn histories(fits: impl Fn(&Plan) -> bool, faults: impl Fn(&Plan, u64) -> Vec<(Duration, Fault)>) -> Coverage {
    so_many(RUNS, fits, faults)
}

fn so_many(runs: u64, fits: impl Fn(&Plan) -> bool, faults: impl Fn(&Plan, u64) -> Vec<(Duration, Fault)>) -> Coverage {
    let mut cover = Coverage::default();
    let fitting = (2_000_000..2_100_000).map(Plan::new).filter(fits);
    for (nth, mut plan) in (0..).zip(fitting.take(runs as usize)) {
        plan.faults = faults(&plan, nth);
        let seed = plan.seed;
        let outcome = run(plan, false);
        if let Some(violation) = outcome.violation {
            panic!("seed {seed}: {}: {}", violation.check, violation.detail);
        }
        cover.add(&outcome.cover);
    }
    assert_eq!(cover.runs, runs, "enough seeds fit");
    cover
}

/// A moment of the first twenty seconds that differs from run to run.
fn moment(nth: u64) -> Duration {
    MS * (500 + (nth as u32).wrapping_mul(7_919) % 19_000)
}

fn any(_: &Plan) -> bool {
    true
}

#[test]
fn head_of_window_failure_with_pipelined_successors() {
    let cover = histories(any, |plan, nth| {
        let broker = plan.ends().1;
        vec![
            (moment(nth), Fault::Poison { broker }),
            (moment(nth), Fault::BrokerSlow { broker, slow: SECOND * 5, by: MS * 400 }),
        ]
    });
    assert!(cover.get("fault", "event refused") > 0);
}

#[test]
fn zombie_owner() {
    let cover = histories(
        |plan| plan.routers_of(plan.ends().0).len() == 2,
        |plan, nth| {
            let routers = plan.routers_of(plan.ends().0);
            routers
                .into_iter()
                .map(|router| (moment(nth + router as u64), Fault::RouterPause { router, still: SECOND * 12 }))
                .collect()
        },
    );
    assert!(cover.get("fault", "woke as a zombie") > 0);
}

#[test]
fn zombie_applier() {
    let cover = histories(
        |plan| plan.routers_of(plan.ends().1).len() == 2,
        |plan, nth| {
            let routers = plan.routers_of(plan.ends().1);
            routers
                .into_iter()
                .map(|router| (moment(nth + router as u64), Fault::RouterPause { router, still: SECOND * 12 }))
                .collect()
        },
    );
    assert!(cover.get("fault", "writer fenced") > 0);
}

#[test]
fn crash_between_commit_request_and_reply() {
    let cover = so_many(400, any, |plan, nth| {
        let broker = plan.ends().1;
        let routers = plan.routers_of(broker);
        // Answers take their time, so that most moments have a commit that is done and whose answer is under way.
        let slow = (Duration::ZERO, Fault::BrokerSlow { broker, slow: SECOND * 20, by: MS * 400 });
        let crash = |cut: u64| match cut % 4 {
            0 => Fault::RouterCrash { router: routers[cut as usize / 4 % routers.len()], down: MS * 200 },
            _ => Fault::SessionsCut { broker },
        };
        (0..40).map(|cut| (moment(nth * 41 + cut), crash(cut))).chain([slow]).collect()
    });
    let unheard = cover.get("fault", "commit unheard");
    eprintln!("{unheard} commits were done and never heard of");
    assert!(unheard >= 1_000, "{unheard}");
}

#[test]
fn destination_restored_from_an_older_snapshot() {
    let cover = histories(
        |plan| plan.may_lose_its_tail(plan.ends().1),
        |plan, nth| {
            let broker = plan.ends().1;
            (0..3)
                .map(|cut| (moment(nth * 5 + cut), Fault::TailLost { broker, down: MS * 700, window: SECOND * 4 }))
                .collect()
        },
    );
    assert!(cover.get("fault", "tail lost") > 0);
}

#[test]
fn source_retention_overruns_a_paused_flow() {
    let cover = histories(
        |plan| !plan.is_queue(plan.ends().0),
        |plan, nth| {
            let (source, sink) = plan.ends();
            let at = moment(nth);
            vec![
                (at, Fault::Partition { a: source, b: sink, lasts: SECOND * 9 }),
                (at + SECOND * 8, Fault::RetentionOverrun { broker: source }),
            ]
        },
    );
    assert!(cover.get("gap", "purged") > 0 && cover.get("gap passed", "purged") > 0);
}

#[test]
fn topic_recreated_while_the_router_was_down() {
    let cover = histories(
        |plan| !plan.is_queue(plan.ends().0),
        |plan, nth| {
            let (at, broker) = (moment(nth), plan.ends().0);
            let mut faults: Vec<_> = plan
                .routers_of(broker)
                .into_iter()
                .map(|router| (at, Fault::RouterCrash { router, down: SECOND * 3 }))
                .collect();
            faults.push((at + SECOND, Fault::SourceRecreated { broker }));
            faults
        },
    );
    assert!(cover.get("gap", "recreated") > 0 && cover.get("gap passed", "recreated") > 0);
}

#[test]
fn unclean_leader_election_at_the_source() {
    let cover = histories(
        |plan| plan.is_source(plan.ends().1) && plan.may_lose_its_tail(plan.ends().1),
        |plan, nth| vec![(moment(nth), Fault::TailLost { broker: plan.ends().1, down: MS * 300, window: SECOND * 3 })],
    );
    assert!(cover.get("gap", "truncated") > 0);
}

#[test]
fn application_copies_all_headers_while_transforming() {
    let cover = histories(any, |_, _| Vec::new());
    assert!(cover.get("work", "transform") > 0 && cover.get("refusal", "transform_loop") > 0);
}

#[test]
fn somebody_elses_bridge_closes_a_cycle() {
    let cover = histories(|plan| plan.is_source(plan.ends().1), |_, _| Vec::new());
    assert!(cover.get("work", "bridge") > 0 && cover.get("refusal", "loop") > 0);
}

#[test]
fn one_region_black_holed() {
    let cover = histories(any, |plan, nth| {
        let (source, sink) = plan.ends();
        vec![(moment(nth).min(SECOND * 5), Fault::Partition { a: source, b: sink, lasts: SECOND * 24 })]
    });
    assert!(cover.get("network", "blocked") > 0 && cover.get("owner", "streaming>idle") > 0);
}

#[test]
fn slow_sink() {
    let cover = histories(any, |plan, _| {
        vec![(SECOND, Fault::BrokerSlow { broker: plan.ends().1, slow: SECOND * 25, by: MS * 1_500 })]
    });
    assert!(cover.get("broker", "answers late") > 0 && cover.get("owner does", "waits for credit") > 0);
}

#[test]
fn rebalance_storm() {
    let cover = histories(any, |plan, nth| {
        let routers = plan.routers_of(plan.ends().0);
        let one = |at: u64| match at % 3 {
            0 => Fault::RouterStop { router: routers[0], down: MS * 500 },
            1 => Fault::Takeover { region: plan.ends().0 },
            _ => Fault::RouterCrash { router: routers[routers.len() - 1], down: MS * 500 },
        };
        (0..8).map(|at| (SECOND * (2 + 3 * at as u32), one(at + nth))).collect()
    });
    for (kind, name) in [("fault", "takeover"), ("fault", "router stop"), ("fault", "router crash")] {
        assert!(cover.get(kind, name) >= RUNS, "{name}: {}", cover.get(kind, name));
    }
    assert!(cover.get("owner", "idle>opening") > 4 * RUNS, "flows are opened over and over");
}

#[test]
fn rabbitmq_reconnect_with_unacked_deliveries() {
    let cover = histories(
        |plan| plan.is_queue(plan.ends().0),
        |plan, nth| {
            let broker = plan.ends().0;
            (0..12).map(|cut| (moment(nth * 13 + cut), Fault::SessionsCut { broker })).collect()
        },
    );
    assert!(cover.get("fault", "redelivered") > 0);
}

/// Its reader acknowledges nothing, so the server has nothing to hand out again: it begins anew behind what it had, however long that waited.
#[test]
fn jetstream_redelivery_while_parked() {
    let cover = histories(
        |plan| plan.is_stream(plan.ends().0),
        |plan, nth| {
            let (source, sink) = plan.ends();
            let cut =
                |at: u32| (SECOND * (3 + 6 * at) + MS * (nth as u32 % 900), Fault::SessionsCut { broker: source });
            let hang = Fault::BrokerHang { broker: sink, hang: SECOND * 20 };
            [(SECOND, hang)].into_iter().chain((0..4).map(cut)).collect()
        },
    );
    assert!(cover.get("broker", "answers late") > 0, "the destination hung");
    assert!(cover.get("broker", "session lost") > RUNS, "readers were cut while it did");
}

#[test]
fn duplicate_window_edge() {
    let cover = histories(
        |plan| plan.deduplicates(plan.ends().1),
        |plan, nth| {
            let broker = plan.ends().1;
            let hang = Fault::BrokerHang { broker, hang: SECOND * (1 + nth as u32 % 20) };
            vec![(moment(nth) / 2, hang), (moment(nth) / 2 + SECOND, Fault::SessionsCut { broker })]
        },
    );
    assert!(cover.get("duplicate", "inside the window") > 0 && cover.get("duplicate", "beyond the window") > 0);
}

#[test]
fn asymmetric_partition_then_flapping() {
    let cover = histories(any, |plan, nth| {
        let (source, sink) = plan.ends();
        vec![
            (moment(nth) / 2, Fault::OneWayCut { from: sink, to: source, lasts: SECOND * 6 }),
            (moment(nth) / 2 + SECOND * 6, Fault::Flapping { a: source, b: sink }),
        ]
    });
    assert!(cover.get("network", "blocked") > 0, "one way carried nothing");
    assert!(cover.get("network", "cut") > 4 * RUNS, "connections broke over and over");
}

#[test]
fn asymmetric_partition_then_flapping_with_another_way() {
    let cover = histories(
        |plan| plan.has_detours() && plan.has_own_link(),
        |plan, nth| {
            let (source, sink) = plan.ends();
            vec![
                (moment(nth) / 2, Fault::OneWayCut { from: sink, to: source, lasts: SECOND * 6 }),
                (moment(nth) / 2 + SECOND * 6, Fault::Flapping { a: source, b: sink }),
            ]
        },
    );
    assert!(cover.get("fault", "took a detour") > RUNS, "flows went another way");
    assert!(cover.get("transit", "batch") > RUNS, "and events with them");
}

#[test]
fn direct_link_heals_while_parcels_are_on_the_longer_way() {
    let cover = histories(
        |plan| plan.has_detours() && plan.has_own_link(),
        |plan, nth| {
            let ((a, b), at) = (plan.ends(), moment(nth) / 2);
            let late = |at: u32| (SECOND * at, Fault::ParcelsLate { count: 8, by: SECOND * 3 });
            let cut = (at, Fault::Partition { a, b, lasts: SECOND * 4 });
            // Back on their best way five seconds after it is there again.
            (0..12).map(|nth| late(1 + 2 * nth)).chain([cut]).collect()
        },
    );
    assert!(cover.get("fault", "back on a better way with events under way") > 0);
}

#[test]
fn routers_on_the_way_stop_die_and_wake() {
    let cover = histories(
        |plan| plan.has_detours() && !plan.has_own_link(),
        |plan, nth| {
            let routers = plan.routers_on_the_way();
            let one = |at: u64| {
                let router = routers[(at + nth) as usize % routers.len()];
                match at % 4 {
                    0 => Fault::RouterStop { router, down: MS * 500 },
                    1 => Fault::RouterPause { router, still: SECOND * 7 },
                    2 => Fault::OnwardSlow { router, slow: SECOND * 4, by: MS * 800 },
                    _ => Fault::RouterCrash { router, down: MS * 500 },
                }
            };
            (0..8).map(|at| (SECOND * (2 + 3 * at as u32), one(at))).collect()
        },
    );
    let names = ["died with flows passing through", "woke with flows passing through", "no way on"];
    for name in names.into_iter().chain(["no room on the way"]) {
        assert!(cover.get("fault", name) > 0, "{name}");
    }
}

/// There is no interest that spreads: what comes and goes is declared, at each router in its own time.
#[test]
fn interest_churn() {
    let cover = histories(
        |plan| !plan.is_queue(plan.ends().0),
        |plan, nth| {
            let reload =
                |at: u32| (SECOND * (1 + at), Fault::Reload { flow: 0, away: MS * (100 * (nth as u32 + at) % 2_000) });
            let (source, sink) = plan.ends();
            let twice = plan.routers_of(source)[0];
            let crash = |at| (SECOND * at, Fault::RouterCrash { router: twice, down: MS * 400 });
            let cut = (moment(nth), Fault::LinkCut { a: source, b: sink });
            (0..12).map(reload).chain([cut, crash(8), crash(9)]).collect()
        },
    );
    assert!(cover.get("owner fault", "unknown_route") > 0);
}

#[test]
fn poison_and_size_mismatch() {
    let cover = histories(any, |plan, nth| {
        (0..4).map(|at| (moment(nth * 5 + at), Fault::Poison { broker: plan.ends().1 })).collect()
    });
    assert!(cover.get("refusal", "too_large") > 0 && cover.get("reset", "poison") > 0);
}

#[test]
fn torn_write_then_power_cut() {
    let cover = histories(any, |plan, nth| {
        let (at, broker) = (moment(nth), plan.ends().1);
        vec![(at, Fault::TornWrite { broker }), (at + MS * 20, Fault::BrokerCrash { broker, down: SECOND })]
    });
    assert!(cover.get("fault", "torn write") > 0);
}
