//! `longhaul generate k8s`: the values of the Helm chart for one region of a mesh document.
//!
//! What the mesh document says is filled in: routers, their addresses, the kind of each broker. Where brokers are it does not say, so
//! names are put there that are usual inside a cluster, and marked. The mesh document itself is not copied: it is the same file for
//! every region, and given to the chart as a file.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use longhaul_topology::{Broker, BrokerKind, Mesh, Region, suggest_name};

use crate::Failure;

/// Routers of a region that are started where the mesh document does not say how many there are.
const REPLICAS: usize = 2;
/// Ports that Kubernetes gives to Services of type NodePort unless it is told otherwise.
const NODE_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The mesh document.
    #[arg(long)]
    mesh: PathBuf,
    /// One of its regions.
    #[arg(long)]
    region: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let path = &arguments.mesh;
    let text = std::fs::read_to_string(path).map_err(|error| Failure::wrong(format!("{}: {error}", path.display())))?;
    let mesh = longhaul_config::load_mesh(path, &text).map_err(|diagnostics| {
        eprint!("{}", super::super::validate::render(&diagnostics));
        Failure::Wrong(String::new())
    })?;
    let region = mesh.region(&arguments.region).ok_or_else(|| {
        let known = suggest_name(&arguments.region, mesh.regions.iter().map(|region| region.name.as_str()), "it has");
        Failure::wrong(format!("{} has no region `{}`: {known}", path.display(), arguments.region))
    })?;
    print!("{}", values(&mesh, region, path));
    Ok(())
}

/// The values, as YAML with comments.
fn values(mesh: &Mesh, region: &Region, path: &Path) -> String {
    let embedded = region.brokers.iter().any(|broker| broker.kind == BrokerKind::Embedded);
    let replicas = match region.routers.len() {
        _ if embedded => 1,
        0 | 1 => REPLICAS,
        named => named,
    };
    let mut text = head(mesh, region, path, replicas);
    let service = service(&region.routers);
    line(&mut text, format_args!("region: {}\nreplicas: {replicas}\n", quoted(&region.name)));
    let addresses: Vec<String> = region.routers.iter().map(|address| quoted(address)).collect();
    line(&mut text, format_args!("link:\n  service: {service}\n  addresses: [{}]\n", addresses.join(", ")));
    line(&mut text, format_args!("router:"));
    if region.brokers.is_empty() {
        line(&mut text, format_args!("  brokers: {{}}"));
    } else {
        line(
            &mut text,
            format_args!("  # Where the brokers are: edit this. Every key stands in configs/default.yaml.\n  brokers:"),
        );
        region.brokers.iter().for_each(|broker| access(&mut text, broker));
    }
    secrets(&mut text, region);
    ports(&mut text, region);
    if embedded {
        line(
            &mut text,
            format_args!("\n# The embedded broker keeps its events here.\ndata: {{kind: claim, size: 10Gi}}"),
        );
    }
    text
}

/// Which commands make use of the values.
fn head(mesh: &Mesh, region: &Region, path: &Path, replicas: usize) -> String {
    let (name, region, path) = (&mesh.name, &region.name, path.display());
    let mut text = format!(
        "# Region {region} of the mesh {name}, for the Helm chart k8s/helm/longhaul, with the mesh document beside it:\n\
         #   helm install longhaul k8s/helm/longhaul --namespace {region} --create-namespace --values {region}.values.yaml \\\n\
         #     --set-file mesh={path}\n\
         # Each router needs a Secret with tls.crt, tls.key and ca.crt, from cert-manager (tls.certManager) or by hand, for the URI name\n"
    );
    for number in 0..replicas {
        line(&mut text, format_args!("#   longhaul-{number}-tls: longhaul://{name}/{region}/longhaul-{number}"));
    }
    text
}

/// How the addresses of the mesh document are reached: names inside the cluster, ports of nodes, or a balancer for each pod.
fn service(routers: &[String]) -> &'static str {
    let parts = || routers.iter().filter_map(|address| address.rsplit_once(':'));
    let inside = |host: &str| host.ends_with(".svc") || host.contains(".svc.");
    if parts().all(|(host, _)| inside(host)) {
        "ClusterIP"
    } else if parts().all(|(_, port)| port.parse().is_ok_and(|port: u16| NODE_PORTS.contains(&port))) {
        "NodePort"
    } else {
        "LoadBalancer"
    }
}

fn access(text: &mut String, broker: &Broker) {
    let variable = variable(&broker.name);
    line(text, format_args!("    {}:", quoted(&broker.name)));
    match broker.kind {
        BrokerKind::Kafka => line(
            text,
            format_args!(
                "      kafka:\n        bootstrap: [\"kafka:9092\"]\n        \
                 # sasl: {{mechanism: SCRAM-SHA-512, username: longhaul, password: \"${{env:{variable}_PASSWORD}}\"}}"
            ),
        ),
        BrokerKind::RabbitMq => line(
            text,
            format_args!(
                "      rabbitmq:\n        uri: \"amqp://longhaul:${{env:{variable}_PASSWORD}}@rabbitmq:5672/%2f\""
            ),
        ),
        BrokerKind::Nats => line(
            text,
            format_args!(
                "      nats:\n        servers: [\"nats://nats:4222\"]\n        \
                 # user: longhaul\n        # password: \"${{env:{variable}_PASSWORD}}\""
            ),
        ),
        BrokerKind::Embedded => {
            line(text, format_args!("      embedded: {{data: /var/lib/longhaul, listen: \"0.0.0.0:9700\"}}"));
        }
    }
}

/// Passwords, from Secrets that are named after their brokers.
fn secrets(text: &mut String, region: &Region) {
    let needed: Vec<_> = region.brokers.iter().filter(|broker| broker.kind == BrokerKind::RabbitMq).collect();
    if needed.is_empty() {
        return;
    }
    line(text, format_args!("\n# kubectl create secret generic NAME --from-literal=password=..\nenv:"));
    for broker in needed {
        let (variable, secret) = (variable(&broker.name), broker.name.to_lowercase().replace('_', "-"));
        line(text, format_args!("  - {{name: {variable}_PASSWORD, secret: {}, key: password}}", quoted(&secret)));
    }
}

/// TCP ports that the routers may connect to.
fn ports(text: &mut String, region: &Region) {
    let kinds = [(BrokerKind::Kafka, "9092, 9093"), (BrokerKind::RabbitMq, "5671, 5672"), (BrokerKind::Nats, "4222")];
    let used = |kind| region.brokers.iter().any(|broker| broker.kind == kind);
    let used: Vec<&str> = kinds.into_iter().filter(|(kind, _)| used(*kind)).map(|(_, ports)| ports).collect();
    let rules = if used.is_empty() { String::new() } else { format!("{{ports: [{}]}}", used.join(", ")) };
    line(text, format_args!("\nnetworkPolicy:\n  # TCP ports of the brokers.\n  brokers: [{rules}]"));
}

/// The name of a broker as the beginning of the name of a variable.
fn variable(name: &str) -> String {
    let upper = name.to_uppercase().replace('-', "_");
    if upper.starts_with(|first: char| first.is_ascii_digit()) { format!("_{upper}") } else { upper }
}

/// A text that YAML takes for a text, whatever it is.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn line(text: &mut String, words: std::fmt::Arguments<'_>) {
    writeln!(text, "{words}").expect("a text takes any text");
}
