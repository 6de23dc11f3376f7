//! Removes keys when their time is over.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::commit::Committer;
use crate::store::{Durability, Error, Precondition, Txn, Write};

/// Keys removed in one go.
const KEYS_PER_TURN: usize = 256;
/// When a removal failed, it is tried again after this.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Runs until it is dropped.
pub(super) async fn run(shared: Arc<Shared>, committer: Arc<Committer>) {
    loop {
        for due in shared.deadlines.due(KEYS_PER_TURN, RETRY_AFTER).await {
            let txn = Txn {
                preconditions: vec![Precondition::ModifiedAt(due.key.clone(), due.modified)],
                writes: vec![Write::Delete {
                    key: due.key.clone(),
                }],
                // After a crash the key would be found expired again.
                durability: Durability::Relaxed,
            };
            match committer.txn(txn).await {
                // A conflict: it was written anew meanwhile, and so was its deadline.
                Ok(_) | Err(Error::Conflict { .. }) => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot remove an expired key, trying again");
                }
            }
        }
    }
}
