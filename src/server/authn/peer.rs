//! Who is at the other end of a connection.

use std::net::SocketAddr;
use std::sync::OnceLock;

use rustls::pki_types::CertificateDer;

use crate::server::request::User;
use crate::util::x509::Facts;

/// Who a certificate names, or why it is not good.
type Verdict = Result<(User, Facts), String>;

/// The other end of a connection; in the extensions of every request that came over a socket.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
    certificates: Vec<CertificateDer<'static>>,
    verdict: OnceLock<Verdict>,
}

impl Peer {
    /// `certificates`: what it showed in the handshake and holds the key of, unverified otherwise.
    pub fn new(address: SocketAddr, certificates: Vec<CertificateDer<'static>>) -> Self {
        Self {
            address,
            certificates,
            verdict: OnceLock::new(),
        }
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it showed in the handshake.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// What was found out about its certificate; `judge` is asked at the first request only.
    pub(super) fn verdict(&self, judge: impl FnOnce() -> Verdict) -> &Verdict {
        self.verdict.get_or_init(judge)
    }
}
