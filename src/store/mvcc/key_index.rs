//! The versions of one key that are kept, oldest first.

use crate::store::Revision;

/// One state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// When it was written.
    pub(crate) modified: Revision,
    /// When the key was made; 0 for a tombstone.
    pub(crate) created: Revision,
    /// Which write of its transaction it was.
    pub(crate) sub: u32,
    /// CRC-32 of the value; 0 for a tombstone.
    pub(crate) crc: u32,
}

impl Version {
    /// Whether the key was removed by it.
    pub(crate) fn is_tombstone(&self) -> bool {
        self.created == Revision(0)
    }
}

/// Versions in ascending order; never empty while it is in the index.
#[derive(Clone, Debug)]
pub(crate) struct KeyIndex {
    versions: Vec<Version>,
}

impl KeyIndex {
    /// With its first version. Most keys have one, so no room is kept for more.
    pub(crate) fn new(first: Version) -> Self {
        Self {
            versions: vec![first],
        }
    }

    /// Appends a version newer than all others.
    pub(crate) fn push(&mut self, version: Version) {
        debug_assert!(
            self.versions
                .last()
                .is_none_or(|last| last.modified < version.modified)
        );
        self.versions.push(version);
    }

    /// The present state, if the key exists.
    pub(crate) fn live(&self) -> Option<&Version> {
        self.versions.last().filter(|last| !last.is_tombstone())
    }

    /// The state at `revision`, if the key existed then.
    pub(crate) fn at(&self, revision: Revision) -> Option<&Version> {
        let newer = self.versions.partition_point(|v| v.modified <= revision);
        let found = self.versions.get(newer.checked_sub(1)?)?;
        Some(found).filter(|found| !found.is_tombstone())
    }

    /// What was written at `modified`.
    pub(crate) fn version(&self, modified: Revision) -> Option<&Version> {
        let at = self
            .versions
            .binary_search_by_key(&modified, |v| v.modified);
        self.versions.get(at.ok()?)
    }

    /// Drops what no read at `revision` or later can see and returns it. The key is to be removed
    /// from the index when nothing is left.
    pub(crate) fn compact(&mut self, revision: Revision) -> Vec<Version> {
        let newer = self.versions.partition_point(|v| v.modified <= revision);
        let Some(base) = newer.checked_sub(1) else {
            return Vec::new();
        };
        let keep_from = if self.versions[base].is_tombstone() {
            newer
        } else {
            base
        };
        let dropped = self.versions.drain(..keep_from).collect();
        if self.versions.capacity() > 4 && self.versions.len() * 4 < self.versions.capacity() {
            self.versions.shrink_to_fit();
        }
        dropped
    }

    /// Whether no version is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(modified: u64, created: u64) -> Version {
        Version {
            modified: Revision(modified),
            created: Revision(created),
            sub: 0,
            crc: 0,
        }
    }

    /// Made at 2, changed at 4, removed at 6, made again at 8.
    fn two_lives() -> KeyIndex {
        let mut index = KeyIndex::new(put(2, 2));
        index.push(put(4, 2));
        index.push(put(6, 0));
        index.push(put(8, 8));
        index
    }

    #[test]
    fn a_read_sees_the_newest_version_not_after_it() {
        let index = two_lives();
        let seen: Vec<_> = (1..=9)
            .map(|at| index.at(Revision(at)).map_or(0, |v| v.modified.0))
            .collect();
        assert_eq!(seen, [0, 2, 2, 4, 4, 0, 0, 8, 8]);
    }

    #[test]
    fn compaction_keeps_what_can_still_be_seen() {
        for (at, left) in [
            (1, &[2, 4, 6, 8][..]),
            (2, &[2, 4, 6, 8]),
            (3, &[2, 4, 6, 8]),
            (4, &[4, 6, 8]),
            (5, &[4, 6, 8]),
            (6, &[8]),
            (7, &[8]),
            (9, &[8]),
        ] {
            let mut index = two_lives();
            let dropped = index.compact(Revision(at)).len();
            let kept: Vec<_> = index.versions.iter().map(|v| v.modified.0).collect();
            assert_eq!(kept, left, "compacted at {at}");
            assert_eq!(dropped + kept.len(), 4);
        }
    }

    #[test]
    fn a_removed_key_compacts_to_nothing() {
        let mut index = KeyIndex::new(put(2, 2));
        index.push(put(3, 0));
        assert_eq!(index.compact(Revision(3)).len(), 2);
        assert!(index.is_empty() && index.live().is_none());
    }
}
