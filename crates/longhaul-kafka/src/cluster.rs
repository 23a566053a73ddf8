//! One cluster as all its sources and sinks see it: health, the list of topics, which partitions are ours, offsets of partitions.
//!
//! One thread asks for metadata every 5 s (every second while the cluster is away), from the first moment on; another is a member of
//! the group (see `member`). They end when the last user is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use longhaul_broker::{Health, SourceError};
use longhaul_event::Start;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::client::{Diagnosis, Events, Offloaded, unknown_topic};
use crate::config::Settings;
use crate::life::{Address, Lives, topic_of};
use crate::member::keep_membership;
use crate::ownership::{Ownership, Partitions};

/// Longest time that one question to the cluster may take.
pub(crate) const ASK_MAX: Duration = Duration::from_secs(5);
const PROBE_MAX: Duration = Duration::from_secs(3);
const PROBE_EVERY: Duration = Duration::from_secs(5);
const PROBE_EVERY_DOWN: Duration = Duration::from_secs(1);
const SERVE_EVERY: Duration = Duration::from_millis(100);

/// Number of partitions by topic.
pub(crate) type Listing = BTreeMap<String, u32>;

/// Changes with every change of what [`Cluster::wanted`] tells: of topics, and the number of listeners.
pub(crate) type Version = (u64, usize);

/// Somebody who reads topics.
pub(crate) trait Listener: Send + Sync {
    /// The topics, or what we own of them, may have changed: look at [`Cluster::view`]. Called from the cluster's own threads.
    fn handle_change(&self, cluster: &Cluster);
    /// The topics that it reads, of those that it has seen.
    fn topics(&self) -> Vec<String>;
}

/// What is known of topics.
pub(crate) struct View {
    /// `None` until the cluster answered.
    pub(crate) listing: Option<Arc<Listing>>,
    /// What this router owns.
    pub(crate) owned: Arc<Partitions>,
}

/// One cluster.
pub(crate) struct Cluster {
    pub(crate) settings: Settings,
    pub(crate) diagnosis: Arc<Diagnosis>,
    pub(crate) ownership: Arc<Ownership>,
    pub(crate) lives: Lives,
    questions: Offloaded<BaseConsumer<Events>>,
    serving: Mutex<()>,
    health: watch::Sender<Health>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listing: Option<Arc<Listing>>,
    listeners: Vec<Weak<dyn Listener>>,
    /// Counts changes of the topics that are wanted.
    changes: u64,
    /// What the last probe found.
    probed: Option<Health>,
    /// Why we may own nothing although the cluster answers.
    trouble: Option<String>,
}

impl Cluster {
    /// Starts probing, and takes part in the group as soon as somebody listens.
    ///
    /// # Errors
    /// One sentence when the options cannot work.
    pub(crate) fn start(settings: Settings) -> Result<Arc<Self>, String> {
        let diagnosis = Arc::new(Diagnosis::default());
        let questions: BaseConsumer<Events> = settings
            .questions()
            .create_with_context(Events::new(Arc::clone(&diagnosis)))
            .map_err(|error| error.to_string())?;
        let cluster = Arc::new(Self {
            settings,
            diagnosis,
            ownership: Arc::new(Ownership::new()),
            lives: Lives::default(),
            questions: Offloaded::new(questions),
            serving: Mutex::default(),
            health: watch::Sender::new(Health::Connecting),
            state: Mutex::default(),
        });
        let weak = Arc::downgrade(&cluster);
        std::thread::Builder::new()
            .name("kafka-health".to_owned())
            .spawn(move || keep_probing(&weak))
            .map_err(|error| format!("no thread for Kafka's health: {error}"))?;
        let (weak, ownership) = (Arc::downgrade(&cluster), Arc::clone(&cluster.ownership));
        std::thread::Builder::new()
            .name("kafka-group".to_owned())
            .spawn(move || keep_membership(&weak, &ownership))
            .map_err(|error| format!("no thread for Kafka's group: {error}"))?;
        Ok(cluster)
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the listener now and at every change.
    pub(crate) fn listen(&self, listener: &Weak<dyn Listener>) {
        self.state().listeners.push(Weak::clone(listener));
        if let Some(listener) = listener.upgrade() {
            listener.handle_change(self);
        }
        self.state().changes += 1;
    }

    fn listeners(&self) -> Vec<Arc<dyn Listener>> {
        let mut state = self.state();
        state.listeners.retain(|listener| listener.strong_count() > 0);
        state.listeners.iter().filter_map(Weak::upgrade).collect()
    }

    /// Has every listener look again.
    pub(crate) fn tell_listeners(&self) {
        for listener in self.listeners() {
            listener.handle_change(self);
        }
    }

    /// What is known of topics now.
    pub(crate) fn view(&self) -> View {
        View { listing: self.state().listing.clone(), owned: self.ownership.owned() }
    }

    /// All topics that somebody reads.
    pub(crate) fn wanted(&self) -> BTreeSet<String> {
        self.listeners().iter().flat_map(|listener| listener.topics()).collect()
    }

    /// As long as it stays the same, so does what [`wanted`](Self::wanted) tells.
    pub(crate) fn version(&self) -> Version {
        let state = self.state();
        (state.changes, state.listeners.iter().filter(|listener| listener.strong_count() > 0).count())
    }

    /// The ids of the members of our group. Blocks up to [`ASK_MAX`].
    ///
    /// # Errors
    /// When the cluster does not answer, or refuses.
    pub(crate) fn members(&self) -> Result<Vec<String>, KafkaError> {
        let groups = self.questions.fetch_group_list(Some(&self.settings.group), ASK_MAX)?;
        Ok(groups.groups().iter().flat_map(|group| group.members()).map(|member| member.id().to_owned()).collect())
    }

    /// Number of partitions of a topic; `None` when there is no such topic. Blocks up to [`ASK_MAX`].
    ///
    /// # Errors
    /// When the cluster does not answer, or refuses.
    pub(crate) fn partitions(&self, topic: &str) -> Result<Option<u32>, KafkaError> {
        let metadata = self.questions.fetch_metadata(Some(topic), ASK_MAX)?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
        match found.error().map(RDKafkaErrorCode::from) {
            None => Ok(u32::try_from(found.partitions().len()).ok().filter(|count| *count > 0)),
            Some(code) if unknown_topic(code) => Ok(None),
            Some(code) => Err(KafkaError::MetadataFetch(code)),
        }
    }

    /// First offset that is there and first that is not yet there (or not yet committed). Blocks up to [`ASK_MAX`].
    ///
    /// # Errors
    /// When the cluster does not answer, or refuses.
    pub(crate) fn bounds(&self, topic: &str, partition: i32) -> Result<(u64, u64), KafkaError> {
        let (low, high) = self.questions.fetch_watermarks(topic, partition, ASK_MAX)?;
        Ok((u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0)))
    }

    /// The incarnation that a reader reads and the offset that it begins with. Blocks up to four times [`ASK_MAX`].
    ///
    /// # Errors
    /// A gap when the start does not exist (any more); see [`Lives::judge`].
    pub(crate) fn resolve(&self, address: &Address, start: Start) -> Result<(u64, u64), SourceError> {
        let (topic, partition) = (&address.0, address.1);
        let failed = |error: KafkaError| match error.rdkafka_error_code() {
            Some(code) if unknown_topic(code) => {
                SourceError::Transient(format!("Kafka has no partition {partition} of topic {topic}"))
            }
            _ => self.diagnosis.source_error(&format!("offsets of {topic}/{partition}"), &error),
        };
        let number = self.number(topic).map_err(failed)?;
        let (low, high) = self.bounds(topic, partition).map_err(failed)?;
        let next = match start {
            Start::Latest => high,
            Start::Earliest => low,
            Start::Time(ms) => self.at_time(topic, partition, ms).map_err(failed)?.unwrap_or(high),
            // A gap would be a false alarm: the cursor is from a time when the cluster told the id.
            Start::After(position) if number == 0 && topic_of(position.incarnation) != 0 => {
                return Err(SourceError::Transient(format!("Kafka has not told the id of topic {topic}")));
            }
            Start::After(position) => {
                return self.lives.judge(address, number, position, low, high).map_err(SourceError::Gap);
            }
        };
        Ok((self.lives.now(address, number), next))
    }

    /// The number of the topic's life (see `life`); 0 when the cluster gives topics no id.
    fn number(&self, topic: &str) -> Result<u64, KafkaError> {
        if self.partitions(topic)?.is_none() {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        // The line with the id is there before the answer; it only has to be taken.
        let _serving = self.serving();
        let heard = &self.questions.context().heard;
        let mut lines = None;
        while lines != Some(heard.lines()) {
            lines = Some(heard.lines());
            let _ = self.questions.poll(Duration::from_millis(1));
        }
        Ok(heard.topic(topic).unwrap_or(0))
    }

    /// Who holds this is the only one that takes what librdkafka has to say.
    fn serving(&self) -> MutexGuard<'_, ()> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at_time(&self, topic: &str, partition: i32, ms: i64) -> Result<Option<u64>, KafkaError> {
        let mut wanted = TopicPartitionList::new();
        // Negative numbers are names of places here, not times.
        wanted.add_partition_offset(topic, partition, Offset::Offset(ms.max(0)))?;
        let found = self.questions.offsets_for_times(wanted, ASK_MAX)?;
        match found.find_partition(topic, partition).map(|element| (element.error(), element.offset())) {
            Some((Err(error), _)) => Err(error),
            Some((Ok(()), Offset::Offset(offset))) => Ok(u64::try_from(offset).ok()),
            _ => Ok(None),
        }
    }

    fn probe(&self) -> bool {
        let found = self.questions.fetch_metadata(None, PROBE_MAX);
        self.serve();
        match found {
            Ok(metadata) => {
                self.diagnosis.clear();
                let count = |partitions: usize| u32::try_from(partitions).unwrap_or(u32::MAX);
                let topics = metadata.topics().iter().filter(|topic| !topic.partitions().is_empty());
                let listing = topics.map(|topic| (topic.name().to_owned(), count(topic.partitions().len()))).collect();
                self.publish(listing);
                self.set_health(Health::Up);
                true
            }
            Err(error) => {
                self.set_health(Health::Down(self.diagnosis.explain(&error)));
                false
            }
        }
    }

    /// Hands out what librdkafka has to say; it keeps its logs and errors until somebody asks.
    fn serve(&self) {
        let _serving = self.serving();
        let until = Instant::now() + Duration::from_millis(5);
        while Instant::now() < until {
            let _ = self.questions.poll(Duration::from_millis(1));
        }
    }

    fn publish(&self, listing: Listing) {
        {
            let mut state = self.state();
            if state.listing.as_deref() == Some(&listing) {
                return;
            }
            state.listing = Some(Arc::new(listing));
        }
        self.tell_listeners();
        // After they have looked: what they want may differ from now on.
        self.state().changes += 1;
    }

    fn set_health(&self, health: Health) {
        let before = self.state().probed.replace(health.clone());
        match (&health, before) {
            (Health::Down(reason), None | Some(Health::Connecting | Health::Up)) => warn!(reason, "Kafka is away"),
            (Health::Up, Some(Health::Down(_))) => info!("Kafka is back"),
            _ => {}
        }
        self.show_health();
    }

    /// Why we own nothing although the cluster answers, or that nothing hinders us any more.
    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        {
            let mut state = self.state();
            if state.trouble == trouble {
                return;
            }
            match &trouble {
                Some(reason) => warn!(reason, "no partition of Kafka can be ours"),
                None => info!("partitions of Kafka can be ours again"),
            }
            state.trouble = trouble;
        }
        self.show_health();
    }

    fn show_health(&self) {
        let state = self.state();
        let shown = match (&state.probed, &state.trouble) {
            (Some(Health::Up), Some(trouble)) => Health::Down(trouble.clone()),
            (probed, _) => probed.clone().unwrap_or(Health::Connecting),
        };
        self.health.send_if_modified(|now| std::mem::replace(now, shown.clone()) != shown);
    }
}

fn keep_probing(cluster: &Weak<Cluster>) {
    let mut next = Instant::now();
    loop {
        // Only for the moment of asking, so that the last user can leave.
        let Some(cluster) = cluster.upgrade() else { return };
        if Instant::now() >= next {
            let up = catch_unwind(AssertUnwindSafe(|| cluster.probe())).unwrap_or_else(|_| {
                cluster.set_health(Health::Down("Kafka's answer could not be read".to_owned()));
                false
            });
            next = Instant::now() + if up { PROBE_EVERY } else { PROBE_EVERY_DOWN };
        }
        cluster.serve();
        drop(cluster);
        // librdkafka must be asked for its events; between two questions there is nothing else to wait on.
        std::thread::sleep(SERVE_EVERY);
    }
}
