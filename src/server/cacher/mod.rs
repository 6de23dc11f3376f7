//! The watch cache: every object of every resource in memory, in the bytes it is served in, and a
//! ring of the last events of each resource.
//!
//! One task follows one watch of the store and is the only writer. Readers get snapshots; watchers
//! read the ring at their own pace, so a slow one costs nobody anything and is told when it lost
//! its place.
//!
//! Invariants. A snapshot is the exact state at its revision. Once [`Cacher::applied`] says R, every
//! change up to R is visible in every resource. After a restart the rings begin some thousand
//! revisions back, so that clients resume their watches.

mod follow;
mod item;
mod lines;
mod resource;
mod ring;
mod watcher;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use crate::api::object::Object;
use crate::server::registry::Registry;
use crate::store::{self, Revision, Store};
use crate::util::rng::Rng;
use crate::util::tasks::Tasks;

pub use crate::server::registry::FieldsOf;
pub use item::Item;
pub use resource::Snapshot;
pub use ring::{Event, Expired};
pub use watcher::Watcher;

use resource::ResourceCache;

/// A handle on the cache. Clones share it.
#[derive(Clone, Debug)]
pub struct Cacher {
    shared: Arc<Shared>,
    applied: watch::Receiver<Revision>,
}

#[derive(Debug)]
struct Shared {
    registry: Arc<Registry>,
    caches: RwLock<HashMap<String, Arc<ResourceCache>>>,
    /// Rings of resources that come later are complete after this revision too: there was nothing.
    start: Mutex<Revision>,
    /// Strictly between the two nothing is known: a crash may have lost what was written with
    /// relaxed durability, and whoever saw that has to begin anew.
    left_out: Mutex<(Revision, Revision)>,
}

impl Shared {
    fn leave_out(&self, after: Revision, until: Revision) {
        *self.left_out.lock() = (after, until);
    }

    fn begin(&self, start: Revision) {
        *self.start.lock() = start;
    }

    /// The cache of a storage folder, made where there is none yet.
    fn cache(&self, storage: &str) -> Arc<ResourceCache> {
        if let Some(cache) = self.caches.read().get(storage) {
            return Arc::clone(cache);
        }
        let start = *self.start.lock();
        let mut caches = self.caches.write();
        let cache = caches
            .entry(storage.to_owned())
            .or_insert_with(|| Arc::new(ResourceCache::new(start)));
        Arc::clone(cache)
    }

    fn caches(&self) -> Vec<(String, Arc<ResourceCache>)> {
        let caches = self.caches.read();
        caches
            .iter()
            .map(|(name, cache)| (name.clone(), Arc::clone(cache)))
            .collect()
    }

    /// How the selectable fields of a storage's objects are read; `None` where it has none.
    fn fields_of(&self, storage: &str) -> Option<FieldsOf> {
        let snapshot = self.registry.snapshot();
        let fields = snapshot.stored(storage)?.rules.fields_of()?;
        (!fields(&Object::default()).is_empty()).then_some(fields)
    }
}

impl Cacher {
    /// Reads the whole store and then follows it until `tasks` end.
    pub async fn start(
        store: Arc<dyn Store>,
        registry: Arc<Registry>,
        rng: Rng,
        tasks: &Tasks,
    ) -> store::Result<Self> {
        let shared = Arc::new(Shared {
            registry,
            caches: RwLock::default(),
            start: Mutex::default(),
            left_out: Mutex::default(),
        });
        let (sender, applied) = watch::channel(Revision(0));
        let follower = follow::Follower::new(store, Arc::clone(&shared), sender, rng);
        let watch = follower.load().await?;
        tasks.service("cacher", follower.run(watch, tasks.cancelled()));
        Ok(Self { shared, applied })
    }

    /// The revision up to which everything is in the cache.
    pub fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    /// Waits until `revision` is applied, at most `limit`. `false`: it was not by then.
    pub async fn wait_for(&self, revision: Revision, limit: Duration) -> bool {
        if self.applied() >= revision {
            return true;
        }
        let mut applied = self.applied.clone();
        let reached = applied.wait_for(|applied| *applied >= revision);
        matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
    }

    /// One object by its local key (`namespace/name`, or the name of a cluster-scoped one).
    pub fn get(&self, storage: &str, key: &str) -> Option<Arc<Item>> {
        self.shared.cache(storage).get(key)
    }

    /// All objects of a namespace (empty: of all), in the order of their keys.
    pub fn list(&self, storage: &str, namespace: &str) -> Vec<Arc<Item>> {
        let snapshot = self.snapshot(storage);
        snapshot.items(namespace, None).cloned().collect()
    }

    /// All objects of a resource at one revision; costs nothing.
    pub fn snapshot(&self, storage: &str) -> Snapshot {
        let applied = self.applied();
        self.shared.cache(storage).snapshot(applied)
    }

    /// Changes whenever an object of the resource does.
    pub fn changes(&self, storage: &str) -> watch::Receiver<Revision> {
        self.shared.cache(storage).changes()
    }

    /// Every event after `revision`.
    pub fn watch_after(&self, storage: &str, revision: Revision) -> Result<Watcher, Expired> {
        let (after, until) = *self.shared.left_out.lock();
        if after < revision && revision < until {
            return Err(Expired);
        }
        let cache = self.shared.cache(storage);
        let position = cache.position_after(revision)?;
        Ok(Watcher::new(
            cache,
            position,
            revision,
            self.applied.clone(),
        ))
    }

    /// The present state and every event after it.
    pub fn watch_from_now(&self, storage: &str) -> (Snapshot, Watcher) {
        let cache = self.shared.cache(storage);
        let (snapshot, end) = cache.snapshot_and_end(self.applied());
        let watcher = Watcher::new(cache, end, Revision(0), self.applied.clone());
        (snapshot, watcher)
    }
}

#[cfg(test)]
mod tests;
