//! `traces` of the router document: where spans go, and of which events.

use crate::compile::Context;
use crate::compile::mesh::amount;
use crate::field::Field;
use crate::raw::router::RawTraces;
use crate::report::Report;
use crate::router::Traces;

/// One event in a thousand.
const RATIO: f64 = 0.001;
/// Where OTLP over HTTP is received, by its specification.
const PATH: &str = "/v1/traces";

/// Without the key, no event is traced.
pub(super) fn traces(raw: Option<&Field<RawTraces>>, cx: Context<'_>) -> Option<Option<Traces>> {
    let Some(raw) = raw else { return Some(None) };
    let raw = raw.value.as_ref()?;
    let endpoint = endpoint(&raw.endpoint, cx);
    let ratio = match &raw.ratio {
        None => Some(RATIO),
        Some(_) => amount(raw.ratio.as_ref(), ratio, cx),
    };
    let follow = match &raw.follow {
        None => Some(false),
        Some(field) => field.value,
    };
    Some(Some(Traces { endpoint: endpoint?, ratio: ratio?, follow: follow? }))
}

/// A part of the whole, above 0.
fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.trim().parse().ok().filter(|ratio: &f64| *ratio > 0.0 && *ratio <= 1.0);
    ratio.ok_or_else(|| "expected a number above 0 and at most 1, such as `0.001`".to_owned())
}

/// `http://HOST:PORT`, with a path where it is another than OTLP's own.
fn endpoint(field: &Field<String>, cx: Context<'_>) -> Option<String> {
    let (text, span) = field.get()?;
    let Some(rest) = text.strip_prefix("http://") else {
        let message = format!("`{}` is no endpoint for traces", cx.written(span));
        let help = "expected `http://HOST:4318`, OTLP over plain HTTP: a collector on this host or in this cluster, which encrypts \
                    what goes further";
        cx.report(Report::new(span, "expected http://HOST:PORT", message).help(help));
        return None;
    };
    let (address, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'));
    if !is_plain {
        return cx.refuse(span, "this path", format!("`{}` has a path that is none", cx.written(span)));
    }
    let address = cx.address(address, span)?;
    Some(format!("http://{address}{}", if matches!(path, "" | "/") { PATH } else { path }))
}
