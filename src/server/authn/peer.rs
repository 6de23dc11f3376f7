//! Who is at the other end of a connection.

use std::net::SocketAddr;

use rustls::pki_types::CertificateDer;

/// The other end of a connection; in the extensions of every request that came over a socket.
#[derive(Debug)]
pub struct Peer {
    address: SocketAddr,
    certificates: Vec<CertificateDer<'static>>,
}

impl Peer {
    /// `certificates`: what it showed in the handshake and holds the key of, unverified otherwise.
    pub fn new(address: SocketAddr, certificates: Vec<CertificateDer<'static>>) -> Self {
        Self {
            address,
            certificates,
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
}
