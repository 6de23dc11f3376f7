//! Brings published writes into the backend, lazily and in order, and keeps what a restart needs:
//! checkpoints and images.
//!
//! Nothing is applied before it is in the journal, on disk. What is applied is durable with the next
//! checkpoint. The journal is kept back to the last checkpoint, so that a backend that lost what it
//! had not flushed catches up; and back to the last image, so that a backend that is damaged can be
//! made anew. All of it is driven by how much was written: an idle store writes nothing.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Shared;
use super::dir::DataDir;
use super::meta::{Fingerprint, Meta};
use super::revision::{INDEX_SPACE, VALUE_SPACE, version_key};
use super::state::PendingWrite;
use crate::store::backend::Batch;
use crate::store::journal::{self, Journal, disk::Disk};
use crate::store::snapshot;
use crate::store::{KeyRange, Result, Revision};

/// Bytes of one batch, about. The database keeps every page it replaces until the batch is over, so
/// a large one holds many times its size.
const BATCH_BYTES: usize = 128 << 10;
/// Removed versions of one batch.
const DROPS_PER_BATCH: usize = 4096;
/// Keys of an image read at once.
const IMAGE_PAGE_KEYS: usize = 500;

/// When what is due. All by how much was written, so that an idle store writes nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Thresholds {
    /// Writes wait in memory up to this much.
    pub(crate) apply_bytes: usize,
    /// Journal since the last checkpoint; what a restart has to read.
    pub(crate) checkpoint_bytes: u64,
    /// Journal since the last image, at least.
    pub(crate) image_bytes: u64,
    /// Of a segment; what is kept of the journal is counted in these.
    pub(crate) segment_bytes: u64,
}

impl Thresholds {
    /// For a store on disk: writes gather long enough that an idle cluster's leases never reach the
    /// backend one by one, and not so long that they show in the process's size.
    pub(crate) const ON_DISK: Self = Self {
        apply_bytes: 4 << 20,
        checkpoint_bytes: 16 << 20,
        image_bytes: 32 << 20,
        segment_bytes: 8 << 20,
    };
    /// Without a disk there is nothing to wait for.
    pub(crate) const IN_MEMORY: Self = Self {
        apply_bytes: 64 << 10,
        ..Self::ON_DISK
    };
}

/// What a store on disk has beside the backend.
pub(crate) struct Durable {
    pub(crate) journal: Arc<Mutex<Journal>>,
    pub(crate) segments: Arc<dyn Disk>,
    /// `None` in tests on a simulated disk; then there are no images.
    pub(crate) dir: Option<Arc<DataDir>>,
    /// The backend is on disk up to here.
    pub(crate) checkpointed: Revision,
    /// The image is of this revision.
    pub(crate) imaged: Revision,
    pub(crate) image_bytes: u64,
}

/// The only one who changes the backend.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    applied: Revision,
    fingerprint: Fingerprint,
    thresholds: Thresholds,
    durable: Option<Durable>,
}

impl Applier {
    /// For a backend that has what `meta` says.
    pub(crate) fn new(
        shared: Arc<Shared>,
        meta: &Meta,
        thresholds: Thresholds,
        durable: Option<Durable>,
    ) -> Self {
        Self {
            thresholds,
            shared,
            applied: meta.applied,
            fingerprint: meta.fingerprint,
            durable,
        }
    }

    /// Does whatever is due.
    pub(crate) fn turn(&mut self) -> Result<()> {
        self.shared.enforce_limits()?;
        if self.shared.state.read().pending.weight_bytes() > self.thresholds.apply_bytes {
            self.apply_all()?;
        }
        let Some(durable) = &self.durable else {
            return Ok(());
        };
        let (since_checkpoint, since_image) = {
            let journal = durable.journal.lock();
            (
                journal.bytes_after(durable.checkpointed),
                journal.bytes_after(durable.imaged),
            )
        };
        if since_checkpoint > self.thresholds.checkpoint_bytes {
            self.checkpoint()?;
        }
        let durable = self
            .durable
            .as_ref()
            .filter(|durable| durable.dir.is_some());
        let least = self.thresholds.image_bytes;
        if durable.is_some_and(|d| since_image > least.max(2 * d.image_bytes)) {
            self.make_image()?;
        }
        Ok(())
    }

    /// Applies everything that is durable.
    pub(crate) fn apply_all(&mut self) -> Result<()> {
        while !self.apply_some()? {}
        Ok(())
    }

    /// Applies one batch; `true` when nothing is left.
    fn apply_some(&mut self) -> Result<bool> {
        let (writes, drops, meta, until) = {
            let mut state = self.shared.state.write();
            let until = self.shared.durable().min(state.current);
            let (writes, reached) = state.pending.take(until, BATCH_BYTES);
            let drops = state.pending.take_drops(DROPS_PER_BATCH);
            let applied = reached.max(self.applied);
            let lost = state.lost.iter().filter(|lost| lost.until <= applied);
            let meta = Meta {
                applied,
                // Also where it is beyond: what was compacted before it was applied never is.
                compacted: state.compacted,
                lost: lost.copied().collect(),
                fingerprint: self.fingerprint,
            };
            (writes, drops, meta, until)
        };
        if writes.is_empty() && drops.is_empty() && meta.applied == self.applied {
            return Ok(true);
        }
        let mut meta = meta;
        let mut batch = Batch::default();
        for write in &writes {
            put(&mut batch, &mut meta.fingerprint, write);
        }
        for (key, version) in &drops {
            batch.delete(version_key(INDEX_SPACE, key, version.modified));
            batch.delete(version_key(VALUE_SPACE, key, version.modified));
            meta.fingerprint.remove(key, version);
        }
        meta.put_into(&mut batch);
        let done = self
            .shared
            .backend()
            .and_then(|backend| backend.apply(batch));
        let mut state = self.shared.state.write();
        if let Err(error) = done {
            state.pending.give_back(drops, self.applied);
            return Err(error);
        }
        state.pending.applied(meta.applied);
        self.applied = meta.applied;
        self.fingerprint = meta.fingerprint;
        Ok(meta.applied >= until && !state.pending.has_drops())
    }

    /// Applies everything, makes the backend durable, and lets go of the journal before it.
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        self.apply_all()?;
        self.shared.backend()?.flush()?;
        let Some(durable) = &mut self.durable else {
            return Ok(());
        };
        if let Some(dir) = &durable.dir {
            dir.set_checkpoint(self.applied)?;
        }
        durable.checkpointed = self.applied;
        durable.let_go()
    }

    /// Writes an image of the present state, and lets go of the journal before it.
    fn make_image(&mut self) -> Result<()> {
        let Some(durable) = &mut self.durable else {
            return Ok(());
        };
        let Some(dir) = &durable.dir else {
            return Ok(());
        };
        let revision = self.shared.durable();
        let pin = self.shared.pin(Some(revision))?;
        let deadlines = self.shared.deadlines.all();
        let path = dir.image();
        let made_ms = self.shared.now_ms();
        let mut writer = snapshot::Writer::create(&path, revision, revision, made_ms)?;
        let mut range = KeyRange {
            start: bytes::Bytes::new(),
            end: None,
        };
        loop {
            let page = self.shared.range_page(&range, &pin, IMAGE_PAGE_KEYS)?;
            let Some(last) = page.last() else {
                break;
            };
            range.start = [&last.key[..], b"\0"].concat().into();
            for pair in page {
                let deadline_ms = deadlines.get(&pair.key).copied().unwrap_or(0);
                writer.push(&snapshot::Item { pair, deadline_ms })?;
            }
        }
        drop(pin);
        let info = writer.finish()?;
        durable.imaged = revision;
        durable.image_bytes = info.file_bytes;
        durable.let_go()
    }
}

impl Durable {
    fn let_go(&self) -> Result<()> {
        let needed = match self.dir {
            Some(_) => self.checkpointed.min(self.imaged),
            None => self.checkpointed,
        };
        let names = self.journal.lock().forget(needed);
        journal::remove(&*self.segments, &names)
    }
}

/// Adds a write to a batch.
pub(crate) fn put(batch: &mut Batch, fingerprint: &mut Fingerprint, write: &PendingWrite) {
    let version = &write.record.version;
    batch.put(
        version_key(INDEX_SPACE, &write.key, version.modified),
        write.record.encode(),
    );
    if let Some(value) = &write.value {
        let key = version_key(VALUE_SPACE, &write.key, version.modified);
        batch.put(key, value.clone());
    }
    fingerprint.add(&write.key, version);
}
