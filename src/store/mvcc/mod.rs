//! The engine: every state of every key, by revision.
//!
//! # Parts
//!
//! One writer (`write.rs`, `commit.rs`) takes everything that waits as a group, checks it against the
//! index, appends it to the journal with one sync, makes it visible and answers. One applier
//! (`apply.rs`) brings published writes to the backend later, compacts, and makes checkpoints and
//! images. Reads (`read.rs`) look into the index in memory and take values from what is pending or
//! from the backend. Watches (`store/watch`) read the history from where they are.
//!
//! # On disk
//!
//! The folder's files are listed in `dir.rs`, the journal's format in `store/journal`, the backend's
//! keys in `revision.rs`, the image's format in `store/snapshot.rs`.
//!
//! # What is atomic
//!
//! - A group is one frame of the journal: all its transactions count, or none.
//! - Nothing is visible before its frame is written; with synced durability, before it is on disk.
//! - A batch of the backend holds whole revisions and, in the same batch, the revision it reaches to
//!   and a fingerprint of all versions then in the backend.
//! - The backend gets only what is on disk in the journal. Compaction removes only what is superseded
//!   by something on disk.
//!
//! # Crash story
//!
//! - Killed: the kernel has every frame, relaxed ones too. Opening puts the journal on top of the
//!   backend; nothing is lost.
//! - Power cut: relaxed writes since the last sync may be gone, from the end. Their revisions were
//!   given out, so unless the journal ends with the note of a close in order, the next
//!   `LOST_REVISIONS` are left out and who asks for one gets `Compacted` and reads anew. The first
//!   write after opening is synced, so that this note cannot outlive what it vouches for. The database
//!   is then checked value by value.
//! - Database missing, unreadable, behind its checkpoint or not what its fingerprint says: made anew
//!   from the image and the journal since, beside the old one, which it replaces when it is complete.
//!   History before the image is gone then.
//! - Journal damaged, or the above not possible: [`Error::Corrupt`], and journal, database and image
//!   are as they were.
//! - Disk full: the group is answered `Unavailable` and leaves no trace; the next one tries again.

mod apply;
mod commit;
mod compact;
mod dir;
mod entry;
mod expiry;
mod index;
mod key_index;
mod meta;
mod queue;
mod read;
mod restore;
mod revision;
mod state;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

pub use compact::HistoryLimits;
pub(crate) use dir::DataDir;
#[cfg(feature = "etcd")]
pub(crate) use write::check_shape;

use self::apply::{Applier, Thresholds};
use self::commit::Committer;
use self::meta::Meta;
use self::restore::Opened;
use self::state::State;
use self::write::Writer;
use crate::store::backend::{Backend, memory::Memory};
use crate::store::ttl::Deadlines;
use crate::store::watch::{Cursor, Hub};
use crate::store::{
    Error, KeyRange, KeyValue, Page, Result, Revision, Store, Txn, WatchStream, Write,
};
use crate::util::clock::Clock;
use crate::util::tasks::Tasks;

/// How long closing waits for the removal of expired keys to stop.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// For the journal's rest to be applied and the image to be flushed. A slow disk may need longer
/// after many writes; the process then ends without, and the next start replays the journal.
const TIDY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pages of the database kept in memory; the kernel has the rest. Readers are served by a cache above
/// the store, so few are read twice.
const CACHE_BYTES: u64 = 4 << 20;
/// The writer waits for the applier when so much is behind.
const BEHIND_BYTES_MAX: usize = 64 << 20;
/// Reads of more keys than this leave the caller's thread, because they may wait for the disk.
const INLINE_KEYS_MAX: usize = 64;

/// What a store on disk is opened with.
#[derive(Clone, Debug)]
pub struct Config {
    /// A folder of its own; made where it does not exist.
    pub dir: PathBuf,
    /// How much history is kept.
    pub history: HistoryLimits,
    /// For deadlines and the history's age.
    pub clock: Clock,
    /// How much of the database is kept in memory, about.
    pub cache_bytes: u64,
}

impl Config {
    /// The defaults for a store in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            history: HistoryLimits::default(),
            clock: Clock::system(),
            cache_bytes: CACHE_BYTES,
        }
    }
}

/// The embedded store.
#[derive(Debug)]
pub struct Mvcc {
    shared: Arc<Shared>,
    committer: Arc<Committer>,
    tasks: Tasks,
    expiry_started: AtomicBool,
    dir: Mutex<Option<Arc<DataDir>>>,
}

/// What reads, the writer, watches and the applier have in common.
pub(crate) struct Shared {
    /// Lock order: `state` before `pins`; neither is held over a call to the backend.
    pub(crate) state: RwLock<State>,
    pub(crate) pins: Mutex<BTreeMap<Revision, usize>>,
    backend: RwLock<Option<Arc<dyn Backend>>>,
    pub(crate) hub: Hub,
    pub(crate) deadlines: Deadlines,
    pub(crate) closed: CancellationToken,
    limits: HistoryLimits,
    clock: Clock,
    /// The newest revision in the journal, on disk. Written by the writer.
    durable: AtomicU64,
    /// Why the applier cannot go on. Written by it.
    trouble: Mutex<Option<Error>>,
    dir: Option<PathBuf>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    fn new(config: &Config, state: State, backend: Arc<dyn Backend>, dir: Option<PathBuf>) -> Self {
        Self {
            hub: Hub::new(state.current),
            state: RwLock::new(state),
            pins: Mutex::default(),
            backend: RwLock::new(Some(backend)),
            deadlines: Deadlines::default(),
            closed: CancellationToken::new(),
            limits: config.history,
            clock: config.clock.clone(),
            durable: AtomicU64::new(0),
            trouble: Mutex::default(),
            dir,
        }
    }

    fn backend(&self) -> Result<Arc<dyn Backend>> {
        self.backend.read().clone().ok_or(Error::Unavailable {
            doing: "reading",
            why: "the store is closed".to_owned(),
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now().as_millisecond()).unwrap_or(0)
    }

    fn durable(&self) -> Revision {
        Revision(self.durable.load(Ordering::Acquire))
    }

    fn set_durable(&self, revision: Revision) {
        self.durable.store(revision.0, Ordering::Release);
    }

    fn trouble(&self) -> Option<Error> {
        self.trouble.lock().clone()
    }

    fn set_trouble(&self, trouble: Option<Error>) {
        *self.trouble.lock() = trouble;
    }

    /// Whether the applier is so far behind that nothing more should be taken on.
    fn is_behind(&self) -> bool {
        self.state.read().pending.weight_bytes() > BEHIND_BYTES_MAX
    }

    fn place(&self) -> String {
        let dir = self.dir.as_ref();
        dir.map_or_else(|| "memory".to_owned(), |dir| dir.display().to_string())
    }
}

impl Mvcc {
    /// Opens the store in `config.dir`, or makes one there. Blocks, not for long; must be called
    /// within a tokio runtime.
    ///
    /// Errors: [`Error::Locked`], [`Error::Unusable`], [`Error::Corrupt`]; then nothing on disk was
    /// changed.
    pub fn open(config: &Config) -> Result<Arc<Self>> {
        let dir = Arc::new(DataDir::open(&config.dir)?);
        let opened = restore::open(config, &dir)?;
        Self::start(opened, Some(dir), true)
    }

    /// An empty store that ends with the process: the same engine without disk and threads. Every
    /// call is done when it returns, so it goes well with paused time.
    pub fn in_memory() -> Arc<Self> {
        Self::in_memory_with(HistoryLimits::default(), Clock::system())
    }

    /// [`Mvcc::in_memory`] with its own limits and clock.
    pub fn in_memory_with(history: HistoryLimits, clock: Clock) -> Arc<Self> {
        let config = Config {
            history,
            clock,
            ..Config::new("")
        };
        let backend = Arc::new(Memory::new());
        let shared = Arc::new(Shared::new(&config, State::default(), backend, None));
        shared.set_durable(Revision(u64::MAX));
        let writer = Writer::new(shared.clone(), None, None);
        let applier = Applier::new(
            shared.clone(),
            &Meta::default(),
            Thresholds::IN_MEMORY,
            None,
        );
        Self::with(shared, Committer::inline(writer, applier), None)
    }

    fn start(opened: Opened, dir: Option<Arc<DataDir>>, with_threads: bool) -> Result<Arc<Self>> {
        let Opened {
            shared,
            writer,
            applier,
            has_deadlines,
        } = opened;
        let committer = match with_threads {
            true => Committer::threads(&shared, writer, applier)?,
            false => Committer::inline(writer, applier),
        };
        let store = Self::with(shared, committer, dir);
        if has_deadlines {
            store.start_expiry();
        }
        Ok(store)
    }

    fn with(shared: Arc<Shared>, committer: Committer, dir: Option<Arc<DataDir>>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            committer: Arc::new(committer),
            tasks: Tasks::new(),
            expiry_started: AtomicBool::new(false),
            dir: Mutex::new(dir),
        })
    }

    /// Ends watches, refuses further calls, and leaves the disk so that the next opening is quick.
    /// A second call does nothing.
    ///
    /// Errors: what was not possible; the store is closed all the same and loses nothing.
    pub async fn close(&self) -> Result<()> {
        self.shared.closed.cancel();
        self.tasks.shutdown(CLOSE_TIMEOUT).await;
        let (shared, committer) = (self.shared.clone(), self.committer.clone());
        let dir = self.dir.lock().take();
        let ended = tokio::task::spawn_blocking(move || {
            let Some((mut writer, mut applier)) = committer.end() else {
                return Ok(());
            };
            let ended = writer
                .sync()
                .and_then(|()| applier.checkpoint())
                .and_then(|()| writer.close());
            shared.backend.write().take();
            if let (Ok(()), Some(dir)) = (&ended, dir) {
                dir.release();
            }
            ended
        });
        let unavailable = |why: String| Error::Unavailable {
            doing: "closing",
            why,
        };
        match tokio::time::timeout(TIDY_TIMEOUT, ended).await {
            Ok(ended) => ended.map_err(|error| unavailable(error.to_string()))?,
            Err(_) => Err(unavailable("the disk is too slow".to_owned())),
        }
    }

    /// Waits for deadlines from the first key on that has one.
    fn start_expiry(&self) {
        if !self.expiry_started.swap(true, Ordering::Relaxed) {
            let expiry = expiry::run(self.shared.clone(), self.committer.clone());
            let closed = self.tasks.cancelled();
            self.tasks.service("store-expiry", async move {
                closed.run_until_cancelled(expiry).await;
            });
        }
    }
}

impl Drop for Mvcc {
    /// Without [`Mvcc::close`] nothing is lost either, opening only takes longer. Waits for the
    /// threads, so that the folder is free afterwards.
    fn drop(&mut self) {
        self.tasks.cancel();
        self.shared.closed.cancel();
        drop(self.committer.end());
        self.shared.backend.write().take();
    }
}

#[async_trait]
impl Store for Mvcc {
    async fn current(&self) -> Result<Revision> {
        Ok(self.shared.hub.newest())
    }

    async fn get(&self, key: &[u8]) -> Result<(Option<KeyValue>, Revision)> {
        self.shared.get(key)
    }

    fn is_current(&self, key: &[u8], revision: Revision) -> bool {
        let state = self.shared.state.read();
        let live = state.index.live(key);
        live.is_some_and(|(_, version)| version.modified == revision)
    }

    async fn range(
        &self,
        range: KeyRange,
        at: Option<Revision>,
        limit: Option<usize>,
    ) -> Result<Page> {
        let is_short = limit.is_some_and(|limit| limit <= INLINE_KEYS_MAX);
        if self.shared.dir.is_none() || is_short {
            return self.shared.range(&range, at, limit);
        }
        let shared = self.shared.clone();
        let read = tokio::task::spawn_blocking(move || shared.range(&range, at, limit));
        read.await.map_err(|error| Error::Unavailable {
            doing: "reading",
            why: error.to_string(),
        })?
    }

    async fn txn(&self, txn: Txn) -> Result<Revision> {
        let expires = |write: &Write| matches!(write, Write::Put { ttl: Some(_), .. });
        if txn.writes.iter().any(expires) {
            self.start_expiry();
        }
        self.committer.txn(txn).await
    }

    async fn watch(&self, range: KeyRange, after: Revision) -> Result<WatchStream> {
        self.shared.state.read().check_readable(after)?;
        let cursor = Cursor::new(self.shared.clone(), range, after);
        Ok(WatchStream::from_stream(cursor.into_stream()))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.shared.compact(revision)
    }

    async fn oldest(&self) -> Result<Revision> {
        Ok(self.shared.state.read().compacted)
    }

    async fn sync(&self) -> Result<()> {
        self.committer.sync().await
    }

    async fn deadlines(&self) -> Result<BTreeMap<Bytes, u64>> {
        Ok(self.shared.deadlines.all())
    }
}
