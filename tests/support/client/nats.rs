//! A NATS client: async-nats, with JetStream acknowledgements. All topics of a test lie in one stream.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, TryStreamExt};
use longhaul_test_brokers::nats;
use tokio::task::JoinHandle;

use super::{Tally, lift};
use crate::sample::{Arrived, Sample};
use crate::wait::until;

/// The stream of a test that names no other.
const STREAM: &str = "EVENTS";
const KEY: &str = "Longhaul-Key";
const KEY_BASE64: &str = "Longhaul-Key-B64";
/// For the server to answer.
const TIMEOUT: Duration = Duration::from_secs(30);
const ACKS_MAX: usize = 1_000;

/// A client; every operation has a connection of its own.
pub struct Nats {
    url: String,
    stream: String,
    atomic: bool,
}

/// Hears what is published, without any stream.
pub struct Listener {
    heard: Arc<Mutex<Vec<Arrived>>>,
    task: JoinHandle<()>,
}

impl Nats {
    /// A client of that server.
    #[must_use]
    pub fn new(server: &nats::Nats) -> Self {
        Self { url: server.url(), stream: STREAM.to_owned(), atomic: false }
    }

    /// The same with another stream.
    #[must_use]
    pub fn stream(self, stream: &str) -> Self {
        Self { stream: stream.to_owned(), ..self }
    }

    /// The same with another stream, which takes atomic batches with Longhaul's cursors.
    #[must_use]
    pub fn atomic(self, stream: &str) -> Self {
        Self { stream: stream.to_owned(), atomic: true, ..self }
    }

    /// Hears everything of that subject from now on, but for what comes while the server is away.
    ///
    /// # Panics
    /// When the server takes no subscription.
    pub async fn listen(&self, subject: &str) -> Listener {
        let client = async_nats::connect(&self.url).await.expect("the server takes connections");
        let mut messages = client.subscribe(subject.to_owned()).await.expect("a subscription");
        client.flush().await.expect("the server has it");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let listening = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                listening.lock().unwrap_or_else(PoisonError::into_inner).push(arrived(&message));
            }
        });
        Listener { heard, task }
    }

    /// Publishes without a stream: the server has it when this returns, whoever listens.
    ///
    /// # Panics
    /// When the server does not take it.
    pub async fn produce_unconfirmed(&self, samples: &[Sample]) {
        let client = async_nats::connect(&self.url).await.expect("the server takes connections");
        for sample in samples {
            let sent =
                client.publish_with_headers(sample.topic.clone(), headers(sample), sample.payload.clone().into());
            sent.await.expect("the client takes it");
        }
        client.flush().await.expect("the server has it");
    }

    /// Publishes as to core NATS, which confirms nothing, and returns when the stream that captures the topic has it all.
    ///
    /// # Panics
    /// When no stream captures it, or not in time.
    pub async fn produce_captured(&self, samples: &[Sample]) {
        let Some(topic) = samples.first().map(|sample| sample.topic.clone()) else { return };
        let jetstream = self.jetstream().await;
        let name = jetstream.stream_by_subject(topic).await.expect("a stream that captures");
        let mut stream = jetstream.get_stream(name).await.expect("the stream");
        let wanted = stream.info().await.expect("the server answers").state.messages + samples.len() as u64;
        self.produce_unconfirmed(samples).await;
        let end = Instant::now() + TIMEOUT;
        while stream.info().await.expect("the server answers").state.messages < wanted {
            assert!(Instant::now() < end, "what was published is not captured");
            // The server stores in its own time.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    async fn jetstream(&self) -> jetstream::Context {
        let mut context = jetstream::new(async_nats::connect(&self.url).await.expect("the server takes connections"));
        // A busy machine is no fault of the server.
        context.set_timeout(TIMEOUT);
        context
    }

    pub(super) async fn prepare(&self, topics: &[&str]) {
        let cursors = self.atomic.then(|| format!("$LONGHAUL.cursor.{}.>", self.stream));
        let subjects: Vec<String> = topics.iter().map(|&topic| topic.to_owned()).chain(cursors).collect();
        // By the server's own protocol: the client's library has no word for atomic batches in this build.
        let config = serde_json::json!({ "name": self.stream, "subjects": subjects, "allow_atomic": self.atomic });
        let client = async_nats::connect(&self.url).await.expect("the server takes connections");
        let made = client.request(format!("$JS.API.STREAM.CREATE.{}", self.stream), config.to_string().into()).await;
        let made = String::from_utf8_lossy(&made.expect("the server answers").payload).into_owned();
        assert!(!made.contains("\"error\""), "{made}");
    }

    pub(super) async fn produce(&self, samples: &[Sample]) {
        let jetstream = self.jetstream().await;
        let mut waiting = VecDeque::new();
        for sample in samples {
            let sent =
                jetstream.publish_with_headers(sample.topic.clone(), headers(sample), sample.payload.clone().into());
            waiting.push_back(sent.await.expect("the server takes it"));
            if waiting.len() > ACKS_MAX {
                waiting.pop_front().expect("there is one").await.expect("it is stored");
            }
        }
        for stored in waiting {
            stored.await.expect("it is stored");
        }
    }

    pub(super) async fn count(&self, topic: &str) -> usize {
        // A server that has just started does not know its streams yet.
        let mut subjects = until("the stream answers", Duration::from_secs(30), async || {
            let stream = self.jetstream().await.get_stream(&self.stream).await.ok()?;
            stream.info_with_subjects(topic).await.ok()
        })
        .await;
        match subjects.try_next().await.expect("the stream answers") {
            Some((_, count)) => count,
            None => 0,
        }
    }

    pub(super) async fn consume(&self, topic: &str, mut tally: Tally) -> Vec<Arrived> {
        let stream = self.jetstream().await.get_stream(&self.stream).await.expect("the stream");
        let config = pull::OrderedConfig {
            filter_subject: topic.to_owned(),
            deliver_policy: DeliverPolicy::All,
            ..pull::OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        debug_assert_eq!(consumer.cached_info().config.ack_policy, AckPolicy::None);
        let mut messages = consumer.messages().await.expect("messages");
        while let Ok(next) = tokio::time::timeout(tally.left(), messages.next()).await {
            let message = next.expect("the server goes on").expect("a message");
            tally.push(arrived(&message));
        }
        tally.finish()
    }
}

impl Listener {
    /// What was heard so far.
    #[must_use]
    pub fn heard(&self) -> Vec<Arrived> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn headers(sample: &Sample) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in &sample.headers {
        map.append(name.as_str(), std::str::from_utf8(value).expect("NATS headers are text"));
    }
    if let Some(key) = &sample.key {
        map.append(KEY, std::str::from_utf8(key).expect("NATS headers are text"));
    }
    map
}

/// Names have no order in NATS: they come sorted here, the values of each in their order.
fn arrived(message: &async_nats::Message) -> Arrived {
    let mut headers = Vec::new();
    for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
        headers.extend(values.iter().map(|value| (name.to_string(), value.as_str().as_bytes().to_vec())));
    }
    headers.sort_by(|(a, _), (b, _)| a.cmp(b));
    // The server's own, by which it tells repeats; no application wrote it.
    headers.retain(|(name, _)| name != "Nats-Msg-Id");
    let binary = headers.iter().find(|(name, _)| name == KEY_BASE64);
    let binary = binary.map(|(_, value)| STANDARD.decode(value).expect("base64"));
    let (key, id) = lift(&mut headers);
    let event =
        Sample { topic: message.subject.to_string(), key: key.or(binary), headers, payload: message.payload.to_vec() };
    Arrived { event, id }
}
