//! `${env:NAME}` and `${file:PATH}` inside the text of a router document.
//!
//! Filled in after the document is parsed, so that a value can never change its structure; `$${` stands for `${`. The file
//! system and the environment are handed in. A value is at most 64 KiB, loses the line break at its end, and is in no message.

use std::path::Path;

use longhaul_topology::suggest_name;

use crate::compile::Context;
use crate::report::{Report, Span};
use crate::yaml::{Node, Value};

const VALUE_BYTES_MAX: usize = 64 << 10;

/// Where values come from.
pub(crate) struct Sources<'a> {
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) file: &'a dyn Fn(&Path) -> std::io::Result<String>,
    /// Paths are relative to it.
    pub(crate) folder: &'a Path,
}

/// Fills in every placeholder of a tree; what cannot be filled in is reported and marked.
pub(crate) fn fill(node: &mut Node, sources: &Sources<'_>, cx: Context<'_>) {
    match &mut node.value {
        Value::Text(text) if text.contains("${") => {
            if let Some(filled) = fill_text(text, node.span, sources, cx) {
                *text = filled;
            } else {
                node.value = Value::Wrong;
            }
        }
        Value::List(items) => items.iter_mut().for_each(|item| fill(item, sources, cx)),
        Value::Map(entries) => entries.iter_mut().for_each(|(_, value)| fill(value, sources, cx)),
        _ => {}
    }
}

/// Reports every placeholder of a tree: the mesh document is the same everywhere, so it has none.
pub(crate) fn refuse(node: &Node, cx: Context<'_>) {
    match &node.value {
        Value::Text(text) if text.contains("${env:") || text.contains("${file:") => cx.report(
            Report::new(node.span, "a placeholder", "a mesh document is the same in every region: it has no `${..}`")
                .help("what differs from place to place, and every secret, stands in the router document"),
        ),
        Value::List(items) => items.iter().for_each(|item| refuse(item, cx)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| refuse(value, cx)),
        _ => {}
    }
}

fn fill_text(text: &str, span: Span, sources: &Sources<'_>, cx: Context<'_>) -> Option<String> {
    let mut filled = String::new();
    let mut rest = text;
    let mut good = true;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            filled.push_str(&rest[..at]);
            filled.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        filled.push_str(&rest[..at]);
        let Some(close) = rest[at..].find('}') else {
            return cx.refuse(span, "not closed", "a `${` is not closed by a `}`");
        };
        let placeholder = &rest[at..=at + close];
        match value(&placeholder[2..placeholder.len() - 1], sources) {
            Ok(value) => filled.push_str(&value),
            Err((label, message)) => {
                let help = "`${env:NAME}` is an environment variable, `${file:PATH}` the content of a file";
                cx.report(Report::new(place(span, placeholder, cx), label, message).help(help));
                good = false;
            }
        }
        rest = &rest[at + close + 1..];
    }
    filled.push_str(rest);
    good.then_some(filled)
}

/// The placeholder itself where it can be found as it is, else the whole text.
fn place(span: Span, placeholder: &str, cx: Context<'_>) -> Span {
    let written = cx.text.get(span.start..span.end).unwrap_or_default();
    written
        .find(placeholder)
        .map_or(span, |at| Span { start: span.start + at, end: span.start + at + placeholder.len() })
}

/// The value of one placeholder, or a label and a message.
fn value(inside: &str, sources: &Sources<'_>) -> Result<String, (&'static str, String)> {
    let (source, name) = inside.split_once(':').unwrap_or((inside, ""));
    let value = match (source, name) {
        ("env" | "file", "") => {
            return Err(("says not which", format!("`${{{inside}}}` does not say which: a name is missing")));
        }
        ("env", name) => {
            let missing = || ("not set", format!("the environment variable `{name}` is not set"));
            (sources.env)(name).ok_or_else(missing)?
        }
        ("file", path) => {
            let path = sources.folder.join(path);
            let read = (sources.file)(&path);
            read.map_err(|error| ("cannot be read", format!("the file `{}` cannot be read: {error}", path.display())))?
        }
        _ => {
            let known = suggest_name(source, ["env", "file"], "known are");
            return Err(("not known", format!("`${{{source}:..}}` is no source of values: {known}")));
        }
    };
    if value.len() > VALUE_BYTES_MAX {
        return Err(("too long", format!("the value of `${{{inside}}}` has more than {VALUE_BYTES_MAX} bytes")));
    }
    Ok(value.strip_suffix('\n').map_or(value.as_str(), |value| value.strip_suffix('\r').unwrap_or(value)).to_owned())
}
