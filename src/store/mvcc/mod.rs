//! The engine: every state of every key, by revision.

mod apply;
mod commit;
mod compact;
mod expiry;
mod index;
mod key_index;
mod read;
mod revision;
mod state;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

pub use compact::HistoryLimits;

use self::commit::Committer;
use self::state::State;
use crate::store::backend::{Backend, memory::Memory};
use crate::store::ttl::Deadlines;
use crate::store::watch::{Cursor, Hub};
use crate::store::{
    Error, KeyRange, KeyValue, Page, Result, Revision, Store, Txn, WatchStream, Write,
};
use crate::util::clock::Clock;
use crate::util::tasks::Tasks;

/// How long closing waits for what runs.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The embedded store.
#[derive(Debug)]
pub struct Mvcc {
    shared: Arc<Shared>,
    committer: Arc<Committer>,
    tasks: Tasks,
    expiry_started: AtomicBool,
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
    /// Where the data is, for messages.
    place: String,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Shared {
    fn backend(&self) -> Result<Arc<dyn Backend>> {
        self.backend.read().clone().ok_or(Error::Unavailable {
            doing: "reading",
            why: "the store is closed".to_owned(),
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now().as_millisecond()).unwrap_or(0)
    }
}

impl Mvcc {
    /// An empty store that ends with the process: the same engine without disk and threads. Every
    /// call is done when it returns, so it goes well with paused time.
    pub fn in_memory() -> Arc<Self> {
        Self::in_memory_with(HistoryLimits::default(), Clock::system())
    }

    /// [`Mvcc::in_memory`] with its own limits and clock.
    pub fn in_memory_with(limits: HistoryLimits, clock: Clock) -> Arc<Self> {
        let shared = Arc::new(Shared {
            state: RwLock::default(),
            pins: Mutex::default(),
            backend: RwLock::new(Some(Arc::new(Memory::new()))),
            hub: Hub::new(Revision(0)),
            deadlines: Deadlines::default(),
            closed: CancellationToken::new(),
            limits,
            clock,
            place: "memory".to_owned(),
        });
        Arc::new(Self {
            committer: Arc::new(Committer::inline(shared.clone())),
            shared,
            tasks: Tasks::new(),
            expiry_started: AtomicBool::new(false),
        })
    }

    /// Ends watches and refuses further calls.
    pub async fn close(&self) -> Result<()> {
        self.shared.closed.cancel();
        self.tasks.shutdown(CLOSE_TIMEOUT).await;
        self.shared.backend.write().take();
        Ok(())
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
    fn drop(&mut self) {
        self.tasks.cancel();
        self.shared.closed.cancel();
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

    async fn range(
        &self,
        range: KeyRange,
        at: Option<Revision>,
        limit: Option<usize>,
    ) -> Result<Page> {
        self.shared.range(&range, at, limit)
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
        Ok(())
    }
}
