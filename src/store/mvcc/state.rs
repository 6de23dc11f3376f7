//! What the engine knows in memory, and what of it the backend does not have yet.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::index::Index;
use super::key_index::Version;
use super::revision::Record;
use crate::store::{Error, Result, Revision};

/// Revisions strictly between the two may have been given out before a crash and are gone: who
/// asks for one saw what no longer is, and must read anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// The last revision that survived.
    pub(crate) after: Revision,
    /// The first one that counts again.
    pub(crate) until: Revision,
}

/// Guarded by one lock; nothing in it blocks.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Which versions exist.
    pub(crate) index: Index,
    /// The newest published revision. Written by the writer.
    pub(crate) current: Revision,
    /// Reads and watches from before it fail.
    pub(crate) compacted: Revision,
    /// In order.
    pub(crate) lost: Vec<Lost>,
    /// What the backend is behind.
    pub(crate) pending: Pending,
}

impl State {
    /// Whether the state at `wanted` can be told.
    pub(crate) fn check_readable(&self, wanted: Revision) -> Result<()> {
        if wanted > self.current {
            return Err(Error::Future {
                wanted,
                current: self.current,
            });
        }
        if wanted < self.compacted {
            return Err(Error::Compacted {
                wanted,
                oldest: self.compacted,
            });
        }
        let lost = |lost: &&Lost| lost.after < wanted && wanted < lost.until;
        match self.lost.iter().find(lost) {
            Some(lost) => Err(Error::Compacted {
                wanted,
                oldest: lost.until,
            }),
            None => Ok(()),
        }
    }
}

/// A write the backend does not have yet.
#[derive(Clone, Debug)]
pub(crate) struct PendingWrite {
    /// The key.
    pub(crate) key: Bytes,
    /// What is known of it.
    pub(crate) record: Record,
    /// Its value; `None` for a tombstone.
    pub(crate) value: Option<Bytes>,
}

/// Published writes on their way to the backend, and versions to be removed from it.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    writes: BTreeMap<(Revision, u32), PendingWrite>,
    drops: VecDeque<(Bytes, Version)>,
    value_bytes: usize,
    /// Up to here the applier has taken writes, so that the backend may hold them.
    taken: Revision,
}

impl Pending {
    /// Adds a published write.
    pub(crate) fn push(&mut self, write: PendingWrite) {
        self.value_bytes += write.weight();
        let version = write.record.version;
        self.writes.insert((version.modified, version.sub), write);
    }

    /// The value of `version` where it has not reached the backend.
    pub(crate) fn value(&self, version: &Version) -> Option<Bytes> {
        let write = self.writes.get(&(version.modified, version.sub))?;
        write.value.clone()
    }

    /// Forgets a version nobody can see any more.
    pub(crate) fn drop_version(&mut self, key: Bytes, version: &Version) {
        let at = (version.modified, version.sub);
        if version.modified > self.taken
            && let Some(write) = self.writes.remove(&at)
        {
            self.value_bytes -= write.weight();
            return;
        }
        self.drops.push_back((key, *version));
    }

    /// The oldest writes up to `until`, about `bytes_max` of them but whole revisions, marked as
    /// taken; with the revision they reach to.
    pub(crate) fn take(
        &mut self,
        until: Revision,
        bytes_max: usize,
    ) -> (Vec<PendingWrite>, Revision) {
        let mut taken: Vec<PendingWrite> = Vec::new();
        let mut bytes = 0;
        for ((revision, _), write) in self.writes.range(..=(until, u32::MAX)) {
            let last = taken.last().map(|last| last.record.version.modified);
            if bytes >= bytes_max && last != Some(*revision) {
                self.taken = self.taken.max(last.unwrap_or_default());
                return (taken, last.unwrap_or_default());
            }
            bytes += write.weight();
            taken.push(write.clone());
        }
        self.taken = self.taken.max(until);
        (taken, until)
    }

    /// Up to `count` versions to remove from the backend.
    pub(crate) fn take_drops(&mut self, count: usize) -> Vec<(Bytes, Version)> {
        let count = count.min(self.drops.len());
        self.drops.drain(..count).collect()
    }

    /// A batch failed: what was taken beyond `applied` counts as never taken, `drops` as still to
    /// be removed.
    pub(crate) fn give_back(&mut self, drops: Vec<(Bytes, Version)>, applied: Revision) {
        self.taken = applied;
        let later = std::mem::take(&mut self.drops);
        for (key, version) in drops.into_iter().chain(later) {
            self.drop_version(key, &version);
        }
    }

    /// The backend has everything up to `until`.
    pub(crate) fn applied(&mut self, until: Revision) {
        while let Some(entry) = self.writes.first_entry() {
            if entry.key().0 > until {
                break;
            }
            self.value_bytes -= entry.remove().weight();
        }
    }

    /// Whether versions wait to be removed from the backend.
    pub(crate) fn has_drops(&self) -> bool {
        !self.drops.is_empty()
    }

    /// How much memory waits for the applier, roughly.
    pub(crate) fn weight_bytes(&self) -> usize {
        self.value_bytes + self.drops.len() * 128
    }

    /// The backend holds everything up to `applied`, when the store is opened.
    pub(crate) fn start_from(&mut self, applied: Revision) {
        self.taken = applied;
    }
}

impl PendingWrite {
    fn weight(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len) + 192
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(modified: u64, sub: u32, len: usize) -> PendingWrite {
        let version = Version {
            modified: Revision(modified),
            created: Revision(modified),
            sub,
            crc: 0,
        };
        PendingWrite {
            key: Bytes::from_static(b"k"),
            record: Record {
                version,
                at_ms: 0,
                deadline_ms: 0,
            },
            value: Some(vec![0; len].into()),
        }
    }

    #[test]
    fn taking_never_splits_a_revision() {
        let mut pending = Pending::default();
        for (revision, sub) in [(1, 0), (2, 0), (2, 1), (3, 0)] {
            pending.push(write(revision, sub, 1000));
        }
        let (taken, until) = pending.take(Revision(3), 2000);
        assert_eq!((taken.len(), until), (3, Revision(2)));
        pending.applied(until);
        let (taken, until) = pending.take(Revision(9), 2000);
        assert_eq!((taken.len(), until), (1, Revision(9)));
        pending.applied(until);
        assert_eq!(pending.weight_bytes(), 0);
    }

    #[test]
    fn a_version_dropped_before_it_was_taken_never_reaches_the_backend() {
        let mut pending = Pending::default();
        pending.push(write(1, 0, 10));
        pending.push(write(2, 0, 10));
        let early = write(2, 0, 10).record.version;
        pending.drop_version(Bytes::from_static(b"k"), &early);
        let (taken, _) = pending.take(Revision(5), 1 << 20);
        assert_eq!(taken.len(), 1);
        pending.drop_version(Bytes::from_static(b"k"), &taken[0].record.version);
        assert_eq!(
            pending.take_drops(9).len(),
            1,
            "taken, so it must be removed again"
        );
    }
}
