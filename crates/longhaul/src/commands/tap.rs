//! `longhaul tap`: what passes through a router, one line an event, as it happens. Shows no payload and changes nothing.
//!
//! Bytes of events are not trusted: what could steer a terminal is escaped.

use std::io::Write;

use bytes::Bytes;
use longhaul_router::{TapAsked, TapEvent, TapLine};
use longhaul_topic::Filter;

use crate::Failure;
use crate::http::{Call, Records, send};
use crate::table::or_dash;

/// Headings, and how wide each column is at least. What there is to say beside them follows behind the last one.
const COLUMNS: [(&str, usize); 11] = [
    ("TIME", 12),
    ("OUTCOME", 9),
    ("ROUTE", 18),
    ("FROM", 28),
    ("OFFSET", 8),
    ("TO", 16),
    ("TOPIC", 22),
    ("KEY", 12),
    ("CORRELATION ID", 14),
    ("EVENT", 32),
    ("BYTES", 6),
];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the router's admin listener.
    #[arg(long, env = "LONGHAUL_ADMIN", default_value = "http://127.0.0.1:9600")]
    admin: String,
    /// The router's admin token, if it has one.
    #[arg(long, env = "LONGHAUL_ADMIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Events of that route.
    #[arg(long)]
    route: Option<String>,
    /// Events that come from there: REGION or REGION/BROKER.
    #[arg(long, value_name = "PLACE")]
    from: Option<String>,
    /// Events that go there: REGION or REGION/BROKER.
    #[arg(long, value_name = "PLACE")]
    to: Option<String>,
    /// Filter over topics, of the source where a flow begins and of the destination where it ends: `*` is one token, `>` the rest, `#`
    /// any number anywhere.
    #[arg(long, value_name = "FILTER", value_parser = Filter::parse)]
    topic: Option<Filter>,
    /// Events with that correlation id: `correlationid`, `correlation_id`, or the AMQP property.
    #[arg(long, value_name = "ID")]
    correlation: Option<String>,
    /// Events with that key.
    #[arg(long)]
    key: Option<String>,
    /// The event with that identity, as logs and traces have it.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// What has become of them: sent, skipped, refused, halted, delivered, failed, parked, dropped; several with commas. Without it all
    /// but skipped, which no topic filter of a route asks for.
    #[arg(long)]
    outcome: Option<String>,
    /// End after so many events.
    #[arg(long)]
    count: Option<u64>,
    /// One JSON object a line, with everything.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let url = format!("{}/v1/tap", arguments.admin.trim_end_matches('/'));
    let query = serde_urlencoded::to_string(arguments.asked()).map_err(Failure::wrong)?;
    let headers = arguments.token.iter().map(|token| ("authorization".to_owned(), format!("Bearer {token}"))).collect();
    let asked = format!("{url}?{query}");
    let response = send(Call { method: "GET", url: &asked, headers, body: Bytes::new() }).await?;
    let mut records = Records::of(&url, response).await?;
    let (mut left, mut widths) = (arguments.count.unwrap_or(u64::MAX), COLUMNS.map(|(_, width)| width));
    if !arguments.json && !say(&row(&COLUMNS.map(|(heading, _)| heading.to_owned()), &mut widths)) {
        return Ok(());
    }
    while left > 0 {
        let Some(record) = records.next().await else {
            return Err(Failure::wrong("the router has closed the connection"));
        };
        let Some(data) = record.data() else { continue };
        let line: TapLine = serde_json::from_str(data)
            .map_err(|error| Failure::wrong(format!("{url}: not the answer of a router of this version: {error}")))?;
        left -= u64::from(matches!(line, TapLine::Event(_)));
        let is_read = match line {
            _ if arguments.json => say(data),
            TapLine::Event(event) => say(&human(&event, &mut widths)),
            TapLine::Missed { missed, .. } => {
                eprintln!("longhaul: {missed} events were not shown; ask for fewer");
                true
            }
        };
        if !is_read {
            break;
        }
    }
    Ok(())
}

impl Arguments {
    fn asked(&self) -> TapAsked {
        TapAsked {
            route: self.route.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            topic: self.topic.as_ref().map(|filter| filter.as_str().to_owned()),
            correlation: self.correlation.clone(),
            key: self.key.clone(),
            event: self.event.clone(),
            outcome: self.outcome.clone(),
        }
    }
}

/// Prints a line; whether somebody still reads it.
fn say(line: &str) -> bool {
    writeln!(std::io::stdout(), "{}", line.trim_end()).is_ok()
}

fn human(event: &TapEvent, widths: &mut [usize; COLUMNS.len()]) -> String {
    // The time of day, to the millisecond.
    let time = event.timestamp.get(11..23).unwrap_or(&event.timestamp).to_owned();
    let cells = [
        time,
        event.outcome.as_str().to_owned(),
        event.route.clone(),
        format!("{}/{}", event.from, event.shard),
        event.offset.to_string(),
        event.to.clone(),
        event.topic.clone(),
        or_dash(event.key.as_ref()),
        or_dash(event.correlation_id.as_ref()),
        event.event.clone(),
        event.payload_bytes.to_string(),
    ];
    let told = [event.reason.clone(), event.traceparent.as_ref().map(|parent| format!("traceparent={parent}"))];
    let told = told.into_iter().flatten().map(|text| plain(&text));
    std::iter::once(row(&cells, widths)).chain(told).collect::<Vec<_>>().join("  ")
}

/// Cells under their headings. A column is as wide as its widest cell so far: nobody knows what comes.
fn row(cells: &[String; COLUMNS.len()], widths: &mut [usize; COLUMNS.len()]) -> String {
    let cells = cells.iter().zip(widths).map(|(cell, width)| {
        let cell = plain(cell);
        *width = cell.chars().count().max(*width);
        let width = *width;
        format!("{cell:<width$}")
    });
    cells.collect::<Vec<_>>().join("  ")
}

/// What a terminal would take for a command, escaped.
fn plain(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use longhaul_router::{End, Outcome};

    use super::*;

    fn event() -> TapEvent {
        TapEvent {
            timestamp: "2026-12-01T02:03:04.567890Z".to_owned(),
            end: End::Out,
            outcome: Outcome::Refused,
            reason: Some("predicate".to_owned()),
            route: "orders".to_owned(),
            from: "eu/orders".to_owned(),
            shard: "orders.new-0".to_owned(),
            offset: 7,
            to: "us/billing".to_owned(),
            topic: "orders.new".to_owned(),
            key: Some("\u{1b}[31mred\r\n".to_owned()),
            event: "0".repeat(32),
            correlation_id: None,
            traceparent: None,
            payload_bytes: 12,
        }
    }

    #[test]
    fn a_line_is_one_line_and_steers_no_terminal() {
        let mut widths = COLUMNS.map(|(_, width)| width);
        let line = human(&event(), &mut widths);
        assert!(line.starts_with("02:03:04.567  refused    orders"), "{line}");
        assert!(line.contains(r"\u{1b}[31mred\r\n") && line.ends_with("predicate"), "{line}");
        assert!(!line.chars().any(char::is_control), "{line}");
    }

    #[test]
    fn columns_stand_below_each_other_as_they_widen() {
        let mut widths = COLUMNS.map(|(_, width)| width);
        let first = human(&event(), &mut widths);
        let second = human(&TapEvent { key: None, ..event() }, &mut widths);
        assert_eq!(first.find("predicate"), second.find("predicate"));
        let wide = TapEvent { route: "a name that is wide".to_owned(), ..event() };
        assert!(human(&wide, &mut widths).find("predicate") > first.find("predicate"));
    }
}
