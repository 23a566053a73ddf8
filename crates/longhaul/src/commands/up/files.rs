//! The folder of `longhaul up`: documents and certificates, written once and left alone afterwards.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use longhaul_link::certs;

use crate::Failure;
use crate::commands::certs::authority;

/// The three regions.
pub(crate) const REGIONS: [&str; 3] = ["eu-west", "us-east", "ap-south"];
const MESH: &str = "longhaul-up";

/// A region of the mesh.
pub(crate) struct Region {
    /// Its name.
    pub(crate) name: String,
    /// Its router document.
    pub(crate) document: PathBuf,
    broker: SocketAddr,
}

impl Region {
    /// Where its embedded broker speaks HTTP.
    pub(crate) fn broker_url(&self) -> String {
        format!("http://{}", self.broker)
    }
}

/// Addresses of a region, chosen once.
struct Ports {
    link: u16,
    admin: u16,
    broker: u16,
}

/// Writes what is not there yet and returns the regions as the folder has them.
pub(crate) fn prepare(state: &Path) -> Result<Vec<Region>, Failure> {
    std::fs::create_dir_all(state).map_err(|error| Failure::wrong(format!("{}: {error}", state.display())))?;
    if !state.join("mesh.yaml").exists() {
        write_all(state)?;
    }
    let region = |name: &str| {
        let document = state.join(format!("{name}.yaml"));
        let loaded = crate::commands::run::load(&document)?;
        let broker = loaded.router.brokers.values().find_map(|access| match access {
            longhaul_config::BrokerAccess::Embedded(embedded) => Some(embedded.listen),
            _ => None,
        });
        let broker = broker.ok_or_else(|| Failure::wrong(format!("{}: no embedded broker", document.display())))?;
        Ok(Region { name: name.to_owned(), document, broker })
    };
    REGIONS.iter().map(|name| region(name)).collect()
}

fn write_all(state: &Path) -> Result<(), Failure> {
    let ports: Vec<Ports> = (0..3).map(ports).collect();
    let folder = state.join("certs");
    std::fs::create_dir_all(&folder).map_err(|error| Failure::wrong(format!("{}: {error}", folder.display())))?;
    let ca = authority(&folder, MESH)?;
    for (name, ports) in REGIONS.iter().zip(&ports) {
        let pem = certs::make_router(&ca, MESH, name, "router-1", &[]).map_err(Failure::wrong)?;
        certs::write(&folder, name, &ca.cert, &pem).map_err(Failure::wrong)?;
        write(&state.join(format!("{name}.yaml")), &router_document(name, ports))?;
    }
    // Last, because it says that the folder is whole.
    write(&state.join("mesh.yaml"), &mesh_document(&ports))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|error| Failure::wrong(format!("{}: {error}", path.display())))
}

/// The usual ports where they are free, others where they are not.
fn ports(index: u16) -> Ports {
    Ports { link: free_udp(7443 + index), admin: free_tcp(9600 + index), broker: free_tcp(8080 + index) }
}

fn free_udp(wanted: u16) -> u16 {
    let socket = UdpSocket::bind(("127.0.0.1", wanted)).or_else(|_| UdpSocket::bind("127.0.0.1:0"));
    socket.and_then(|socket| socket.local_addr()).map_or(wanted, |address| address.port())
}

fn free_tcp(wanted: u16) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", wanted)).or_else(|_| TcpListener::bind("127.0.0.1:0"));
    listener.and_then(|listener| listener.local_addr()).map_or(wanted, |address| address.port())
}

fn mesh_document(ports: &[Ports]) -> String {
    let mut text = format!(
        "# The mesh of `longhaul up`: three regions, each with an embedded broker. Change it, and it is taken up within 2 s.\n\
         apiVersion: longhaul/v1\nkind: Mesh\nmetadata: {{name: {MESH}}}\nregions:\n"
    );
    for (name, ports) in REGIONS.iter().zip(ports) {
        text += &format!(
            "  - name: {name}\n    routers: [\"127.0.0.1:{}\"]\n    brokers:\n      - {{name: events, embedded: {{}}}}\n",
            ports.link
        );
    }
    text += "links:\n";
    for (i, a) in REGIONS.iter().enumerate() {
        for b in &REGIONS[i + 1..] {
            text += &format!("  - {{between: [{a}, {b}]}}\n");
        }
    }
    text += "# What is published as orders.* in one region arrives in the others under that region's name.\nroutes:\n";
    for from in REGIONS {
        text += &format!(
            "  - name: orders-of-{from}\n    from: {{region: {from}, broker: events, topics: [\"orders.>\"]}}\n    to:\n"
        );
        for to in REGIONS.iter().filter(|to| **to != from) {
            text += &format!("      - {{region: {to}, broker: events, topic: \"{from}.{{topic}}\"}}\n");
        }
        text += "    start: earliest\n";
    }
    text
}

fn router_document(name: &str, ports: &Ports) -> String {
    let Ports { link, admin, broker } = ports;
    format!(
        "apiVersion: longhaul/v1\nkind: Router\nregion: {name}\nname: router-1\nmesh: mesh.yaml\n\
         link:\n  listen: \"127.0.0.1:{link}\"\n  tls: {{cert: certs/{name}.crt, key: certs/{name}.key, ca: certs/ca.crt}}\n\
         admin: {{listen: \"127.0.0.1:{admin}\"}}\nmemory: 128MiB\n\
         brokers:\n  events:\n    embedded: {{data: data/{name}, listen: \"127.0.0.1:{broker}\"}}\n"
    )
}
