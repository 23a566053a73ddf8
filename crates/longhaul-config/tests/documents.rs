//! Every document at the root of the repository is what it says: examples compile, broken ones are refused as they expect, the
//! manual is complete, the schemas are those of the code.
#![expect(clippy::disallowed_methods, reason = "the documents of the repository are read from disk")]

mod common;

use common::{documents, root, router, wrong};
use longhaul_config::{Kind, check_pair_in, document_kind, schema};
use serde_json::Value;

#[test]
fn examples_compile() {
    let mut meshes = 0;
    for (name, text) in documents("topology").into_iter().filter(|(name, _)| !name.starts_with("broken-")) {
        let (mesh, notes) = common::mesh(&text).unwrap_or_else(|found| panic!("{name}: {found}"));
        assert!(notes.is_empty(), "{name}: {notes}");
        assert!(!mesh.routes.is_empty(), "{name} shows no route");
        assert!(text.starts_with("# yaml-language-server: $schema=mesh.schema.json\n"), "{name} has no schema line");
        meshes += 1;
    }
    assert!(meshes >= 4);
    for (name, text) in documents("configs").into_iter().filter(|(name, _)| !name.starts_with("broken-")) {
        router(&text).unwrap_or_else(|found| panic!("{name}: {found}"));
        assert!(text.starts_with("# yaml-language-server: $schema=router.schema.json\n"), "{name} has no schema line");
    }
}

#[test]
fn the_routers_of_three_regions_fit_their_mesh() {
    let text = std::fs::read_to_string(root().join("topology/three-regions.yaml")).unwrap();
    let (mesh, _) = common::mesh(&text).unwrap();
    for region in ["eu-west", "us-east", "ap-south"] {
        let path = root().join(format!("configs/{region}.yaml"));
        let text = std::fs::read_to_string(&path).unwrap();
        let router = router(&text).unwrap();
        assert_eq!(router.region, region);
        check_pair_in(&path, &text, &router, &mesh).unwrap();
    }
    let directions: usize = mesh.routes.iter().map(|route| route.to.len()).sum();
    assert_eq!(directions, 6);
}

#[test]
fn broken_documents_are_refused_as_they_expect() {
    let mut walked = 0;
    let mut failures = Vec::new();
    for (name, text) in
        ["topology", "configs"].into_iter().flat_map(documents).filter(|(name, _)| name.starts_with("broken-"))
    {
        let expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# expect: ")).collect();
        assert!(!expected.is_empty(), "{name} expects nothing");
        let Some(found) = wrong(&text) else {
            failures.push(format!("{name} compiles"));
            continue;
        };
        let said: Vec<String> =
            found.iter().map(|found| format!("{}:{}: {}", found.line, found.column, found.message)).collect();
        let as_expected = said.len() == expected.len()
            && said.iter().zip(&expected).all(|(said, expected)| {
                let (place, part) = expected.split_once(": ").unwrap();
                said.starts_with(&format!("{place}: ")) && said.contains(part)
            });
        if !as_expected {
            failures.push(format!(
                "{name}:\n  expected {}\n  found    {}",
                expected.join("\n           "),
                said.join("\n           ")
            ));
        }
        assert!(
            !format!("{found}{}{}", found.render(true), found.render(false)).contains("hunter2"),
            "{name} shows a secret"
        );
        walked += 1;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(walked >= 60, "only {walked} broken documents");
}

/// Every key that a schema knows, wherever it stands.
fn keys(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(properties)) = map.get("properties") {
                found.extend(properties.keys().cloned());
            }
            map.values().for_each(|value| keys(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        _ => {}
    }
}

#[test]
fn the_manual_has_every_key_of_the_router_document() {
    let manual = std::fs::read_to_string(root().join("configs/default.yaml")).unwrap();
    let mut known = Vec::new();
    keys(&serde_json::from_str(&schema(Kind::Router)).unwrap(), &mut known);
    assert!(known.len() > 40, "{known:?}");
    for key in known {
        let there = manual.lines().any(|line| {
            let code = line.split(" #").next().unwrap_or_default();
            code.split(['{', ',', ' ']).any(|word| word == format!("{key}:"))
        });
        assert!(there, "configs/default.yaml does not show `{key}`");
    }
}

#[test]
fn the_manual_says_the_defaults_that_the_code_has() {
    let manual = router(&std::fs::read_to_string(root().join("configs/default.yaml")).unwrap()).unwrap();
    let least = router(
        "apiVersion: longhaul/v1\nkind: Router\nregion: eu-west\nmesh: m.yaml\nname: a\n\
         link: {tls: {cert: a, key: b, ca: c}}\n\
         brokers:\n  billing: {rabbitmq: {uri: \"amqps://h\"}}\n  analytics: {nats: {servers: [\"nats://h:1\"]}}\n  local: {embedded: {data: d}}\n",
    )
    .unwrap();
    assert_eq!(manual.link.listen, least.link.listen);
    assert_eq!(manual.link.event_bytes_max, least.link.event_bytes_max);
    assert_eq!(manual.admin.listen, least.admin.listen);
    assert_eq!(manual.memory_bytes, least.memory_bytes);
    use longhaul_config::BrokerAccess::{Embedded, Nats, RabbitMq};
    let (RabbitMq(a), RabbitMq(b)) = (&manual.brokers["billing"], &least.brokers["billing"]) else {
        panic!("not rabbitmq")
    };
    assert_eq!((a.prefetch, a.queue_type), (b.prefetch, b.queue_type));
    let (Nats(a), Nats(b)) = (&manual.brokers["analytics"], &least.brokers["analytics"]) else { panic!("not nats") };
    assert_eq!(a.create_streams, b.create_streams);
    let (Embedded(a), Embedded(b)) = (&manual.brokers["local"], &least.brokers["local"]) else {
        panic!("not embedded")
    };
    assert_eq!(a.listen, b.listen);
}

/// Writes the schemas when `UPDATE_SCHEMAS` is set, compares them otherwise.
#[test]
fn the_committed_schemas_are_those_of_the_code() {
    for (kind, path) in [(Kind::Mesh, "topology/mesh.schema.json"), (Kind::Router, "configs/router.schema.json")] {
        let path = root().join(path);
        if std::env::var_os("UPDATE_SCHEMAS").is_some() {
            std::fs::write(&path, schema(kind)).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == schema(kind), "{} is out of date: run this test with UPDATE_SCHEMAS=1", path.display());
    }
}

#[test]
fn a_document_says_of_which_kind_it_is() {
    assert_eq!(document_kind("kind: Mesh"), Some(Kind::Mesh));
    assert_eq!(document_kind("{kind: Router}"), Some(Kind::Router));
    assert_eq!(document_kind("kind: Router\nname: [\n"), Some(Kind::Router));
    assert_eq!(document_kind("kind: Pod"), None);
    assert_eq!(document_kind("- kind"), None);
    assert_eq!(document_kind(""), None);
}
