//! A real API server comes up, checks what it is given, and is gone afterwards.

use longhaul_test_cluster::Api;

const NAMESPACE: &str = r#"
apiVersion: v1
kind: Namespace
metadata:
  name: strict
  labels:
    pod-security.kubernetes.io/enforce: restricted
"#;

fn pod(name: &str, security: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: strict}}
spec:
  containers:
  - name: only
    image: longhaul.test/none:1
    resources: {{limits: {{memory: 1024Mi}}}}
    securityContext: {security}
"#
    )
}

const RESTRICTED: &str = "{allowPrivilegeEscalation: false, runAsNonRoot: true, runAsUser: 65532, \
    seccompProfile: {type: RuntimeDefault}, capabilities: {drop: [ALL]}}";

#[test]
#[ignore = "builds a Kubernetes the first time, which takes many minutes: cargo test -p longhaul-test-cluster -- --include-ignored"]
fn a_restricted_namespace_takes_a_modest_pod_and_refuses_a_privileged_one() {
    let api = Api::start().expect("an API server");
    let apply = |text: &str| api.kubectl(&["apply", "--server-side", "-f", "-"], text);
    apply(NAMESPACE).expect("a namespace");
    let refused = apply(&pod("greedy", "{privileged: true}")).expect_err("pod security is enforced");
    assert!(refused.contains("violates PodSecurity \"restricted"), "{refused}");
    apply(&pod("modest", RESTRICTED)).expect("a pod that asks for nothing");
    let memory = api.kubectl(&["-n", "strict", "get", "pod", "modest", "-o", "jsonpath={..limits.memory}"], "");
    assert_eq!(memory.expect("it is kept"), "1Gi", "quantities are understood");
    let wrong = apply(&pod("modest", "{runAsUser: nobody}")).expect_err("types are checked");
    assert!(wrong.contains("runAsUser"), "{wrong}");
    let releases = api.helm(&["list", "--all-namespaces", "--output", "json"]).expect("helm reaches it");
    assert_eq!(releases.trim(), "[]");
}
