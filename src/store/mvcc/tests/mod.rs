//! Tests of the engine as a whole: against a model, through crashes, on a real disk.

mod crash;
mod disk;
mod kill;
mod model;

use std::sync::Arc;

use bytes::Bytes;

use super::apply::Thresholds;
use super::restore::{self, Parts};
use super::{Config, HistoryLimits, Mvcc};
use crate::store::backend::{Backend, memory::Memory};
use crate::store::journal::{disk::Disk, simulated::Simulated};
use crate::store::{KeyRange, Result, Revision, Store};
use crate::util::clock::Clock;
use crate::util::rng::Rng;

const IDENTITY: u64 = 7;

/// A machine with a simulated disk, on which the store can be started again and again.
#[derive(Clone)]
struct Machine {
    disk: Simulated,
    backend: Memory,
    clock: Clock,
    history: HistoryLimits,
}

impl Machine {
    fn new() -> Self {
        let backend = Memory::new();
        backend.keep_flushed();
        Self {
            disk: Simulated::default(),
            backend,
            clock: Clock::fixed(jiff::Timestamp::UNIX_EPOCH),
            history: HistoryLimits::default(),
        }
    }

    /// Everything is due after a few writes.
    const THRESHOLDS: Thresholds = Thresholds {
        apply_bytes: 2000,
        checkpoint_bytes: 1500,
        image_bytes: u64::MAX,
        segment_bytes: 600,
    };

    fn start(&self) -> Result<Arc<Mvcc>> {
        let config = Config {
            history: self.history,
            clock: self.clock.clone(),
            ..Config::new("")
        };
        let segments: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let backend: Arc<dyn Backend> = Arc::new(self.backend.clone());
        let parts = Parts {
            loaded: restore::load(backend, self.history.spacing_ms())?,
            replay: restore::replay(&segments, IDENTITY, Revision(0))?,
            segments,
            thresholds: Self::THRESHOLDS,
            dir: None,
            imaged: Revision(0),
            image_bytes: 0,
        };
        Mvcc::start(restore::assemble(&config, parts)?, None, false)
    }

    fn cut_power(&self, seed: u64) {
        self.disk.cut_power(&Rng::seeded(seed));
        self.backend.lose_unflushed();
        self.backend.fail_after(None);
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn all() -> KeyRange {
    KeyRange::prefix("")
}

/// Key and value of everything, as texts.
async fn content(store: &dyn Store) -> Vec<(String, String)> {
    let page = store.range(all(), None, None).await.unwrap();
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    page.items
        .iter()
        .map(|item| (text(&item.key), text(&item.value)))
        .collect()
}
