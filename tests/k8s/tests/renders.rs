//! The chart and kustomize make the same objects; generated values are good, and wrong ones are refused with their path.

use std::process::Command;

use longhaul_test_cluster::Api;
use longhaul_test_k8s::{Objects, REGIONS, api, argument, generate, mesh, objects, path, program, template, word};
use serde_json::{Value, json};

/// What every region needs at least.
const SMALL: &str = "region: eu-west\n";

fn rendered(api: &Api, values: &str, more: &[&str]) -> Objects {
    objects(&template(api, values, "eu-west", more).expect("the chart renders"))
}

fn refusal(api: &Api, values: &str, more: &[&str]) -> String {
    template(api, values, "eu-west", more).expect_err("it is refused")
}

#[test]
fn kustomize_and_the_chart_make_the_same_objects_for_every_region() {
    let api = api();
    for region in REGIONS {
        let values = generate(&mesh(), region).expect("values for the region");
        let chart = objects(&template(&api, &values, region, &[]).expect("the chart renders"));
        let folder = argument(&format!("k8s/kustomize/overlays/three-regions/{region}"));
        let mut plain = objects(&api.kubectl(&["kustomize", &folder], "").expect("kustomize renders"));
        plain
            .remove(&format!("Namespace {region}"))
            .expect("the overlay has the namespace, which helm makes by itself");
        let names = |objects: &Objects| objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&chart), names(&plain));
        for (name, object) in &chart {
            assert_eq!(object, &plain[name], "{region}: {name}: chart on the left, kustomize on the right");
        }
    }
}

#[test]
fn values_generated_for_every_region_of_every_example_are_good() {
    let api = api();
    for example in ["three-regions", "two-regions", "ring", "hub"] {
        let mesh = path(&format!("topology/{example}.yaml"));
        let text = std::fs::read_to_string(&mesh).expect("an example");
        let compiled = longhaul_config::load_mesh(&mesh, &text).expect("examples are good");
        for region in &compiled.regions {
            let values = generate(&mesh, &region.name).expect("values for the region");
            let set = format!("mesh={}", mesh.display());
            let objects = objects(&template(&api, &values, &region.name, &["--set-file", &set]).expect("good values"));
            let router = &objects["ConfigMap longhaul"]["data"]["router.yaml"];
            assert_eq!(router["region"], region.name.as_str());
            for broker in &region.brokers {
                assert!(router["brokers"][&broker.name][broker.kind.as_str()].is_object(), "{example}: {values}");
            }
            validate(router, &text).unwrap_or_else(|said| panic!("{example}, {}: {said}", region.name));
        }
    }
}

/// Has the product check both documents as they lie in a pod.
fn validate(router: &Value, mesh: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // JSON is YAML.
    std::fs::write(folder.path().join("router.yaml"), router.to_string()).expect("it can be written");
    std::fs::write(folder.path().join("mesh.yaml"), mesh).expect("it can be written");
    let mut command = Command::new(program());
    command.arg("validate").arg(folder.path().join("router.yaml")).env("POD_NAME", "longhaul-0");
    // Whatever password a broker of the examples has.
    let text = router.to_string();
    let variables = text.split("${env:").skip(1).filter_map(|rest| rest.split('}').next());
    let out = command.envs(variables.filter(|name| *name != "POD_NAME").map(|name| (name, "secret"))).output();
    let out = out.expect("the program starts");
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

#[test]
fn a_region_that_the_mesh_does_not_have_is_refused_by_both() {
    let api = api();
    let error = generate(&mesh(), "eu-wset").expect_err("no such region");
    assert!(error.contains("eu-wset") && error.contains("eu-west"), "{error}");
    let error = refusal(&api, "region: eu-wset\n", &[]);
    assert!(
        error.contains("the mesh document has no region `eu-wset`; its regions are eu-west, us-east, ap-south"),
        "{error}"
    );
}

#[test]
fn unknown_and_wrong_keys_are_refused_with_their_path() {
    let api = api();
    let cases = [
        ("replica: 3", "replica"),
        ("replicas: many", "/replicas"),
        ("replicas: 0", "/replicas"),
        ("image: {tagg: 1.0}", "/image"),
        ("link: {service: Ingress}", "/link/service"),
        ("link: {addresses: [eu-west.example.net]}", "/link/addresses/0"),
        ("resources: {limits: {memory: 1GiB}}", "/resources/limits/memory"),
        ("tls: {certManager: {issuer: {name: ca, kind: Secret}}}", "/tls/certManager/issuer/kind"),
        ("networkPolicy: {brokers: [{ports: [99999]}]}", "/networkPolicy/brokers/0/ports/0"),
        ("networkPolicy: {linksFrom: [{cidr: 10.0.0.0/8}]}", "/networkPolicy/linksFrom/0"),
        ("monitoring: {serviceMonitor: {enabled: yes please}}", "/monitoring/serviceMonitor/enabled"),
        ("tolerations: [{effect: Never}]", "/tolerations/0/effect"),
        ("env: [{name: A, secret: b}]", "/env/0"),
        ("router: {memory: 1GiB}", "/router"),
        ("router: {brokers: {orders: {kafka: {bootstrap: [\"a:1\"], sassl: {}}}}}", "/router/brokers/orders/kafka"),
    ];
    for (key, place) in cases {
        let error = refusal(&api, &format!("{SMALL}{key}\n"), &[]);
        assert!(error.contains("values don't meet the specifications") && error.contains(place), "{key}: {error}");
    }
}

#[test]
fn no_object_of_the_schema_lets_unknown_keys_in() {
    let open = ["", "/$defs/router document", "/$defs/peer"];
    let schema = schema();
    for place in open {
        assert_eq!(schema.pointer(place).expect("it is there")["additionalProperties"], false, "{place}");
    }
    closed("", &schema);
}

/// Whoever lists properties must close the list; what maps names of the user to values says the type of the values.
fn closed(place: &str, schema: &Value) {
    if schema["properties"].is_object() {
        assert_eq!(schema["additionalProperties"], false, "{place} takes unknown keys");
    }
    match schema {
        Value::Object(entries) => entries.iter().for_each(|(key, value)| closed(&format!("{place}/{key}"), value)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, item)| closed(&format!("{place}/{at}"), item)),
        _ => {}
    }
}

const SCHEMA: &str = "k8s/helm/longhaul/values.schema.json";

fn schema() -> Value {
    let text = std::fs::read_to_string(path(SCHEMA)).expect("the schema is there");
    serde_json::from_str(&text).expect("the schema is JSON")
}

/// Keys of the router document that the chart says itself.
const OF_THE_CHART: [&str; 6] = ["apiVersion", "kind", "region", "name", "mesh", "memory"];

#[test]
fn the_router_of_the_values_is_the_router_document_without_what_the_chart_says() {
    let text = longhaul_config::schema(longhaul_config::Kind::Router);
    let mut router: Value = serde_json::from_str(&text).expect("the schema is JSON");
    let mut definitions = router["$defs"].take();
    for key in OF_THE_CHART {
        router["properties"][key].take();
    }
    for (definition, keys) in [("link listener", &["tls", "listen"][..]), ("admin listener", &["listen"])] {
        keys.iter().for_each(|key| drop(definitions[definition]["properties"][key].take()));
        definitions[definition]["required"].take();
    }
    definitions["link TLS"].take();
    for key in ["$schema", "title", "$defs", "required"] {
        router[key].take();
    }
    definitions["router document"] = router;
    definitions["peer"] = schema()["$defs"]["peer"].clone();
    without_nulls(&mut definitions);
    if std::env::var_os("LONGHAUL_WRITE").is_some() {
        let mut schema = schema();
        schema["$defs"] = definitions;
        let text = serde_json::to_string_pretty(&schema).expect("a value is JSON") + "\n";
        return std::fs::write(path(SCHEMA), text).expect("the schema can be written");
    }
    let help = "the router document has changed: LONGHAUL_WRITE=1 takes it over; values.schema.json on the left";
    assert_eq!(schema()["$defs"], definitions, "{help}");
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            entries.retain(|_, value| !value.is_null());
            entries.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

#[test]
fn the_memory_budget_follows_the_limit() {
    let api = api();
    for (limit, percent, budget) in
        [("1Gi", 50, "512MiB"), ("2G", 50, "953MiB"), ("512Mi", 25, "128MiB"), ("64Mi", 50, "32MiB")]
    {
        let values = format!("{SMALL}memoryPercent: {percent}\nresources: {{limits: {{memory: {limit}}}}}\n");
        let router = &rendered(&api, &values, &[])["ConfigMap longhaul"]["data"]["router.yaml"];
        assert_eq!(router["memory"], budget, "{limit}");
    }
    let error = refusal(&api, &format!("{SMALL}resources: {{limits: {{memory: 63Mi}}}}\n"), &[]);
    assert!(error.contains("the router needs a budget of 32MiB"), "{error}");
}

#[test]
fn addresses_and_ports_follow_the_kind_of_service() {
    let api = api();
    let ports = |objects: &Objects, number: u32| objects[&format!("Service longhaul-{number}-link")].clone();
    let inside = rendered(&api, SMALL, &[]);
    let service = ports(&inside, 1);
    assert_eq!(
        service["metadata"]["annotations"]["longhaul/address"],
        "longhaul-1-link.eu-west.svc.cluster.local:7443"
    );
    let nodes = rendered(
        &api,
        &format!("{SMALL}link: {{service: NodePort, addresses: [\"a.example.net:30443\", \"b.example.net:30444\"]}}\n"),
        &[],
    );
    for (number, port) in [(0, 30443), (1, 30444)] {
        assert_eq!(ports(&nodes, number)["spec"]["ports"][0]["nodePort"], port);
    }
    let balanced =
        rendered(&api, &format!("{SMALL}link: {{service: LoadBalancer, addresses: [\"eu.example.net:443\"]}}\n"), &[]);
    for number in [0, 1] {
        let service = ports(&balanced, number);
        assert_eq!(service["spec"]["ports"][0]["port"], 443);
        let name = &service["metadata"]["annotations"]["external-dns.alpha.kubernetes.io/hostname"];
        assert_eq!(name, "eu.example.net", "the name resolves to every router");
    }
    let error = refusal(&api, &format!("{SMALL}replicas: 3\nlink: {{addresses: [\"a:1\", \"b:1\"]}}\n"), &[]);
    assert!(error.contains("link.addresses: give one for all routers, or one for each of the 3"), "{error}");
}

#[test]
fn a_change_of_the_mesh_restarts_nobody_and_a_change_of_the_router_document_does() {
    let api = api();
    let checksum = |values: &str, more: &[&str]| {
        let text = template(&api, values, "eu-west", more).expect("the chart renders");
        let line = text.lines().find(|line| line.contains("checksum/router")).expect("a checksum");
        line.to_owned()
    };
    let other = format!("mesh={}", path("topology/three-regions.yaml").display());
    assert_eq!(checksum(SMALL, &[]), checksum(SMALL, &["--set-file", &other]));
    assert_ne!(checksum(SMALL, &[]), checksum(&format!("{SMALL}router: {{link: {{max_event: 2MiB}}}}\n"), &[]));
}

/// The same with kustomize, which makes no checksums: its pods carry the document.
#[test]
fn a_change_of_the_router_document_changes_the_pods_of_kustomize() {
    let api = api();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = |below: &str| {
        let (from, to) = (path(&format!("k8s/kustomize/{below}")), folder.path().join(below));
        std::fs::create_dir_all(&to).expect("a folder");
        for file in std::fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            let name = file.file_name().expect("a name").to_owned();
            let _ = std::fs::copy(&file, to.join(name)).expect("a file");
        }
    };
    let region = "overlays/three-regions/eu-west";
    ["base", "overlays/three-regions/mesh", region].into_iter().for_each(copy);
    let rendered =
        || api.kubectl(&["kustomize", &folder.path().join(region).display().to_string()], "").expect("it renders");
    let pods = || {
        let all: Vec<Value> = serde_saphyr::from_multiple(&rendered()).expect("manifests are YAML");
        let set = all.into_iter().find(|object| object["kind"] == "StatefulSet").expect("a StatefulSet");
        set["spec"]["template"].to_string()
    };
    let change = |below: &str, from: &str, to: &str| {
        let file = folder.path().join(below);
        let text = std::fs::read_to_string(&file).expect("a file");
        assert!(text.contains(from), "{text}");
        std::fs::write(&file, text.replace(from, to)).expect("a file");
    };
    let before = pods();
    change("overlays/three-regions/mesh/mesh.yaml", "kind: Mesh", "kind: Mesh # the same");
    assert_eq!(pods(), before, "the mesh document is taken up without a restart");
    change(&format!("{region}/router.yaml"), "memory: 512MiB", "memory: 256MiB");
    assert_ne!(pods(), before);
}

#[test]
fn revoked_certificates_come_from_a_config_map_beside_the_others() {
    let api = api();
    let crl = |values: &str| {
        let objects = rendered(&api, values, &[]);
        let volumes = objects["StatefulSet longhaul"]["spec"]["template"]["spec"]["volumes"].to_string();
        (
            objects["ConfigMap longhaul"]["data"]["router.yaml"]["link"]["tls"]["crl"].clone(),
            volumes.contains("revoked"),
        )
    };
    assert_eq!(crl(SMALL), (Value::Null, false));
    let named = crl(&format!("{SMALL}tls: {{revocations: {{configMap: revoked}}}}\n"));
    assert_eq!(named, (json!("../tls/revocations/crl.pem"), true));
}

#[test]
fn the_network_policy_lets_spans_out_where_there_are_traces_and_nowhere_else() {
    let api = api();
    let out = |values: &str| {
        let policy = rendered(&api, values, &[])["NetworkPolicy longhaul"]["spec"]["egress"].clone();
        policy
            .as_array()
            .expect("a list")
            .iter()
            .any(|rule| rule["ports"] == json!([{"port": 4318, "protocol": "TCP"}]))
    };
    let traces = |endpoint: &str| format!("{SMALL}router: {{traces: {{endpoint: \"{endpoint}\"}}}}\n");
    assert!(!out(SMALL));
    for (endpoint, open) in [
        ("http://collector:4318", true),
        ("https://[::1]:4318/v1/traces", true),
        ("https://collector:4317/v1/traces", false),
    ] {
        assert_eq!(out(&traces(endpoint)), open, "{endpoint}");
    }
    let error = refusal(&api, &traces("http://collector"), &[]);
    assert!(error.contains("router.traces.endpoint: expected http[s]://HOST:PORT"), "{error}");
}

#[test]
fn alerts_link_to_their_pages_where_these_are_published() {
    let api = api();
    let urls = |runbooks: &str| {
        let values = format!("{SMALL}monitoring: {{rules: {{enabled: true{runbooks}}}}}\n");
        let text = rendered(&api, &values, &[])["PrometheusRule longhaul"]["spec"]["groups"].to_string();
        let rest = text.split("\"runbook_url\":\"").skip(1);
        rest.map(|rest| rest.split('"').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let here = urls("");
    assert!(here.len() > 5 && here.iter().all(|url| path(url).is_file()), "{here:?}");
    let published = urls(", runbooks: \"https://example.net/runbooks/\"");
    let moved = |url: &String| url.replace("docs/runbooks", "https://example.net/runbooks");
    assert_eq!(published, here.iter().map(moved).collect::<Vec<_>>());
    let error = refusal(&api, &format!("{SMALL}monitoring: {{rules: {{runbooks: example.net}}}}\n"), &[]);
    assert!(error.contains("/monitoring/rules/runbooks"), "{error}");
}

#[test]
fn an_embedded_broker_has_one_router_and_a_folder() {
    let api = api();
    let embedded = "router: {brokers: {local: {embedded: {data: /var/lib/longhaul, listen: \"0.0.0.0:9700\"}}}}\n";
    let error = refusal(&api, &format!("{SMALL}{embedded}data: {{kind: claim}}\n"), &[]);
    assert!(error.contains("replicas: an embedded broker lives in its router"), "{error}");
    let error = refusal(&api, &format!("{SMALL}{embedded}replicas: 1\n"), &[]);
    assert!(error.contains("data.kind: an embedded broker needs a folder"), "{error}");
    let objects = rendered(&api, &format!("{SMALL}{embedded}replicas: 1\ndata: {{kind: claim}}\n"), &[]);
    let claims = &objects["StatefulSet longhaul"]["spec"]["volumeClaimTemplates"];
    assert_eq!(claims[0]["spec"]["resources"]["requests"]["storage"], "10Gi");
    assert!(objects.contains_key("Service longhaul-events"));
}

#[test]
fn rules_and_dashboards_come_from_the_files_of_the_chart() {
    let api = api();
    let values = format!("{SMALL}monitoring: {{rules: {{enabled: true}}, dashboards: {{enabled: true}}}}\n");
    let objects = rendered(&api, &values, &[]);
    let groups = objects["PrometheusRule longhaul"]["spec"]["groups"].as_array().map_or(0, Vec::len);
    let dashboards = objects["ConfigMap longhaul-dashboards"]["data"].as_object().map_or(0, serde_json::Map::len);
    let files = |below: &str, end: &str| {
        let folder = std::fs::read_dir(path(&format!("k8s/helm/longhaul/files{below}")));
        let names = folder.into_iter().flatten().filter_map(Result::ok).map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().ends_with(end)).count()
    };
    assert_eq!(dashboards, files("/dashboards", ".json"));
    assert!(groups >= files("", ".yaml"), "{groups} groups");
}

#[test]
fn helm_finds_nothing_to_complain_about() {
    let api = api();
    let (chart, set) = (argument("k8s/helm/longhaul"), format!("mesh={}", mesh().display()));
    let said = api.helm(&["lint", "--strict", &chart, "--set", "region=eu-west", "--set-file", &set]);
    assert!(said.as_ref().is_ok_and(|said| said.contains("0 chart(s) failed")), "{said:?}");
}

#[test]
fn nothing_of_a_pod_may_more_than_it_must() {
    let api = api();
    let set = &rendered(&api, SMALL, &[])["StatefulSet longhaul"]["spec"]["template"]["spec"];
    assert_eq!(set["automountServiceAccountToken"], json!(false));
    assert_eq!(set["enableServiceLinks"], json!(false));
    let router = &set["containers"][0];
    assert_eq!(router["securityContext"]["readOnlyRootFilesystem"], json!(true));
    let sleep = router["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().expect("a delay");
    let grace = set["terminationGracePeriodSeconds"].as_u64().expect("a grace period");
    assert!(grace >= sleep + 30, "a router drains for up to 30 s");
    let mounts: Vec<&str> =
        router["volumeMounts"].as_array().expect("mounts").iter().map(|m| word(&m["mountPath"])).collect();
    assert_eq!(mounts, ["/etc/longhaul/config", "/etc/longhaul/tls"]);
    assert!(
        router["volumeMounts"].as_array().expect("mounts").iter().all(|mount| mount["subPath"].is_null()),
        "folders"
    );
}
