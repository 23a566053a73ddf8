//! Judging the certificate of a peer: webpki judges chain, time and signatures; then the URI name must say the expected mesh and,
//! when dialling, the expected region. Routers are known by that name, not by a DNS name.
//!
//! One verifier serves one handshake and remembers what it found, since QUIC hands only a text on.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use crate::{
    dial::SERVER_NAME,
    error::CertificateFault,
    tls::{Loaded, inspect},
    transport::Role,
};

/// Whom a handshake is meant for.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) mesh: String,
    pub(crate) region: Option<String>,
}

/// The certificate of a peer with which a link stands, to be judged again when this router's own files change.
pub(crate) struct Peer {
    /// As the peer showed it, its own first.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Who dialled was shown the certificate of a server.
    pub(crate) role: Role,
    /// The region that was dialled.
    pub(crate) region: Option<String>,
}

impl Peer {
    /// Whether a handshake with it would be good now.
    pub(crate) fn judge(&self, own: &Loaded) -> Result<(), CertificateFault> {
        let (end_entity, intermediates) = self.chain.split_first().ok_or(CertificateFault::Missing)?;
        let expected = Expected { mesh: own.name.mesh.clone(), region: self.region.clone() };
        let (verifier, now) = (PeerVerifier::new(own, expected), UnixTime::now());
        let judged = match self.role {
            Role::Dialer => {
                let name = ServerName::try_from(SERVER_NAME).expect("a constant that is a name");
                verifier.verify_server_cert(end_entity, intermediates, &name, &[], now).map(drop)
            }
            Role::Listener => verifier.verify_client_cert(end_entity, intermediates, now).map(drop),
        };
        judged.map_err(|error| verifier.verdict().fault.unwrap_or_else(|| fault_of(&error)))
    }
}

/// The verifier of one handshake.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    expected: Expected,
    algorithms: WebPkiSupportedAlgorithms,
    clients: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
    verdict: Mutex<Verdict>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct Verdict {
    /// How often a certificate was judged; more than 0 in every handshake, since none is resumed.
    pub(crate) judged: u32,
    pub(crate) fault: Option<CertificateFault>,
}

impl PeerVerifier {
    pub(crate) fn new(own: &Loaded, expected: Expected) -> Self {
        Self {
            expected,
            algorithms: own.provider.signature_verification_algorithms,
            clients: own.clients.clone(),
            servers: own.servers.clone(),
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
        Error::InvalidCertificate(CertificateError::Revoked) => CertificateFault::Revoked,
        other => CertificateFault::Other(other.to_string()),
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let webpki = match self.servers.verify_server_cert(end_entity, intermediates, server_name, &[], now) {
            // The DNS name is judged last, and is nothing to us.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(()),
            other => other.map(|_| ()),
        };
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
