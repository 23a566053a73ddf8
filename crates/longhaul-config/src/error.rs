//! All that is wrong with a document, ready to be read by a person: in one line each, or drawn over the text.
//!
//! The text that is drawn has its secrets masked when a [`Diagnostics`] is made; nothing in here can print one.

use std::fmt;
use std::path::Path;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use crate::report::{Report, Span};

/// Columns that a drawing takes at most.
const WIDTH: usize = 110;

/// All that was found in one document, in the order of its text.
#[derive(Clone)]
pub struct Diagnostics {
    file: String,
    /// With secrets masked.
    text: String,
    reports: Vec<Report>,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Counted from 1; 0 when it has no place in the text.
    pub line: usize,
    /// In characters, counted from 1; 0 when it has no place in the text.
    pub column: usize,
    /// What is wrong: a sentence without a full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Worth knowing, but no error.
    pub note: bool,
}

impl Diagnostics {
    /// `text` has its secrets masked already, byte for byte.
    pub(crate) fn new(file: &Path, text: String, reports: Vec<Report>) -> Self {
        Self { file: file.display().to_string(), text, reports }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reports.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// The document they are about.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Diagnostic> + '_ {
        self.reports.iter().map(|report| {
            let (line, column) = self.place(report.span);
            Diagnostic { line, column, message: report.message.clone(), help: report.help.clone(), note: report.note }
        })
    }

    /// `file:line:col: message` each, for logs and for tools that jump to a place.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |found: Diagnostic| {
            let place = match found.line {
                0 => String::new(),
                line => format!(":{line}:{}", found.column),
            };
            let help = found.help.map_or_else(String::new, |help| format!(" ({help})"));
            format!("{}{place}: {}{}{help}", self.file, if found.note { "note: " } else { "" }, found.message)
        };
        self.iter().map(line).collect()
    }

    /// All of them drawn over the text, for a terminal.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(WIDTH).with_links(false);
        let mut drawing = String::new();
        for report in &self.reports {
            let drawn = Drawn { report, source: NamedSource::new(&self.file, self.text.clone()) };
            if handler.render_report(&mut drawing, &drawn).is_err() {
                // A drawing that fails must not hide the error.
                drawing.push_str(&report.message);
            }
            drawing.push('\n');
        }
        drawing
    }

    /// Line and column of a span; zeros where there is no text.
    fn place(&self, span: Span) -> (usize, usize) {
        let Some(before) = self.text.get(..span.start).filter(|_| !self.text.is_empty()) else { return (0, 0) };
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lines()).finish()
    }
}

impl std::error::Error for Diagnostics {}

/// A report together with its text, as the drawing library wants it.
struct Drawn<'a> {
    report: &'a Report,
    source: NamedSource<String>,
}

impl fmt::Debug for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report.message)
    }
}

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report.message)
    }
}

impl std::error::Error for Drawn<'_> {}

impl miette::Diagnostic for Drawn<'_> {
    fn severity(&self) -> Option<miette::Severity> {
        Some(if self.report.note { miette::Severity::Advice } else { miette::Severity::Error })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.report.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        (!self.source.inner().is_empty()).then_some(&self.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let text = self.source.inner();
        // One line of a label is enough: a block that is wrong is marked where it begins.
        let fit = move |span: Span| {
            let start = span.start.min(text.len());
            let end = span.end.clamp(start, text.len());
            let end = text.get(start..end).and_then(|block| block.find('\n')).map_or(end, |at| start + at);
            (start, end - start)
        };
        let report = self.report;
        let own = LabeledSpan::new_primary_with_span(Some(report.label.clone()), fit(report.span));
        let others =
            report.related.iter().map(move |(span, label)| LabeledSpan::new_with_span(Some(label.clone()), fit(*span)));
        Some(Box::new(std::iter::once(own).chain(others)))
    }
}
