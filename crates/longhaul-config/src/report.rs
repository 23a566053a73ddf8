//! What is wrong with a document, gathered while it is read: a span of its text and sentences about it.

use std::cell::RefCell;

/// Bytes of the document, from `start` up to `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) span: Span,
    pub(crate) label: String,
    /// A sentence without a full stop.
    pub(crate) message: String,
    pub(crate) related: Vec<(Span, String)>,
    pub(crate) help: Option<String>,
    pub(crate) note: bool,
}

impl Report {
    pub(crate) fn new(span: Span, label: impl Into<String>, message: impl Into<String>) -> Self {
        let (label, message) = (label.into(), message.into());
        Self { span, label, message, related: Vec::new(), help: None, note: false }
    }

    pub(crate) fn with(mut self, span: Span, label: impl Into<String>) -> Self {
        self.related.push((span, label.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// More than that are not kept: whoever has so many mends the first ones first.
const REPORTS_MAX: usize = 200;

/// All that was found so far.
#[derive(Debug, Default)]
pub(crate) struct Reports(RefCell<Vec<Report>>);

impl Reports {
    pub(crate) fn push(&self, report: Report) {
        let mut reports = self.0.borrow_mut();
        if reports.len() < REPORTS_MAX {
            reports.push(report);
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// All of them, in the order of the document.
    pub(crate) fn into_sorted(self) -> Vec<Report> {
        let mut reports = self.0.into_inner();
        reports.sort_by_key(|report| report.span);
        reports.dedup();
        reports
    }
}
