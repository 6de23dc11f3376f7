//! How a server's own node is reached by the other servers of the cluster: it connects to each of
//! them, as every node does, with a node certificate that this server signs.

use std::time::Duration;

use anyhow::Context;

use crate::client::https::{Endpoint, HttpsTransport};
use crate::server::Server;
use crate::server::pki::Pki;
use crate::util::clock::Clock;
use crate::util::errors::chain;
use crate::util::tasks::Tasks;
use crate::util::tls::{Identity, Trust};
use crate::util::x509::{Facts, Key};

/// The longest sleep: timers that run for months drift and sleep with the machine.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// A transport to other servers as node `name`; its certificate is renewed in `tasks`.
pub(crate) fn transport(
    server: &Server,
    name: &str,
    (clock, tasks): (&Clock, &Tasks),
) -> anyhow::Result<HttpsTransport> {
    let (certificate, key) = issue(server.pki(), name)?;
    let identity = Identity::new(&certificate, &key).context("use the node's certificate")?;
    let trust = Trust::Authorities(server.ca_pem().to_owned());
    let mut endpoint = Endpoint::new(Vec::new(), trust);
    endpoint.identity = Some(identity.clone());
    let (pki, name, clock) = (server.pki().clone(), name.to_owned(), clock.clone());
    let renewing = async move {
        let mut current = certificate;
        loop {
            tokio::time::sleep(LOOK_AGAIN).await;
            let due = Facts::from_pem(&current).map_or(true, |f| f.renew_at() <= clock.now());
            if !due {
                continue;
            }
            match issue(&pki, &name) {
                Ok((certificate, key)) if identity.replace(&certificate, &key).is_ok() => {
                    current = certificate;
                }
                Ok(_) => tracing::warn!("the node's new certificate is not usable"),
                Err(error) => {
                    tracing::warn!(error = %chain(error.as_ref()), "node certificate not renewed");
                }
            }
        }
    };
    let cancelled = tasks.cancelled();
    tasks.service("node-certificate", async move {
        cancelled.run_until_cancelled(renewing).await;
    });
    Ok(HttpsTransport::new(endpoint, tasks)?)
}

fn issue(pki: &Pki, name: &str) -> anyhow::Result<(String, String)> {
    let key = Key::generate()?;
    let request = key.request(&format!("system:node:{name}"), "system:nodes")?;
    let certificate = pki.sign_node(name, &request)?;
    Ok((certificate, key.pem()))
}
