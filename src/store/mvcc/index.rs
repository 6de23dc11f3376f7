//! Which versions exist: by key for reads, by revision for watches. No values.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use super::key_index::{KeyIndex, Version};
use crate::store::{KeyRange, Revision};

/// One write of the history.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The key written.
    pub(crate) key: Bytes,
    /// What it became.
    pub(crate) version: Version,
}

/// A moment of the history, for the limit on its age.
#[derive(Clone, Copy, Debug)]
struct Mark {
    revision: Revision,
    at_ms: u64,
}

/// All kept versions.
#[derive(Debug, Default)]
pub(crate) struct Index {
    keys: BTreeMap<Bytes, KeyIndex>,
    /// Every write after the compacted revision, in order.
    history: VecDeque<Change>,
    marks: VecDeque<Mark>,
}

impl Index {
    /// An index of keys in order, and the history that belongs to it, in order, with the times of
    /// its writes.
    pub(crate) fn new(
        keys: Vec<(Bytes, KeyIndex)>,
        history: Vec<(Change, u64)>,
        spacing_ms: u64,
    ) -> Self {
        let mut index = Self {
            keys: keys.into_iter().collect(),
            ..Self::default()
        };
        for (change, at_ms) in history {
            index.mark(change.version.modified, at_ms, spacing_ms);
            index.history.push_back(change);
        }
        index
    }

    /// One version of a key, where it is kept.
    pub(crate) fn version(&self, key: &[u8], modified: Revision) -> Option<&Version> {
        self.keys.get(key)?.version(modified)
    }

    /// The key's own handle where it is known, so that its bytes are kept once.
    pub(crate) fn intern(&self, key: &Bytes) -> Bytes {
        self.keys
            .get_key_value(key)
            .map_or_else(|| Bytes::copy_from_slice(key), |(known, _)| known.clone())
    }

    /// The present state of `key`, if it exists, with the index's own handle of the key.
    pub(crate) fn live(&self, key: &[u8]) -> Option<(&Bytes, &Version)> {
        let (key, index) = self.keys.get_key_value(key)?;
        Some((key, index.live()?))
    }

    /// Adds the newest write.
    pub(crate) fn push(&mut self, key: Bytes, version: Version) {
        match self.keys.get_mut(&key) {
            Some(index) => index.push(version),
            None => {
                self.keys.insert(key.clone(), KeyIndex::new(version));
            }
        }
        self.history.push_back(Change { key, version });
    }

    /// Notes that `revision` was written `at_ms`; notes closer than `spacing_ms` are one.
    pub(crate) fn mark(&mut self, revision: Revision, at_ms: u64, spacing_ms: u64) {
        match self.marks.back_mut() {
            Some(last) if at_ms < last.at_ms.saturating_add(spacing_ms) => {
                last.revision = revision;
            }
            _ => self.marks.push_back(Mark { revision, at_ms }),
        }
    }

    /// The newest revision noted before `before_ms`.
    pub(crate) fn noted_before(&self, before_ms: u64) -> Option<Revision> {
        let older = self.marks.partition_point(|mark| mark.at_ms < before_ms);
        Some(self.marks.get(older.checked_sub(1)?)?.revision)
    }

    /// When the oldest note was made.
    pub(crate) fn oldest_note_ms(&self) -> Option<u64> {
        Some(self.marks.front()?.at_ms)
    }

    /// Keys of `range` from `from` on that exist at `at`.
    pub(crate) fn range<'a>(
        &'a self,
        range: &'a KeyRange,
        from: Bound<&'a [u8]>,
        at: Revision,
    ) -> impl Iterator<Item = (&'a Bytes, &'a Version)> {
        let end = range
            .end
            .as_deref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let start = match from {
            Bound::Included(key) | Bound::Excluded(key) => key,
            Bound::Unbounded => &[],
        };
        let empty = range.end.as_deref().is_some_and(|end| end <= start);
        (!empty)
            .then(|| self.keys.range::<[u8], _>((from, end)))
            .into_iter()
            .flatten()
            .filter_map(move |(key, index)| Some((key, index.at(at)?)))
    }

    /// The history after `revision`, in order.
    pub(crate) fn changes_after(&self, revision: Revision) -> impl Iterator<Item = &Change> {
        let from = self
            .history
            .partition_point(|change| change.version.modified <= revision);
        self.history.range(from..)
    }

    /// How many writes the history has.
    pub(crate) fn history_len(&self) -> usize {
        self.history.len()
    }

    /// The revision that must be compacted so that at most `len` writes are left.
    pub(crate) fn revision_leaving(&self, len: usize) -> Option<Revision> {
        let last_out = self.history.len().checked_sub(len)?.checked_sub(1)?;
        Some(self.history[last_out].version.modified)
    }

    /// Takes up to `writes_max` writes off the history up to `to` and drops what nobody can see any
    /// more; returns that, and whether it is done.
    pub(crate) fn compact_step(&mut self, to: Revision, writes_max: usize) -> (Vec<Change>, bool) {
        let mut dropped = Vec::new();
        for _ in 0..writes_max {
            match self.history.front() {
                Some(change) if change.version.modified <= to => {}
                _ => break,
            }
            let Some(Change { key, .. }) = self.history.pop_front() else {
                break;
            };
            let Some(index) = self.keys.get_mut(&key) else {
                continue;
            };
            let versions = index.compact(to);
            if index.is_empty() {
                self.keys.remove(&key);
            }
            dropped.extend(versions.into_iter().map(|version| Change {
                key: key.clone(),
                version,
            }));
        }
        while self.marks.front().is_some_and(|mark| mark.revision <= to) {
            self.marks.pop_front();
        }
        let done = self
            .history
            .front()
            .is_none_or(|change| change.version.modified > to);
        if done && self.history.len() * 4 < self.history.capacity() {
            self.history.shrink_to_fit();
        }
        (dropped, done)
    }
}
