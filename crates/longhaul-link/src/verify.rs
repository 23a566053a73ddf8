//! Judging the certificate of a peer: webpki judges chain, time and signatures; then the URI name must say the expected mesh and,
//! when dialling, the expected region. Routers are known by that name, not by a DNS name.
//!
//! One verifier serves one handshake and remembers what it found, since QUIC hands only a text on.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{
    error::CertificateFault,
    tls::{Loaded, inspect},
};

/// Whom a handshake is meant for.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) mesh: String,
    pub(crate) region: Option<String>,
}

/// The verifier of one handshake.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    expected: Expected,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    clients: Arc<dyn ClientCertVerifier>,
    verdict: Mutex<Verdict>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Verdict {
    /// How often a certificate was judged; more than 0 in every handshake, since none is resumed.
    pub(crate) judged: u32,
    pub(crate) fault: Option<CertificateFault>,
}

impl PeerVerifier {
    pub(crate) fn new(own: &Loaded, expected: Expected, clients: Arc<dyn ClientCertVerifier>) -> Self {
        Self {
            expected,
            roots: own.roots.clone(),
            algorithms: own.provider.signature_verification_algorithms,
            clients,
            verdict: Mutex::default(),
        }
    }

    pub(crate) fn verdict(&self) -> Verdict {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Judges the name once webpki has judged the rest, and remembers the outcome.
    fn conclude(&self, end_entity: &CertificateDer<'_>, webpki: Result<(), Error>) -> Result<(), Error> {
        let outcome = match webpki {
            Ok(()) => self.check_name(end_entity),
            Err(error) => Err((fault_of(&error), error)),
        };
        let mut verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        verdict.judged += 1;
        outcome.map_err(|(fault, error)| {
            verdict.fault = Some(fault);
            error
        })
    }

    fn check_name(&self, end_entity: &CertificateDer<'_>) -> Result<(), (CertificateFault, Error)> {
        let refuse = |fault: CertificateFault| {
            let error = CertificateError::Other(OtherError(Arc::new(Sentence(fault.to_string()))));
            (fault, Error::InvalidCertificate(error))
        };
        let (name, _) = inspect(end_entity).map_err(refuse)?;
        if name.mesh != self.expected.mesh {
            return Err(refuse(CertificateFault::WrongMesh { expected: self.expected.mesh.clone(), found: name.mesh }));
        }
        match &self.expected.region {
            Some(region) if *region != name.region => {
                Err(refuse(CertificateFault::WrongRegion { expected: region.clone(), found: name.region }))
            }
            _ => Ok(()),
        }
    }
}

/// What the peer is told: TLS shows such errors with `Debug`.
struct Sentence(String);

impl std::fmt::Debug for Sentence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::fmt::Display for Sentence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Sentence {}

fn fault_of(error: &Error) -> CertificateFault {
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            CertificateFault::Expired
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            CertificateFault::NotYetValid
        }
        // A CA of the same name but with another key shows as a bad signature.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            CertificateFault::ForeignCa
        }
        other => CertificateFault::Other(other.to_string()),
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let webpki = ParsedCertificate::try_from(end_entity).and_then(|certificate| {
            let algorithms = self.algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)
        });
        self.conclude(end_entity, webpki).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let webpki = self.clients.verify_client_cert(end_entity, intermediates, now).map(|_| ());
        self.conclude(end_entity, webpki).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
