//! One fault at a time, to the millisecond of simulated time.

use std::time::Duration;

use longhaul_link::Congestion;
use longhaul_test_simulated::{Change, Note, Plan, Verdict, World, in_simulated_time};

const MS: u64 = 1000;
/// After that long without a sign of life a peer is dead; timers of the runtime are exact to a millisecond.
const DEAD_AFTER: u64 = 3000 * MS + 2 * MS;
const HEARTBEAT: u64 = 1000 * MS;
/// One way, in microseconds.
const DELAY: u64 = 40 * MS;
const SEEDS: u64 = 12;

/// About 160 kB/s on three flows for 20 s.
const PLAN: Plan = Plan {
    batches: 200,
    every: 100 * MS,
    small: 2000,
    large: 60_000,
    large_one_in: 10,
    window: 32,
    congestion: Congestion::Model,
};

fn every_seed(test: impl AsyncFn(u64, World)) {
    for seed in 0..SEEDS {
        in_simulated_time(async {
            let world = World::new(seed, PLAN, &[(0, 1)], DELAY);
            assert!(world.until(Duration::from_secs(2), |world| world.stands(0)).await, "seed {seed}: no link");
            test(seed, world).await;
        });
    }
}

/// What happened to an end of the link since a time.
fn since(world: &World, at: u64, dials: bool) -> Vec<Note> {
    world.books.notes().into_iter().filter(|note| note.at >= at && note.dials == dials).collect()
}

/// Waits until all has come, and looks at the books.
async fn finish(seed: u64, world: World) {
    let complete = world.until(Duration::from_secs(60), |world| world.is_quiet()).await;
    assert!(complete, "seed {seed}: {} batches came; {:#?}", world.books.came(0), world.books.notes());
    assert_eq!(world.books.wrong(), Vec::<String>::new(), "seed {seed}");
    assert_eq!(world.end().await, (0, 0), "seed {seed}: tasks and datagrams that are left");
}

#[test]
fn a_cut_is_noticed_at_both_ends_in_three_seconds_and_the_link_is_back_after_it() {
    every_seed(async |seed, world| {
        tokio::time::sleep(Duration::from_millis(3000 + 137 * seed)).await;
        let cut = world.net.now();
        world.both_ways(0, 1, |weather| weather.cut = true);
        tokio::time::sleep(Duration::from_secs(5)).await;
        for dials in [true, false] {
            let notes = since(&world, cut, dials);
            assert_eq!(notes[0].change, Change::Down("dead"), "seed {seed}: {notes:?}");
            let silent = notes[0].at - cut;
            assert!((DEAD_AFTER - HEARTBEAT - 2 * DELAY..=DEAD_AFTER).contains(&silent), "seed {seed}: after {silent}");
            assert!(!notes.iter().any(|note| note.change == Change::Up), "seed {seed}: a link over a cut way");
        }
        let came = world.books.came(0);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(world.books.came(0), came, "seed {seed}: batches over a cut way");
        assert!(world.net.tally()[&Verdict::Cut] > 0);
        let healed = world.net.now();
        world.both_ways(0, 1, |weather| weather.cut = false);
        assert!(world.until(Duration::from_secs(21), |world| world.stands(0)).await, "seed {seed}: not back");
        println!("seed {seed}: back {} ms after the heal", (world.net.now() - healed) / MS);
        finish(seed, world).await;
    });
}

#[test]
fn a_cut_of_one_way_is_noticed_at_both_ends() {
    every_seed(async |seed, world| {
        tokio::time::sleep(Duration::from_millis(3000 + 137 * seed)).await;
        let (from, to) = if seed % 2 == 0 { (0, 1) } else { (1, 0) };
        let cut = world.net.now();
        world.change(from, to, |weather| weather.cut = true);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let [deaf, other] = [to == 0, to == 1].map(|dials| {
            let notes = since(&world, cut, dials);
            *notes.first().unwrap_or_else(|| panic!("seed {seed}: cut at {cut}: {:#?}", world.books.notes()))
        });
        assert_eq!(deaf.change, Change::Down("dead"), "seed {seed}");
        assert!(deaf.at - cut <= DEAD_AFTER, "seed {seed}: {deaf:?}");
        // Also where the dialler closes, which by then has a full congestion window and hears no acknowledgement.
        assert_eq!(other.change, Change::Down("closed_by_peer"), "seed {seed}: it hears that it is not heard");
        assert!(other.at <= deaf.at + DELAY + 2 * MS, "seed {seed}: {other:?} {deaf:?}");
        world.change(from, to, |weather| weather.cut = false);
        finish(seed, world).await;
    });
}

#[test]
fn a_path_that_takes_1280_bytes_from_now_on_ends_no_link() {
    every_seed(async |seed, world| {
        tokio::time::sleep(Duration::from_millis(4000 + 137 * seed)).await;
        let dropped = world.net.now();
        world.both_ways(0, 1, |weather| weather.payload_max = 1280 - 28);
        let came = world.books.came(0);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let swallowed = world.net.tally().get(&Verdict::Swallowed).copied().unwrap_or(0);
        assert!(swallowed > 0, "seed {seed}: nothing was larger");
        let notes = world.books.notes();
        assert!(notes.iter().all(|note| note.at < dropped), "seed {seed}: {notes:?}");
        println!("seed {seed}: {swallowed} swallowed, {} batches came in the 5 s after", world.books.came(0) - came);
        finish(seed, world).await;
    });
}

#[test]
fn a_restarted_listener_is_noticed_by_its_stateless_reset() {
    every_seed(async |seed, mut world| {
        tokio::time::sleep(Duration::from_millis(3000 + 137 * seed)).await;
        world.kill(1);
        tokio::time::sleep(Duration::from_millis(50 + 100 * seed)).await;
        let started = world.net.now();
        world.start(1);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let notes = since(&world, started, true);
        assert_eq!(notes[0].change, Change::Down("peer_restarted"), "seed {seed}: {notes:?}");
        let noticed = notes[0].at - started;
        // A heartbeat is due every second at the latest, and the reset answers it.
        assert!(noticed <= HEARTBEAT + 2 * DELAY + 2 * MS, "seed {seed}: after {noticed}");
        assert_eq!(notes[1].change, Change::Up, "seed {seed}: {notes:?}");
        println!("seed {seed}: noticed {} ms after the start, up after {}", noticed / MS, (notes[1].at - started) / MS);
        finish(seed, world).await;
    });
}

#[test]
fn a_restarted_dialler_is_noticed_by_its_stateless_reset() {
    every_seed(async |seed, mut world| {
        tokio::time::sleep(Duration::from_millis(3000 + 137 * seed)).await;
        let old = world.books.up(0);
        world.kill(0);
        tokio::time::sleep(Duration::from_millis(50 + 100 * seed)).await;
        let started = world.net.now();
        world.start(0);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let notes = since(&world, started, false);
        let down = notes.iter().find(|note| note.change == Change::Down("peer_restarted"));
        let noticed = down.unwrap_or_else(|| panic!("seed {seed}: {notes:?}")).at - started;
        assert!(noticed <= HEARTBEAT + 2 * DELAY + 2 * MS, "seed {seed}: after {noticed}");
        assert!(world.stands(0) && world.books.up(0).keys().all(|end| !old.contains_key(end)), "seed {seed}");
        finish(seed, world).await;
    });
}

/// The key of resets and connection ids follows from the key of the certificate: with another one the new life cannot say that it does not
/// know the link, and the heartbeats must find out.
#[test]
fn a_peer_that_comes_back_with_another_key_is_noticed_by_its_silence() {
    every_seed(async |seed, mut world| {
        tokio::time::sleep(Duration::from_millis(3000 + 137 * seed)).await;
        let killed = world.net.now();
        world.kill(1);
        world.change_key(1);
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.start(1);
        tokio::time::sleep(Duration::from_secs(4)).await;
        let notes = since(&world, killed, true);
        assert_eq!(notes[0].change, Change::Down("dead"), "seed {seed}: {notes:?}");
        assert!(notes[0].at - killed <= DEAD_AFTER + DELAY, "seed {seed}: {notes:?}");
        assert_eq!(notes[1].change, Change::Up, "seed {seed}: {notes:?}");
        finish(seed, world).await;
    });
}

#[test]
fn a_tenth_lost_either_way_ends_no_link_and_a_third_keeps_nothing_back_for_ever() {
    for (loss, may_end) in [(10, false), (50, false), (100, false), (200, true), (300, true)] {
        let ended = std::cell::Cell::new(0);
        every_seed(async |seed, world| {
            world.both_ways(0, 1, |weather| weather.loss = loss);
            tokio::time::sleep(Duration::from_secs(20)).await;
            assert!(world.net.tally()[&Verdict::Lost] > 0);
            let notes = world.books.notes();
            ended.set(ended.get() + notes.iter().filter(|note| matches!(note.change, Change::Down(_))).count());
            // It goes on as lossy as it is.
            finish(seed, world).await;
        });
        println!("{loss} of 1000 lost: {} ends of links ended in {SEEDS} times 20 s", ended.get());
        assert!(may_end || ended.get() == 0, "{} ends of links ended with {loss} of 1000 lost", ended.get());
    }
}

#[test]
fn after_an_outage_of_half_a_minute_the_link_is_back_in_the_time_of_one_attempt_and_one_back_off() {
    every_seed(async |seed, world| {
        let cut = world.net.now();
        world.both_ways(0, 1, |weather| weather.cut = true);
        tokio::time::sleep(Duration::from_millis(30_000 + 700 * seed)).await;
        let tries: Vec<_> = since(&world, cut, true).into_iter().map(|note| (note.at - cut, note.change)).collect();
        assert_eq!(tries[0].1, Change::Down("dead"), "seed {seed}: {tries:?}");
        assert!(tries.len() >= 3, "seed {seed}: {tries:?}");
        // Each attempt is given up after 10 s, and the next begins soon after.
        for pair in tries.windows(2) {
            let lasted = pair[1].0 - pair[0].0;
            assert_eq!(pair[1].1, Change::Refused("timed_out"), "seed {seed}: {tries:?}");
            assert!((10_000 * MS..=10_500 * MS).contains(&lasted), "seed {seed}: {tries:?}");
        }
        world.both_ways(0, 1, |weather| weather.cut = false);
        assert!(world.until(Duration::from_secs(21), |world| world.stands(0)).await, "seed {seed}: not back");
        finish(seed, world).await;
    });
}
