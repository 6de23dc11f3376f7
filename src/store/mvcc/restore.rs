//! Opening: from what is on disk to what was.
//!
//! In this order, so that nothing is changed before it is known that the store can be opened: the
//! folder is looked at and locked; the journal since the last checkpoint is read and checked; the
//! database is opened and its index read and checked against its fingerprint; what the journal has
//! beyond it is put on top. A database that is missing, does not open, is behind its checkpoint or is
//! not what its fingerprint says is made anew, in another folder, from the image and the journal
//! since; only when that is complete does it take the place of the old one.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::apply::{Applier, Durable, Thresholds, put};
use super::compact::HistoryLimits;
use super::dir::{DataDir, remove_all};
use super::entry::{Entry, decode};
use super::index::{Change, Index};
use super::key_index::{KeyIndex, Version};
use super::meta::{Fingerprint, Meta};
use super::revision::{INDEX_SPACE, Record, VALUE_SPACE, space, split_version_key};
use super::state::{Lost, PendingWrite, State};
use super::write::{LOST_REVISIONS, Writer};
use super::{Config, Shared};
use crate::store::backend::{Backend, Batch, sled::Sled};
use crate::store::journal::{self, Found, disk::Disk, disk::Folder};
use crate::store::snapshot;
use crate::store::ttl::Due;
use crate::store::{Error, KeyValue, Result, Revision};
use crate::util::errors::OrLog;

/// Bytes of a batch while a database is made anew, about.
const REBUILD_BATCH_BYTES: usize = 2 << 20;

/// What the backend holds, checked.
pub(crate) struct Loaded {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) meta: Meta,
    state: State,
    expiring: Vec<(Due, u64)>,
    value_count: u64,
}

/// The journal's content after a revision.
pub(crate) struct Replay {
    pub(crate) found: Found,
    entries: Vec<Entry>,
    from: Revision,
}

/// A store ready to run.
pub(crate) struct Opened {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: Writer,
    pub(crate) applier: Applier,
    pub(crate) has_deadlines: bool,
}

/// Opens the store in `dir`.
pub(crate) fn open(config: &Config, dir: &Arc<DataDir>) -> Result<Opened> {
    let segments: Arc<dyn Disk> = Arc::new(Folder::new(dir.journal()));
    let mut replay = replay(&segments, dir.identity(), dir.checkpoint())?;
    let loaded = match open_database(config, dir, &replay) {
        Ok(loaded) => loaded,
        Err(why @ Error::Corrupt { .. }) => {
            let image = image_revision(dir)?;
            replay = self::replay(&segments, dir.identity(), image)?;
            rebuild(config, dir, &replay, &why)?
        }
        Err(other) => return Err(other),
    };
    let image_bytes = std::fs::metadata(dir.image()).map_or(0, |image| image.len());
    // Without a good image the journal is kept, and makes one due.
    let imaged = image_revision(dir).ok_or_log("looking at the image");
    let parts = Parts {
        loaded,
        replay,
        segments,
        thresholds: Thresholds::ON_DISK,
        imaged: imaged.unwrap_or_default(),
        image_bytes,
        dir: Some(dir.clone()),
    };
    assemble(config, parts)
}

/// Reads the journal, changing nothing.
pub(crate) fn replay(segments: &Arc<dyn Disk>, identity: u64, from: Revision) -> Result<Replay> {
    let mut entries = Vec::new();
    let found = journal::read(segments.clone(), identity, from, &mut |bytes| {
        let entry = decode(bytes).ok_or_else(|| Error::Corrupt {
            path: segments.place(),
            why: "a frame was not written by this program; nothing was changed".to_owned(),
        })?;
        entries.push(entry);
        Ok(())
    })?;
    Ok(Replay {
        found,
        entries,
        from,
    })
}

fn open_database(config: &Config, dir: &DataDir, replay: &Replay) -> Result<Loaded> {
    let path = dir.database();
    let is_first = !path.exists() && !dir.image().exists() && replay.found.is_empty();
    let corrupt = |why: &str| Error::Corrupt {
        path: path.display().to_string(),
        why: why.to_owned(),
    };
    if !path.exists() && !is_first {
        return Err(corrupt("it is missing"));
    }
    let loaded = load(open_sled(config, dir)?, config.history.spacing_ms())?;
    if loaded.meta.applied < dir.checkpoint() {
        return Err(corrupt("it lost what it had on disk"));
    }
    if dir.is_suspect() {
        check_values(&loaded)?;
        dir.clear_suspicion();
    }
    Ok(loaded)
}

fn open_sled(config: &Config, dir: &DataDir) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(Sled::open(&dir.database(), config.cache_bytes)?))
}

/// Reads the index of what `backend` holds.
///
/// Errors: [`Error::Corrupt`] where it is not what it says.
pub(crate) fn load(backend: Arc<dyn Backend>, spacing_ms: u64) -> Result<Loaded> {
    let meta = Meta::read(&*backend)?.unwrap_or_default();
    let mut reading = Reading::default();
    backend.scan(&space(INDEX_SPACE), &mut |key, bytes| {
        reading.add(key, bytes)
    })?;
    if reading.fingerprint != meta.fingerprint {
        return Err(corrupt(format!(
            "it has {} versions and should have {}, or others than it should",
            reading.fingerprint.count, meta.fingerprint.count
        )));
    }
    let mut state = State {
        current: meta.applied,
        compacted: meta.compacted,
        lost: meta.lost.clone(),
        ..State::default()
    };
    state.pending.start_from(meta.applied);
    let value_count = reading.value_count;
    let expiring = reading.finish(&mut state, spacing_ms);
    Ok(Loaded {
        backend,
        meta,
        state,
        expiring,
        value_count,
    })
}

/// The index as it is read, in key order.
#[derive(Default)]
struct Reading {
    versions: Vec<(Bytes, Record)>,
    fingerprint: Fingerprint,
    value_count: u64,
}

impl Reading {
    fn add(&mut self, stored_key: &[u8], bytes: &[u8]) -> Result<()> {
        let read = || {
            let (key, modified) = split_version_key(stored_key)?;
            Some((key, Record::decode(modified, bytes)?))
        };
        let (key, record) =
            read().ok_or_else(|| corrupt("a record of its index is damaged".to_owned()))?;
        self.fingerprint.add(key, &record.version);
        self.value_count += u64::from(!record.version.is_tombstone());
        // Versions of one key follow each other and share its bytes.
        let key = match self.versions.last() {
            Some((last, _)) if *last == key => last.clone(),
            _ => Bytes::copy_from_slice(key),
        };
        self.versions.push((key, record));
        Ok(())
    }

    /// Fills index, history and what is left to remove; returns which keys expire.
    fn finish(mut self, state: &mut State, spacing_ms: u64) -> Vec<(Due, u64)> {
        // A key may contain what looks like another's revision, so the order of the backend is not
        // quite that of keys.
        self.versions
            .sort_by(|(a, x), (b, y)| (a, x.version.modified).cmp(&(b, y.version.modified)));
        let mut history: Vec<(Change, u64)> = Vec::new();
        let mut keys: Vec<(Bytes, KeyIndex)> = Vec::new();
        let mut expiring = Vec::new();
        for versions in self.versions.chunk_by(|(a, _), (b, _)| a == b) {
            let key = &versions[0].0;
            let mut index: Option<KeyIndex> = None;
            for (_, record) in versions {
                match &mut index {
                    Some(index) => index.push(record.version),
                    None => index = Some(KeyIndex::new(record.version)),
                }
                if record.version.modified > state.compacted {
                    let change = Change {
                        key: key.clone(),
                        version: record.version,
                    };
                    history.push((change, record.at_ms));
                }
            }
            let Some(mut index) = index else { continue };
            for version in index.compact(state.compacted) {
                state.pending.drop_version(key.clone(), &version);
            }
            if let Some((_, newest)) = versions.last()
                && newest.deadline_ms > 0
                && !newest.version.is_tombstone()
            {
                let due = Due {
                    key: key.clone(),
                    modified: newest.version.modified,
                };
                expiring.push((due, newest.deadline_ms));
            }
            if !index.is_empty() {
                keys.push((key.clone(), index));
            }
        }
        history.sort_by_key(|(change, _)| (change.version.modified, change.version.sub));
        state.index = Index::new(keys, history, spacing_ms);
        expiring
    }
}

/// Reads all values and checks them.
fn check_values(loaded: &Loaded) -> Result<()> {
    let mut left = loaded.value_count;
    loaded
        .backend
        .scan(&space(VALUE_SPACE), &mut |stored, value| {
            let (key, modified) =
                split_version_key(stored).ok_or_else(|| corrupt("a key is damaged".to_owned()))?;
            let crc = crc32fast::hash(value);
            if let Some(version) = loaded.state.index.version(key, modified)
                && version.crc != crc
            {
                let key = String::from_utf8_lossy(key);
                return Err(corrupt(format!("the value of `{key}` is damaged")));
            }
            left = left.wrapping_sub(1);
            Ok(())
        })?;
    match left {
        0 => Ok(()),
        _ => Err(corrupt("values are missing".to_owned())),
    }
}

// === making the database anew ===

fn image_revision(dir: &DataDir) -> Result<Revision> {
    let image = dir.image();
    match image.exists() {
        true => Ok(snapshot::Reader::open(&image)?.info.resume),
        false => Ok(Revision(0)),
    }
}

fn rebuild(config: &Config, dir: &DataDir, replay: &Replay, why: &Error) -> Result<Loaded> {
    let reason = why.to_string();
    let newest_known = dir.checkpoint();
    let reaches = if replay.found.is_empty() {
        replay.from >= newest_known
    } else {
        replay.found.reaches_back_to() <= replay.from && replay.found.newest() >= newest_known
    };
    if !reaches {
        return Err(Error::Corrupt {
            path: dir.path().display().to_string(),
            why: format!(
                "{reason}; it cannot be made anew: the image is of revision {} and the journal \
                 goes from {} to {}; nothing was changed, restore a snapshot into an empty folder",
                replay.from.0,
                replay.found.reaches_back_to().0,
                replay.found.newest().0
            ),
        });
    }
    let fresh = dir.path().join("sled.new");
    let step = |error: std::io::Error| Error::Unavailable {
        doing: "making the database anew",
        why: error.to_string(),
    };
    remove_all(&fresh).map_err(step)?;
    fill(config, dir, &fresh, replay.from)?;
    dir.set_checkpoint(replay.from)?;
    dir.replace_database(&fresh)?;
    dir.clear_suspicion();
    if newest_known > Revision(0) || !replay.found.is_empty() {
        tracing::warn!(reason, "database made anew from image and journal");
    }
    load(open_sled(config, dir)?, config.history.spacing_ms())
}

/// A database at `path` with the image's content.
fn fill(config: &Config, dir: &DataDir, path: &Path, from: Revision) -> Result<()> {
    let backend = Sled::open(path, config.cache_bytes)?;
    let mut meta = Meta {
        applied: from,
        compacted: from,
        ..Meta::default()
    };
    let mut batch = Batch::default();
    let mut bytes = 0;
    let image = dir.image();
    if image.exists() {
        let mut reader = snapshot::Reader::open(&image)?;
        let at_ms = reader.info.made_ms;
        while let Some(item) = reader.next()? {
            bytes += item.pair.value.len();
            put(&mut batch, &mut meta.fingerprint, &image_write(item, at_ms));
            if bytes >= REBUILD_BATCH_BYTES {
                backend.apply(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
    }
    meta.put_into(&mut batch);
    backend.apply(batch)?;
    backend.flush()
}

fn image_write(item: snapshot::Item, at_ms: u64) -> PendingWrite {
    let snapshot::Item { pair, deadline_ms } = item;
    let KeyValue {
        key,
        value,
        created,
        modified,
    } = pair;
    let version = Version {
        modified,
        created,
        sub: 0,
        crc: crc32fast::hash(&value),
    };
    PendingWrite {
        key,
        record: Record {
            version,
            at_ms,
            deadline_ms,
        },
        value: Some(value),
    }
}

// === putting it together ===

/// All that a store on a disk is made of.
pub(crate) struct Parts {
    pub(crate) loaded: Loaded,
    pub(crate) replay: Replay,
    pub(crate) segments: Arc<dyn Disk>,
    pub(crate) thresholds: Thresholds,
    pub(crate) dir: Option<Arc<DataDir>>,
    pub(crate) imaged: Revision,
    pub(crate) image_bytes: u64,
}

/// Puts the journal on top of the backend's content.
pub(crate) fn assemble(config: &Config, parts: Parts) -> Result<Opened> {
    let Parts {
        loaded,
        replay,
        segments,
        ..
    } = parts;
    let Loaded {
        backend,
        meta,
        mut state,
        expiring,
        ..
    } = loaded;
    let newest = match replay.found.is_empty() {
        true => meta.applied,
        false => replay.found.newest(),
    };
    if newest < meta.applied {
        return Err(Error::Corrupt {
            path: segments.place(),
            why: format!(
                "the journal ends with revision {} and the database has {}; nothing was changed",
                newest.0, meta.applied.0
            ),
        });
    }
    let is_first = replay.found.is_empty();
    let mut replayed = Vec::new();
    let was_closed = put_on_top(&mut state, replay.entries, &config.history, &mut replayed);
    let lost = (!was_closed && !is_first).then(|| Lost {
        after: newest,
        until: Revision(newest.0 + LOST_REVISIONS),
    });
    state.current = lost.map_or(newest, |lost| lost.until);
    state.lost.extend(lost);
    let journal = replay.found.open(parts.thresholds.segment_bytes, newest)?;
    let journal = Arc::new(Mutex::new(journal));
    let dir_path = parts.dir.as_ref().map(|dir| dir.path().to_owned());
    let shared = Arc::new(Shared::new(config, state, backend, dir_path));
    shared.set_durable(newest);
    let now_ms = shared.now_ms();
    for (due, deadline_ms) in expiring {
        shared.keep_deadline(due, deadline_ms, now_ms);
    }
    shared.keep_deadlines(&replayed, now_ms);
    let durable = Durable {
        journal: journal.clone(),
        segments,
        dir: parts.dir,
        checkpointed: replay.from.min(meta.applied),
        imaged: parts.imaged,
        image_bytes: parts.image_bytes,
    };
    Ok(Opened {
        writer: Writer::new(shared.clone(), Some(journal), lost),
        applier: Applier::new(shared.clone(), &meta, parts.thresholds, Some(durable)),
        has_deadlines: !shared.deadlines.is_empty(),
        shared,
    })
}

/// Applies the journal's entries that are newer; `true` where the last one is the end in order.
fn put_on_top(
    state: &mut State,
    entries: Vec<Entry>,
    limits: &HistoryLimits,
    replayed: &mut Vec<PendingWrite>,
) -> bool {
    let applied = state.current;
    let mut was_closed = false;
    for entry in entries {
        was_closed = matches!(entry, Entry::Closed);
        match entry {
            Entry::Closed => {}
            Entry::Lost(lost) => {
                if lost.until > state.current {
                    state.current = lost.until;
                    state.lost.push(lost);
                }
            }
            Entry::Writes(writes) => {
                for write in writes {
                    let version = write.record.version;
                    if version.modified <= applied {
                        continue;
                    }
                    let at_ms = write.record.at_ms;
                    replayed.push(PendingWrite {
                        value: None,
                        ..write.clone()
                    });
                    state.show(write);
                    state
                        .index
                        .mark(version.modified, at_ms, limits.spacing_ms());
                }
            }
        }
    }
    was_closed
}

fn corrupt(why: String) -> Error {
    Error::Corrupt {
        path: "database".to_owned(),
        why,
    }
}
