//! Routers of neighbouring versions speak with each other, whatever the newer one adds where it may; those further apart part at the Hello,
//! and both say why.

use bytes::{BufMut, Bytes, BytesMut};
use longhaul_link::{Dialer, InLink, LinkError, Listener, WindowHint};
use longhaul_wire::{Frame, Hello, PROTOCOL_VERSION, SKIPPABLE_FROM, VERSION_SKEW_MAX, encode_frame};

use crate::{
    garbage::foreign,
    support::{Mesh, listen, within},
};

/// The last version that may be met, and the first that may not.
const INSIDE: u16 = PROTOCOL_VERSION + VERSION_SKEW_MAX;
const OUTSIDE: u16 = INSIDE + 1;
const ADVICE: &str = "at most 1 apart may meet, so upgrade the older one first";

fn bytes_of(frame: &Frame) -> BytesMut {
    let mut out = BytesMut::new();
    encode_frame(frame, &mut out).unwrap();
    out
}

/// A Hello of that version, which says more than this one knows: every bit of `features`, and fields behind the last.
fn hello_of(version: u16, hello: Hello) -> Bytes {
    let body = bytes_of(&Frame::Hello(Hello { version, features: u64::MAX, ..hello })).split_off(4);
    let more = b"fields of a later version";
    let mut out = BytesMut::new();
    out.put_u32_le((body.len() + more.len()).try_into().unwrap());
    out.extend_from_slice(&body);
    out.extend_from_slice(more);
    out.freeze()
}

/// A router of some version that dialled, with all that must stay for its link to stand.
struct Other {
    connection: quinn::Connection,
    send: quinn::SendStream,
    _recv: quinn::RecvStream,
    _endpoint: quinn::Endpoint,
    _listener: Listener,
}

/// Dials as a router of that version; what the listener comes to, and the one that dialled.
async fn dial_as(version: u16) -> (Result<InLink, LinkError>, Other) {
    let mesh = Mesh::new("earth");
    let (mut listener, addr) = listen(&mesh.config("us", "us-1"));
    let own = mesh.config("eu", "eu-1");
    let (endpoint, client) = foreign(&own);
    let connection = endpoint.connect_with(client, addr, "longhaul").unwrap().await.unwrap();
    let (mut send, recv) = connection.open_bi().await.unwrap();
    send.write_all(&hello_of(version, own.hello())).await.unwrap();
    let link = within(listener.accept()).await.unwrap();
    (link, Other { connection, send, _recv: recv, _endpoint: endpoint, _listener: listener })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_of_the_next_version_that_dials_is_spoken_to() {
    let (link, mut other) = dial_as(INSIDE).await;
    let (_sender, mut link) = link.unwrap().split();
    // A kind of frame that came with its version, and that it may send to who does not know it; then one that both know.
    other.send.write_all(&[2, 0, 0, 0, SKIPPABLE_FROM, 7]).await.unwrap();
    let close = Frame::Close { handle: 1, path_epoch: 1 };
    other.send.write_all(&bytes_of(&close)).await.unwrap();
    assert_eq!(within(link.recv()).await.unwrap(), close);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_of_the_version_after_that_is_refused_and_both_say_why() {
    for version in [OUTSIDE, 0] {
        let (link, other) = dial_as(version).await;
        let error = link.err().unwrap();
        let said = format!("one speaks version {version} of the protocol, the other version {PROTOCOL_VERSION}");
        assert!(
            matches!(error.cause(), LinkError::Hello(text) if text.contains(&said) && text.contains(ADVICE)),
            "{error}"
        );
        let told = within(other.connection.closed()).await.to_string();
        assert!(told.contains(&said) && told.contains(ADVICE), "{told}");
    }
}

/// The other way round: this router dials, and the one that listens is newer.
async fn dial_to(version: u16) -> Result<(), LinkError> {
    let mesh = Mesh::new("earth");
    let theirs = mesh.config("us", "us-1");
    let (endpoint, hello) = (crate::garbage::foreign_listener(&theirs), hello_of(version, theirs.hello()));
    let addr = endpoint.local_addr().unwrap();
    let peer = tokio::spawn(async move {
        let connection = endpoint.accept().await.unwrap().await.unwrap();
        let (mut send, _recv) = connection.accept_bi().await.unwrap();
        send.write_all(&hello).await.unwrap();
        connection.closed().await
    });
    let dialer = Dialer::new(&mesh.config("eu", "eu-1")).unwrap();
    let dialled = within(dialer.dial(addr, "us", WindowHint::default())).await;
    let dialled = dialled.map(|link| link.close("met"));
    within(peer).await.unwrap();
    dialled
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_of_the_next_version_may_be_dialled_and_one_after_that_not() {
    dial_to(INSIDE).await.unwrap();
    let error = dial_to(OUTSIDE).await.unwrap_err();
    assert!(matches!(error.cause(), LinkError::Hello(text) if text.contains(ADVICE)), "{error}");
}
