//! The router document: listeners, certificates, memory; brokers are in [`access`](super::access).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::compile::mesh::amount;
use crate::compile::secrets::Sources;
use crate::compile::{Context, access, traces, units};
use crate::field::{Amount, Entries, Field};
use crate::raw::router::{RawAccess, RawAdmin, RawListen, RawRouter};
use crate::report::Report;
use crate::router::{Admin, BrokerAccess, LinkListen, Router, Secret};

/// Memory budget when the document says nothing.
const MEMORY_BYTES: u64 = 512 << 20;
/// Below that a router cannot keep one window per link.
const MEMORY_BYTES_MIN: u64 = 32 << 20;
/// Largest event over a link when the document says nothing.
const EVENT_BYTES: u64 = 1 << 20;
const EVENT_BYTES_MIN: u64 = 1 << 10;
const EVENT_BYTES_MAX: u64 = 64 << 20;
const LINK_LISTEN: &str = "0.0.0.0:7443";
const ADMIN_LISTEN: &str = "127.0.0.1:9600";
/// A token that can be guessed is none.
const TOKEN_BYTES_MIN: usize = 8;

/// `None` when something in it was wrong, which is reported.
pub(crate) fn router(raw: &RawRouter, sources: &Sources<'_>, cx: Context<'_>) -> Option<Router> {
    cx.header(&raw.api_version, &raw.kind, "Router");
    let region = cx.name(&raw.region);
    let name = name(raw, sources, cx);
    let mesh = path(&raw.mesh, sources.folder, cx);
    let link = raw.link.value.as_ref().and_then(|link| listen(link, sources.folder, cx));
    let admin = admin(raw.admin.as_ref(), cx);
    let memory = bounded(raw.memory.as_ref(), MEMORY_BYTES, MEMORY_BYTES_MIN..=u64::MAX, "32MiB at least", cx);
    let traces = traces::traces(raw.traces.as_ref(), sources.folder, cx);
    let brokers = brokers(raw.brokers.as_ref(), sources.folder, cx);
    let resolve = resolve(raw.resolve.as_ref(), cx);
    Some(Router {
        region: region?,
        name: name?,
        mesh: mesh?,
        link: link?,
        admin: admin?,
        memory_bytes: memory?,
        traces: traces?,
        brokers: brokers?,
        resolve: resolve?,
    })
}

/// The name that is given, else the name of the host, as far as the environment knows it.
fn name(raw: &RawRouter, sources: &Sources<'_>, cx: Context<'_>) -> Option<String> {
    if let Some(field) = &raw.name {
        return cx.name(field);
    }
    let host = (sources.env)("HOSTNAME").or_else(|| (sources.file)(Path::new("/etc/hostname")).ok());
    let host = host.map(|host| host.trim().split('.').next().unwrap_or_default().to_owned());
    match host.filter(|host| !host.is_empty()) {
        Some(host) => {
            Some(host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(64).collect())
        }
        None => {
            let report =
                Report::new(raw.region.span, "in this region", "this router has no name, and the host has none either");
            cx.report(report.help("add `name:`, unique among the routers of the region"));
            None
        }
    }
}

/// A path, relative to the folder of the document.
pub(crate) fn path(field: &Field<String>, folder: &Path, cx: Context<'_>) -> Option<PathBuf> {
    let (text, span) = field.get()?;
    if text.contains("-----BEGIN") {
        let report =
            Report::new(span, "expected a path", "this is the content of a file, and the path of one is expected");
        cx.report(report.help("write it to a file and name that file here"));
        return None;
    }
    cx.filled(field).map(|text| folder.join(text))
}

fn listen(raw: &RawListen, folder: &Path, cx: Context<'_>) -> Option<LinkListen> {
    let listen = socket(raw.listen.as_ref(), LINK_LISTEN, cx);
    let sizes = EVENT_BYTES_MIN..=EVENT_BYTES_MAX;
    let event_bytes_max = bounded(raw.max_event.as_ref(), EVENT_BYTES, sizes, "1KiB to 64MiB", cx);
    let tls = raw.tls.value.as_ref()?;
    let (cert, key, ca) = (path(&tls.cert, folder, cx), path(&tls.key, folder, cx), path(&tls.ca, folder, cx));
    let crl = match &tls.crl {
        None => None,
        Some(field) => Some(path(field, folder, cx)?),
    };
    let event_bytes_max = u32::try_from(event_bytes_max?).expect("its bound is 64 MiB");
    Some(LinkListen { listen: listen?, cert: cert?, key: key?, ca: ca?, crl, event_bytes_max })
}

fn admin(raw: Option<&Field<RawAdmin>>, cx: Context<'_>) -> Option<Admin> {
    let Some(raw) = raw else { return Some(Admin { listen: socket(None, ADMIN_LISTEN, cx)?, token: None }) };
    let raw = raw.value.as_ref()?;
    let listen = socket(raw.listen.as_ref(), ADMIN_LISTEN, cx);
    let token = match &raw.token {
        None => None,
        Some(field) => {
            let (token, span) = field.get()?;
            if token.len() < TOKEN_BYTES_MIN {
                return cx.refuse(span, "too short", format!("a token has at least {TOKEN_BYTES_MIN} characters"));
            }
            Some(Secret::new(token.clone()))
        }
    };
    Some(Admin { listen: listen?, token })
}

/// An address to bind.
pub(crate) fn socket(raw: Option<&Field<String>>, default: &str, cx: Context<'_>) -> Option<SocketAddr> {
    let Some(field) = raw else { return default.parse().ok() };
    let (text, span) = field.get()?;
    text.parse().ok().or_else(|| {
        let message = format!("`{}` is no address to bind", cx.written(span));
        let help = "expected IP:PORT, such as `0.0.0.0:7443` or `[::]:7443`; a host name cannot be bound";
        cx.report(Report::new(span, "expected IP:PORT", message).help(help));
        None
    })
}

fn bounded(
    raw: Option<&Field<Amount>>,
    default: u64,
    allowed: std::ops::RangeInclusive<u64>,
    in_words: &str,
    cx: Context<'_>,
) -> Option<u64> {
    let Some(field) = raw else { return Some(default) };
    let bytes = amount(Some(field), units::size, cx)?;
    if allowed.contains(&bytes) {
        return Some(bytes);
    }
    cx.refuse(
        field.span,
        format!("expected {in_words}"),
        format!("`{}` is out of bounds: {in_words}", cx.written(field.span)),
    )
}

fn brokers(
    raw: Option<&Field<Entries<RawAccess>>>,
    folder: &Path,
    cx: Context<'_>,
) -> Option<BTreeMap<String, BrokerAccess>> {
    let Some(raw) = raw else { return Some(BTreeMap::new()) };
    let mut all = Some(BTreeMap::new());
    for (name, broker) in &raw.value.as_ref()?.0 {
        let pair = cx.name(name).zip(access::access(broker, folder, cx));
        all = all.zip(pair).map(|(mut all, (name, access))| {
            all.insert(name, access);
            all
        });
    }
    all
}

fn resolve(raw: Option<&Field<Entries<String>>>, cx: Context<'_>) -> Option<BTreeMap<String, String>> {
    let Some(raw) = raw else { return Some(BTreeMap::new()) };
    let mut all = Some(BTreeMap::new());
    for (from, to) in &raw.value.as_ref()?.0 {
        let pair = from.get().and_then(|(text, span)| cx.address(text, span));
        let pair = pair.zip(to.get().and_then(|(text, span)| cx.address(text, span)));
        all = all.zip(pair).map(|(mut all, (from, to))| {
            all.insert(from, to);
            all
        });
    }
    all
}
