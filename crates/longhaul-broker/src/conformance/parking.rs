//! The place for what a broker refused: kept as it was put, seen by whoever looks next, gone when it is removed.

use bytes::Bytes;

use crate::{Connector, PIECE_BYTES_MAX};

/// Checks the place of a broker that nobody else uses meanwhile. `again` is another connector to the same broker, or the same.
///
/// # Panics
/// With a sentence on any violation.
pub async fn parking(connector: &dyn Connector, again: &dyn Connector) {
    let (place, other) = (connector.parking().expect("a place"), again.parking().expect("a place"));
    let fault = "the place serves";
    let (a, b) = ("a".repeat(32), "b".repeat(32));
    assert_eq!(place.heads(10).await.expect(fault), [], "it begins empty");
    assert_eq!(place.get(a.clone(), 0).await.expect(fault), None);
    place.remove(a.clone(), 3).await.expect("what is not there is no error");

    let largest = Bytes::from(vec![0xa5; PIECE_BYTES_MAX]);
    place.put(a.clone(), 2, Bytes::new()).await.expect(fault);
    place.put(a.clone(), 1, largest.clone()).await.expect(fault);
    assert_eq!(other.heads(10).await.expect(fault), [], "what has no head is not there");
    for head in ["first", "second"] {
        place.put(a.clone(), 0, Bytes::from_static(head.as_bytes())).await.expect(fault);
    }
    place.put(b.clone(), 0, Bytes::from_static(b"other")).await.expect(fault);
    let (second, third) = (Bytes::from_static(b"second"), Bytes::from_static(b"other"));
    assert_eq!(other.heads(10).await.expect(fault), [(a.clone(), second.clone()), (b.clone(), third.clone())]);
    assert_eq!(other.heads(1).await.expect(fault).len(), 1);
    assert_eq!(other.get(a.clone(), 0).await.expect(fault), Some(second));
    assert_eq!(other.get(a.clone(), 1).await.expect(fault), Some(largest));
    assert_eq!(other.get(a.clone(), 2).await.expect(fault), Some(Bytes::new()));
    assert_eq!(other.get(a.clone(), 3).await.expect(fault), None);

    other.remove(a.clone(), 3).await.expect(fault);
    other.remove(a.clone(), 3).await.expect("removed twice is no error");
    assert_eq!(place.heads(10).await.expect(fault), [(b.clone(), third)]);
    assert_eq!(place.get(a, 1).await.expect(fault), None);
    place.remove(b, 1).await.expect(fault);
    assert_eq!(place.heads(10).await.expect(fault), []);
}
