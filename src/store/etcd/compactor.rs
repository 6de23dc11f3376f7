//! Shortens etcd's history, which nobody else does: every five minutes to what was the newest five
//! minutes before, as kube-apiserver does. Several servers do so beside each other; each only
//! compacts what it has itself seen grow old, so five minutes are kept whoever is first.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::store::Revision;
use crate::util::errors::chain;

/// How much history is kept.
const KEPT: Duration = Duration::from_secs(300);

/// Runs until it is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut before = Revision(0);
    let mut compacted = Revision(0);
    loop {
        match shared.current().await {
            Ok(now) => {
                if before > compacted {
                    compact(&shared, before).await;
                    compacted = before;
                }
                before = now;
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "cannot read etcd's revision");
            }
        }
        tokio::time::sleep(KEPT).await;
    }
}

async fn compact(shared: &Shared, revision: Revision) {
    match shared.compact(revision).await {
        Ok(()) => tracing::debug!(revision = revision.0, "compacted etcd"),
        Err(error) => tracing::warn!(error = %chain(&error), "cannot compact etcd"),
    }
}
