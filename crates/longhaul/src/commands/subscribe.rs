//! `longhaul subscribe`: prints events of an embedded broker as they come, one JSON object a line; goes on where it was when the
//! connection breaks.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use crate::Failure;
use crate::http::{Call, refused, send};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the embedded broker.
    #[arg(long, env = "LONGHAUL_BROKER", default_value = "http://127.0.0.1:8080")]
    broker: String,
    /// Filter over topics: `*` is one token, `>` the rest, `#` any number anywhere.
    #[arg(default_value = ">")]
    filter: String,
    /// Where to begin: earliest, latest, or the offset after which.
    #[arg(long, default_value = "latest")]
    from: String,
    /// End after so many events.
    #[arg(long)]
    count: Option<u64>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let filter = arguments.filter.replace('#', "%23").replace('>', "%3E");
    let base = format!("{}/v1/topics/{filter}/events", arguments.broker.trim_end_matches('/'));
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut last_id: Option<String> = None;
    while left > 0 {
        let url = format!("{base}?from={}", arguments.from);
        let headers = last_id.iter().map(|id| ("last-event-id".to_owned(), id.clone())).collect();
        let response = match send(Call { method: "GET", url: &url, headers, body: Bytes::new() }).await {
            Ok(response) => response,
            // Once events have come, a broker that is away is waited for.
            Err(_) if last_id.is_some() => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let text = body.collect().await.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
            return Err(refused(&url, status, &text.unwrap_or_default()));
        }
        let mut buffer = BytesMut::new();
        while left > 0 {
            let Some(Ok(frame)) = body.frame().await else { break };
            buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            while let Some(record) = take_record(&mut buffer) {
                print_record(&record, &mut last_id, &mut left);
            }
        }
    }
    Ok(())
}

/// The next server-sent event, once it is whole.
fn take_record(buffer: &mut BytesMut) -> Option<String> {
    let end = buffer.windows(2).position(|pair| pair == b"\n\n")?;
    let record = buffer.split_to(end + 2);
    Some(String::from_utf8_lossy(&record).into_owned())
}

fn print_record(record: &str, last_id: &mut Option<String>, left: &mut u64) {
    let field = |name: &str| record.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
    let Some(data) = field("data:") else { return };
    if *left > 0 {
        println!("{data}");
        *left -= 1;
    }
    if let Some(id) = field("id:") {
        *last_id = Some(id.to_owned());
    }
}
