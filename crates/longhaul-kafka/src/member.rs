//! The membership in the cluster's consumer group, by which the routers of a region share partitions.
//!
//! One thread for each cluster holds one consumer that is a member of the group as long as somebody reads topics: it is subscribed to
//! the topics of all sources, owns what the coordinator gives it, and never fetches: every partition is paused at once. Readers have
//! consumers of their own, which belong to no group. As the coordinator takes commits from members only, the floors are committed here.
//!
//! Coordination says who should read, nothing else rests on it. A member that the coordinator no longer hears loses its partitions after
//! `SESSION_MS` (see `config`); one that ends leaves the group, and the others get its partitions at once. A member that was alone in the
//! group keeps them until the coordinator answers again: there was nobody to have them, and mostly it is the cluster that is away.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use longhaul_broker::Health;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::{debug, info, warn};

use crate::client::{Diagnosis, log_line, note};
use crate::cluster::{Cluster, Version};
use crate::config::Settings;
use crate::ownership::{Floor, Ownership};

/// Longest poll: how late a changed wish or an end is noticed. A wish must stand for that long too, so that many sources that come
/// together are one change.
const TICK: Duration = Duration::from_millis(100);
/// How long nobody must want a topic before the group is left: a reload may end sources before it makes the next.
const IDLE_AFTER: Duration = Duration::from_secs(2);
const CHORES_EVERY: Duration = Duration::from_secs(1);
/// How often every floor is committed, be it new or not: a commit that fails is not told, and this one covers it.
const COMMIT_ALL_EVERY: Duration = Duration::from_secs(30);
/// How long leaving the group may take.
const LEAVE_MAX: Duration = Duration::from_secs(2);
const ASK_LEAVING_MAX: Duration = Duration::from_millis(500);
/// Between two attempts to become a member after a failure that librdkafka does not repair by itself.
const RETRY_MIN: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// How a membership ended.
enum End {
    /// The connector ends.
    Over,
    /// Nobody wants a topic.
    Idle,
    /// Another process took our name.
    Fenced,
    /// The client cannot go on.
    Failed(String),
}

/// Is a member of the group while it should; returns when the connector ends.
pub(crate) fn keep_membership(cluster: &Weak<Cluster>, ownership: &Arc<Ownership>) {
    let mut retry = RETRY_MIN;
    while wait_for_topics(cluster, ownership) {
        let began = Instant::now();
        let end = catch_unwind(AssertUnwindSafe(|| serve(cluster, ownership)))
            .unwrap_or_else(|_| End::Failed("the group coordinator's answer could not be read".to_owned()));
        ownership.clear();
        let Some(cluster) = cluster.upgrade() else { break };
        cluster.tell_listeners();
        let reason = match end {
            End::Over => break,
            End::Idle => {
                cluster.set_trouble(None);
                continue;
            }
            End::Fenced => cluster.settings.name_taken(),
            End::Failed(reason) => format!("group {}: {reason}", cluster.settings.group),
        };
        cluster.set_trouble(Some(reason));
        retry = if began.elapsed() > RETRY_MAX { RETRY_MIN } else { retry };
        let weak = Arc::downgrade(&cluster);
        drop(cluster);
        // Taking the name back at once would only make the two take it from each other for ever.
        while pause(&weak, ownership, retry) && is_taken(&weak) {}
        retry = (retry * 2).min(RETRY_MAX);
    }
    ownership.set_ended();
}

fn is_over(cluster: &Weak<Cluster>, ownership: &Ownership) -> bool {
    ownership.is_ending() || cluster.strong_count() == 0
}

/// `false` when the connector ends meanwhile.
fn pause(cluster: &Weak<Cluster>, ownership: &Ownership, time: Duration) -> bool {
    let until = Instant::now() + time;
    while Instant::now() < until && !is_over(cluster, ownership) {
        std::thread::sleep(TICK);
    }
    !is_over(cluster, ownership)
}

/// `false` when the connector ends before there are any.
fn wait_for_topics(cluster: &Weak<Cluster>, ownership: &Ownership) -> bool {
    while !is_over(cluster, ownership) {
        if cluster.upgrade().is_some_and(|cluster| !cluster.wanted().is_empty()) {
            return true;
        }
        // Sources and topics come when they come, and this thread has nothing else to do.
        std::thread::sleep(TICK);
    }
    false
}

/// Whether a member of our name is in the group, as far as the cluster tells.
fn is_taken(cluster: &Weak<Cluster>) -> bool {
    cluster.upgrade().is_some_and(|cluster| match cluster.members() {
        Ok(members) => members.iter().any(|member| is_ours(&cluster.settings.instance, member)),
        Err(error) => {
            debug!(%error, "the members of the group are not told");
            false
        }
    })
}

/// Whether a member id was made from that name: Kafka appends a dash and a UUID.
fn is_ours(instance: &str, member: &str) -> bool {
    const UUID: usize = 36;
    member.strip_prefix(instance).and_then(|rest| rest.strip_prefix('-')).is_some_and(|rest| rest.len() == UUID)
}

/// One membership, from its first subscription to its end.
fn serve(cluster: &Weak<Cluster>, ownership: &Arc<Ownership>) -> End {
    let consumer: BaseConsumer<Member> = {
        let Some(strong) = cluster.upgrade() else { return End::Over };
        let diagnosis = Arc::clone(&strong.diagnosis);
        let (cluster, ownership) = (Weak::clone(cluster), Arc::clone(ownership));
        let (alone, in_doubt) = (AtomicBool::new(false), AtomicBool::new(false));
        let Settings { group, instance, .. } = &strong.settings;
        let (group, instance) = (group.clone(), instance.clone());
        let context = Member { cluster, ownership, diagnosis, alone, in_doubt, group, instance };
        match strong.settings.member().create_with_context(context) {
            Ok(consumer) => consumer,
            Err(error) => return End::Failed(format!("no Kafka consumer: {error}")),
        }
    };
    let mut wish = Wish::default();
    let (mut chores_due, mut all_due) = (Instant::now() + CHORES_EVERY, Instant::now() + COMMIT_ALL_EVERY);
    loop {
        // Only for a moment, so that the last user can leave.
        let Some(strong) = cluster.upgrade().filter(|_| !ownership.is_ending()) else {
            leave(&consumer, ownership);
            return End::Over;
        };
        match wish.changed(&strong) {
            Some(topics) if topics.is_empty() => {
                leave(&consumer, ownership);
                return End::Idle;
            }
            Some(topics) => {
                debug!(?topics, "topics are wanted of the group");
                let names: Vec<&str> = topics.iter().map(String::as_str).collect();
                if let Err(error) = consumer.subscribe(&names) {
                    return End::Failed(error.to_string());
                }
            }
            None => {}
        }
        if Instant::now() >= chores_due {
            chores_due = Instant::now() + CHORES_EVERY;
            consumer.context().look_around(&strong);
            let all = Instant::now() >= all_due;
            if all {
                all_due = Instant::now() + COMMIT_ALL_EVERY;
            }
            commit(&consumer, &ownership.take_due(all));
        }
        drop(strong);
        // Left alone, librdkafka's own thread may take three seconds to try again what the coordinator put off (as it does while a new
        // cluster makes its offsets topic); any question wakes it.
        let _ = consumer.assignment();
        if let Some(Err(error)) = consumer.poll(TICK)
            && let Some(end) = failed(cluster, &consumer, &error)
        {
            return end;
        }
    }
}

/// Commits, gives everything up and leaves the group. A member with a name of its own would stay in it by merely closing, and librdkafka,
/// which does not tell when it has left, does not leave any more once it closes: the coordinator is asked.
fn leave(consumer: &BaseConsumer<Member>, ownership: &Ownership) {
    commit(consumer, &ownership.take_due(false));
    consumer.unsubscribe();
    let until = Instant::now() + LEAVE_MAX;
    while Instant::now() < until {
        let _ = consumer.poll(TICK);
        if ownership.owned().is_empty() && !consumer.context().is_known(consumer) {
            return;
        }
    }
}

fn commit(consumer: &BaseConsumer<Member>, floors: &[Floor]) {
    if floors.is_empty() {
        return;
    }
    let mut offsets = TopicPartitionList::new();
    for (topic, partition, next) in floors {
        let Ok(next) = i64::try_from(*next) else { continue };
        if let Err(error) = offsets.add_partition_offset(topic, *partition, Offset::Offset(next)) {
            debug!(%error, "an offset cannot be committed");
        }
    }
    if let Err(error) = consumer.commit(&offsets, CommitMode::Async) {
        debug!(%error, "group offsets were not committed");
    }
}

/// What an error means: the end of this membership, a sentence in health, or nothing that librdkafka does not repair by itself.
fn failed(cluster: &Weak<Cluster>, consumer: &BaseConsumer<Member>, error: &KafkaError) -> Option<End> {
    if let Some((code, reason)) = consumer.client().fatal_error() {
        return Some(match code {
            RDKafkaErrorCode::FencedInstanceId => End::Fenced,
            _ => End::Failed(reason),
        });
    }
    let cluster = cluster.upgrade()?;
    let group = &cluster.settings.group;
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::GroupAuthorizationFailed) => cluster.set_trouble(Some(format!(
            "this login may not use the consumer group {group}: it needs the right READ on it, without which no topic of this \
             cluster is read"
        ))),
        Some(RDKafkaErrorCode::InvalidSessionTimeout) => cluster.set_trouble(Some(format!(
            "group {group}: the cluster does not take our session timeout; set `session.timeout.ms` in options within its \
             group.min.session.timeout.ms and group.max.session.timeout.ms"
        ))),
        Some(RDKafkaErrorCode::InconsistentGroupProtocol) => cluster
            .set_trouble(Some(format!("group {group} is used by other consumers; its name belongs to the routers alone"))),
        _ => debug!(%error, "the group coordinator reports"),
    }
    None
}

/// The topics that are wanted, and those that the coordinator was told.
#[derive(Default)]
struct Wish {
    version: Option<Version>,
    topics: BTreeSet<String>,
    /// Since when they are wanted, if that was not told yet.
    since: Option<Instant>,
    told: BTreeSet<String>,
}

impl Wish {
    /// The topics, when they have to be told.
    fn changed(&mut self, cluster: &Cluster) -> Option<&BTreeSet<String>> {
        let version = cluster.version();
        if self.version != Some(version) {
            self.version = Some(version);
            let topics = cluster.wanted();
            if topics != self.topics {
                self.topics = topics;
                self.since = Some(Instant::now());
            }
        }
        let settled = if self.topics.is_empty() { IDLE_AFTER } else { TICK };
        if self.since.is_none_or(|since| since.elapsed() < settled) {
            return None;
        }
        self.since = None;
        if self.topics == self.told {
            return None;
        }
        self.told = self.topics.clone();
        Some(&self.told)
    }
}

/// The context of the member's client: what the coordinator gives and takes.
struct Member {
    cluster: Weak<Cluster>,
    ownership: Arc<Ownership>,
    diagnosis: Arc<Diagnosis>,
    /// Whether nobody else is in the group.
    alone: AtomicBool,
    /// Whether that must be found out again: the group has met.
    in_doubt: AtomicBool,
    group: String,
    instance: String,
}

impl Member {
    /// Whether the coordinator says that we are in the group; `false` when it says nothing.
    fn is_known(&self, consumer: &BaseConsumer<Self>) -> bool {
        consumer.fetch_group_list(Some(&self.group), ASK_LEAVING_MAX).is_ok_and(|groups| {
            let mut members = groups.groups().iter().flat_map(|group| group.members());
            members.any(|member| is_ours(&self.instance, member.id()))
        })
    }

    /// Finds out whether we are alone, once after every meeting of the group. Who is not told is not alone.
    fn look_around(&self, cluster: &Cluster) {
        if !self.in_doubt.load(Ordering::Relaxed) || *cluster.health().borrow() != Health::Up {
            return;
        }
        match cluster.members() {
            Ok(members) => {
                self.alone.store(members.len() == 1, Ordering::Relaxed);
                self.in_doubt.store(false, Ordering::Relaxed);
            }
            Err(error) => debug!(%error, "the members of the group are not told"),
        }
    }

    fn tell(&self) {
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.tell_listeners();
        }
    }
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        log_line(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        note(&self.diagnosis, &error, reason);
    }
}

impl ConsumerContext for Member {
    /// Before the coordinator learns that we give something up: those who read it are told, and its last floors are on their way.
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let alone = self.alone.swap(false, Ordering::Relaxed);
        let Rebalance::Revoke(list) = rebalance else { return };
        let lost = consumer.assignment_lost();
        if lost && alone && consumer.client().fatal_error().is_none() {
            info!("the group coordinator is away; nobody else was there to have our Kafka partitions");
            self.ownership.hold();
            return;
        }
        let taken = addresses(list);
        let floors = self.ownership.remove(&taken);
        self.tell();
        info!(count = taken.len(), lost, "Kafka partitions are no longer ours");
        if !lost {
            commit(consumer, &floors);
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                if let Err(error) = consumer.pause(list) {
                    warn!(%error, "Kafka partitions were not paused: they are fetched twice");
                }
                let given = addresses(list);
                if !given.is_empty() {
                    info!(count = given.len(), "Kafka partitions are ours");
                }
                self.ownership.add(&given);
                self.in_doubt.store(true, Ordering::Relaxed);
                if let Some(cluster) = self.cluster.upgrade() {
                    cluster.set_trouble(None);
                    cluster.tell_listeners();
                }
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => warn!(%error, "the group coordinator's decision could not be read"),
        }
    }
}

fn addresses(list: &TopicPartitionList) -> Vec<(String, i32)> {
    list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_our_name_is_told_from_one_whose_name_begins_like_ours() {
        let uuid = "0b16b5a4-5b8c-4f3f-9a55-1c7c1a1c8a10";
        assert!(is_ours("r1", &format!("r1-{uuid}")));
        assert!(!is_ours("r1", &format!("r1-b-{uuid}")));
        assert!(!is_ours("r1", &format!("r10-{uuid}")));
        assert!(!is_ours("r1", "r1"));
    }
}
