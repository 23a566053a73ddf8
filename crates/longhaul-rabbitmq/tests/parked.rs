//! What is parked stays: over crashes of the broker, seen by every router, until it is removed.

mod common;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{PATIENCE, Raw, connector, up};
use lapin::options::QueueDeleteOptions;
use longhaul_broker::{Connector, Parking, SinkError, conformance};
use longhaul_rabbitmq::RabbitMqConnector;
use longhaul_test_brokers::rabbitmq::RabbitMq;
use tokio::time::{Instant, sleep};

const THINGS: u64 = 150;

fn place(rabbit: &RabbitMqConnector) -> Arc<dyn Parking> {
    rabbit.parking().expect("RabbitMQ has a place")
}

/// Again and again while the broker comes back.
async fn patiently<T>(mut ask: impl AsyncFnMut() -> Result<T, SinkError>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(SinkError::Transient(_)) if Instant::now() < end => sleep(Duration::from_millis(200)).await,
            Err(error) => panic!("the place does not serve: {error}"),
        }
    }
}

fn name(number: u64) -> String {
    format!("{number:032x}")
}

fn body(number: u64) -> Bytes {
    Bytes::from(vec![u8::try_from(number % 256).expect("small"); 3_000])
}

async fn put(place: &dyn Parking, number: u64) {
    place.put(name(number), 1, body(number)).await.expect("it is kept");
    place.put(name(number), 0, Bytes::from(format!("head {number}"))).await.expect("it is kept");
}

async fn holds(place: &dyn Parking, numbers: impl Iterator<Item = u64>) {
    let heads = patiently(async || place.heads(10_000).await).await;
    let expected: Vec<_> = numbers.map(|number| (name(number), Bytes::from(format!("head {number}")))).collect();
    assert_eq!(heads, expected);
    for number in [0, THINGS / 2, THINGS - 1] {
        let there = expected.iter().any(|(known, _)| *known == name(number));
        let found = patiently(async || place.get(name(number), 1).await).await;
        assert_eq!(found, there.then(|| body(number)), "the body of {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_parked_stays() {
    let mut node = RabbitMq::start().expect("RabbitMQ starts");
    let uri = node.uri().to_owned();
    let (one, two) = (connector(&uri), connector(&uri));
    conformance::parking(&*one, &*two).await;
    let (here, there) = (place(&one), place(&two));

    // More than are under way at once; both see what either does.
    for number in 0..THINGS {
        put(if number % 2 == 0 { &*here } else { &*there }, number).await;
    }
    holds(&*here, 0..THINGS).await;
    there.remove(name(0), 2).await.expect("it is removed");
    here.remove(name(THINGS / 2), 2).await.expect("it is removed");
    let rest = || (1..THINGS).filter(|number| *number != THINGS / 2);
    holds(&*here, rest()).await;
    holds(&*there, rest()).await;

    if node.kill().is_ok() {
        node = tokio::task::spawn_blocking(move || {
            node.restart().expect("the node comes back");
            node
        })
        .await
        .expect("the node comes back");
        up(&one).await;
        holds(&*here, rest()).await;
        // Somebody who was not there sees the same, and what is put now is beside it.
        let three = connector(&uri);
        holds(&*place(&three), rest()).await;
        patiently(async || here.put(name(0), 1, body(0)).await).await;
        patiently(async || here.put(name(0), 0, Bytes::from_static(b"head 0")).await).await;
        holds(&*place(&three), (0..THINGS).filter(|number| *number != THINGS / 2)).await;
    }

    // Where somebody deletes all of it, it begins empty.
    let raw = Raw::connect(&uri).await;
    raw.channel.queue_delete("longhaul.parked".into(), QueueDeleteOptions::default()).await.expect("the stream");
    holds(&*there, std::iter::empty()).await;
    put(&*there, 7).await;
    holds(&*here, std::iter::once(7)).await;
    drop(node);
}
