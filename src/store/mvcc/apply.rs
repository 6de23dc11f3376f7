//! Brings published writes into the backend, lazily and in order.

use super::Shared;
use super::revision::{APPLIED, COMPACTED, INDEX_SPACE, LOST, VALUE_SPACE, version_key};
use super::state::Lost;
use crate::store::backend::Batch;
use crate::store::{Result, Revision};

/// Bytes of one batch, about.
const BATCH_BYTES: usize = 1 << 20;
/// Removed versions of one batch.
const DROPS_PER_BATCH: usize = 4096;

impl Shared {
    /// Applies writes up to `until`, and removals, until nothing is left.
    pub(crate) fn apply_all(&self, until: Revision) -> Result<()> {
        while !self.apply_some(until)? {}
        Ok(())
    }

    /// Applies one batch; `true` when nothing is left. Only one thread may do it at a time.
    pub(crate) fn apply_some(&self, until: Revision) -> Result<bool> {
        let (writes, reached, drops, meta) = {
            let mut state = self.state.write();
            let until = until.min(state.current);
            let (writes, reached) = state.pending.take(until, BATCH_BYTES);
            let drops = state.pending.take_drops(DROPS_PER_BATCH);
            (writes, reached, drops, Meta::of(&state, reached))
        };
        let mut batch = Batch::default();
        for write in &writes {
            let modified = write.record.version.modified;
            let record = write.record.encode();
            batch.put(version_key(INDEX_SPACE, &write.key, modified), record);
            if let Some(value) = &write.value {
                batch.put(
                    version_key(VALUE_SPACE, &write.key, modified),
                    value.clone(),
                );
            }
        }
        for (key, modified) in &drops {
            batch.delete(version_key(INDEX_SPACE, key, *modified));
            batch.delete(version_key(VALUE_SPACE, key, *modified));
        }
        meta.put_into(&mut batch);
        let applied = self.backend().and_then(|backend| backend.apply(batch));
        let mut state = self.state.write();
        match applied {
            Ok(()) => state.pending.applied(reached),
            Err(error) => {
                state.pending.return_drops(drops);
                return Err(error);
            }
        }
        Ok(reached >= until.min(state.current) && !state.pending.has_drops())
    }
}

/// What the backend says about itself.
struct Meta {
    applied: Revision,
    compacted: Revision,
    lost: Vec<Lost>,
}

impl Meta {
    fn of(state: &super::state::State, applied: Revision) -> Self {
        Self {
            applied,
            compacted: state.compacted.min(applied),
            lost: state.lost.clone(),
        }
    }

    fn put_into(&self, batch: &mut Batch) {
        batch.put(APPLIED, self.applied.0.to_be_bytes().to_vec());
        batch.put(COMPACTED, self.compacted.0.to_be_bytes().to_vec());
        let pairs = self.lost.iter().flat_map(|lost| [lost.after, lost.until]);
        let bytes: Vec<u8> = pairs.flat_map(|r| r.0.to_be_bytes()).collect();
        batch.put(LOST, bytes);
    }
}
