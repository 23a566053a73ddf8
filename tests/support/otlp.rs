//! A receiver of OTLP over HTTP: decodes what is posted to `/v1/traces` and judges it strictly, as the protocol says.
//!
//! Plain or over TLS. Ids are of their lengths and not 0, no span ends before it begins, every resource has a service name. It can be told
//! to refuse the first requests, as a receiver that is overloaded does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use longhaul_link::certs::Pem;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use crate::wait::until;

/// A receiver; it ends when it is dropped.
pub struct Receiver {
    scheme: &'static str,
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: AbortHandle,
}

#[derive(Default)]
struct Shared {
    spans: Mutex<Vec<Received>>,
    /// Requests that are refused from now on.
    refuse: AtomicUsize,
    /// What was not as the protocol says.
    wrong: Mutex<Vec<String>>,
    /// What every request must say in `authorization`.
    authorization: Option<&'static str>,
}

/// A span as it was received.
#[derive(Debug, Clone)]
pub struct Received {
    /// What its resource says: `region/router`.
    pub router: String,
    /// The span itself.
    pub span: Span,
}

impl Received {
    /// An attribute as text.
    #[must_use]
    pub fn attribute(&self, key: &str) -> Option<String> {
        attribute(&self.span.attributes, key)
    }

    /// The trace as 32 hex digits.
    #[must_use]
    pub fn trace(&self) -> String {
        self.span.trace_id.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Receiver {
    /// Listens on a port of its own; the first `refused` requests are answered with 503.
    ///
    /// # Panics
    /// When it cannot listen.
    pub async fn start(refused: usize) -> Self {
        Self::serve(Shared { refuse: AtomicUsize::new(refused), ..Shared::default() }, None).await
    }

    /// Listens over TLS with that certificate, and takes only requests that say this in `authorization`.
    ///
    /// # Panics
    /// When it cannot listen, or the certificate is none.
    pub async fn start_tls(pem: &Pem, authorization: &'static str) -> Self {
        let cert = CertificateDer::from_pem_slice(pem.cert.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config =
            builder.expect("versions").with_no_client_auth().with_single_cert(vec![cert], key).expect("a pair");
        let shared = Shared { authorization: Some(authorization), ..Shared::default() };
        Self::serve(shared, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn serve(shared: Shared, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (scheme, shared) = (if tls.is_some() { "https" } else { "http" }, Arc::new(shared));
        let serving = tokio::spawn(serve(listener, tls, Arc::clone(&shared))).abort_handle();
        Self { scheme, address, shared, serving }
    }

    /// The endpoint to configure.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Everything that was received so far.
    ///
    /// # Panics
    /// When something was not as the protocol says.
    #[must_use]
    pub fn spans(&self) -> Vec<Received> {
        let wrong = self.shared.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        self.shared.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a trace has so many spans, and returns them in order of their beginning.
    pub async fn wait_trace(&self, trace: &str, count: usize, patience: Duration) -> Vec<Received> {
        let what = format!("{count} spans of the trace {trace}");
        let mut found = until(&what, patience, async || {
            let of_trace: Vec<_> = self.spans().into_iter().filter(|one| one.trace() == trace).collect();
            (of_trace.len() >= count).then_some(of_trace)
        })
        .await;
        found.sort_by_key(|one| (one.span.start_time_unix_nano, one.span.end_time_unix_nano));
        found
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, std::convert::Infallible>(shared.answer(request).await) }
        });
        // With the set, which ends with the listener, they end too.
        let (http, tls) = (http1::Builder::new(), tls.clone());
        connections.spawn(async move {
            // How a connection ends is seen by whoever opened it.
            let _ = match tls {
                None => http.serve_connection(TokioIo::new(stream), service).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
                    Err(_) => Ok(()),
                },
            };
        });
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let kind = request.headers().get("content-type").and_then(|kind| kind.to_str().ok()).map(str::to_owned);
        let is_right = request.method() == Method::POST
            && request.uri().path() == "/v1/traces"
            && kind.as_deref() == Some("application/x-protobuf");
        if !is_right {
            self.wrong(format!("{} {} with {kind:?}", request.method(), request.uri()));
            return status(StatusCode::BAD_REQUEST);
        }
        let authorization = request.headers().get("authorization").map(|value| value.as_bytes());
        if authorization != self.authorization.map(str::as_bytes) {
            return status(StatusCode::UNAUTHORIZED);
        }
        let one_less = |left: usize| left.checked_sub(1);
        if self.refuse.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            return status(StatusCode::SERVICE_UNAVAILABLE);
        }
        let Ok(body) = request.into_body().collect().await else { return status(StatusCode::BAD_REQUEST) };
        let body = body.to_bytes();
        match ExportTraceServiceRequest::decode(body.clone()) {
            // What the decoder passed over would be missing when it is encoded again.
            Ok(decoded) if decoded.encoded_len() == body.len() => self.take(decoded),
            Ok(decoded) => {
                self.wrong(format!("{} of {} bytes are known: {decoded:?}", decoded.encoded_len(), body.len()));
            }
            Err(error) => self.wrong(error.to_string()),
        }
        let body = Full::new(ExportTraceServiceResponse::default().encode_to_vec().into());
        Response::builder().header("content-type", "application/x-protobuf").body(body).expect("a good answer")
    }

    fn take(&self, request: ExportTraceServiceRequest) {
        for of_resource in request.resource_spans {
            let resource = of_resource.resource.unwrap_or_default().attributes;
            if attribute(&resource, "service.name").as_deref() != Some("longhaul") {
                self.wrong(format!("a resource without its name: {resource:?}"));
            }
            let router = attribute(&resource, "service.instance.id").unwrap_or_default();
            for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                if let Err(what) = check(&span) {
                    self.wrong(format!("{what}: {span:?}"));
                }
                let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
                spans.push(Received { router: router.clone(), span });
            }
        }
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

fn check(span: &Span) -> Result<(), &'static str> {
    let is_id = |id: &[u8], len: usize| id.len() == len && id.iter().any(|byte| *byte != 0);
    let links = |of: &Span| of.links.iter().all(|link| is_id(&link.trace_id, 16) && is_id(&link.span_id, 8));
    match () {
        () if !is_id(&span.trace_id, 16) || !is_id(&span.span_id, 8) => Err("an id that is none"),
        () if !span.parent_span_id.is_empty() && !is_id(&span.parent_span_id, 8) => Err("a parent that is none"),
        () if !links(span) => Err("a link that is none"),
        () if span.name.is_empty() || span.kind == 0 => Err("a span without name or kind"),
        () if span.start_time_unix_nano == 0 => Err("a span without a time"),
        () if span.end_time_unix_nano < span.start_time_unix_nano => Err("a span that ends before it begins"),
        () => Ok(()),
    }
}

fn attribute(all: &[KeyValue], key: &str) -> Option<String> {
    let found = all.iter().find(|one| one.key == key)?.value.as_ref()?.value.as_ref()?;
    Some(match found {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
