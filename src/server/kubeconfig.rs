//! Keeps certificates fresh in the running process, and the administrator's kubeconfig with them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::server::Error;
use crate::server::config::Config;
use crate::server::pki::Pki;
use crate::util::clock::Clock;
use crate::util::errors::chain;
use crate::util::fs;
use crate::util::tasks::Tasks;

/// However far the next due date is: a clock may be set, a machine may sleep.
const LOOK_MAX: Duration = Duration::from_secs(12 * 3600);
/// After a renewal that failed.
const RETRY: Duration = Duration::from_secs(300);

/// Writes the kubeconfig now, and renews what is due until `tasks` end.
pub(super) fn keep(
    config: &Config,
    pki: &Arc<Pki>,
    address: SocketAddr,
    clock: &Clock,
    tasks: &Tasks,
) -> Result<(), Error> {
    let url = local_url(address);
    let path = config.write_kubeconfig.clone();
    let mode = config.kubeconfig_mode;
    if let Some(path) = &path {
        write(pki, path, mode, &url)?;
    }
    let (pki, clock, cancelled) = (Arc::clone(pki), clock.clone(), tasks.cancelled());
    tasks.service("certificates", async move {
        loop {
            let wait = match renew(&pki, &clock, path.as_deref(), (mode, &url)) {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "certificates were not renewed");
                    RETRY
                }
            };
            tokio::select! {
                () = cancelled.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    });
    Ok(())
}

/// Renews what is due; how long until somebody should look again.
fn renew(
    pki: &Pki,
    clock: &Clock,
    path: Option<&Path>,
    (mode, url): (u32, &str),
) -> Result<Duration, Error> {
    let due = pki.renew()?;
    if let Some(path) = path {
        write(pki, path, mode, url)?;
    }
    let wait = due.duration_since(clock.now());
    let wait = Duration::try_from(wait).unwrap_or_default();
    Ok(wait.clamp(Duration::from_secs(1), LOOK_MAX))
}

fn write(pki: &Pki, path: &Path, mode: u32, url: &str) -> Result<(), Error> {
    let text = pki.kubeconfig(url)?;
    // Idle means idle: an unchanged file is not written.
    if std::fs::read(path).is_ok_and(|kept| kept == text.as_bytes()) {
        return Ok(());
    }
    fs::write_atomic(path, text.as_bytes(), mode).map_err(|source| Error::Kubeconfig {
        path: path.display().to_string(),
        source,
    })
}

/// Where a program on this machine reaches a server that listens at `address`.
pub(super) fn local_url(address: SocketAddr) -> String {
    let port = address.port();
    match address.ip() {
        ip if ip.is_unspecified() => format!("https://127.0.0.1:{port}"),
        _ => format!("https://{address}"),
    }
}
