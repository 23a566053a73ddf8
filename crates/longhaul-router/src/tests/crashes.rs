//! Connectors that panic: their flows begin again, and nothing is lost.

use super::broker::Broker;
use super::mesh::{TestMesh, events, route, wait_for, without_repeats};

async fn delivers_all(replayable: bool, read_panics: u64, write_panics: u64) {
    let (source, sink) = (Broker::new(70, replayable, &["a"]), Broker::new(71, true, &[]));
    source.witness(&[&sink]);
    let mesh = TestMesh::new(source, vec![sink], vec![route("r", &[0])]).start().await;
    let there = || without_repeats(&mesh.sinks[0].written("r", "a"));
    mesh.source.publish("a", 0..500);
    wait_for("some of it", &mesh, || there().len() > 100).await;
    mesh.source.faults(|faults| faults.read_panics = read_panics);
    mesh.sinks[0].faults(|faults| faults.write_panics = write_panics);
    mesh.source.publish("a", 500..1_000);
    wait_for("all of it", &mesh, || there().len() >= 1_000).await;
    assert_eq!(there(), events("a", 1_000));
    assert_eq!(mesh.source.violations(), Vec::<String>::new());
    mesh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_panics_is_opened_again() {
    delivers_all(true, 2, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_whose_reader_panics_is_opened_again() {
    delivers_all(false, 2, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_panics_is_opened_again() {
    delivers_all(true, 0, 2).await;
    delivers_all(false, 0, 2).await;
}
