//! Other objects, for plugins: from the cache, and from the store where the cache does not have
//! them yet.

use std::sync::Arc;

use crate::api::status::ApiError;
use crate::server::cacher::{Cacher, Item};
use crate::server::registry::Registry;
use crate::server::storage::keys;
use crate::store::Store;
use crate::util::errors::chain;

/// Reads objects by storage folder and local key.
#[derive(Clone)]
pub(crate) struct Lookup {
    cacher: Cacher,
    store: Arc<dyn Store>,
    registry: Arc<Registry>,
}

impl Lookup {
    pub(crate) fn new(cacher: Cacher, store: Arc<dyn Store>, registry: Arc<Registry>) -> Self {
        Self {
            cacher,
            store,
            registry,
        }
    }

    /// What the cache has: enough where a moment's delay does no harm.
    pub(super) fn cached(&self, storage: &str, key: &str) -> Option<Arc<Item>> {
        self.cacher.get(storage, key)
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
        let fields_of = registry.stored(storage).map(|def| def.rules.kind().fields);
        let item = Item::read(key, &stored, fields_of);
        item.map(|item| Some(Arc::new(item))).map_err(|error| {
            tracing::error!(storage, key, error = %chain(&error), "stored object is not readable");
            ApiError::internal("stored object is not readable")
        })
    }
}
