//! A real node comes up, runs pods of an image that no registry has, and two of them reach each other over UDP by the name and address
//! of a Service.

use std::process::Command;

use longhaul_test_cluster::{Node, PROBE_IMAGE};

fn manifests() -> String {
    let pod = |name: &str, arguments: &str| {
        format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: talk, labels: {{name: {name}}}}}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  containers:
  - name: only
    image: {PROBE_IMAGE}
    imagePullPolicy: Never
    args: {arguments}
    securityContext:
      {{allowPrivilegeEscalation: false, runAsNonRoot: true, runAsUser: 65532, readOnlyRootFilesystem: true,
        seccompProfile: {{type: RuntimeDefault}}, capabilities: {{drop: [ALL]}}}}
"
        )
    };
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: talk, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: default, namespace: talk}}
---
apiVersion: v1
kind: Service
metadata: {{name: answers, namespace: talk}}
spec:
  selector: {{name: answers}}
  ports: [{{name: links, protocol: UDP, port: 7443, targetPort: 5000}}]
{}{}",
        pod("answers", "[answer, '5000']"),
        pod("asks", "[ask, 'answers.talk.svc.cluster.local:7443']"),
    )
}

#[test]
#[ignore = "builds a Kubernetes the first time, which takes many minutes: cargo test -p longhaul-test-cluster -- --include-ignored"]
fn two_pods_reach_each_other_over_udp_through_a_service() {
    if !Command::new("id").arg("-u").output().is_ok_and(|out| out.stdout.starts_with(b"0\n")) {
        println!("skipped: a node needs root");
        return;
    }
    let node = Node::start().expect("a node");
    let kubectl = |arguments: &[&str], input: &str| node.api().kubectl(arguments, input);
    kubectl(&["apply", "--server-side", "-f", "-"], &manifests()).expect("pods and their Service");
    let done =
        kubectl(&["-n", "talk", "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/asks", "--timeout=180s"], "");
    let pods = kubectl(&["-n", "talk", "describe", "pods"], "").unwrap_or_default();
    done.unwrap_or_else(|error| panic!("{error}\n{pods}\n{}", node.log("kubelet")));
    let said = kubectl(&["-n", "talk", "logs", "asks"], "").expect("logs are kept");
    assert!(said.contains("answers heard hello"), "{said}");
}
