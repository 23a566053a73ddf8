//! What is known of destination topics: that they are there, how many partitions they have, how large a batch may be.
//!
//! Asked before the first event goes there and every minute: a producer that waits without end for a topic that does not exist would
//! wait for ever. Makes missing topics where the router document allows it, and our own topic of cursors always.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use longhaul_broker::SinkError;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tracing::{debug, info};

use crate::client::{Events, Offloaded};
use crate::cluster::{ASK_MAX, Cluster};
use crate::producer::{Kind, Producer, Producers};

/// How long an answer is believed.
const KNOWN: Duration = Duration::from_secs(60);
const MISSING: Duration = Duration::from_secs(1);
/// Topics that are remembered; beyond that, what is out of date is forgotten first, then everything.
const TOPICS_MAX: usize = 10_000;
/// How long a topic that was just made may take to be seen.
const CREATE_MAX: Duration = Duration::from_secs(10);
const CREATE_POLL: Duration = Duration::from_millis(50);
/// What our own topics take in a batch, whatever the cluster has as its default: that of Kafka.
const OWN_BYTES_MAX: &str = "1048588";
/// The broker's own choice.
const DEFAULT_REPLICATION: i32 = -1;

/// A destination topic.
pub(crate) struct TopicInfo {
    pub(crate) partitions: u32,
    /// Largest batch in bytes that it takes, where the cluster tells.
    pub(crate) batch_limit: Option<usize>,
    /// Writes it.
    pub(crate) producer: Arc<Producer>,
    until: Instant,
}

impl TopicInfo {
    /// Whether it may still be used.
    pub(crate) fn is_fresh(&self) -> bool {
        Instant::now() < self.until && !self.producer.is_dead()
    }
}

/// How a missing topic is made.
struct Recipe {
    partitions: i32,
    replication: i32,
    compacted: bool,
}

/// Destination topics of one cluster.
pub(crate) struct Topics {
    cluster: Arc<Cluster>,
    producers: Producers,
    known: Mutex<HashMap<String, Arc<TopicInfo>>>,
    missing: Mutex<HashMap<String, Instant>>,
    admin: tokio::sync::OnceCell<Offloaded<AdminClient<Events>>>,
}

impl Topics {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Self {
        Self {
            cluster,
            producers: Producers::default(),
            known: Mutex::default(),
            missing: Mutex::default(),
            admin: tokio::sync::OnceCell::new(),
        }
    }

    /// What is known now, if it is fresh.
    pub(crate) fn known(&self, name: &str) -> Option<Arc<TopicInfo>> {
        self.known_map().get(name).filter(|info| info.is_fresh()).cloned()
    }

    fn known_map(&self) -> MutexGuard<'_, HashMap<String, Arc<TopicInfo>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was known of all topics is in doubt: a delivery failed.
    pub(crate) fn doubt(&self) {
        self.known_map().clear();
    }

    /// Asks the cluster, and makes the topic where that is allowed.
    ///
    /// # Errors
    /// [`SinkError::Config`] when there is no such topic, [`SinkError::Transient`] when the cluster does not answer.
    pub(crate) async fn destination(&self, name: &str) -> Result<Arc<TopicInfo>, SinkError> {
        let recipe = self.cluster.settings.create_topics.map(|create| Recipe {
            partitions: i32::try_from(create.partitions).unwrap_or(i32::MAX),
            replication: i32::try_from(create.replication).unwrap_or(i32::MAX),
            compacted: false,
        });
        self.look_up(name, recipe).await
    }

    /// Our own compacted topic, made when it is missing.
    ///
    /// # Errors
    /// As [`destination`](Self::destination).
    pub(crate) async fn compacted(&self, name: &str) -> Result<Arc<TopicInfo>, SinkError> {
        let recipe = Recipe { partitions: 1, replication: DEFAULT_REPLICATION, compacted: true };
        self.look_up(name, Some(recipe)).await
    }

    async fn look_up(&self, name: &str, recipe: Option<Recipe>) -> Result<Arc<TopicInfo>, SinkError> {
        if let Some(info) = self.known(name) {
            return Ok(info);
        }
        let missing = || SinkError::Config(format!("Kafka topic {name} does not exist"));
        if recipe.is_none() && self.is_missing(name) {
            return Err(missing());
        }
        let partitions = match (self.ask(name).await?, recipe) {
            (Some(partitions), _) => partitions,
            (None, Some(recipe)) => self.create(name, &recipe).await?,
            (None, None) => {
                self.remember_missing(name);
                return Err(missing());
            }
        };
        let batch_limit = self.batch_limit(name).await;
        let producer = self.producer(Kind { batch_limit, alone: false })?;
        let info = Arc::new(TopicInfo { partitions, batch_limit, producer, until: Instant::now() + KNOWN });
        let mut known = self.known_map();
        bound(&mut known, |info| info.is_fresh());
        known.insert(name.to_owned(), Arc::clone(&info));
        Ok(info)
    }

    /// The producer that writes every event to this topic in a batch of its own.
    ///
    /// # Errors
    /// [`SinkError::Config`] when there is none to be had.
    pub(crate) fn cautious(&self, info: &TopicInfo) -> Result<Arc<Producer>, SinkError> {
        self.producer(Kind { batch_limit: info.batch_limit, alone: true })
    }

    fn producer(&self, kind: Kind) -> Result<Arc<Producer>, SinkError> {
        let made = self.producers.of_kind(&self.cluster.settings, &self.cluster.diagnosis, kind);
        made.map_err(|error| SinkError::Config(format!("no Kafka producer: {error}")))
    }

    fn is_missing(&self, name: &str) -> bool {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.get(name).is_some_and(|until| Instant::now() < *until)
    }

    fn remember_missing(&self, name: &str) {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        bound(&mut missing, |until| Instant::now() < *until);
        missing.insert(name.to_owned(), Instant::now() + MISSING);
    }

    async fn ask(&self, name: &str) -> Result<Option<u32>, SinkError> {
        let (cluster, asked) = (Arc::clone(&self.cluster), name.to_owned());
        let answer = tokio::task::spawn_blocking(move || cluster.partitions(&asked))
            .await
            .map_err(|error| SinkError::Transient(format!("asking for topic {name}: {error}")))?;
        answer.map_err(|error| self.cluster.diagnosis.sink_error(&format!("asking for topic {name}"), &error))
    }

    async fn create(&self, name: &str, recipe: &Recipe) -> Result<u32, SinkError> {
        let mut topic = NewTopic::new(name, recipe.partitions, TopicReplication::Fixed(recipe.replication));
        if recipe.compacted {
            topic = topic.set("cleanup.policy", "compact").set("max.message.bytes", OWN_BYTES_MAX);
        }
        let results = self.admin().await?.create_topics([&topic], &options()).await;
        let results = results
            .map_err(|error| self.cluster.diagnosis.sink_error(&format!("making Kafka topic {name}"), &error))?;
        match results.into_iter().next() {
            Some(Ok(_)) => info!(topic = name, "made a Kafka topic"),
            // Another router was first.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) | None => {}
            Some(Err((_, RDKafkaErrorCode::RequestTimedOut | RDKafkaErrorCode::NotController))) => {
                return Err(SinkError::Transient(format!("making Kafka topic {name}: the cluster was too busy")));
            }
            Some(Err((_, code))) => {
                return Err(SinkError::Config(format!("Kafka topic {name} cannot be made: {code}")));
            }
        }
        let until = Instant::now() + CREATE_MAX;
        loop {
            if let Some(partitions) = self.ask(name).await? {
                return Ok(partitions);
            }
            if Instant::now() > until {
                return Err(SinkError::Transient(format!("Kafka topic {name} was made but is not there yet")));
            }
            // Brokers learn of a new topic one after the other and do not tell.
            tokio::time::sleep(CREATE_POLL).await;
        }
    }

    /// The topic's `max.message.bytes`; `None` when the cluster does not tell us.
    async fn batch_limit(&self, name: &str) -> Option<usize> {
        let specifier = [ResourceSpecifier::Topic(name)];
        let described = self.admin().await.ok()?.describe_configs(&specifier, &options()).await;
        let refused = |error: &dyn std::fmt::Display| debug!(topic = name, %error, "the topic's limits are not told");
        let resource = match described.map(|mut resources| resources.pop()) {
            Ok(Some(Ok(resource))) => resource,
            Ok(Some(Err(code))) => {
                refused(&code);
                return None;
            }
            Ok(None) => return None,
            Err(error) => {
                refused(&error);
                return None;
            }
        };
        resource.get("max.message.bytes")?.value.as_deref()?.parse().ok()
    }

    async fn admin(&self) -> Result<&AdminClient<Events>, SinkError> {
        let make = || async {
            let context = Events::new(Arc::clone(&self.cluster.diagnosis));
            AdminClient::from_config_and_context(&self.cluster.settings.admin(), context).map(Offloaded::new)
        };
        let made: Result<_, KafkaError> = self.admin.get_or_try_init(make).await;
        made.map(|admin| &**admin).map_err(|error| SinkError::Config(format!("no Kafka admin client: {error}")))
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ASK_MAX)).operation_timeout(Some(ASK_MAX))
}

fn bound<T>(map: &mut HashMap<String, T>, keep: impl Fn(&T) -> bool) {
    if map.len() >= TOPICS_MAX {
        map.retain(|_, value| keep(value));
    }
    if map.len() >= TOPICS_MAX {
        map.clear();
    }
}
