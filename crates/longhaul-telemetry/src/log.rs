//! Logs: text on a terminal, JSON on request, always to stderr.
//!
//! error = someone must act, warn = recovered by itself, info = an action finished.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::SubscriberInitExt;

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text, with colours on a terminal.
    Auto,
    /// Text without colours.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logs cannot be begun: a sentence.
#[derive(Debug)]
pub struct LogError(String);

impl std::fmt::Display for LogError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LogError {}

/// Lets one line a second into the log of what anybody from outside can cause as often as they like.
#[derive(Debug, Default)]
pub struct OnceASecond(Mutex<Option<Instant>>);

impl OnceASecond {
    /// Whether the next line may be written; then it is taken for written.
    pub fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= Duration::from_secs(1));
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

/// Begins logging to stderr, once per process. `filter` is a level, or targets with levels: `info,longhaul_link=debug`.
///
/// # Errors
/// When the filter is none, or logs were begun before.
pub fn init_log(format: LogFormat, filter: &str) -> Result<(), LogError> {
    // An empty NO_COLOR asks for nothing: <https://no-color.org>.
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = format == LogFormat::Auto && std::io::stderr().is_terminal() && !plain;
    subscriber(format, colour, filter, std::io::stderr)?.try_init().map_err(|error| LogError(error.to_string()))
}

/// Writes log lines of that form.
fn subscriber<W>(
    format: LogFormat,
    colour: bool,
    filter: &str,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // lapin logs whole returned messages; payloads have no place in a log. Who asks for it by name gets it.
    let filter = EnvFilter::try_new(format!("lapin=off,{filter}"))
        .map_err(|error| LogError(format!("the log filter {filter:?}: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colour).with_writer(writer);
    Ok(match format {
        // Spans of libraries would bring names of their own.
        LogFormat::Json => {
            Box::new(builder.json().flatten_event(true).with_current_span(false).with_span_list(false).finish())
        }
        LogFormat::Auto | LogFormat::Text => Box::new(builder.with_target(false).finish()),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What one warning with fields, and one line below the filter, come out as.
    fn logged(format: LogFormat, colour: bool) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = subscriber(format, colour, "info", move || writer.clone()).expect("a valid filter");
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(region = "us", tries = 3, "a link is \"down\"");
            tracing::debug!("not asked for");
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn text_is_one_plain_line() {
        let text = logged(LogFormat::Text, false);
        assert!(text.ends_with(" WARN a link is \"down\" region=\"us\" tries=3\n"), "{text:?}");
        assert_eq!((text.lines().count(), text.contains('\x1b')), (1, false));
        assert!(logged(LogFormat::Auto, true).contains('\x1b'), "colour on a terminal");
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_at_its_top() {
        let json = logged(LogFormat::Json, false);
        assert!(json.starts_with("{\"timestamp\":\"") && json.ends_with("}\n"), "{json}");
        for part in [r#""level":"WARN""#, r#""message":"a link is \"down\"""#, r#""region":"us""#, r#""tries":3"#] {
            assert!(json.contains(part), "{part} is missing in {json}");
        }
        let names: Vec<_> = json.matches("\":").collect();
        assert_eq!(
            (json.lines().count(), names.len()),
            (1, 6),
            "timestamp, level, target, message and two fields: {json}"
        );
    }

    #[test]
    fn one_line_a_second() {
        let (pace, now) = (OnceASecond::default(), Instant::now());
        let at = |ms| pace.is_due(now + Duration::from_millis(ms));
        assert_eq!([at(0), at(1), at(999), at(1000), at(1001)], [true, false, false, true, false]);
    }

    #[test]
    fn a_filter_that_is_none_is_refused_in_a_sentence() {
        let error = subscriber(LogFormat::Text, false, "info,=x=", std::io::sink).err().expect("no filter");
        assert!(error.to_string().starts_with("the log filter \"info,=x=\": "), "{error}");
    }
}
