//! Reading as fresh as asked: from the cache where it is fresh enough, else from the store.

use std::sync::Arc;
use std::time::Duration;

use crate::api::object::Object;
use crate::api::status::{ApiError, FieldError};
use crate::server::cacher::Item;
use crate::server::registry::ResourceDef;
use crate::server::storage::{self, codec, keys};
use crate::store::Revision;

use super::{Core, errors};

/// How long a read waits for a revision that is not there yet, as upstream.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// An object as it is stored, with what the next write of it must be based on.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// With its `resourceVersion`, in the stored version.
    pub(super) object: Object,
    pub(super) revision: Revision,
}

/// Reads a `resourceVersion` parameter; `None` where it is empty.
pub(super) fn revision(field: &str, text: &str) -> Result<Option<Revision>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map(Revision);
    parsed.map(Some).map_err(|_| {
        let why = format!("strconv.ParseUint: parsing \"{text}\": invalid syntax");
        ApiError::bad_request(FieldError::invalid(field, &text.into(), &why).to_string())
    })
}

impl Core {
    /// The object as it is cached, where that is how it is now.
    fn cached(&self, def: &ResourceDef, key: &str) -> Option<Arc<Item>> {
        let item = self.cacher.get(&def.storage, key)?;
        let stored_key = keys::object(&def.storage, key);
        self.store
            .is_current(&stored_key, item.revision)
            .then_some(item)
    }

    /// The object as it is now.
    pub(super) async fn fresh(
        &self,
        def: &ResourceDef,
        key: &str,
    ) -> Result<Option<Arc<Item>>, ApiError> {
        if let Some(item) = self.cached(def, key) {
            return Ok(Some(item));
        }
        let fail = |error| errors::storage(error, def, key);
        let current = self.store.current().await;
        if self.cacher.applied() >= current.map_err(|e| fail(e.into()))? {
            return Ok(self.cacher.get(&def.storage, key));
        }
        // The cache is a moment behind; the store itself is as quick to ask as to wait for it.
        let (stored, _) = self
            .store
            .get(&keys::object(&def.storage, key))
            .await
            .map_err(|e| fail(e.into()))?;
        let item = stored.map(|stored| Item::read(key, &stored, None));
        Ok(item.transpose().map_err(fail)?.map(Arc::new))
    }

    /// The object as it is now, to be changed.
    pub(super) async fn stored(
        &self,
        def: &ResourceDef,
        key: &str,
    ) -> Result<Option<Stored>, ApiError> {
        let fail = |error: storage::Error| errors::storage(error, def, key);
        if let Some(item) = self.cached(def, key) {
            let (object, revision) = (item.object().map_err(fail)?, item.revision);
            return Ok(Some(Stored { object, revision }));
        }
        let read = self.store.get(&keys::object(&def.storage, key)).await;
        let (Some(stored), _) = read.map_err(|e| fail(e.into()))? else {
            return Ok(None);
        };
        let revision = stored.modified;
        let object = codec::decode(&stored.value, revision).map_err(fail)?;
        Ok(Some(Stored { object, revision }))
    }

    /// Waits until the cache shows everything up to now.
    pub(super) async fn wait_for_now(&self, def: &ResourceDef) -> Result<(), ApiError> {
        let current = self.store.current().await;
        let current = current.map_err(|e| errors::storage(e.into(), def, ""))?;
        self.wait_for(current).await
    }

    /// Waits until the cache shows everything up to `revision`.
    pub(super) async fn wait_for(&self, revision: Revision) -> Result<(), ApiError> {
        if self.cacher.wait_for(revision, WAIT_MAX).await {
            return Ok(());
        }
        Err(errors::too_large(revision, self.cacher.applied()))
    }
}
