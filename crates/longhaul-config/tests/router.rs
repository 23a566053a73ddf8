//! Router documents: what they come to, secrets, and the two documents together.
#![expect(clippy::disallowed_methods, reason = "the manual is read from disk")]

mod common;

use std::path::Path;

use common::router;
use longhaul_config::{BrokerAccess, QueueType, Tls, check_pair, load_router};

const HEAD: &str = "apiVersion: longhaul/v1\nkind: Router\nregion: eu-west\nname: eu-west-1\nmesh: ../topology/m.yaml\n\
                    link: {tls: {cert: certs/c.pem, key: /abs/k.pem, ca: ca.pem}}\n";

#[test]
fn defaults_are_safe() {
    let found = router(&format!("{HEAD}brokers:\n  q: {{rabbitmq: {{uri: \"amqp://h\"}}}}\n")).unwrap();
    assert_eq!(found.link.listen.to_string(), "0.0.0.0:7443");
    assert_eq!(found.link.event_bytes_max, 1 << 20);
    assert!(found.admin.listen.ip().is_loopback());
    assert_eq!(found.admin.token, None);
    assert_eq!(found.memory_bytes, 512 << 20);
    let BrokerAccess::RabbitMq(access) = &found.brokers["q"] else { panic!("not rabbitmq") };
    assert_eq!((access.prefetch, access.queue_type), (1000, QueueType::Quorum));
}

#[test]
fn paths_are_relative_to_the_document() {
    let found = router(HEAD).unwrap();
    assert_eq!(found.mesh, Path::new("configs/../topology/m.yaml"));
    assert_eq!(found.link.cert, Path::new("configs/certs/c.pem"));
    assert_eq!(found.link.key, Path::new("/abs/k.pem"));
}

#[test]
fn the_name_is_that_of_the_host_when_nothing_is_said() {
    let text = HEAD.replace("name: eu-west-1\n", "");
    let no_file = |_: &Path| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    let load = |env: &dyn Fn(&str) -> Option<String>, file: &dyn Fn(&Path) -> std::io::Result<String>| {
        load_router(Path::new("r.yaml"), &text, env, file)
    };
    let found = load(&|name| (name == "HOSTNAME").then(|| "pod-1.ns.svc".to_owned()), &no_file).unwrap();
    assert_eq!(found.name, "pod-1");
    assert_eq!(load(&|_| None, &|_| Ok("box\n".to_owned())).unwrap().name, "box");
    assert!(load(&|_| None, &no_file).unwrap_err().to_string().contains("has no name"));
}

#[test]
fn placeholders_are_filled_in_anywhere() {
    let text = "memory: \"${env:MEMORY}\"\nbrokers:\n  \
                k: {kafka: {bootstrap: [\"${env:HOST}:9092\"], sasl: {mechanism: PLAIN, username: me, password: \"a${file:pw}b$${env:X}\"}}}\n  \
                n: {nats: {servers: [\"nats://h:1\"], create_streams: \"${env:YES}\"}}\n  \
                r: {rabbitmq: {uri: \"amqp://h\", prefetch: \"${env:FEW}\"}}\n";
    let env = |name: &str| {
        let value = match name {
            "MEMORY" => "64MiB",
            "HOST" => "kafka.example.net",
            "YES" => "true",
            "FEW" => "7",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let file = |path: &Path| {
        assert_eq!(path, Path::new("configs/pw"));
        Ok("hunter2\r\n".to_owned())
    };
    let found = load_router(Path::new("configs/r.yaml"), &format!("{HEAD}{text}"), &env, &file).unwrap();
    assert_eq!(found.memory_bytes, 64 << 20);
    let BrokerAccess::Kafka(kafka) = &found.brokers["k"] else { panic!("not kafka") };
    assert_eq!(kafka.bootstrap, ["kafka.example.net:9092"]);
    assert_eq!(kafka.sasl.as_ref().unwrap().password.reveal(), "ahunter2b${env:X}");
    let BrokerAccess::Nats(nats) = &found.brokers["n"] else { panic!("not nats") };
    assert!(nats.create_streams);
    let BrokerAccess::RabbitMq(rabbit) = &found.brokers["r"] else { panic!("not rabbitmq") };
    assert_eq!(rabbit.prefetch, 7);
}

/// Puts a secret where each key stands and looks for it in everything that can be printed.
#[test]
fn no_diagnostic_shows_a_value_from_outside_or_a_secret() {
    let env = |name: &str| (name == "S").then(|| "hunter2".to_owned());
    let file = |_: &Path| Ok("hunter2".to_owned());
    let manual = std::fs::read_to_string(common::root().join("configs/default.yaml")).unwrap();
    let code: Vec<&str> = manual.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let mut refused = 0;
    for at in 0..code.len() {
        let Some((key, _)) = code[at].split_once(": ") else { continue };
        for value in ["\"${env:S}\"", "\"${file:s}\"", "\"nats://me:hunter2@h\"", "[\"${env:S}\"]"] {
            let line = format!("{key}: {value}");
            let mut lines = code.clone();
            lines[at] = &line;
            let text = lines
                .join("\n")
                .replace("${env:KAFKA_PASSWORD}", "${env:S}")
                .replace("${env:LONGHAUL_ADMIN_TOKEN}", "${env:S}");
            if let Err(found) = load_router(Path::new("r.yaml"), &text, &env, &file) {
                let shown = format!("{found}{found:?}{}{}", found.render(false), found.render(true));
                assert!(!shown.contains("hunter2"), "{shown}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_compiled_document_prints_no_secret() {
    let text = format!(
        "{HEAD}admin: {{token: hunter2hunter2hunter2}}\nbrokers:\n  r: {{rabbitmq: {{uri: \"amqp://u:hunter2@h\"}}}}\n  \
         k: {{kafka: {{bootstrap: [\"h:1\"], sasl: {{mechanism: PLAIN, username: u, password: hunter2}}}}}}\n  \
         n: {{nats: {{servers: [\"nats://h:1\"], user: u, password: hunter2}}}}\n"
    );
    let found = router(&text).unwrap();
    assert!(!format!("{found:?}").contains("hunter2"));
}

#[test]
fn the_two_documents_fit_each_other_or_not() {
    let mesh_text = "apiVersion: longhaul/v1\nkind: Mesh\nmetadata: {name: m}\nregions:\n  \
                     - {name: eu-west, brokers: [{name: orders, kafka: {}}]}\n";
    let (mesh, _) = common::mesh(mesh_text).unwrap();
    let with = |brokers: &str| check_pair(&router(&format!("{HEAD}{brokers}")).unwrap(), &mesh);
    with("brokers: {orders: {kafka: {bootstrap: [\"h:1\"]}}}\n").unwrap();
    let said = |brokers: &str| with(brokers).unwrap_err().to_string();
    assert!(said("").contains("nothing says how to reach the kafka broker `orders` of `eu-west`"));
    assert!(
        said("brokers: {orders: {embedded: {data: d}}}\n").contains("is kafka in the mesh document, but embedded here")
    );
    let extra = "brokers: {orders: {kafka: {bootstrap: [\"h:1\"]}}, order: {embedded: {data: d}}}\n";
    assert!(said(extra).contains("has no broker called `order` (did you mean `orders`?)"));
    let elsewhere = HEAD.replace("region: eu-west", "region: eu-wset");
    let found = check_pair(&router(&elsewhere).unwrap(), &mesh).unwrap_err().to_string();
    assert_eq!(found, "router document: the mesh `m` has no region called `eu-wset` (did you mean `eu-west`?)");
}

#[test]
fn traces_go_nowhere_until_an_endpoint_is_named() {
    assert_eq!(router(HEAD).unwrap().traces, None);
    let with = |traces: &str| router(&format!("{HEAD}traces: {traces}\n"));
    let found = with("{endpoint: \"http://collector:4318\"}").unwrap().traces.unwrap();
    assert_eq!((found.endpoint.as_str(), found.ratio, found.follow), ("http://collector:4318/v1/traces", 0.001, false));
    let found = with("{endpoint: \"http://[::1]:9/otlp\", ratio: 1, follow: true}").unwrap().traces.unwrap();
    assert_eq!((found.endpoint.as_str(), found.ratio, found.follow), ("http://[::1]:9/otlp", 1.0, true));
    let found = with("{endpoint: \"https://c:9\", tls: {ca: ca.crt}, headers: {Authorization: \"Bearer hunter2\"}}");
    let found = found.unwrap().traces.unwrap();
    assert_eq!(found.endpoint, "https://c:9/v1/traces");
    assert!(found.tls.ca.as_ref().is_some_and(|ca| ca.ends_with("ca.crt")) && found.tls.cert.is_none());
    assert_eq!(found.headers["authorization"].reveal(), "Bearer hunter2");
    assert!(!format!("{found:?}").contains("hunter2"));
    assert_eq!(with("{endpoint: \"https://c:9\"}").unwrap().traces.unwrap().tls, Tls::default());
    for (traces, says) in [
        ("{}", "router.yaml:7:"),
        ("{endpoint: \"ftp://collector:4318\"}", "no endpoint for traces"),
        ("{endpoint: \"collector:4318\"}", "no endpoint for traces"),
        ("{endpoint: \"http://collector\"}", "expected HOST:PORT"),
        ("{endpoint: \"http://me:hunter2@collector:1\"}", "expected HOST:PORT"),
        ("{endpoint: \"http://c:1/a b\"}", "a path that is none"),
        ("{endpoint: \"http://c:1\", ratio: 0}", "router.yaml:7:41: `0` is not understood: expected a number above 0"),
        ("{endpoint: \"http://c:1\", ratio: 1.001}", "at most 1"),
        ("{endpoint: \"http://c:1\", ratio: NaN}", "at most 1"),
        ("{endpoint: \"http://c:1\", ration: 0.1}", "did you mean `ratio`?"),
        ("{endpoint: \"http://c:1\", tls: {ca: ca.crt}}", "`tls` has no effect with an `http://` endpoint"),
        ("{endpoint: \"https://c:1\", tls: {cert: a.crt}}", "`cert` and `key` belong together"),
        ("{endpoint: \"https://c:1\", headers: {\"a b\": x}}", "`a b` is no name of a header"),
        ("{endpoint: \"https://c:1\", headers: {Host: x}}", "the header `host` cannot be set here"),
        ("{endpoint: \"https://c:1\", headers: {x: \"hunter2\\n\"}}", "one line of printable ASCII"),
    ] {
        let said = with(traces).unwrap_err().to_string();
        assert!(said.contains(says), "{traces}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}
