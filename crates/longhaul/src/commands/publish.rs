//! `longhaul publish`: one event, or one for each line of the input, into an embedded broker.

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::Failure;
use crate::http::{Call, text};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the embedded broker.
    #[arg(long, env = "LONGHAUL_BROKER", default_value = "http://127.0.0.1:8080")]
    broker: String,
    /// Topic to publish to.
    topic: String,
    /// The payload; `-` publishes each line of the input as an event.
    payload: String,
    /// The key.
    #[arg(long)]
    key: Option<String>,
    /// A header, as `name=value`; any number of them.
    #[arg(long = "header")]
    headers: Vec<String>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    if arguments.payload != "-" {
        println!("{}", publish(&arguments, arguments.payload.clone()).await?);
        return Ok(());
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) =
        lines.next_line().await.map_err(|error| Failure::wrong(format!("cannot read the input: {error}")))?
    {
        println!("{}", publish(&arguments, line).await?);
    }
    Ok(())
}

async fn publish(arguments: &Arguments, payload: String) -> Result<String, Failure> {
    let mut headers = vec![("content-type".to_owned(), "text/plain".to_owned())];
    headers.extend(arguments.key.clone().map(|key| ("longhaul-key".to_owned(), key)));
    for header in &arguments.headers {
        let (name, value) =
            header.split_once('=').ok_or_else(|| Failure::Usage(format!("--header {header}: write name=value")))?;
        headers.push((format!("longhaul-header-{name}"), value.to_owned()));
    }
    let url = format!("{}/v1/topics/{}/events", arguments.broker.trim_end_matches('/'), arguments.topic);
    text(Call { method: "POST", url: &url, headers, body: Bytes::from(payload) }).await
}
