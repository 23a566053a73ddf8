//! Every manifest passes server-side apply on a real API server, in namespaces where the restricted pod security level is enforced.

use longhaul_test_cluster::Api;
use longhaul_test_k8s::{REGIONS, api, argument, generate, mesh, template};

const APPLY: [&str; 6] = ["apply", "--server-side", "--force-conflicts", "--field-manager=test", "-f", "-"];

fn namespace(api: &Api, name: &str) {
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n    \
         pod-security.kubernetes.io/enforce: restricted\n"
    );
    api.kubectl(&APPLY, &text).expect("a namespace");
}

/// Applies manifests, then the pod of the StatefulSet by itself, as its controller would: pod security refuses pods, and only warns
/// of what makes them.
fn apply(api: &Api, name: &str, manifests: &str) {
    api.kubectl(&[&APPLY[..], &["--namespace", name]].concat(), manifests).expect("all is accepted");
    let sets = api.kubectl(&["--namespace", name, "get", "statefulset", "longhaul", "-o", "json"], "");
    let set: serde_json::Value = serde_json::from_str(&sets.expect("it is kept")).expect("kubectl writes JSON");
    let template = &set["spec"]["template"];
    let mut pod = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "longhaul-0", "labels": template["metadata"]["labels"]},
        "spec": template["spec"],
    });
    // Claims become volumes when a controller makes the pod.
    if let Some(claims) = set["spec"]["volumeClaimTemplates"].as_array().filter(|claims| !claims.is_empty()) {
        let volumes = pod["spec"]["volumes"].as_array_mut().expect("volumes");
        volumes.extend(claims.iter().map(|claim| {
            let name = &claim["metadata"]["name"];
            serde_json::json!({"name": name, "persistentVolumeClaim": {"claimName": "data-longhaul-0"}})
        }));
    }
    api.kubectl(&[&APPLY[..], &["--namespace", name]].concat(), &pod.to_string()).expect("a pod may run");
    // One more that differs in one line is refused: the level is really enforced.
    pod["metadata"]["name"] = "greedy".into();
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = true.into();
    let refused = api.kubectl(&[&APPLY[..], &["--namespace", name]].concat(), &pod.to_string());
    let refused = refused.expect_err("pod security is enforced");
    assert!(refused.contains("violates PodSecurity \"restricted"), "{refused}");
}

#[test]
fn the_chart_for_every_region() {
    let api = api();
    for region in REGIONS {
        let name = format!("chart-{region}");
        namespace(&api, &name);
        let values = generate(&mesh(), region).expect("values");
        // With the pod of `helm test`, which is rendered as well.
        apply(&api, &name, &template(&api, &values, &name, &[]).expect("it renders"));
    }
}

#[test]
fn kustomize_for_every_region() {
    let api = api();
    let folder = argument("k8s/kustomize/overlays/three-regions");
    let all = api.kubectl(&["kustomize", &folder], "").expect("kustomize renders");
    api.kubectl(&APPLY, &all).expect("all is accepted");
    for region in REGIONS {
        let one = api.kubectl(&["kustomize", &argument(&format!("k8s/kustomize/overlays/three-regions/{region}"))], "");
        apply(&api, region, &one.expect("kustomize renders"));
    }
}

#[test]
fn the_chart_with_every_switch_turned() {
    let api = api();
    let common = "region: eu-west\n";
    let cases = [
        ("node-ports", "link: {service: NodePort}\nreplicas: 3\n"),
        (
            "fixed-node-ports",
            "link: {service: NodePort, addresses: [\"a.example.net:30443\", \"b.example.net:30444\"]}\n",
        ),
        ("balancers", "link: {service: LoadBalancer, addresses: [\"eu.example.net:7443\"], annotations: {a: b}}\n"),
        (
            "embedded",
            "replicas: 1\ndata: {kind: claim, storageClass: fast}\n\
             router: {brokers: {local: {embedded: {data: /var/lib/longhaul, listen: \"0.0.0.0:9700\"}}}}\n",
        ),
        ("scratch", "replicas: 1\ndata: {kind: emptyDir, size: 1Gi}\n"),
        (
            "secrets",
            "env: [{name: KAFKA_PASSWORD, secret: kafka, key: password}]\nsecrets: [kafka-tls]\n\
             tls: {authorities: {configMap: mesh-authorities}}\nimage: {pullSecrets: [registry]}\n",
        ),
        (
            "placed",
            "nodeSelector: {kubernetes.io/arch: amd64}\ntolerations: [{key: mesh, operator: Exists, effect: NoSchedule}]\n\
             priorityClassName: \"\"\npodLabels: {team: mesh}\npodAnnotations: {a: b}\n\
             serviceAccount: {create: true, name: router, annotations: {a: b}}\n",
        ),
        (
            "fenced",
            "networkPolicy:\n  linksFrom: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]\n  \
             linksTo: [{ipBlock: {cidr: 10.0.0.0/8}}]\n  \
             adminFrom: [{namespaceSelector: {matchLabels: {name: monitoring}}}]\n  \
             brokers: [{ports: [9092], to: [{podSelector: {matchLabels: {app: kafka}}}]}]\n",
        ),
        (
            "bare",
            "networkPolicy: {enabled: false}\npodDisruptionBudget: {enabled: false}\nserviceAccount: {create: false}\nmonitoring: {annotations: false}\n",
        ),
        ("dashboards", "monitoring: {dashboards: {enabled: true}}\n"),
    ];
    for (name, values) in cases {
        namespace(&api, name);
        apply(&api, name, &template(&api, &format!("{common}{values}"), name, &[]).expect("it renders"));
    }
}

/// Releases whose definitions are applied: real schemas, from their Go modules.
const CERT_MANAGER: &str = "github.com/cert-manager/cert-manager@v1.21.2";
const PROMETHEUS_OPERATOR: &str = "github.com/prometheus-operator/prometheus-operator@v0.85.0";

/// The folder of a Go module.
fn module(name: &str) -> String {
    let mut go = std::process::Command::new("go");
    go.args(["mod", "download", "-json", name]).env("GOFLAGS", "-mod=mod").current_dir(std::env::temp_dir());
    let out = go.output().expect("Go (golang-go)");
    let said: serde_json::Value = serde_json::from_slice(&out.stdout).expect("go writes JSON");
    said["Dir"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned()
}

#[test]
fn certificates_monitors_and_rules_fit_the_definitions_of_their_operators() {
    let api = api();
    let (certificates, monitoring) = (module(CERT_MANAGER), module(PROMETHEUS_OPERATOR));
    let monitoring = format!("{monitoring}/example/prometheus-operator-crd/monitoring.coreos.com_");
    for file in [
        format!("{certificates}/deploy/crds/cert-manager.io_certificates.yaml"),
        format!("{monitoring}servicemonitors.yaml"),
        format!("{monitoring}prometheusrules.yaml"),
    ] {
        api.kubectl(&["apply", "--server-side", "-f", &file], "").expect("a definition is accepted");
    }
    api.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinition", "--all"], "")
        .expect("the definitions are in force");
    let values = "region: eu-west\ntls: {certManager: {enabled: true, issuer: {name: mesh, kind: ClusterIssuer}}}\n\
                  monitoring: {serviceMonitor: {enabled: true, labels: {release: prometheus}}, rules: {enabled: true}}\n";
    namespace(&api, "operators");
    let manifests = template(&api, values, "operators", &[]).expect("it renders");
    apply(&api, "operators", &manifests);
    let get = |what: &str, path: &str| {
        let path = format!("jsonpath={path}");
        api.kubectl(&["--namespace", "operators", "get", what, "longhaul", "-o", &path], "").expect("it is kept")
    };
    let uri = api.kubectl(
        &["--namespace", "operators", "get", "certificate", "longhaul-1", "-o", "jsonpath={.spec.uris[0]}"],
        "",
    );
    assert_eq!(uri.expect("it is kept"), "longhaul://shop/eu-west/longhaul-1");
    assert_eq!(get("servicemonitor", "{.spec.endpoints[0].port}"), "admin");
    assert_eq!(get("prometheusrule", "{.metadata.name}"), "longhaul");
    // A word that the definition does not know is refused, so that what was accepted was looked at.
    let wrong = manifests.replace("renewBefore:", "renewBefroe:");
    let error = api.kubectl(&[&APPLY[..], &["--namespace", "operators"]].concat(), &wrong).expect_err("a wrong key");
    assert!(error.contains("renewBefroe"), "{error}");
}
