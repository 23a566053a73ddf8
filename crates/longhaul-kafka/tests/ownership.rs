//! Routers of one region share the partitions of a real Kafka: each belongs to one of them, and to another soon after that one is gone.

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::*;
use longhaul_broker::{Connector, Health, Source, SourceSpec};
use longhaul_kafka::KafkaConnector;
use longhaul_test_brokers::kafka::Kafka;
use longhaul_topology::SourceKind;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::time::timeout;

const GROUP: &str = "longhaul.mesh.eu.orders";
/// How long the partitions of a dead router may be without one.
const MOVE_MAX: Duration = Duration::from_secs(10);
/// By which a process of its own is told what to do.
const CHILD: &str = "LONGHAUL_OWNERSHIP_CHILD";

fn router(bootstrap: &str, name: &str) -> Arc<KafkaConnector> {
    let mut context = context();
    context.router = name.to_owned();
    KafkaConnector::new(access(bootstrap), context).expect("the configuration is fine")
}

fn owned(source: &dyn Source) -> BTreeSet<String> {
    source.shards().borrow().iter().map(|shard| shard.name.clone()).collect()
}

/// Waits until it is so; looks often, because shards of several sources have no common sign.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    begin.elapsed()
}

/// Each of `count` partitions belongs to one of the sources.
fn is_divided(sources: &[Arc<dyn Source>; 2], count: usize) -> bool {
    let each = sources.each_ref().map(|source| owned(&**source));
    each.iter().flatten().collect::<BTreeSet<_>>().len() == count && each[0].len() + each[1].len() == count
}

/// Each belongs to one of them, half to each.
fn is_halved(sources: &[Arc<dyn Source>; 2], count: usize) -> bool {
    is_divided(sources, count) && owned(&*sources[0]).len() == count / 2
}

fn committed(kafka: &Kafka, topic: &str, partition: i32) -> Option<i64> {
    let consumer: BaseConsumer = client(kafka.bootstrap(), &[("group.id", GROUP)]);
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, partition);
    let found = consumer.committed_offsets(asked, PATIENCE).ok()?;
    match found.find_partition(topic, partition)?.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }
}

fn members(kafka: &Kafka) -> usize {
    let client: BaseConsumer = client(kafka.bootstrap(), &[]);
    let groups = client.fetch_group_list(Some(GROUP), PATIENCE).expect("groups are told");
    groups.groups().iter().map(|group| group.members().len()).sum()
}

fn partition(shard: &str) -> i32 {
    shard.rsplit('/').next().and_then(|number| number.parse().ok()).expect("a shard ends with its partition")
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_share_partitions_and_only_the_owner_commits() {
    const COUNT: usize = 12;
    let kafka = kafka();
    let name = unique("shared");
    kafka.create_topic(&name, COUNT as u32).expect("the topic can be made");
    let begin = Instant::now();
    let first = router(kafka.bootstrap(), "a");
    let one = source(&first, &name);
    shards(&*one, COUNT).await;
    println!("alone, on a cluster that had no group before: all after {:?}", begin.elapsed());

    let begin = Instant::now();
    let second = router(kafka.bootstrap(), "b");
    let two = source(&second, &name);
    let both = [Arc::clone(&one), Arc::clone(&two)];
    let mut overlap = BTreeSet::new();
    until("two routers share the topic", || {
        // Partitions only move from the first to the second now: what the second has, the first must have given up before.
        let theirs = owned(&*two);
        overlap.extend(owned(&*one).intersection(&theirs).cloned());
        is_halved(&both, COUNT)
    })
    .await;
    println!("a second one came: shared after {:?}", begin.elapsed());
    assert!(overlap.is_empty(), "owned by both while they moved: {overlap:?}");

    // A floor of what the router does not own is not committed, one of what it owns is, from either.
    let (ours, theirs) = (owned(&*one), owned(&*two));
    let ours: Vec<_> = ours.iter().map(|name| partition(name)).collect();
    let theirs: Vec<_> = theirs.iter().map(|name| partition(name)).collect();
    let shard = |number: i32| longhaul_broker::Shard {
        name: format!("{name}/{number}"),
        topic: Some(topic(&name)),
        partition: u32::try_from(number).ok(),
        replayable: true,
    };
    let mut late = earliest(&*one, &shard(theirs[0])).await;
    late.release(76);
    let mut own = earliest(&*one, &shard(ours[0])).await;
    own.release(41);
    let mut other = earliest(&*two, &shard(theirs[1])).await;
    other.release(10);
    until("floors are committed", || {
        committed(&kafka, &name, ours[0]) == Some(42) && committed(&kafka, &name, theirs[1]) == Some(11)
    })
    .await;
    assert_eq!(committed(&kafka, &name, theirs[0]), None, "a floor of somebody else's partition");

    // The last floor of a router that ends is committed, and its partitions are the other's at once.
    other.release(20);
    let begin = Instant::now();
    second.close().await;
    let closed = begin.elapsed();
    assert!(owned(&*two).is_empty(), "who left owns nothing");
    assert_eq!(members(&kafka), 1, "who ends leaves the group, and is not waited for as one that died");
    shards(&*one, COUNT).await;
    println!("it ended in {closed:?}: all with the first after {:?}", begin.elapsed());
    assert_eq!(committed(&kafka, &name, theirs[1]), Some(21));
    other.release(30);
    own.release(99);
    until("the next floor is committed", || committed(&kafka, &name, ours[0]) == Some(100)).await;
    assert_eq!(committed(&kafka, &name, theirs[1]), Some(21), "a floor of who has left");
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_and_topics_come_and_go() {
    let kafka = kafka();
    let (first, second, later) = (unique("come-a"), unique("come-b"), unique("late"));
    kafka.create_topic(&first, 4).expect("the topic can be made");
    kafka.create_topic(&second, 6).expect("the topic can be made");
    let routers = [router(kafka.bootstrap(), "a"), router(kafka.bootstrap(), "b")];
    let on = |name: &str| [source(&routers[0], name), source(&routers[1], name)];
    let ones = on(&first);
    until("the first topic is shared", || is_halved(&ones, 4)).await;
    let before = (owned(&*ones[0]), owned(&*ones[1]));
    let twos = on(&second);
    until("the second topic is shared", || is_halved(&twos, 6)).await;
    assert_eq!((owned(&*ones[0]), owned(&*ones[1])), before, "nothing moves because of another topic");

    // One router has a source that the other has not yet, or no longer: it owns the whole topic.
    drop(twos);
    let filters = vec![filter(&second), filter(&later)];
    let wide = SourceSpec { source: SourceKind::Kafka { topics: filters }, spool: None };
    let wide = routers[0].source(wide).expect("a Kafka source");
    shards(&*wide, 6).await;
    kafka.create_topic(&later, 3).expect("the topic can be made");
    let begin = Instant::now();
    shards(&*wide, 9).await;
    println!("a new topic is owned after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(30));
    until("the first topic is divided", || is_divided(&ones, 4)).await;
    kafka.delete_topic(&later).expect("the topic can be deleted");
    shards(&*wide, 6).await;

    // Nobody reads: the group is left, and come back to.
    drop((ones, wide));
    until("the group is empty", || members(&kafka) == 0).await;
    shards(&*source(&routers[1], &first), 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_routers_of_one_name_the_newer_reads_and_the_older_says_why_it_does_not() {
    let kafka = kafka();
    let name = unique("twice");
    kafka.create_topic(&name, 3).expect("the topic can be made");
    let older = router(kafka.bootstrap(), "same");
    let one = source(&older, &name);
    shards(&*one, 3).await;
    let newer = router(kafka.bootstrap(), "same");
    let two = source(&newer, &name);
    shards(&*two, 3).await;
    let mut health = older.health();
    let told = timeout(PATIENCE, health.wait_for(|health| matches!(health, Health::Down(_)))).await;
    let Health::Down(reason) = told.expect("in time").expect("health is told").clone() else { unreachable!() };
    assert!(reason.contains("another router named same") && reason.contains("must be unique in a region"), "{reason}");
    assert!(owned(&*one).is_empty());
    // Longer than it waits before it looks again: it must not take the name back.
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(8) {
        assert_eq!((owned(&*one).len(), owned(&*two).len()), (0, 3));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    newer.close().await;
    shards(&*one, 3).await;
    timeout(PATIENCE, health.wait_for(|health| *health == Health::Up)).await.expect("in time").expect("health is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_forbidden_is_said_and_a_slow_one_is_waited_for() {
    let kafka = Kafka::start_with(&[
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("allow.everyone.if.no.acl.found", "true"),
        // What a cluster has that was not told otherwise.
        ("group.initial.rebalance.delay.ms", "3000"),
    ])
    .expect("Kafka starts");
    let name = unique("secret");
    kafka.create_topic(&name, 2).expect("the topic can be made");
    kafka.allow_group(GROUP, "User:somebody-else").expect("the right can be given");
    let router = router(kafka.bootstrap(), "a");
    let source = source(&router, &name);
    let mut health = router.health();
    let told = timeout(PATIENCE, health.wait_for(|health| matches!(health, Health::Down(_)))).await;
    let Health::Down(reason) = told.expect("in time").expect("health is told").clone() else { unreachable!() };
    assert!(reason.contains(GROUP) && reason.contains("READ"), "{reason}");
    kafka.allow_group(GROUP, "User:ANONYMOUS").expect("the right can be given");
    let begin = Instant::now();
    shards(&*source, 2).await;
    println!("after the right was given, with a delay of 3 s for the first member: {:?}", begin.elapsed());
    timeout(PATIENCE, health.wait_for(|health| *health == Health::Up)).await.expect("in time").expect("health is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_router_keeps_its_partitions_while_the_broker_is_away_and_two_share_again() {
    const COUNT: usize = 4;
    let mut kafka = kafka();
    let name = unique("away");
    kafka.create_topic(&name, COUNT as u32).expect("the topic can be made");
    let first = router(kafka.bootstrap(), "a");
    let one = source(&first, &name);
    let shard = shards(&*one, COUNT).await.remove(0);
    let mut reader = earliest(&*one, &shard).await;
    // By then it has also looked whether it is alone.
    reader.release(40);
    until("a floor is committed", || committed(&kafka, &name, partition(&shard.name)) == Some(41)).await;
    let mut watch = one.shards();
    watch.mark_unchanged();
    let mut health = first.health();
    kafka.kill();
    timeout(PATIENCE, health.wait_for(|health| *health != Health::Up)).await.expect("in time").expect("health is told");
    // Twice the session of a member, after which it counts as lost.
    tokio::time::sleep(Duration::from_secs(13)).await;
    kafka.restart().expect("Kafka starts again");
    reader.release(41);
    // Only a member can commit: it has come back to the group.
    until("a floor is committed", || committed(&kafka, &name, partition(&shard.name)) == Some(42)).await;
    assert!(!watch.has_changed().expect("the source tells"), "no flow needs to begin again");

    let second = router(kafka.bootstrap(), "b");
    let both = [one, source(&second, &name)];
    until("two routers share the topic", || is_halved(&both, COUNT)).await;
    kafka.kill();
    until("who is not alone gives up what others may have", || both.iter().all(|source| owned(&**source).is_empty()))
        .await;
    kafka.restart().expect("Kafka starts again");
    let took = until("two routers share the topic again", || is_divided(&both, COUNT)).await;
    println!("shared again {took:?} after the broker was back");

    kafka.kill();
    for router in [&first, &second] {
        let begin = Instant::now();
        timeout(PATIENCE, router.close()).await.expect("the end does not wait for a broker that is away");
        println!("ended without a broker in {:?}", begin.elapsed());
    }
}

/// A router in a process of its own, which tells how many partitions it owns.
struct Process {
    child: Child,
    counts: Receiver<usize>,
}

impl Process {
    fn start(bootstrap: &str, router: &str, topic: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("the test has a program"))
            .args(["--exact", "--ignored", "--nocapture", "a_router_in_a_process_of_its_own"])
            .env(CHILD, format!("{bootstrap} {router} {topic}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the test's program starts");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        let (tell, counts) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Some(Ok(count)) = line.strip_prefix("owns ").map(str::parse) {
                    let _ = tell.send(count);
                }
            }
        });
        Self { child, counts }
    }

    fn until(&self, count: usize) {
        while self.counts.recv_timeout(PATIENCE).expect("it tells in time") != count {}
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the other half of the tests that kill and freeze a router, which start it"]
async fn a_router_in_a_process_of_its_own() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let words: Vec<&str> = told.split(' ').collect();
    let router = router(words[0], words[1]);
    let source = source(&router, words[2]);
    let mut shards = source.shards();
    loop {
        let count = shards.borrow_and_update().len();
        println!("\nowns {count}");
        shards.changed().await.expect("the source tells");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_or_frozen_router_owned_is_the_others_within_ten_seconds() {
    const COUNT: usize = 8;
    let kafka = kafka();
    let name = unique("killed");
    kafka.create_topic(&name, COUNT as u32).expect("the topic can be made");
    let survivor = router(kafka.bootstrap(), "a");
    let source = source(&survivor, &name);
    shards(&*source, COUNT).await;
    for round in ["killed", "killed and back at once", "frozen"] {
        let mut other = Process::start(kafka.bootstrap(), "b", &name);
        other.until(COUNT / 2);
        until("they share", || owned(&*source).len() == COUNT / 2).await;
        let begin = Instant::now();
        other.signal(if round == "frozen" { "-STOP" } else { "-KILL" });
        if round == "killed and back at once" {
            other = Process::start(kafka.bootstrap(), "b", &name);
            other.until(COUNT / 2);
            println!("{round}: it has its partitions after {:?}", begin.elapsed());
            until("they share again", || owned(&*source).len() == COUNT / 2).await;
            continue;
        }
        shards(&*source, COUNT).await;
        let took = begin.elapsed();
        println!("{round}: all partitions after {took:?}");
        assert!(took < MOVE_MAX, "{took:?}");
        if round == "frozen" {
            other.signal("-CONT");
            other.until(0);
            other.until(COUNT / 2);
            until("they share again", || owned(&*source).len() == COUNT / 2).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_came_back_within_its_session_sees_new_partitions() {
    let kafka = kafka();
    let name = unique("back");
    kafka.create_topic(&name, 2).expect("the topic can be made");
    let before = Process::start(kafka.bootstrap(), "a", &name);
    before.until(2);
    drop(before);
    let after = Process::start(kafka.bootstrap(), "a", &name);
    after.until(2);
    let admin: AdminClient<DefaultClientContext> = client(kafka.bootstrap(), &[]);
    admin.create_partitions(&[NewPartitions::new(&name, 3)], &AdminOptions::new()).await.expect("a partition is added");
    let begin = Instant::now();
    after.until(3);
    println!("a new partition is owned after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(30));
}
