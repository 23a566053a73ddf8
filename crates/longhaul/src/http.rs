//! A small HTTP client for the admin API and the embedded broker: plain HTTP, one connection per request.

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::Failure;

/// A request before it is sent: method, URL, headers, body.
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    pub(crate) url: &'a str,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

/// Sends a request and returns the response, whatever its status.
pub(crate) async fn send(call: Call<'_>) -> Result<Response<Incoming>, Failure> {
    let rest = call.url.strip_prefix("http://");
    let rest = rest.ok_or_else(|| Failure::Usage(format!("{}: only http:// addresses are spoken to", call.url)))?;
    let (host, path) =
        rest.split_once('/').map_or((rest, String::from("/")), |(host, path)| (host, format!("/{path}")));
    let unreachable = |error: String| Failure::wrong(format!("cannot reach http://{host}: {error}"));
    let stream = TcpStream::connect(host).await.map_err(|error| unreachable(error.to_string()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| unreachable(error.to_string()))?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(call.method).uri(path).header("host", host);
    for (name, value) in &call.headers {
        request = request.header(name, value);
    }
    let request = request.body(Full::new(call.body)).map_err(|error| Failure::Usage(error.to_string()))?;
    sender.send_request(request).await.map_err(|error| unreachable(error.to_string()))
}

/// Sends a request and returns the whole body of a successful response; any other status is a failure with what the server says.
pub(crate) async fn text(call: Call<'_>) -> Result<String, Failure> {
    let url = call.url.to_owned();
    let response = send(call).await?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| Failure::wrong(format!("{url}: {error}")))?;
    let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    if status.is_success() { Ok(body) } else { Err(refused(&url, status, &body)) }
}

/// A failure that says what the server said.
pub(crate) fn refused(url: &str, status: StatusCode, body: &str) -> Failure {
    let detail = serde_json::from_str::<serde_json::Value>(body).ok();
    let detail = detail.as_ref().and_then(|problem| problem.get("detail")).and_then(serde_json::Value::as_str);
    Failure::wrong(format!("{url}: {status}: {}", detail.unwrap_or(body.trim())))
}

/// Gets JSON.
pub(crate) async fn get_json<T: serde::de::DeserializeOwned>(url: &str) -> Result<T, Failure> {
    let body = text(Call { method: "GET", url, headers: Vec::new(), body: Bytes::new() }).await?;
    serde_json::from_str(&body).map_err(|error| Failure::wrong(format!("{url}: not the answer of a router: {error}")))
}

/// Server-sent events of a response, one after the other.
pub(crate) struct Records {
    body: Incoming,
    buffer: BytesMut,
}

/// A server-sent event.
pub(crate) struct Record(String);

impl Records {
    /// Of a successful response; any other status is a failure with what the server says.
    pub(crate) async fn of(url: &str, response: Response<Incoming>) -> Result<Self, Failure> {
        let status = response.status();
        let body = response.into_body();
        if status.is_success() {
            return Ok(Self { body, buffer: BytesMut::new() });
        }
        let text = body.collect().await.map(|body| String::from_utf8_lossy(&body.to_bytes()).into_owned());
        Err(refused(url, status, &text.unwrap_or_default()))
    }

    /// The next one, once it is whole; `None` when the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                return Some(Record(String::from_utf8_lossy(&self.buffer.split_to(end + 2)).into_owned()));
            }
            let frame = self.body.frame().await?.ok()?;
            self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        }
    }
}

impl Record {
    /// What it carries; none for a comment.
    pub(crate) fn data(&self) -> Option<&str> {
        self.field("data:")
    }

    /// Its id.
    pub(crate) fn id(&self) -> Option<&str> {
        self.field("id:")
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start)
    }
}
