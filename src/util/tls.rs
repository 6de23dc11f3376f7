//! rustls configurations: a server whose certificate can be replaced while it runs, and clients
//! that trust one authority, a bundle, or the public ones.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::util::x509;

/// A configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PEM that does not parse.
    #[error(transparent)]
    X509(#[from] x509::Error),
    /// rustls refuses the combination.
    #[error("set up TLS")]
    Rustls(#[from] rustls::Error),
}

/// A certificate with its key, which can be replaced while connections use it.
#[derive(Clone)]
pub struct Identity(Arc<ArcSwap<CertifiedKey>>);

/// Whom a client believes.
#[derive(Clone, Debug)]
pub enum Trust {
    /// The authorities in this PEM text.
    Authorities(String),
    /// The public authorities.
    Public,
    /// The public authorities, and those in this PEM text that can be read: a machine's own
    /// bundle may hold odd ones.
    PublicAnd(String),
    /// Everybody. Only to fetch what is checked by other means.
    Anyone,
}

/// The one cryptography provider of the program.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Fills `N` bytes from the system's cryptographic randomness.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .expect("the system's randomness is there");
    bytes
}

impl Identity {
    /// From PEM texts.
    pub fn new(chain_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let key = certified(chain_pem, key_pem)?;
        Ok(Self(Arc::new(ArcSwap::from_pointee(key))))
    }

    /// Used by every handshake from now on.
    pub fn replace(&self, chain_pem: &str, key_pem: &str) -> Result<(), Error> {
        self.0.store(Arc::new(certified(chain_pem, key_pem)?));
        Ok(())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl rustls::client::ResolvesClientCert for Identity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A server that asks for a client certificate, takes any whose key the client holds, and leaves
/// the judgement to whoever serves the request: a foreign certificate is an answer, not an
/// aborted handshake.
pub fn server(identity: &Identity) -> Result<ServerConfig, Error> {
    let provider = provider();
    let verifier = AnyClient(provider.signature_verification_algorithms);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(identity.clone()));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client that shows `identity`, where it has one. ALPN is left to the caller.
pub fn client(trust: &Trust, identity: Option<&Identity>) -> Result<ClientConfig, Error> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match trust {
        Trust::Authorities(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in x509::certificates(pem)? {
                roots.add(certificate)?;
            }
            builder.with_root_certificates(roots)
        }
        Trust::PublicAnd(pem) => {
            let roots = webpki_roots::TLS_SERVER_ROOTS.to_vec();
            let mut roots = RootCertStore { roots };
            roots.add_parsable_certificates(x509::certificates(pem)?);
            builder.with_root_certificates(roots)
        }
        Trust::Public => {
            let roots = webpki_roots::TLS_SERVER_ROOTS.to_vec();
            builder.with_root_certificates(RootCertStore { roots })
        }
        Trust::Anyone => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyServer(algorithms))),
    };
    Ok(match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity.clone())),
        None => builder.with_no_client_auth(),
    })
}

fn certified(chain_pem: &str, key_pem: &str) -> Result<CertifiedKey, Error> {
    let chain = x509::certificates(chain_pem)?;
    let key = x509::private_key(key_pem)?;
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

/// Takes any client certificate; checks only that the client holds its key.
#[derive(Debug)]
struct AnyClient(WebPkiSupportedAlgorithms);

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// Takes any server certificate; checks only that the server holds its key.
#[derive(Debug)]
struct AnyServer(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
