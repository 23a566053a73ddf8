//! What two routers say to each other on the control stream.

use longhaul_link::LinkError;
use longhaul_wire::{FlowOpen, Frame};

use crate::support::{pair, pair_with, within};

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_the_lower_of_both() {
    let pair = pair_with(|dialling, listening| {
        dialling.event_bytes_max = 5000;
        listening.event_bytes_max = 7000;
    })
    .await;
    assert_eq!(pair.out.limits().event_bytes_max, 5000);
    let (sender, _receiver) = pair.incoming.split();
    assert_eq!(sender.limits(), pair.out.limits());
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_go_both_ways_in_order() {
    let mut pair = pair().await;
    let (sender, mut receiver) = pair.incoming.split();
    let open = |handle| {
        Frame::Open(FlowOpen {
            handle,
            mesh: "earth".into(),
            route: "orders".into(),
            from: ("eu".into(), "kafka".into(), "orders".into()),
            to: ("us".into(), "nats".into()),
            partition: None,
            owner_epoch: 1,
            path_epoch: 1,
            route_hash: 1,
            class: 1,
            links: 1,
        })
    };
    let answer = |handle| Frame::Accept { handle, path_epoch: 1, resume: None, events_limit: 1, bytes_limit: 1 };
    let count = 3000;
    let asking = async {
        for handle in 0..count {
            pair.out.sender().send(open(handle)).await.unwrap();
        }
    };
    let answering = async {
        for handle in 0..count {
            assert_eq!(receiver.recv().await, Ok(open(handle)));
            sender.send(answer(handle)).await.unwrap();
        }
    };
    within(async { tokio::join!(asking, answering) }).await;
    for handle in 0..count {
        assert_eq!(within(pair.out.recv()).await, Ok(answer(handle)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_too_long_is_refused_and_the_link_stands() {
    let mut pair = pair().await;
    let long = Frame::Open(FlowOpen {
        handle: 1,
        mesh: "m".repeat(70_000),
        route: String::new(),
        from: Default::default(),
        to: Default::default(),
        partition: None,
        owner_epoch: 1,
        path_epoch: 1,
        route_hash: 1,
        class: 1,
        links: 1,
    });
    assert!(matches!(pair.out.send(long).await, Err(LinkError::Unsendable(_))));
    let (sender, _receiver) = pair.incoming.split();
    sender.send(Frame::Close { handle: 1, path_epoch: 1 }).await.unwrap();
    assert!(within(pair.out.recv()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_learn_the_reason_of_a_close() {
    let mut pair = pair().await;
    let (sender, _receiver) = pair.incoming.split();
    sender.close("maintenance");
    assert_eq!(sender.closed().await, LinkError::Closed("maintenance".into()));
    let told = within(pair.out.recv()).await.unwrap_err();
    assert_eq!(told, LinkError::ClosedByPeer { code: 0, text: "maintenance".into() });
    assert!(pair.out.is_closed());
    assert!(pair.out.send(Frame::Goodbye { text: String::new() }).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_nobody_uses_any_more_is_closed() {
    let mut pair = pair().await;
    drop(pair.incoming);
    let told = within(pair.out.recv()).await.unwrap_err();
    assert!(matches!(told, LinkError::ClosedByPeer { code: 0, .. }), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_the_listener_leaves_links_alone() {
    let mut pair = pair().await;
    let addr = pair.listener.local_addr().unwrap();
    drop(pair.listener);
    let (sender, _receiver) = pair.incoming.split();
    sender.send(Frame::Close { handle: 1, path_epoch: 1 }).await.unwrap();
    assert!(within(pair.out.recv()).await.is_ok());
    let dialer = longhaul_link::Dialer::new(&pair.mesh.config("eu", "eu-2")).unwrap();
    assert!(within(dialer.dial(addr, "us", Default::default())).await.is_err(), "but lets nobody in any more");
}
