//! `traces` of the router document: where spans go, and of which events. No message quotes a header's value: it may be a secret.

use std::collections::BTreeMap;
use std::path::Path;

use crate::compile::Context;
use crate::compile::access::{optional, tls};
use crate::compile::mesh::amount;
use crate::field::{Entries, Field};
use crate::raw::router::RawTraces;
use crate::report::Report;
use crate::router::{Secret, Traces};

/// One event in a thousand.
const RATIO: f64 = 0.001;
/// Where OTLP over HTTP is received, by its specification.
const PATH: &str = "/v1/traces";
const SCHEMES: [&str; 2] = ["https://", "http://"];
/// What the exporter says itself.
const TAKEN_HEADERS: [&str; 4] = ["content-type", "content-length", "content-encoding", "host"];

/// Without the key, no event is traced.
pub(super) fn traces(raw: Option<&Field<RawTraces>>, folder: &Path, cx: Context<'_>) -> Option<Option<Traces>> {
    let Some(raw) = raw else { return Some(None) };
    let raw = raw.value.as_ref()?;
    let endpoint = endpoint(&raw.endpoint, cx);
    let files = optional(raw.tls.as_ref(), |raw, span| tls(raw, span, folder, cx));
    if let (Some(field), Some(endpoint)) = (&raw.tls, &endpoint)
        && endpoint.starts_with("http://")
    {
        let report = Report::new(field.span, "has no effect", "`tls` has no effect with an `http://` endpoint");
        cx.report(report.with(raw.endpoint.span, "not encrypted").help("use `https://`"));
        return None;
    }
    let headers = headers(raw.headers.as_ref(), cx);
    let ratio = match &raw.ratio {
        None => Some(RATIO),
        Some(_) => amount(raw.ratio.as_ref(), ratio, cx),
    };
    let follow = match &raw.follow {
        None => Some(false),
        Some(field) => field.value,
    };
    let (endpoint, tls, headers) = (endpoint?, files?.unwrap_or_default(), headers?);
    Some(Some(Traces { endpoint, tls, headers, ratio: ratio?, follow: follow? }))
}

fn headers(raw: Option<&Field<Entries<String>>>, cx: Context<'_>) -> Option<BTreeMap<String, Secret>> {
    let Some(raw) = raw else { return Some(BTreeMap::new()) };
    let mut all = Some(BTreeMap::new());
    for (name, value) in &raw.value.as_ref()?.0 {
        let pair = header_name(name, cx).zip(header_value(value, cx));
        all = all.zip(pair).map(|(mut all, (name, value))| {
            all.insert(name, value);
            all
        });
    }
    all
}

/// In small letters, as HTTP takes them for the same as capital ones.
fn header_name(field: &Field<String>, cx: Context<'_>) -> Option<String> {
    let (text, span) = field.get()?;
    let name = text.to_ascii_lowercase();
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_name) {
        return cx.refuse(span, "no name", format!("`{}` is no name of a header", cx.written(span)));
    }
    if TAKEN_HEADERS.contains(&&*name) {
        return cx.refuse(
            span,
            "not here",
            format!("the header `{name}` cannot be set here: it follows from what is sent"),
        );
    }
    Some(name)
}

fn header_value(field: &Field<String>, cx: Context<'_>) -> Option<Secret> {
    let value = cx.filled(field)?;
    if value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Some(Secret::new(value));
    }
    cx.refuse(field.span, "not printable", "the value of a header is one line of printable ASCII")
}

/// A part of the whole, above 0.
fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.trim().parse().ok().filter(|ratio: &f64| *ratio > 0.0 && *ratio <= 1.0);
    ratio.ok_or_else(|| "expected a number above 0 and at most 1, such as `0.001`".to_owned())
}

/// `https://HOST:PORT` or `http://HOST:PORT`, with a path where it is another than OTLP's own.
fn endpoint(field: &Field<String>, cx: Context<'_>) -> Option<String> {
    let (text, span) = field.get()?;
    let Some((scheme, rest)) = SCHEMES.into_iter().find_map(|scheme| Some((scheme, text.strip_prefix(scheme)?))) else {
        let message = format!("`{}` is no endpoint for traces", cx.written(span));
        let help = "expected `https://HOST:4318`, OTLP over HTTP, or `http://` for a collector on this host or in this cluster";
        cx.report(Report::new(span, "expected http[s]://HOST:PORT", message).help(help));
        return None;
    };
    let (address, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'));
    if !is_plain {
        return cx.refuse(span, "this path", format!("`{}` has a path that is none", cx.written(span)));
    }
    let address = cx.address(address, span)?;
    Some(format!("{scheme}{address}{}", if matches!(path, "" | "/") { PATH } else { path }))
}
