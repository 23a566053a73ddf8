//! Events into every region, all the time, and the count of what arrived in the others. Ordinary NATS clients; nothing of Longhaul's own code.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::{self, Context};
use futures::{StreamExt, TryStreamExt};
use tokio::task::JoinHandle;

use crate::REGIONS;
use crate::installed::{Installed, stream};

const PER_BURST: u64 = 10;
const BURST_EVERY: Duration = Duration::from_millis(100);
/// For a server to answer, on a machine that is busy with pods.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Without one more event for so long, what is missing is lost.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// After the last expected event: for how long repeats are waited for.
const QUIET: Duration = Duration::from_secs(3);

/// A client of each region's server, and what it was told to send.
pub struct Load {
    clients: Vec<Context>,
    sent: Vec<Arc<AtomicU64>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What became of the events of one way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Confirmed by the server of the source.
    pub sent: u64,
    /// Of these, not at the destination.
    pub lost: u64,
    /// Arrivals of an event that had arrived before.
    pub repeated: u64,
    /// First arrivals behind that of a later event.
    pub disordered: u64,
    /// Between leaving for the server of the source and being stored by that of the destination: the longest of all.
    pub longest_ms: u64,
}

/// An event as it arrived.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    number: u64,
    took_ms: u64,
}

impl Load {
    /// Makes the streams and begins to send.
    ///
    /// # Panics
    /// When a server does not take it.
    pub async fn start(installed: &Installed) -> Self {
        let mut clients = Vec::new();
        for region in 0..REGIONS.len() {
            let client = async_nats::connect(installed.door(region)).await.expect("the server takes connections");
            let (name, config) = stream();
            let made = client.request(format!("$JS.API.STREAM.CREATE.{name}"), config.to_string().into()).await;
            let made = String::from_utf8_lossy(&made.expect("the server answers").payload).into_owned();
            assert!(!made.contains("\"error\""), "{made}");
            let mut context = jetstream::new(client);
            context.set_timeout(ANSWER_MAX);
            clients.push(context);
        }
        let sent: Vec<_> = REGIONS.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let task = |(client, sent): (&Context, &Arc<AtomicU64>)| {
            tokio::spawn(send_until(client.clone(), Arc::clone(sent), Arc::clone(&stop)))
        };
        let tasks = clients.iter().zip(&sent).map(task).collect();
        Self { clients, sent, stop, tasks }
    }

    /// Sends so many events of another topic into a region.
    ///
    /// # Panics
    /// When the server does not take them.
    pub async fn send(&self, region: usize, topic: &str, count: u64) {
        for number in 0..count {
            publish(&self.clients[region], topic, number).await;
        }
    }

    /// Waits until so many more are sent by each, and everything that was sent up to then has crossed on every way; returns how long that took.
    ///
    /// # Panics
    /// When nothing comes any more.
    pub async fn crossed(&self, more: u64) -> Duration {
        let begin = Instant::now();
        let now = self.sent.iter().map(|sent| sent.load(Ordering::Relaxed));
        let sent: Vec<u64> = now.map(|sent| sent + more).collect();
        for (from, to) in ways() {
            self.wait_count(to, &topic(from), sent[from]).await;
        }
        begin.elapsed()
    }

    /// Waits until a region's server has so many events of a topic.
    ///
    /// # Panics
    /// When nothing comes any more.
    pub async fn wait_count(&self, region: usize, topic: &str, wanted: u64) {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let now = self.count(region, topic).await;
            if now >= wanted {
                return;
            }
            if now > last {
                (last, since) = (now, Instant::now());
            }
            let silence = since.elapsed();
            assert!(
                silence < SILENCE_MAX,
                "{}: {now} of {wanted} of {topic}, none more in {silence:?}",
                REGIONS[region]
            );
            // A server counts when asked and tells nobody.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn count(&self, region: usize, topic: &str) -> u64 {
        let found = self.clients[region].get_stream(stream().0).await.expect("the stream");
        let mut subjects = found.info_with_subjects(topic).await.expect("the server answers");
        let counted = subjects.try_next().await.expect("the server answers");
        counted.map_or(0, |(_, count)| count as u64)
    }

    /// Ends the sending, waits for what is under way, and counts every way by the events themselves.
    ///
    /// # Panics
    /// When a server does not answer.
    pub async fn finish(mut self) -> Vec<((usize, usize), Count)> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.await.expect("sending works");
        }
        self.crossed(0).await;
        tokio::time::sleep(QUIET).await;
        let mut counts = Vec::new();
        for (from, to) in ways() {
            let arrived = self.read(to, &topic(from)).await;
            counts.push(((from, to), judge(self.sent[from].load(Ordering::Relaxed), &arrived)));
        }
        counts
    }

    /// All events of a topic, as the server has them.
    async fn read(&self, region: usize, topic: &str) -> Vec<Arrived> {
        let count = usize::try_from(self.count(region, topic).await).expect("a count");
        let found = self.clients[region].get_stream(stream().0).await.expect("the stream");
        let config = pull::OrderedConfig {
            filter_subject: topic.to_owned(),
            deliver_policy: DeliverPolicy::All,
            ..pull::OrderedConfig::default()
        };
        let consumer = found.create_consumer(config).await.expect("a consumer");
        let messages = consumer.messages().await.expect("messages").take(count);
        messages.map(|message| arrived(&message.expect("a message"))).collect().await
    }
}

/// Reads what [`publish`] wrote.
fn arrived(message: &jetstream::Message) -> Arrived {
    let text = String::from_utf8_lossy(&message.payload);
    let words = text.split_once(' ').and_then(|(number, ms)| Some((number.parse().ok()?, ms.parse::<u64>().ok()?)));
    let (number, sent_ms) = words.unwrap_or_else(|| panic!("nobody sent {text:?}"));
    let stored = message.info().expect("a message of a stream").published.unix_timestamp_nanos();
    let stored_ms = u64::try_from(stored / 1_000_000).expect("this is not the past");
    Arrived { number, took_ms: stored_ms.saturating_sub(sent_ms) }
}

/// From which region to which.
fn ways() -> impl Iterator<Item = (usize, usize)> {
    let all = 0..REGIONS.len();
    all.clone().flat_map(move |from| all.clone().filter(move |to| *to != from).map(move |to| (from, to)))
}

/// What a region's events are called in the others.
fn topic(from: usize) -> String {
    format!("{}.orders.placed", REGIONS[from])
}

async fn send_until(client: Context, sent: Arc<AtomicU64>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..PER_BURST {
            publish(&client, "orders.placed", sent.load(Ordering::Relaxed)).await;
            sent.fetch_add(1, Ordering::Relaxed);
        }
        // Events come all the time, not in one heap.
        tokio::time::sleep(BURST_EVERY).await;
    }
}

/// Returns when the server has stored it.
async fn publish(client: &Context, topic: &str, number: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("this is not the past").as_millis();
    let event = format!("{number} {now}");
    let stored = client.publish(topic.to_owned(), event.into()).await.expect("the server takes it");
    stored.await.expect("it is stored");
}

fn judge(sent: u64, arrived: &[Arrived]) -> Count {
    let mut seen = HashSet::new();
    let mut count = Count { sent, ..Count::default() };
    let mut newest = None;
    for &Arrived { number, took_ms } in arrived {
        assert!(number < sent, "nobody sent {number}");
        if !seen.insert(number) {
            count.repeated += 1;
        } else if newest > Some(number) {
            count.disordered += 1;
        }
        newest = newest.max(Some(number));
        count.longest_ms = count.longest_ms.max(took_ms);
    }
    count.lost = sent - seen.len() as u64;
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(sent: u64, numbers: &[u64]) -> Count {
        let arrived: Vec<_> = numbers.iter().map(|&number| Arrived { number, took_ms: number }).collect();
        judge(sent, &arrived)
    }

    #[test]
    fn what_is_lost_repeated_or_out_of_order_is_counted() {
        assert_eq!(judged(3, &[0, 1, 2]), Count { sent: 3, longest_ms: 2, ..Count::default() });
        assert_eq!(judged(5, &[0, 2, 1, 2, 0]), Count { sent: 5, lost: 2, repeated: 2, disordered: 1, longest_ms: 2 });
    }
}
