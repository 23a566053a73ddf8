//! How fast it is, printed: nothing is asserted about time, as the machine decides. Run with `--nocapture`.

mod support;

use std::time::{Duration, Instant};

use futures::future::try_join_all;
use longhaul_event::{Event, Position, Start};
use support::{event, publish, read, reader, start, writer};

const SINGLES: u64 = 300;
const BATCHES: u64 = 100;
const BATCH: u64 = 256;

fn batch(from: u64) -> Vec<Event> {
    (from..from + BATCH).map(|number| event(number, vec![b'x'; 1_024])).collect()
}

fn percentiles(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    format!("p50 {:?}, p99 {:?}", took[took.len() / 2], took[took.len() * 99 / 100])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speed_of_appends_and_reads() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let mut writer = writer(&broker, "a").await;
    let mut tail = reader(&broker, Start::Latest).await;

    let (mut appended, mut seen, mut http) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..SINGLES {
        let begin = Instant::now();
        writer.write(vec![event(number, vec![b'x'; 1_024])]).await.unwrap();
        appended.push(begin.elapsed());
        read(&mut *tail, 1).await;
        seen.push(begin.elapsed());
    }
    for _ in 0..SINGLES {
        let begin = Instant::now();
        assert_eq!(publish(broker.local_addr(), "t", &[], &[b'x'; 1_024]).await.status, 200);
        http.push(begin.elapsed());
    }
    println!("one event of 1 KiB, durable:        {}", percentiles(appended));
    println!("the same until a reader has it:     {}", percentiles(seen));
    println!("the same by HTTP, new connection:   {}", percentiles(http));

    let begin = Instant::now();
    for number in 0..BATCHES {
        writer.write(batch(number * BATCH)).await.unwrap();
    }
    let rate = |begin: Instant| (BATCHES * BATCH) as f64 / begin.elapsed().as_secs_f64();
    println!("batches of {BATCH} x 1 KiB, one by one:  {:.0} events/s", rate(begin));
    let begin = Instant::now();
    for round in 0..BATCHES / 10 {
        let writes: Vec<_> = (0..10).map(|number| writer.write(batch((round * 10 + number) * BATCH))).collect();
        try_join_all(writes).await.unwrap();
    }
    println!("the same, 10 under way:              {:.0} events/s", rate(begin));

    let total = (2 * SINGLES + 2 * BATCHES * BATCH) as usize;
    let mut all = reader(&broker, Start::Earliest).await;
    let begin = Instant::now();
    assert_eq!(read(&mut *all, total).await.len(), total);
    println!("read from the start:                 {:.0} events/s", total as f64 / begin.elapsed().as_secs_f64());
}

/// Both guarantees side by side, as a router writes: eight writes under way, a commit behind each eight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn price_of_effectively_once() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let at = |offset| Position { incarnation: 1, offset };
    for round in 0..3 {
        let mut rates = Vec::new();
        for once in [false, true] {
            let mut writer = writer(&broker, &format!("{once}{round}")).await;
            let begin = Instant::now();
            for group in 0..BATCHES / 8 {
                let writes: Vec<_> = (group * 8..group * 8 + 8)
                    .map(|number| match once {
                        true => writer.write_with_cursor(batch(number * BATCH), at(number * BATCH + BATCH - 1)),
                        false => writer.write(batch(number * BATCH)),
                    })
                    .collect();
                try_join_all(writes).await.unwrap();
                writer.commit(at((group * 8 + 8) * BATCH - 1)).await.unwrap();
            }
            rates.push((BATCHES / 8 * 8 * BATCH) as f64 / begin.elapsed().as_secs_f64());
        }
        println!(
            "at least once {:.0} events/s, effectively once {:.0} ({:+.0} %)",
            rates[0],
            rates[1],
            100.0 * (rates[1] / rates[0] - 1.0)
        );
    }
}
