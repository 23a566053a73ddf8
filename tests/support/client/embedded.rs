//! A client of the embedded broker: plain HTTP, and server-sent events.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::Tally;
use crate::mesh::get;
use crate::sample::{Arrived, Sample};
use crate::wait::until;

/// Publishers at the same time: the broker answers when an event is durable, and many wait for one sync.
const CONNECTIONS: usize = 64;

/// A client.
pub struct Embedded {
    /// `http://host:port`.
    url: String,
}

impl Embedded {
    /// A client of the broker at that address.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned() }
    }

    fn host(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    pub(super) async fn produce(&self, samples: &[Sample]) {
        let mut lanes: Vec<Vec<Sample>> = vec![Vec::new(); CONNECTIONS];
        for sample in samples {
            // One connection for all events of a key: what is sent on two has no order.
            let lane =
                sample.key.iter().flatten().fold(7_usize, |hash, &byte| hash.wrapping_mul(31) + usize::from(byte));
            lanes[lane % CONNECTIONS].push(sample.clone());
        }
        let lanes = lanes.into_iter().filter(|lane| !lane.is_empty());
        let posts: Vec<_> = lanes.map(|lane| tokio::spawn(post_all(self.host().to_owned(), lane))).collect();
        for post in posts {
            post.await.expect("publishing works");
        }
    }

    /// Events of all topics: the broker does not count them apart.
    pub(super) async fn count(&self) -> usize {
        let url = format!("{}/v1/topics", self.url);
        // Its router may just be starting again.
        let (_, body) = until("the embedded broker answers", Duration::from_secs(30), async || get(&url).await).await;
        let listing: Value = serde_json::from_str(&body).expect("a listing");
        let number = |name: &str| listing[name].as_u64().expect("a number");
        usize::try_from(number("next") - number("first")).expect("64 bits")
    }

    pub(super) async fn consume(&self, topic: &str, mut tally: Tally) -> Vec<Arrived> {
        let mut sender = connect(self.host()).await;
        let request = Request::get(format!("/v1/topics/{topic}/events?from=earliest")).header("host", self.host());
        let request = request.body(Full::<Bytes>::from(Bytes::new())).expect("a good request");
        let response = sender.send_request(request).await.expect("the broker answers");
        assert_eq!(response.status().as_u16(), 200, "{topic}");
        let (mut body, mut text) = (response.into_body(), Vec::new());
        while let Ok(frame) = tokio::time::timeout(tally.left(), body.frame()).await {
            let frame = frame.expect("the stream goes on").expect("the stream goes on");
            let fresh = text.len();
            text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            // An event ends with an empty line; one may come in many frames, so only the new part is searched.
            let mut from = fresh.saturating_sub(1);
            let mut done = 0;
            while let Some(at) = text[from..].windows(2).position(|pair| pair == b"\n\n") {
                let end = from + at;
                if let Some(arrived) = arrived(&text[done..end]) {
                    tally.push(arrived);
                }
                (done, from) = (end + 2, end + 2);
            }
            text.drain(..done);
        }
        tally.finish()
    }
}

async fn connect(host: &str) -> SendRequest<Full<Bytes>> {
    let end = Instant::now() + Duration::from_secs(30);
    let stream = loop {
        match TcpStream::connect(host).await {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < end, "the embedded broker takes no connections: {error}"),
        }
        // It comes up with its router.
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP works");
    tokio::spawn(connection);
    sender
}

async fn post_all(host: String, samples: Vec<Sample>) {
    let mut sender = connect(&host).await;
    for sample in samples {
        let mut request = Request::post(format!("/v1/topics/{}/events", sample.topic)).header("host", &host);
        if let Some(key) = &sample.key {
            request = request.header("longhaul-key", &key[..]);
        }
        for (name, value) in &sample.headers {
            request = request.header(format!("longhaul-header-{name}"), &value[..]);
        }
        let request = request.body(Full::from(Bytes::from(sample.payload))).expect("a good request");
        sender.ready().await.expect("the connection stays");
        let response = sender.send_request(request).await.expect("the broker answers");
        stored(response).await;
    }
}

async fn stored(response: Response<Incoming>) {
    let status = response.status();
    let body = response.into_body().collect().await.expect("an answer").to_bytes();
    assert!(status.is_success(), "the broker did not store an event of the test: {}", String::from_utf8_lossy(&body));
}

/// The event of one block of lines; a comment keeps the connection open and is none.
fn arrived(block: &[u8]) -> Option<Arrived> {
    let lines = std::str::from_utf8(block).expect("server-sent events are UTF-8").lines();
    let data = lines.filter_map(|line| line.strip_prefix("data:")).next()?;
    let view: Value = serde_json::from_str(data.trim_start()).expect("an event is JSON");
    let text = |value: &Value| value.as_str().map(|text| text.as_bytes().to_vec());
    let base64 = |value: &Value| value.as_str().map(|text| STANDARD.decode(text).expect("base64"));
    let header = |pair: &Value| {
        let value = match &pair[1] {
            Value::Object(typed) if typed.contains_key("type") => typed["type"].to_string().into_bytes(),
            Value::Object(binary) => base64(&binary["base64"]).expect("base64"),
            other => text(other).unwrap_or_default(),
        };
        (pair[0].as_str().expect("a name").to_owned(), value)
    };
    let headers = view["headers"].as_array().unwrap_or_else(|| panic!("no event: {data}"));
    let event = Sample {
        topic: view["topic"].as_str().expect("a topic").to_owned(),
        key: text(&view["key"]).or_else(|| base64(&view["key_base64"])),
        headers: headers.iter().map(header).collect(),
        payload: text(&view["data"]).or_else(|| base64(&view["data_base64"])).unwrap_or_default(),
    };
    Some(Arrived { event, id: view["id"].as_str().map(str::to_owned) })
}
