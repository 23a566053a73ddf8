//! From raw documents to values that mean something. Every step reports what is wrong and goes on with the rest.

pub(crate) mod access;
pub(crate) mod mesh;
pub(crate) mod pair;
pub(crate) mod places;
pub(crate) mod predicate;
pub(crate) mod route;
pub(crate) mod router;
pub(crate) mod secrets;
mod traces;
pub(crate) mod units;

use crate::field::Field;
use crate::report::{Report, Reports, Span};

/// What a compiler carries along: the masked text that spans point into, and the reports.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) text: &'a str,
    pub(crate) reports: &'a Reports,
}

/// Longest name of a region, broker, route or mesh. Names become parts of names at brokers, which have limits of their own.
const NAME_BYTES_MAX: usize = 64;

impl Context<'_> {
    pub(crate) fn report(&self, report: Report) {
        self.reports.push(report);
    }

    /// Reports, and gives nothing.
    pub(crate) fn refuse<T>(&self, span: Span, label: impl Into<String>, message: impl Into<String>) -> Option<T> {
        self.report(Report::new(span, label, message));
        None
    }

    /// What stands there in the document, for a message: the placeholder rather than the secret that it stands for.
    pub(crate) fn written(&self, span: Span) -> &str {
        self.text.get(span.start..span.end).unwrap_or_default().trim_matches(['"', '\''])
    }

    /// `apiVersion` and `kind`, the first two keys of both documents.
    pub(crate) fn header(&self, api_version: &Field<String>, kind: &Field<String>, expected: &str) {
        if let Some((found, span)) = api_version.get()
            && found != "longhaul/v1"
        {
            self.report(
                Report::new(
                    span,
                    "not known",
                    format!("this version of the format is not known: `{}`", self.written(span)),
                )
                .help("expected `apiVersion: longhaul/v1`"),
            );
        }
        if let Some((found, span)) = kind.get()
            && found != expected
        {
            self.report(
                Report::new(span, "another kind", format!("this is a `{}` document", self.written(span)))
                    .help(format!("expected `kind: {expected}` here")),
            );
        }
    }

    /// A name of our own: it becomes part of names at brokers, of labels and of addresses.
    pub(crate) fn name(&self, field: &Field<String>) -> Option<String> {
        let (name, span) = field.get()?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return self.refuse(span, "this name", format!("a name has 1 to {NAME_BYTES_MAX} characters"));
        }
        if let Some(bad) = name.chars().find(|c| !c.is_ascii_alphanumeric() && *c != '-' && *c != '_') {
            let message = format!("a name has letters, digits, `-` and `_`, but no `{}`", bad.escape_debug());
            return self.refuse(span, "this name", message);
        }
        Some(name.clone())
    }

    /// Text that is not empty.
    pub(crate) fn filled(&self, field: &Field<String>) -> Option<String> {
        let (text, span) = field.get()?;
        if text.trim().is_empty() {
            return self.refuse(span, "empty", "this must not be empty");
        }
        Some(text.clone())
    }

    /// `HOST:PORT`.
    pub(crate) fn address(&self, text: &str, span: Span) -> Option<String> {
        let parts = text.rsplit_once(':').filter(|(host, port)| {
            let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
            let host_fits =
                !host.is_empty() && !bare_ipv6 && !host.contains(['/', '@']) && !host.contains(char::is_whitespace);
            host_fits && port.parse::<u16>().is_ok_and(|port| port != 0)
        });
        if parts.is_none() {
            let message = format!("`{}` is no address: expected HOST:PORT", self.written(span));
            return self.refuse(span, "expected HOST:PORT", message);
        }
        Some(text.to_owned())
    }
}
