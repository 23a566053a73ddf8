//! A real Kafka starts, makes topics, survives a crash and a stop with its data, and serves two nodes at once.

use longhaul_test_brokers::kafka::Kafka;

#[test]
fn a_node_keeps_its_topics_over_a_crash_and_a_stop() {
    let mut kafka = Kafka::start().expect("Kafka starts");
    let other = Kafka::start().expect("a second Kafka starts beside it");
    assert_ne!(kafka.bootstrap(), other.bootstrap());
    kafka.create_topic("kept", 3).expect("a topic can be made");
    let again = kafka.create_topic("kept", 3).expect_err("a topic cannot be made twice");
    assert!(again.contains("topic kept"), "{again}");
    other.create_topic("kept", 1).expect("the other node knows nothing of it");

    kafka.kill();
    assert!(kafka.create_topic("while-away", 1).is_err(), "a killed node answers nobody");
    kafka.restart().expect("it starts after a crash");
    kafka.create_topic("kept", 3).expect_err("the topic outlived the crash");
    kafka.stop();
    kafka.restart().expect("it starts after a stop");
    kafka.delete_topic("kept").expect("the topic outlived the stop");
    kafka.create_topic("kept", 1).expect("a deleted topic can be made again");
}
