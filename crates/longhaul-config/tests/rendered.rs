//! How diagnostics look, read aloud. `INSTA_UPDATE=always` writes the snapshots anew.
#![expect(clippy::disallowed_methods, reason = "the documents of the repository are read from disk")]

mod common;

use common::{mesh, root, router, wrong};
use longhaul_config::check_pair_in;

/// A broken document of the repository, drawn without colour.
fn drawn(path: &str) -> String {
    wrong(&std::fs::read_to_string(root().join(path)).expect("it is there")).expect("it is broken").render(false)
}

#[test]
fn a_mistyped_name_points_at_the_nearest_and_at_the_region() {
    insta::assert_snapshot!(drawn("topology/broken-unknown-broker.yaml"));
}

#[test]
fn a_duplicate_shows_both_places() {
    insta::assert_snapshot!(drawn("topology/broken-duplicate-key.yaml"));
}

#[test]
fn a_cycle_names_its_routes_in_order() {
    insta::assert_snapshot!(drawn("topology/broken-cycle-of-three.yaml"));
}

#[test]
fn a_route_without_a_link_is_told_which_to_add() {
    insta::assert_snapshot!(drawn("topology/broken-no-link.yaml"));
}

#[test]
fn many_errors_come_at_once() {
    insta::assert_snapshot!(drawn("topology/broken-many.yaml"));
}

#[test]
fn text_that_is_no_yaml_says_where_it_stops() {
    insta::assert_snapshot!(drawn("topology/broken-syntax.yaml"));
}

#[test]
fn a_secret_is_masked_in_the_drawing() {
    insta::assert_snapshot!(drawn("configs/broken-mechanism.yaml"));
}

#[test]
fn a_missing_variable_is_pointed_at() {
    insta::assert_snapshot!(drawn("configs/broken-env.yaml"));
}

#[test]
fn one_line_each_for_logs() {
    let text = std::fs::read_to_string(root().join("topology/broken-many.yaml")).unwrap();
    insta::assert_snapshot!(mesh(&text).unwrap_err().to_string());
}

#[test]
fn two_documents_that_do_not_fit() {
    let (shop, _) = mesh(&std::fs::read_to_string(root().join("topology/three-regions.yaml")).unwrap()).unwrap();
    let text = "apiVersion: longhaul/v1\nkind: Router\nregion: us-east\nname: a\nmesh: m.yaml\n\
                link: {tls: {cert: a, key: b, ca: c}}\n\
                brokers:\n  billing: {nats: {servers: [\"nats://h:1\"]}}\n  biling: {rabbitmq: {uri: \"amqp://u:hunter2@h\"}}\n";
    let found = check_pair_in("us-east.yaml".as_ref(), text, &router(text).unwrap(), &shop).unwrap_err();
    insta::assert_snapshot!(found.render(false));
}

#[test]
fn colour_is_asked_for() {
    let text = std::fs::read_to_string(root().join("topology/broken-word.yaml")).unwrap();
    let found = mesh(&text).unwrap_err();
    assert!(found.render(true).contains('\u{1b}'));
    assert!(!found.render(false).contains('\u{1b}'));
}
