//! Batches: all arrive, none holds up another flow, and fast.

use std::{sync::Arc, time::Instant};

use longhaul_link::{Class, InReceiver, LinkError, OutSender};
use longhaul_wire::BATCH_HEADER_BYTES;

use crate::support::{Inbox, Pair, batch, pair, pair_with, within};

fn receive(pair: &mut Option<InReceiver>) -> Arc<Inbox> {
    let inbox = Arc::new(Inbox::default());
    pair.as_mut().expect("the receiver is there").run_parcels(inbox.clone());
    inbox
}

/// A standing link whose batches go into an inbox.
async fn flowing() -> (OutSender, Arc<Inbox>, impl Sized) {
    let Pair { out, incoming, mesh, listener } = pair().await;
    let (sender, frames) = out.split();
    let (incoming, receiver) = incoming.split();
    let mut receiver = Some(receiver);
    let inbox = receive(&mut receiver);
    (sender, inbox, (frames, incoming, receiver, mesh, listener))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lone_batch_leaves_at_once() {
    let (out, inbox, _rest) = flowing().await;
    let began = Instant::now();
    out.submit(1, Class::Normal, batch(1, 5, 10)).await.unwrap();
    inbox.until(|seen| seen.len() == 1).await;
    println!("a lone batch took {:?}", began.elapsed());
    let (header, events, wire_bytes) = inbox.seen()[0];
    assert_eq!((header.handle, header.prev, header.last, events), (1, 4, 5, 1));
    assert_eq!(wire_bytes, BATCH_HEADER_BYTES + usize::try_from(header.body_len).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_batch_of_every_flow_arrives_once() {
    let (out, inbox, _rest) = flowing().await;
    let (flows, each) = (20_u32, 100_u64);
    let mut senders = tokio::task::JoinSet::new();
    for handle in 0..flows {
        let out = out.clone();
        let class = longhaul_link::class_from_wire(u8::try_from(handle % 3).unwrap());
        senders.spawn(async move {
            for offset in 1..=each {
                let payload = usize::try_from(offset * 7919 % 40_000).unwrap();
                out.submit(handle, class, batch(handle, offset, payload)).await.unwrap();
            }
        });
    }
    within(senders.join_all()).await;
    let all = usize::try_from(u64::from(flows) * each).unwrap();
    inbox.until(|seen| seen.len() >= all).await;
    for handle in 0..flows {
        let mut offsets = inbox.last_of(handle);
        offsets.sort_unstable();
        assert_eq!(offsets, (1..=each).collect::<Vec<_>>(), "flow {handle}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_the_largest_size_arrives() {
    let Pair { out, incoming, mesh: _mesh, listener: _listener } = pair_with(|dialling, listening| {
        dialling.event_bytes_max = 64 * 1024 * 1024;
        listening.event_bytes_max = 64 * 1024 * 1024;
    })
    .await;
    let (_sender, receiver) = incoming.split();
    let mut receiver = Some(receiver);
    let inbox = receive(&mut receiver);
    let payload = 64 * 1024 * 1024 - "orders".len();
    out.submit(1, Class::Normal, batch(1, 1, payload)).await.unwrap();
    inbox.until(|seen| seen.len() == 1).await;
    assert!(inbox.seen()[0].2 > payload);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_with_a_backlog_does_not_hold_up_others() {
    let (out, inbox, _rest) = flowing().await;
    let bulk = tokio::spawn({
        let out = out.clone();
        async move {
            for offset in 1..u64::MAX {
                if out.submit(1, Class::CatchUp, batch(1, offset, 200_000)).await.is_err() {
                    return;
                }
            }
        }
    });
    inbox.until(|seen| seen.len() > 20).await;
    for class in [Class::Realtime, Class::Normal, Class::CatchUp] {
        let handle = 2 + u32::from(longhaul_link::class_to_wire(class));
        let before = inbox.seen().len();
        let began = Instant::now();
        within(out.submit(handle, class, batch(handle, 1, 100))).await.unwrap();
        inbox.until(|seen| seen.iter().any(|(header, ..)| header.handle == handle)).await;
        let seen = inbox.seen();
        let at = seen.iter().position(|(header, ..)| header.handle == handle).unwrap();
        println!("{class:?} overtaken by {} batches of the backlog, {:?}", at - before, began.elapsed());
        // What was open already, and a round of the scheduler; hundreds would pass if it stood in line.
        assert!(at - before < 120, "{class:?} came after {} batches", at - before);
    }
    out.close("done");
    within(bulk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_waits_when_its_own_queue_is_full_and_cancel_frees_it() {
    // Nobody reads parcels here, so that nothing moves on once the windows are full.
    let Pair { out, incoming, mesh: _mesh, listener: _listener } = pair().await;
    let (_sender, _receiver) = incoming.split();
    let mut offset = 0;
    // As much as ever fits; each step waits a moment, since what fits must have had time to.
    loop {
        offset += 1;
        let submit = out.submit(1, Class::Normal, batch(1, offset, 200_000));
        if tokio::time::timeout(std::time::Duration::from_millis(500), submit).await.is_err() {
            break;
        }
        assert!(offset < 1000, "a flow must be stopped some time");
    }
    assert!(out.sender().stats().queued >= 256 * 1024);
    let waiting = tokio::spawn({
        let out = out.sender().clone();
        async move { out.submit(1, Class::Normal, batch(1, 99, 10)).await }
    });
    within(out.submit(2, Class::Normal, batch(2, 1, 10))).await.expect("another flow does not wait");
    // The other task must have come to wait; until it has, cancel would find nothing of it.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    assert!(out.cancel(1) >= 256 * 1024);
    assert_eq!(within(waiting).await.unwrap(), Err(LinkError::Cancelled));
    within(out.submit(1, Class::Normal, batch(1, 1, 10))).await.expect("and the flow can go on");
    let waiting = tokio::spawn({
        let out = out.sender().clone();
        async move { while out.submit(3, Class::Normal, batch(3, 1, 200_000)).await.is_ok() {} }
    });
    out.close("done");
    within(waiting).await.expect("the end of the link frees who waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn throughput() {
    let (out, inbox, _rest) = flowing().await;
    let piece = batch(1, 1, 64 * 1024);
    let (flows, each) = (8, 400);
    let began = Instant::now();
    let mut senders = tokio::task::JoinSet::new();
    for handle in 0..flows {
        let (out, piece) = (out.clone(), piece.clone());
        senders.spawn(async move {
            for _ in 0..each {
                out.submit(handle, Class::Normal, piece.clone()).await.unwrap();
            }
        });
    }
    within(senders.join_all()).await;
    inbox.until(|seen| seen.len() == usize::try_from(flows * each).unwrap()).await;
    let bytes: usize = inbox.seen().iter().map(|(.., bytes)| bytes).sum();
    let rate = bytes as f64 / began.elapsed().as_secs_f64() / 1e6;
    println!("{rate:.0} MB/s over loopback, in a build for tests; {:?}", out.stats());
    assert!(rate > 10.0, "{rate} MB/s");
}
