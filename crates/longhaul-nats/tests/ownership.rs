//! Several routers of one region on one server: every stream has one owner, whoever comes, goes, dies, hangs or has a name twice.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use futures::StreamExt;
use longhaul_broker::{Connector, Context, Health, Source};
use longhaul_config::Nats as Access;
use longhaul_event::Start;
use longhaul_nats::NatsConnector;
use longhaul_test_brokers::nats::Nats;
use longhaul_topology::SourceKind;
use support::*;
use tokio::time::{Instant, timeout};

const STREAMS: usize = 12;
/// What a crash may cost.
const CRASH: Duration = Duration::from_secs(10);
/// What a clean end may cost.
const CLEAN: Duration = Duration::from_secs(2);

type Shards = BTreeSet<String>;

/// A router as its broker sees it; dropping it is a crash.
struct Member {
    connector: Arc<NatsConnector>,
    source: Arc<dyn Source>,
}

impl Member {
    fn with(access: Access, name: &str) -> Self {
        let connector = NatsConnector::new(access, Context { router: name.to_owned(), ..context() });
        let connector = connector.expect("a connector");
        let spec = source_spec(SourceKind::JetStream { stream: None, topics: filters(&["a.#"]) });
        let source = connector.source(spec).expect("a source");
        Self { connector, source }
    }

    fn new(nats: &Nats, name: &str) -> Self {
        Self::with(access(nats), name)
    }

    fn owns(&self) -> Shards {
        self.source.shards().borrow().iter().map(|shard| shard.name.clone()).collect()
    }

    /// Waits for the reason that this broker shows for being down.
    async fn reason(&self, words: &str) -> String {
        let mut health = self.connector.health();
        let says = |health: &Health| matches!(health, Health::Down(reason) if reason.contains(words));
        let told = timeout(LIMIT, health.wait_for(says)).await;
        let health = told.unwrap_or_else(|_| panic!("nobody says {words:?}")).expect("a health").clone();
        let Health::Down(reason) = health else { unreachable!("waited for it") };
        reason
    }
}

/// A server with streams.
async fn server() -> (Nats, Shards) {
    let nats = Nats::start_with("").expect("a server");
    for n in 0..STREAMS {
        stream(&nats, &format!("S{n}"), &[&format!("a.{n}")]).await;
    }
    let shards = (0..STREAMS).map(|n| format!("S{n}?a.#")).collect();
    (nats, shards)
}

/// Waits until it is so, and says how long that took.
#[expect(clippy::print_stdout, reason = "the times are results")]
async fn until(what: &str, limit: Duration, mut so: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < limit, "{what}: not within {limit:?}");
        // Nothing tells that several lists together are right; this looks often.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{what}: {:?}", began.elapsed());
    began.elapsed()
}

/// Waits until the members own everything together, nothing twice, and something each: their names and those of the streams make it so.
async fn settled(what: &str, limit: Duration, members: &[&Member], all: &Shards) -> Duration {
    until(what, limit, || {
        let lists: Vec<Shards> = members.iter().map(|member| member.owns()).collect();
        let each = lists.iter().all(|list| !list.is_empty());
        each && lists.iter().map(BTreeSet::len).sum::<usize>() == all.len() && lists.concat() == *all
    })
    .await
}

trait Concat {
    fn concat(&self) -> Shards;
}

impl Concat for Vec<Shards> {
    fn concat(&self) -> Shards {
        self.iter().flatten().cloned().collect()
    }
}

/// Looks for a while at members that have settled: nothing may move any more.
async fn stays(members: &[&Member]) {
    let before: Vec<Shards> = members.iter().map(|member| member.owns()).collect();
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let now: Vec<Shards> = members.iter().map(|member| member.owns()).collect();
        assert_eq!(now, before, "it moves though nobody came or went");
        // More than one renewal of every record, at whatever speed.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_shared_out_and_a_newcomer_moves_only_what_becomes_its_own() {
    let (nats, all) = server().await;
    let a = Member::new(&nats, "r1");
    settled("alone it owns everything", LIMIT, &[&a], &all).await;
    let b = Member::new(&nats, "r2");
    settled("two share", LIMIT, &[&a, &b], &all).await;
    let (first, second) = (a.owns(), b.owns());
    stays(&[&a, &b]).await;
    let c = Member::new(&nats, "r3");
    settled("three share", LIMIT, &[&a, &b, &c], &all).await;
    assert!(a.owns().is_subset(&first) && b.owns().is_subset(&second), "what moved did not go to the newcomer");
    // What is listed can be read.
    let shard = c.source.shards().borrow()[0].clone();
    let subject = shard.name.split(['S', '?']).nth(1).map(|n| format!("a.{n}")).expect("a number");
    let js = jetstream::new(client(&nats).await);
    js.publish(subject, "0".into()).await.expect("sent").await.expect("stored");
    let mut reader = reader(&*c.source, &shard, Start::Earliest).await;
    assert_eq!(read_some(&mut *reader, 1).await.0.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_moves_everything_within_ten_seconds() {
    let (nats, all) = server().await;
    let (a, b) = (Member::new(&nats, "r1"), Member::new(&nats, "r2"));
    settled("two share", LIMIT, &[&a, &b], &all).await;
    drop(a);
    settled("after a crash the other owns everything", CRASH, &[&b], &all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_end_moves_everything_at_once() {
    let (nats, all) = server().await;
    let (a, b) = (Member::new(&nats, "r1"), Member::new(&nats, "r2"));
    settled("two share", LIMIT, &[&a, &b], &all).await;
    a.connector.close().await;
    assert_eq!(a.owns(), Shards::new());
    settled("after a clean end the other owns everything", CLEAN, &[&b], &all).await;
}

async fn keys(nats: &Nats) -> Vec<String> {
    let js = jetstream::new(client(nats).await);
    let names: Vec<_> = js.stream_names().collect().await;
    let bucket = names.into_iter().flatten().find(|name| name.starts_with("KV_longhaul_routers_m_eu_nats_"));
    let bucket = bucket.expect("a bucket");
    let store = js.get_key_value(bucket.trim_start_matches("KV_")).await.expect("the bucket");
    store.keys().await.expect("keys").map(|key| key.expect("a key")).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_record_is_waited_for_once_and_removed() {
    let (nats, all) = server().await;
    let dead = Member::new(&nats, "r0");
    settled("one alone", LIMIT, &[&dead], &all).await;
    drop(dead);
    let a = Member::new(&nats, "r1");
    until("its own part, which the dead one could not have", LIMIT, || !a.owns().is_empty()).await;
    assert_ne!(a.owns(), all, "the other may still live");
    settled("with a dead record it owns everything", CRASH, &[&a], &all).await;
    let until_removed = Instant::now() + LIMIT;
    while keys(&nats).await != ["r1"] {
        assert!(Instant::now() < until_removed, "{:?}", keys(&nats).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_after_a_crash_does_not_wait_for_its_own_record() {
    let (nats, all) = server().await;
    let a = Member::new(&nats, "r1");
    settled("one alone", LIMIT, &[&a], &all).await;
    drop(a);
    let a = Member::new(&nats, "r1");
    settled("after its own crash it owns everything", LIMIT, &[&a], &all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_with_the_same_name_the_later_owns_and_the_earlier_says_why_it_does_not() {
    let (nats, all) = server().await;
    let early = Member::new(&nats, "r1");
    settled("one alone", LIMIT, &[&early], &all).await;
    let late = Member::new(&nats, "r1");
    settled("the later one owns", LIMIT, &[&late], &all).await;
    until("the earlier one gave up", LIMIT, || early.owns().is_empty()).await;
    let reason = early.reason("another router named r1").await;
    assert!(reason.contains("owns nothing"), "{reason}");
    stays(&[&early, &late]).await;
    drop(late);
    settled("the earlier one owns again", CRASH, &[&early], &all).await;
    up(&early.connector).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_was_paused_gives_up_what_it_lost() {
    let (nats, all) = server().await;
    let (wake, sleeping) = std::sync::mpsc::channel::<()>();
    let (pause, mut paused) = tokio::sync::mpsc::channel::<()>(1);
    let (tell, told) = std::sync::mpsc::channel();
    let url = access(&nats);
    // A router in a runtime of one thread, which stands still while that thread does: nothing of it runs, its connection stays open.
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let member = Member::with(url, "r1");
            tell.send(member.source.shards()).expect("a test");
            while paused.recv().await.is_some() {
                sleeping.recv().expect("woken");
            }
        });
    });
    let lists = told.recv().expect("a member");
    let owns = || lists.borrow().iter().map(|shard| shard.name.clone()).collect::<Shards>();
    let b = Member::new(&nats, "r2");
    let share = |a: Shards, b: Shards| !a.is_empty() && !b.is_empty() && a.len() + b.len() == all.len();
    until("two share", LIMIT, || share(owns(), b.owns())).await;
    let before = owns();
    pause.send(()).await.expect("a member");
    settled("while the other hangs", CRASH, &[&b], &all).await;
    assert_eq!(owns(), before, "it did not hang: the test shows nothing");
    wake.send(()).expect("a member");
    until("it gave up", CLEAN, || owns().is_disjoint(&b.owns())).await;
    until("two share again", LIMIT, || owns() == before && share(before.clone(), b.owns())).await;
    drop(pause);
    thread.join().expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_away_finds_the_same_owners() {
    let (mut nats, all) = server().await;
    let (a, b) = (Member::new(&nats, "r1"), Member::new(&nats, "r2"));
    settled("two share", LIMIT, &[&a, &b], &all).await;
    let before = (a.owns(), b.owns());
    nats.kill();
    until("nobody owns what nobody can share out", CRASH, || a.owns().is_empty() && b.owns().is_empty()).await;
    nats.restart().expect("it comes back");
    until("the same owners", LIMIT, || (a.owns(), b.owns()) == before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_deleted_is_made_again() {
    let (nats, all) = server().await;
    let (a, b) = (Member::new(&nats, "r1"), Member::new(&nats, "r2"));
    settled("two share", LIMIT, &[&a, &b], &all).await;
    let js = jetstream::new(client(&nats).await);
    let names: Vec<_> = js.stream_names().collect().await;
    let bucket = names.into_iter().flatten().find(|name| name.starts_with("KV_longhaul_routers")).expect("a bucket");
    js.delete_stream(&bucket).await.expect("deleted");
    let end = Instant::now() + LIMIT;
    while js.get_stream(&bucket).await.is_err() || keys(&nats).await.len() < 2 {
        assert!(Instant::now() < end, "nobody makes it again");
    }
    settled("two share as before", LIMIT, &[&a, &b], &all).await;
    stays(&[&a, &b]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_forbids_sharing_is_said() {
    let deny = "permissions: { publish: { deny: [\"$KV.>\"] } }";
    let user = "user: user, password: right";
    let nats = Nats::start_with(&format!("authorization {{ users: [{{ {user}, {deny} }}] }}")).expect("a server");
    let without_rights = Member::with(with_password(&nats, "right"), "r1");
    let reason = without_rights.reason("bucket longhaul_routers_m_eu_nats_").await;
    assert!(reason.to_lowercase().contains("permissions violation"), "{reason}");
    assert!(without_rights.owns().is_empty());

    let nats = Nats::start_with(&format!("accounts {{ A {{ users: [{{ {user} }}] }} }}")).expect("a server");
    let without_jetstream = Member::with(with_password(&nats, "right"), "r1");
    let reason = without_jetstream.reason("JetStream").await;
    assert!(reason.contains("owns none"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn core_messages_go_to_one_of_the_routers_each() {
    const MESSAGES: u64 = 2000;
    let nats = Nats::start_with("").expect("a server");
    let spec = || source_spec(SourceKind::CoreNats { topics: filters(&["a.#"]) });
    let mut readers = Vec::new();
    let mut names = BTreeSet::new();
    for name in ["r1", "r2"] {
        let context = Context { router: name.to_owned(), ..context() };
        let connector = NatsConnector::new(access(&nats), context).expect("a connector");
        let source = connector.source(spec()).expect("a source");
        let shards = source.shards().borrow().clone();
        names.extend(shards.iter().map(|shard| shard.name.clone()));
        for shard in shards.iter() {
            let reader = reader(&*source, shard, Start::Latest).await;
            readers.push((name, connector.clone(), source.clone(), reader));
        }
    }
    assert_eq!(names.len(), readers.len(), "two routers with a flow of the same name would shut each other out");
    let (tx, mut rx) = tokio::sync::mpsc::channel(16);
    for (name, connector, source, mut reader) in readers {
        let tx = tx.clone();
        tokio::spawn(async move {
            let _alive = (connector, source);
            while let Ok(batch) = reader.read().await {
                if tx.send((name, batch.events)).await.is_err() {
                    return;
                }
            }
        });
    }
    let client = client(&nats).await;
    for n in 0..MESSAGES {
        client.publish("a.x", n.to_string().into()).await.expect("sent");
        if n % 200 == 0 {
            // So that no reader falls behind: core NATS drops what is too much.
            client.flush().await.expect("flushed");
        }
    }
    client.flush().await.expect("flushed");
    let mut read: BTreeMap<u64, &str> = BTreeMap::new();
    while (read.len() as u64) < MESSAGES {
        let (name, events) = timeout(LIMIT, rx.recv()).await.expect("all of them in time").expect("readers");
        for event in events {
            assert_eq!(read.insert(number(&event), name), None, "read by both");
        }
    }
    let by_first = read.values().filter(|name| **name == "r1").count();
    assert!(by_first > 0 && by_first < read.len(), "only one of them got anything: {by_first}");
}
