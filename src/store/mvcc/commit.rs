//! The way of a transaction to the writer and of the answer back.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Shared;
use super::write::Group;
use crate::store::{Result, Revision, Txn};

/// Without a writer thread, writes wait for the backend up to this much.
const INLINE_APPLY_BYTES: usize = 64 << 10;

/// Brings transactions to the writer.
pub(crate) enum Committer {
    /// The caller is the writer, one at a time.
    Inline(Arc<Shared>, Mutex<()>),
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Committer").finish_non_exhaustive()
    }
}

impl Committer {
    /// Without a thread.
    pub(crate) fn inline(shared: Arc<Shared>) -> Self {
        Self::Inline(shared, Mutex::new(()))
    }

    /// Carries out `txn`.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<Revision> {
        match self {
            Self::Inline(shared, writer) => {
                let _one_at_a_time = writer.lock();
                shared.backend()?;
                let mut group = Group::new(shared);
                group.add(txn);
                let answer = group.publish().pop();
                if shared.state.read().pending.weight_bytes() > INLINE_APPLY_BYTES {
                    shared.apply_all(Revision(u64::MAX))?;
                }
                shared.enforce_limits()?;
                answer.unwrap_or(Ok(Revision(0)))
            }
        }
    }
}
