//! Who this router is: its certificate, its key, the CA of its mesh, and the TLS configurations made of them.
//!
//! TLS 1.3 only, mutual, ALPN `longhaul/1`. Resumption and 0-RTT are off on both sides: with resumption a revoked peer would be let in
//! again without the verifier being asked. Reloading changes new handshakes only.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    RootCertStore,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use crate::{
    error::{CertificateFault, IdentityError},
    verify::{Expected, PeerVerifier},
};

pub(crate) const ALPN: &[u8] = b"longhaul/1";
const SCHEME: &str = "longhaul://";

/// Where the PEM files of a router are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, with intermediates behind it where there are any.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The CA certificates of the mesh; several while one is replaced by another.
    pub ca: PathBuf,
}

/// Which router a certificate names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouterName {
    /// The mesh.
    pub mesh: String,
    /// The region.
    pub region: String,
    /// The router.
    pub router: String,
}

/// The identity of this router, shared by all its endpoints.
pub struct Identity {
    files: TlsFiles,
    current: RwLock<Arc<Loaded>>,
}

/// One reading of the files.
pub(crate) struct Loaded {
    pub(crate) name: RouterName,
    pub(crate) expiry: SystemTime,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
    clients: Arc<dyn ClientCertVerifier>,
    key_der: Vec<u8>,
}

impl Identity {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// [`IdentityError`], a sentence that names the file.
    pub fn load(files: TlsFiles) -> Result<Self, IdentityError> {
        let loaded = Arc::new(Loaded::read(&files)?);
        Ok(Self { files, current: RwLock::new(loaded) })
    }

    /// Reads the files again. Links that stand are left alone; the next handshake uses what was read.
    ///
    /// # Errors
    /// [`IdentityError`]; the identity stays what it was.
    pub fn reload(&self) -> Result<(), IdentityError> {
        let loaded = Arc::new(Loaded::read(&self.files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(())
    }

    /// Which router the certificate names.
    #[must_use]
    pub fn name(&self) -> RouterName {
        self.current().name.clone()
    }

    /// When the certificate ends.
    #[must_use]
    pub fn expiry(&self) -> SystemTime {
        self.current().expiry
    }

    /// The files that it is read from.
    #[must_use]
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    pub(crate) fn current(&self) -> Arc<Loaded> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("name", &self.name()).field("files", &self.files).finish_non_exhaustive()
    }
}

impl Loaded {
    fn read(files: &TlsFiles) -> Result<Self, IdentityError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = certificates("certificate", &files.cert)?;
        let (name, expiry) = inspect(&chain[0])
            .map_err(|fault| IdentityError::Name { path: files.cert.display().to_string(), fault })?;
        let key = private_key(&files.key)?;
        let unusable = |text: String| IdentityError::Unusable { path: files.cert.display().to_string(), text };
        let certified =
            CertifiedKey::from_der(chain, key.clone_key(), &provider).map_err(|error| unusable(error.to_string()))?;
        certified.keys_match().map_err(|error| unusable(error.to_string()))?;
        let roots = Arc::new(roots(&files.ca)?);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .map_err(|error| content("CA", &files.ca, error.to_string()))?;
        let key_der = key.secret_der().to_vec();
        Ok(Self { name, expiry, roots, provider, certified: Arc::new(certified), clients, key_der })
    }

    /// Secrets that stay the same as long as the key does: an HMAC of a label under the key.
    pub(crate) fn derive(&self, label: &str) -> aws_lc_rs::hmac::Tag {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &self.key_der);
        aws_lc_rs::hmac::sign(&key, label.as_bytes())
    }

    /// TLS for dialling a router of a region. What the verifier finds is left in the returned slot.
    pub(crate) fn client(&self, region: &str) -> Result<(QuicClientConfig, Arc<PeerVerifier>), String> {
        let expected = Expected { mesh: self.name.mesh.clone(), region: Some(region.to_owned()) };
        let verifier = Arc::new(PeerVerifier::new(self, expected, self.clients.clone()));
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        Ok((QuicClientConfig::try_from(config).map_err(|error| error.to_string())?, verifier))
    }

    /// TLS for one incoming connection. What the verifier finds is left in the returned slot.
    pub(crate) fn server(&self) -> Result<(QuicServerConfig, Arc<PeerVerifier>), String> {
        let expected = Expected { mesh: self.name.mesh.clone(), region: None };
        let verifier = Arc::new(PeerVerifier::new(self, expected, self.clients.clone()));
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(self.certified.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok((QuicServerConfig::try_from(config).map_err(|error| error.to_string())?, verifier))
    }
}

/// The name and the end of a certificate.
pub(crate) fn inspect(der: &[u8]) -> Result<(RouterName, SystemTime), CertificateFault> {
    let other = |text: String| CertificateFault::Other(text);
    let (_, certificate) =
        x509_parser::certificate::X509Certificate::from_der(der).map_err(|error| other(error.to_string()))?;
    let names = certificate.subject_alternative_name().map_err(|error| other(error.to_string()))?;
    let mut ours = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::URI(uri) => uri.starts_with(SCHEME).then_some(*uri),
        _ => None,
    });
    let uri = ours.next().ok_or(CertificateFault::NoName)?;
    if ours.next().is_some() {
        return Err(CertificateFault::ManyNames);
    }
    let name = parse_name(uri).ok_or_else(|| CertificateFault::BadName(uri.to_owned()))?;
    // Valid through the whole of its last second, as webpki sees it too.
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).map_or(0, |last| last.saturating_add(1));
    let expiry = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH);
    Ok((name, expiry))
}

/// The URI name of a router's certificate.
pub(crate) fn uri(name: &RouterName) -> String {
    format!("{SCHEME}{}/{}/{}", name.mesh, name.region, name.router)
}

fn parse_name(uri: &str) -> Option<RouterName> {
    let mut parts = uri.strip_prefix(SCHEME)?.split('/');
    let mut part = || parts.next().filter(|part| !part.is_empty()).map(str::to_owned);
    let name = RouterName { mesh: part()?, region: part()?, router: part()? };
    parts.next().is_none().then_some(name)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = read(what, path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let chain = chain.map_err(|error| content(what, path, error.to_string()))?;
    if chain.is_empty() { Err(content(what, path, "no PEM section CERTIFICATE".into())) } else { Ok(chain) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, IdentityError> {
    PrivateKeyDer::from_pem_slice(&read("key", path)?).map_err(|error| content("key", path, error.to_string()))
}

fn roots(path: &Path) -> Result<RootCertStore, IdentityError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA", path)? {
        roots.add(certificate).map_err(|error| content("CA", path, error.to_string()))?;
    }
    Ok(roots)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|error| IdentityError::Read {
        what,
        path: path.display().to_string(),
        text: error.to_string(),
    })
}

fn content(what: &'static str, path: &Path, text: String) -> IdentityError {
    IdentityError::Content { what, path: path.display().to_string(), text }
}
