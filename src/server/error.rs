//! Why the control plane did not start.

use std::net::SocketAddr;

use crate::server::{identity, manifests, pki};
use crate::util::tls;
use crate::{client, store};

/// Why the control plane did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Keys, certificates or the token.
    #[error("open the cluster's identity")]
    Pki(#[from] pki::Error),
    /// The identity that several servers share.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] tls::Error),
    /// The datastore.
    #[error("open the datastore")]
    Store(#[from] store::Error),
    /// A file that a flag names.
    #[error("`--{flag}` `{path}`")]
    File {
        /// Without dashes.
        flag: &'static str,
        /// The file.
        path: String,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The address is taken, or not ours.
    #[error("listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The kubeconfig cannot be written.
    #[error("write the kubeconfig `{path}`")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The first objects cannot be made.
    #[error("make the first objects of the cluster")]
    First(#[source] client::Error),
    /// The manifests folder.
    #[error(transparent)]
    Manifests(#[from] manifests::StartError),
}
