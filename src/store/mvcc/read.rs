//! Reads: the state now or at a kept revision, and the history after one.
//!
//! A read holds the state's lock only to look into the index, a thousand keys at a time, and pins
//! its revision so that compaction leaves what it still needs. Values that the backend has are
//! fetched without the lock.

use std::ops::Bound;

use bytes::Bytes;

use super::Shared;
use super::dir::suspect;
use super::key_index::Version;
use super::revision::{VALUE_SPACE, version_key};
use super::state::State;
use crate::store::{Error, Event, KeyRange, KeyValue, Page, Result, Revision};

/// Keys looked at under one hold of the lock; about 0.2 ms.
const KEYS_PER_HOLD: usize = 1024;
/// Events of one watch item, unless one revision has more.
const EVENTS_PER_ITEM: usize = 512;
/// Writes of the history looked at for one watch item.
const CHANGES_PER_LOOK: usize = 8192;

/// What a watch gets next.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Those in the watch's range.
    pub(crate) events: Vec<Event>,
    /// Everything up to here was looked at.
    pub(crate) until: Revision,
    /// Whether `until` is the newest revision.
    pub(crate) is_newest: bool,
}

/// A version on its way to become a [`KeyValue`].
struct Found {
    key: Bytes,
    version: Version,
    value: Option<Bytes>,
}

impl Found {
    fn new(state: &State, key: &Bytes, version: &Version) -> Self {
        Self {
            key: key.clone(),
            version: *version,
            value: state.pending.value(version),
        }
    }
}

/// Keeps compaction from removing what a read at its revision sees.
pub(crate) struct Pin<'a> {
    shared: &'a Shared,
    revision: Revision,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut pins = self.shared.pins.lock();
        if let Some(count) = pins.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.revision);
            }
        }
    }
}

impl Shared {
    /// The value of `key` now.
    pub(crate) fn get(&self, key: &[u8]) -> Result<(Option<KeyValue>, Revision)> {
        // A version that is replaced and compacted between the look into the index and the fetch
        // is not found; the next look finds its successor.
        let mut last = None;
        loop {
            let (found, current) = {
                let state = self.state.read();
                let live = state.index.live(key);
                let found = live.map(|(key, version)| Found::new(&state, key, version));
                (found, state.current)
            };
            let Some(found) = found else {
                return Ok((None, current));
            };
            let looked = found.version.modified;
            match self.complete(found) {
                Ok(item) => return Ok((Some(item), current)),
                Err(error) if last == Some(looked) => return Err(self.note_damage(error)),
                Err(_) => last = Some(looked),
            }
        }
    }

    /// The keys of `range` at a revision. May block on the disk for long.
    pub(crate) fn range(
        &self,
        range: &KeyRange,
        at: Option<Revision>,
        limit: Option<usize>,
    ) -> Result<Page> {
        let pin = self.pin(at)?;
        let mut page = Page {
            revision: pin.revision,
            ..Page::default()
        };
        let mut next = Bound::Included(range.start.clone());
        loop {
            let found = self.look(range, &next, pin.revision, KEYS_PER_HOLD);
            let Some(last) = found.last() else {
                return Ok(page);
            };
            next = Bound::Excluded(last.key.clone());
            for found in found {
                if limit.is_some_and(|limit| page.items.len() >= limit) {
                    page.remaining += 1;
                } else {
                    let item = self.complete(found);
                    page.items
                        .push(item.map_err(|error| self.note_damage(error))?);
                }
            }
        }
    }

    /// The first `count` keys of `range` at a pinned revision.
    pub(crate) fn range_page(
        &self,
        range: &KeyRange,
        pin: &Pin<'_>,
        count: usize,
    ) -> Result<Vec<KeyValue>> {
        let first = Bound::Included(range.start.clone());
        let found = self.look(range, &first, pin.revision, count);
        found
            .into_iter()
            .map(|found| self.complete(found))
            .collect()
    }

    fn look(
        &self,
        range: &KeyRange,
        next: &Bound<Bytes>,
        at: Revision,
        count: usize,
    ) -> Vec<Found> {
        let state = self.state.read();
        let from = match next {
            Bound::Included(key) => Bound::Included(&key[..]),
            Bound::Excluded(key) => Bound::Excluded(&key[..]),
            Bound::Unbounded => Bound::Unbounded,
        };
        state
            .index
            .range(range, from, at)
            .take(count)
            .map(|(key, version)| Found::new(&state, key, version))
            .collect()
    }

    /// What happened in `range` after `after`.
    pub(crate) fn changes(&self, range: &KeyRange, after: Revision) -> Result<Changes> {
        let mut looked = Changes {
            until: after,
            ..Changes::default()
        };
        let mut found = Vec::new();
        {
            let state = self.state.read();
            if after < state.current {
                state.check_readable(after)?;
            }
            looked.is_newest = true;
            for (count, change) in state.index.changes_after(after).enumerate() {
                let revision = change.version.modified;
                let full = found.len() >= EVENTS_PER_ITEM || count >= CHANGES_PER_LOOK;
                if full && revision != looked.until {
                    looked.is_newest = false;
                    break;
                }
                looked.until = revision;
                if range.contains(&change.key) {
                    found.push(Found::new(&state, &change.key, &change.version));
                }
            }
            if looked.is_newest {
                looked.until = after.max(state.current);
            }
        }
        for found in found {
            looked.events.push(self.event(found, after)?);
        }
        Ok(looked)
    }

    fn event(&self, found: Found, after: Revision) -> Result<Event> {
        if found.version.is_tombstone() {
            return Ok(Event::Delete {
                key: found.key,
                revision: found.version.modified,
            });
        }
        self.complete(found).map(Event::Put).map_err(|error| {
            let compacted = self.state.read().check_readable(after).err();
            compacted.unwrap_or_else(|| self.note_damage(error))
        })
    }

    fn complete(&self, found: Found) -> Result<KeyValue> {
        let Found {
            key,
            version,
            value,
        } = found;
        let value = match value {
            Some(value) => value,
            None => self.fetch(&key, &version)?,
        };
        Ok(KeyValue {
            key,
            value,
            created: version.created,
            modified: version.modified,
        })
    }

    /// A value is not what it should be, and not because it was compacted meanwhile: the next
    /// opening looks at all of them.
    fn note_damage(&self, error: Error) -> Error {
        if let (Error::Corrupt { .. }, Some(dir)) = (&error, &self.dir) {
            suspect(dir);
        }
        error
    }

    fn fetch(&self, key: &Bytes, version: &Version) -> Result<Bytes> {
        let at = version_key(VALUE_SPACE, key, version.modified);
        let value = self.backend()?.get(&at)?;
        let why = match value {
            Some(value) if crc32fast::hash(&value) == version.crc => return Ok(value),
            Some(_) => "its checksum does not match",
            None => "it is missing",
        };
        Err(Error::Corrupt {
            path: self.place(),
            why: format!(
                "value of `{}` at revision {}: {why}",
                String::from_utf8_lossy(key),
                version.modified.0
            ),
        })
    }

    /// Pins a revision, the newest where it is `None`.
    pub(crate) fn pin(&self, at: Option<Revision>) -> Result<Pin<'_>> {
        let state = self.state.read();
        let revision = at.unwrap_or(state.current);
        state.check_readable(revision)?;
        *self.pins.lock().entry(revision).or_insert(0) += 1;
        Ok(Pin {
            shared: self,
            revision,
        })
    }
}
