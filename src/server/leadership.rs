//! What only one server of a cluster may do, done by whichever leads: controllers, scheduler, the
//! manifests folder.
//!
//! With the embedded datastore there is one server, and nothing to elect. With a datastore outside,
//! every server competes for the Lease `kube-system/orch-server`. One that loses it ends what it
//! had begun and competes again; what it had under way is safe, since every write of a controller
//! carries the revision it was decided on, or is one that may be repeated.

use std::time::Duration;

use crate::api::object::ObjectKey;
use crate::client::Client;
use crate::client::lease::Candidate;
use crate::util::clock::Clock;
use crate::util::errors::chain;
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;
use crate::util::{backoff::Backoff, net};

use super::Error;

/// The Lease.
const LEASE: &str = "orch-server";
/// For what a former leader had begun to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Between tries to begin a term's work.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Runs `work` in a group of tasks of its own whenever this server leads, until `tasks` end.
pub(super) fn compete(
    client: Client,
    (clock, rng): (&Clock, &Rng),
    tasks: &Tasks,
    work: impl Fn(&Tasks) -> Result<(), Error> + Send + Sync + 'static,
) {
    let host = net::host_name().unwrap_or_default();
    let identity = format!("{host}_{}", rng.uid());
    let lease = ObjectKey::new("kube-system", LEASE);
    let candidate = Candidate::new(client, clock.clone(), lease, &identity);
    let (cancelled, group) = (tasks.cancelled(), tasks.clone());
    let mut pause = Backoff::new(AGAIN.0, AGAIN.1, rng.clone());
    tasks.service("leadership", async move {
        while !cancelled.is_cancelled() {
            let term = group.child();
            let leading = cancelled.run_until_cancelled(candidate.lead(&term));
            let Some(leadership) = leading.await else {
                return;
            };
            match work(&term) {
                Ok(()) => {
                    pause.reset();
                    leadership.lost().cancelled().await;
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), "the leader's work did not begin");
                    tokio::time::sleep(pause.next_delay()).await;
                }
            }
            term.shutdown(END_TIMEOUT).await;
        }
    });
}
