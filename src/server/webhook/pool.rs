//! Connections to webhooks, made when needed and kept for the next call.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;

use crate::server::cacher::Cacher;
use crate::util::errors::chain;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;
use crate::util::tls::{self, Trust};

use super::target::{self, Hook, Place};
use super::{Dial, Stream};

/// Kept idle for one webhook; a burst opens more and closes them again.
const IDLE_MAX: usize = 8;
/// Webhooks that connections are kept for; beyond, all are let go: configurations changed.
const HOOKS_MAX: usize = 256;

type Sender = SendRequest<Full<Bytes>>;
type Key = (Hook, String);

#[derive(Clone)]
pub(super) struct Pool(Arc<Inner>);

struct Inner {
    cacher: Cacher,
    dial: Arc<dyn Dial>,
    rng: Rng,
    tasks: Tasks,
    idle: Mutex<HashMap<Key, Vec<Sender>>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pool")
    }
}

impl Pool {
    pub(super) fn new(cacher: Cacher, dial: Arc<dyn Dial>, rng: Rng, tasks: &Tasks) -> Self {
        Self(Arc::new(Inner {
            cacher,
            dial,
            rng,
            tasks: tasks.clone(),
            idle: Mutex::default(),
        }))
    }

    /// A connection kept from an earlier call.
    pub(super) fn kept(&self, hook: &Hook, authority: &str) -> Option<Sender> {
        let mut idle = self.0.idle.lock();
        let senders = idle.get_mut(&(hook.clone(), authority.to_owned()))?;
        while let Some(sender) = senders.pop() {
            // One that is still reading an earlier answer's body is not ready.
            if sender.is_ready() {
                return Some(sender);
            }
            if !sender.is_closed() {
                senders.insert(0, sender);
                return None;
            }
        }
        None
    }

    /// For the next call.
    pub(super) fn keep(&self, hook: &Hook, authority: &str, sender: Sender) {
        let mut idle = self.0.idle.lock();
        if idle.len() >= HOOKS_MAX {
            idle.clear();
        }
        let senders = idle
            .entry((hook.clone(), authority.to_owned()))
            .or_default();
        senders.retain(|sender| !sender.is_closed());
        if senders.len() < IDLE_MAX {
            senders.push(sender);
        }
    }

    /// A new connection; the error prints as Go's.
    pub(super) async fn connect(&self, hook: &Hook, authority: &str) -> Result<Sender, String> {
        let plain = self.plain(hook, authority).await?;
        let trust = match hook.ca_pem.is_empty() {
            true => Trust::Public,
            false => Trust::Authorities(hook.ca_pem.clone()),
        };
        let mut config = tls::client(&trust, None)
            .map_err(|error| format!("unable to load root certificates: {}", chain(&error)))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let host = hook.server_name(authority);
        let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, plain)
            .await
            .map_err(|error| refused(&host, &error))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        let cancelled = self.0.tasks.cancelled();
        self.0.tasks.job("webhook connection", async move {
            tokio::select! {
                // Its failure is also that of the request or its answer.
                _ = connection => {}
                () = cancelled.cancelled() => {}
            }
        });
        Ok(sender)
    }

    async fn plain(&self, hook: &Hook, authority: &str) -> Result<Box<dyn Stream>, String> {
        if let Place::Service {
            namespace,
            name,
            port,
            ..
        } = &hook.place
        {
            let chosen = target::endpoint(&self.0.cacher, &self.0.rng, (namespace, name), *port)?;
            let dialled = self.0.dial.dial(&chosen.node, chosen.address).await;
            return dialled.map_err(|error| error.message);
        }
        let (host, port) = target::host_and_port(authority);
        let stream = tokio::net::TcpStream::connect((host, port)).await;
        let stream = stream.map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => {
                format!("dial tcp {host}:{port}: connect: connection refused")
            }
            _ => format!("dial tcp {host}:{port}: {error}"),
        })?;
        Ok(Box::new(stream))
    }
}

/// A failed handshake, in the words Go has for the common reasons.
fn refused(host: &str, error: &std::io::Error) -> String {
    use rustls::CertificateError as Wrong;
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let why = match inner {
        Some(rustls::Error::InvalidCertificate(Wrong::UnknownIssuer)) => {
            "certificate signed by unknown authority".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(Wrong::Expired | Wrong::ExpiredContext { .. })) => {
            "certificate has expired or is not yet valid".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(
            Wrong::NotValidForName | Wrong::NotValidForNameContext { .. },
        )) => format!("certificate is not valid for {host}"),
        _ => return error.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}
