//! `longhaul subscribe`: prints events of an embedded broker as they come, one JSON object a line; goes on where it was when the
//! connection breaks.

use std::time::Duration;

use bytes::Bytes;

use crate::Failure;
use crate::http::{Call, Records, send};

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
        let mut records = Records::of(&url, response).await?;
        while left > 0 {
            let Some(record) = records.next().await else { break };
            let Some(data) = record.data() else { continue };
            println!("{data}");
            left -= 1;
            last_id = record.id().map(str::to_owned).or(last_id);
        }
    }
    Ok(())
}
