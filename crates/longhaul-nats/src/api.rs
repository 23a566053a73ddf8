//! The few requests of the JetStream API that Longhaul makes, as JSON.
//!
//! Written out rather than taken from the client, whose own types differ by feature flags of the server's version: what is not asked for
//! here is not there, and what an older server does not send has a default.

use longhaul_broker::{SinkError, SourceError};
use longhaul_event::hash64;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::client::Session;
use crate::config::PATIENCE;

/// Most pages of 256 streams that are listed; an account with more is served without the checks that need the list.
const LIST_PAGES_MAX: usize = 8;

/// Why the API did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    /// Nobody answers for JetStream here, now.
    #[error("no JetStream answers here: it is off for this account or server, or has no leader now")]
    NoJetStream,
    /// No answer in time, or the connection went.
    #[error("{0}")]
    Away(String),
    /// The server's own refusal.
    #[error("{text} ({err_code})")]
    Refused {
        /// Like HTTP: 400 and 404 last, 503 passes.
        code: u16,
        /// The server's number for it.
        err_code: u64,
        /// The server's words.
        text: String,
    },
}

impl ApiError {
    /// Whether the server says that the thing asked for is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }

    /// Also when JetStream is not enabled for the server (10076) or the account (10039), though the server calls that unavailable.
    fn lasts(&self) -> bool {
        matches!(self, Self::Refused { code: 400..=499, .. } | Self::NoJetStream)
            || matches!(self, Self::Refused { err_code: 10039 | 10076, .. })
    }
}

impl From<ApiError> for SourceError {
    fn from(error: ApiError) -> Self {
        if error.lasts() { Self::Config(error.to_string()) } else { Self::Transient(error.to_string()) }
    }
}

impl From<ApiError> for SinkError {
    fn from(error: ApiError) -> Self {
        if error.lasts() { Self::Config(error.to_string()) } else { Self::Transient(error.to_string()) }
    }
}

/// A stream as `STREAM.INFO` and `STREAM.LIST` show it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Stream {
    pub(crate) config: StreamConfig,
    /// When it was made, to the nanosecond, as the server writes it.
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) state: StreamState,
}

/// What a stream is.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct StreamConfig {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) subjects: Vec<String>,
    #[serde(default)]
    pub(crate) retention: String,
    #[serde(default)]
    pub(crate) max_msg_size: i64,
    /// Nanoseconds.
    #[serde(default)]
    pub(crate) duplicate_window: u64,
    /// Whether it takes atomic batches; servers before 2.12 know none.
    #[serde(default)]
    pub(crate) allow_atomic: bool,
    #[serde(default)]
    pub(crate) allow_rollup_hdrs: bool,
    #[serde(default)]
    pub(crate) deny_purge: bool,
}

/// What a stream holds.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct StreamState {
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
}

impl Stream {
    /// Changes when a stream is deleted and made again, and only then.
    pub(crate) fn incarnation(&self) -> u64 {
        hash64(format!("{}\n{}", self.config.name, self.created).as_bytes())
    }
}

/// Where a consumer was before its first delivery.
#[derive(Debug, Deserialize)]
pub(crate) struct Consumer {
    pub(crate) name: String,
    pub(crate) delivered: Delivered,
    /// Messages that it would deliver now.
    #[serde(default)]
    pub(crate) num_pending: Option<u64>,
}

/// The last sequence that a consumer went past.
#[derive(Debug, Deserialize)]
pub(crate) struct Delivered {
    pub(crate) stream_seq: u64,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

impl Session {
    /// Asks `<prefix>.<what>` and reads the answer.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, what: &str, body: &Value) -> Result<T, ApiError> {
        let payload = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let asked = self.client.request(format!("{}.{what}", self.api), payload.into());
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let answer = answer.map_err(|_| ApiError::Away(format!("{what}: no answer within {PATIENCE:?}")))?;
        let answer = answer.map_err(|e| match e.kind() {
            async_nats::RequestErrorKind::NoResponders => ApiError::NoJetStream,
            _ => ApiError::Away(format!("{what}: {e}")),
        })?;
        read(what, &answer.payload)
    }

    /// The stream of that name.
    pub(crate) async fn stream(&self, name: &str) -> Result<Stream, ApiError> {
        self.ask(&format!("STREAM.INFO.{name}"), &Value::Null).await
    }

    /// Names of the streams that hold some subject of that pattern.
    pub(crate) async fn stream_names(&self, subject: &str) -> Result<Vec<String>, ApiError> {
        let mut names: Vec<String> = Vec::new();
        for _ in 0..LIST_PAGES_MAX * 4 {
            let body = json!({ "subject": subject, "offset": names.len() });
            let page: Names = self.ask("STREAM.NAMES", &body).await?;
            let page_names = page.streams.unwrap_or_default();
            let done = page_names.is_empty() || names.len() + page_names.len() >= page.total;
            names.extend(page_names);
            if done {
                break;
            }
        }
        Ok(names)
    }

    /// All streams; `None` when there are more than one cares to list.
    pub(crate) async fn streams(&self) -> Result<Option<Vec<StreamConfig>>, ApiError> {
        let mut streams: Vec<StreamConfig> = Vec::new();
        for _ in 0..LIST_PAGES_MAX {
            let page: List = self.ask("STREAM.LIST", &json!({ "offset": streams.len() })).await?;
            let found = page.streams.unwrap_or_default();
            let done = found.is_empty() || streams.len() + found.len() >= page.total;
            streams.extend(found.into_iter().map(|stream| stream.config));
            if done {
                return Ok(Some(streams));
            }
        }
        Ok(None)
    }

    /// Makes a stream, with three replicas where the cluster has them, else with one.
    pub(crate) async fn create_stream(&self, mut config: Value) -> Result<Stream, ApiError> {
        let what = format!("STREAM.CREATE.{}", config["name"].as_str().unwrap_or_default());
        config["num_replicas"] = json!(3);
        if let Ok(stream) = self.ask(&what, &config).await {
            return Ok(stream);
        }
        config["num_replicas"] = json!(1);
        self.ask(&what, &config).await
    }
}

#[derive(Deserialize)]
struct Names {
    #[serde(default)]
    total: usize,
    streams: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    total: usize,
    streams: Option<Vec<Stream>>,
}

/// Reads an answer or the error in it.
pub(crate) fn read<T: DeserializeOwned>(what: &str, payload: &[u8]) -> Result<T, ApiError> {
    let odd = |e: serde_json::Error| ApiError::Away(format!("{what}: the answer is not understood: {e}"));
    let mut value: Value = serde_json::from_slice(payload).map_err(odd)?;
    let Some(error) = value.get_mut("error").map(Value::take) else {
        return serde_json::from_value(value).map_err(odd);
    };
    let refusal: Refusal = serde_json::from_value(error).map_err(odd)?;
    Err(ApiError::Refused { code: refusal.code, err_code: refusal.err_code, text: refusal.description })
}
