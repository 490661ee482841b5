//! Whether a kubelet's certificate is accepted.
//!
//! Many clusters, those of kind and kubeadm among them, leave each kubelet with a certificate that it has signed itself, which
//! nobody can verify. A connection to the node's own address does not leave the node, and whoever could answer there in the
//! kubelet's place is root on the node and can read the agent's token anyway. So under `auto` such a certificate is accepted
//! from that address, and from no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// What is known of the kubelet's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificate {
    /// There was no connection yet, or one without TLS.
    Unknown,
    /// It was verified.
    Verified,
    /// It could not be verified, and was accepted because it came from the node's own address.
    OfOwnNode,
}

/// The newest result, shared by the verifier and the agent.
#[derive(Debug, Clone, Default)]
pub(super) struct LastCertificate(Arc<AtomicU8>);

impl LastCertificate {
    pub(super) fn get(&self) -> Certificate {
        match self.0.load(Relaxed) {
            1 => Certificate::Verified,
            2 => Certificate::OfOwnNode,
            _ => Certificate::Unknown,
        }
    }

    fn set(&self, certificate: Certificate) {
        self.0.store(
            match certificate {
                Certificate::Unknown => 0,
                Certificate::Verified => 1,
                Certificate::OfOwnNode => 2,
            },
            Relaxed,
        );
    }
}

/// How certificates are checked.
#[derive(Debug, Clone, Default)]
pub(super) struct Policy {
    /// Certificates that cannot be verified are accepted: the address is the node's own.
    pub(super) accept_own_node: bool,
    /// The node's name, for which a certificate may be made out instead of for the address.
    pub(super) node_name: Option<String>,
}

/// The certificate authorities of a PEM text. Parts that are not a certificate are ignored.
pub(in crate::collect) fn authorities(pem: &[u8]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
    roots
}

/// The configuration of a client that accepts a kubelet's certificate by this policy.
pub(super) fn client_config(roots: RootCertStore, policy: &Policy, last: LastCertificate) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Verifier {
        // Without an authority nothing can be verified, and the builder refuses.
        inner: WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().ok(),
        accept_own_node: policy.accept_own_node,
        node_name: policy.node_name.clone().and_then(|name| ServerName::try_from(name).ok()),
        provider: Arc::clone(&provider),
        last,
    });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct Verifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    accept_own_node: bool,
    node_name: Option<ServerName<'static>>,
    provider: Arc<CryptoProvider>,
    last: LastCertificate,
}

impl Verifier {
    /// The result under the authorities that are known, for the address or for the node's name.
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else { return Err(CertificateError::UnknownIssuer.into()) };
        let result = inner.verify_server_cert(certificate, intermediates, name, &[], now);
        match (&result, &self.node_name) {
            (Err(error), Some(node)) if is_other_name(error) => inner.verify_server_cert(certificate, intermediates, node, &[], now),
            _ => result,
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let error = match self.verify(certificate, intermediates, name, now) {
            Ok(verified) => {
                self.last.set(Certificate::Verified);
                return Ok(verified);
            }
            Err(error) => error,
        };
        // A certificate that is of no known authority may be out of date as well: kubelets do not renew those that they sign
        // themselves. One of a known authority that is out of date is refused.
        let reason = match valid_time(&error) {
            Some(then) => self.verify(certificate, intermediates, name, then).err(),
            None => Some(error.clone()),
        };
        if self.accept_own_node && reason.is_some_and(|reason| is_of_no_authority(&reason)) {
            self.last.set(Certificate::OfOwnNode);
            return Ok(ServerCertVerified::assertion());
        }
        Err(error)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn is_other_name(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }))
}

/// Whether no known authority has signed the certificate. `Other` is a certificate of an authority that is presented as a
/// server's own, which is one form of a certificate that was signed by itself.
fn is_of_no_authority(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_)))
}

/// A time at which a certificate that is out of date was valid.
fn valid_time(error: &Error) -> Option<UnixTime> {
    let at = |time: UnixTime| UnixTime::since_unix_epoch(Duration::from_secs(time.as_secs()));
    match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => Some(at(*not_after)),
        Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => Some(at(*not_before)),
        _ => None,
    }
}
