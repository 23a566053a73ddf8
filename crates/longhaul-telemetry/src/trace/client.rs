//! The HTTP client that spans are posted with, plain or over TLS. It keeps why the last request failed, in words: the exporter says of every
//! failure on the way only that there was one. What is in the files is read once, when a router starts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};

/// Where spans go, and how.
#[derive(Debug, Clone, Default)]
pub struct Collector {
    /// URL that OTLP over HTTP is posted to, path included: `http` or `https`.
    pub endpoint: String,
    /// PEM file of the authorities for `https`; `None` means the system's.
    pub ca: Option<PathBuf>,
    /// PEM files of a client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// Headers of every request.
    pub headers: HashMap<String, String>,
}

/// Why the last request failed; nothing when it did not.
pub(super) type Fault = Arc<Mutex<Option<String>>>;

#[derive(Debug)]
pub(super) struct Client {
    http: HyperClient<HttpsConnector<HttpConnector>>,
    endpoint: String,
    fault: Fault,
}

impl Client {
    /// # Errors
    /// When a file is not what it must be, in words.
    pub(super) fn new(to: &Collector, patience: Duration) -> Result<Self, String> {
        let tls = to.endpoint.starts_with("https://").then_some(to);
        let connector = HttpsConnectorBuilder::new().with_tls_config(config(tls)?).https_or_http().enable_http1();
        let http = HyperClient::new(connector.build(), patience, None);
        Ok(Self { http, endpoint: to.endpoint.clone(), fault: Fault::default() })
    }

    pub(super) fn fault(&self) -> Fault {
        Arc::clone(&self.fault)
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.http.send_bytes(request).await;
        let fault = match &answer {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(error) => Some(in_words(&**error)),
        };
        let before = std::mem::replace(&mut *self.fault.lock().unwrap_or_else(PoisonError::into_inner), fault.clone());
        // Whoever is away or of another authority is not waited for until patience is over before somebody hears of it.
        if let (Err(_), None, Some(error)) = (&answer, before, fault) {
            let endpoint = self.endpoint.as_str();
            tracing::warn!(endpoint, %error, "the receiver of traces cannot be reached; spans wait for it, and are dropped when they waited too long");
        }
        answer
    }
}

/// The last of its sources: what is above only says that a client had an error.
fn in_words(error: &(dyn std::error::Error + 'static)) -> String {
    let last = std::iter::successors(Some(error), |error| error.source()).last();
    last.map_or_else(String::new, ToString::to_string)
}

/// Without TLS nobody is trusted, and no authority needs to be there.
fn config(to: Option<&Collector>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?;
    let builder = match to {
        None => builder.with_root_certificates(RootCertStore::empty()),
        Some(Collector { ca: Some(ca), .. }) => builder.with_root_certificates(roots(ca)?),
        Some(_) => builder.with_native_roots().map_err(|error| {
            format!("this system has no authorities to trust ({error}); name some with `traces: {{tls: {{ca}}}}`")
        })?,
    };
    let Some((cert, key)) = to.and_then(|to| to.client.as_ref()) else { return Ok(builder.with_no_client_auth()) };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("key", key, &error))?;
    builder
        .with_client_auth_cert(certificates("certificate", cert)?, private)
        .map_err(|error| wrong("certificate and key", cert, &error))
}

fn roots(ca: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in certificates("authorities", ca)? {
        roots.add(authority).map_err(|error| wrong("authorities", ca, &error))?;
    }
    Ok(roots)
}

/// All of a file; one at least.
fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| wrong(what, path, &error))?;
    if all.is_empty() { Err(wrong(what, path, &"it holds no certificate")) } else { Ok(all) }
}

fn wrong(what: &str, path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("traces: {what} {}: {error}", path.display())
}
