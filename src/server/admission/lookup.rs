//! Other objects, for plugins: from the cache, and from the store where the cache does not have
//! them yet.

use std::sync::{Arc, OnceLock};

use tokio::sync::watch;

use crate::api::status::ApiError;
use crate::server::cacher::{Cacher, Item};
use crate::server::registry::{Registry, Snapshot};
use crate::server::storage::keys;
use crate::server::webhook::Webhooks;
use crate::store::{Revision, Store};
use crate::util::errors::chain;

/// Reads objects by storage folder and local key.
#[derive(Clone)]
pub(crate) struct Lookup {
    cacher: Cacher,
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
    /// Set once connections can be made.
    webhooks: Arc<OnceLock<Webhooks>>,
}

impl Lookup {
    pub(crate) fn new(cacher: Cacher, store: Arc<dyn Store>, registry: Arc<Registry>) -> Self {
        Self {
            cacher,
            store,
            registry,
            webhooks: Arc::default(),
        }
    }

    /// What the cache has: enough where a moment's delay does no harm.
    pub(super) fn cached(&self, storage: &str, key: &str) -> Option<Arc<Item>> {
        self.cacher.get(storage, key)
    }

    /// All objects of a resource the cache has, in the order of their keys.
    pub(super) fn all(&self, storage: &str) -> Vec<Arc<Item>> {
        self.cacher.list(storage, "")
    }

    /// Those of one namespace.
    pub(super) fn all_in(&self, storage: &str, namespace: &str) -> Vec<Arc<Item>> {
        self.cacher.list(storage, namespace)
    }

    /// Changes whenever an object of the resource does.
    pub(super) fn changes(&self, storage: &str) -> watch::Receiver<Revision> {
        self.cacher.changes(storage)
    }

    /// The table of resources, now.
    pub(super) fn table(&self) -> Arc<Snapshot> {
        self.registry.snapshot()
    }

    /// The cache itself.
    pub(super) fn cacher(&self) -> &Cacher {
        &self.cacher
    }

    /// What calls webhooks.
    pub(super) fn webhooks(&self) -> Arc<OnceLock<Webhooks>> {
        Arc::clone(&self.webhooks)
    }

    /// Where everything is, for who must be exact.
    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The object, wherever it is.
    pub(super) async fn find(
        &self,
        storage: &str,
        key: &str,
    ) -> Result<Option<Arc<Item>>, ApiError> {
        if let Some(item) = self.cached(storage, key) {
            return Ok(Some(item));
        }
        let read = self.store.get(&keys::object(storage, key)).await;
        let (stored, _) = read.map_err(|error| {
            tracing::error!(storage, key, error = %chain(&error), "store failed");
            ApiError::unavailable("the datastore is unavailable")
        })?;
        let Some(stored) = stored else {
            return Ok(None);
        };
        let registry = self.registry.snapshot();
        let def = registry.stored(storage);
        let fields_of = def.and_then(|def| def.rules.fields_of());
        let item = Item::read(key, &stored, fields_of);
        item.map(|item| Some(Arc::new(item))).map_err(|error| {
            tracing::error!(storage, key, error = %chain(&error), "stored object is not readable");
            ApiError::internal("stored object is not readable")
        })
    }
}
