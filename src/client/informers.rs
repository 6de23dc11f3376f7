//! At most one watch a kind a process: caches are made when first asked for and shared after.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::util::{rng::Rng, tasks::Tasks};

use super::cache::{self, Cache};
use super::{Client, Kind, ListParams, watch};

type Started = HashMap<(TypeId, String, String), Box<dyn Any + Send + Sync>>;

/// The caches of a process. Clones share them.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    tasks: Tasks,
    rng: Rng,
    started: Arc<Mutex<Started>>,
}

impl std::fmt::Debug for Informers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Informers({})", self.started.lock().len())
    }
}

impl Informers {
    /// Watches through `client`, in `tasks`. Nothing is watched yet.
    pub fn new(client: Client, tasks: Tasks) -> Self {
        Self {
            client,
            tasks,
            rng: Rng::from_system(),
            started: Arc::default(),
        }
    }

    /// The copy of all objects of a kind; its watch starts with the first call.
    pub fn cache<K: Kind>(&self) -> Cache<K> {
        self.cache_where(&ListParams::default())
    }

    /// The copy of the objects that the selectors of `select` select; one watch for each kind and
    /// selection.
    pub fn cache_where<K: Kind>(&self, select: &ListParams) -> Cache<K> {
        let mut started = self.started.lock();
        let id = (
            TypeId::of::<K>(),
            select.labels.clone(),
            select.fields.clone(),
        );
        if let Some(cache) = started.get(&id).and_then(|c| c.downcast_ref::<Cache<K>>()) {
            return cache.clone();
        }
        let cache = self.start(select);
        started.insert(id, Box::new(cache.clone()));
        cache
    }

    fn start<K: Kind>(&self, select: &ListParams) -> Cache<K> {
        let (mut writer, cache) = cache::cache::<K>();
        let api = self.client.all::<K>();
        let cancelled = self.tasks.cancelled();
        let select = ListParams {
            labels: select.labels.clone(),
            fields: select.fields.clone(),
            ..ListParams::default()
        };
        let rng = self.rng.clone();
        self.tasks.service(K::KIND, async move {
            let steps = watch::run(&api, &select, rng, |step| writer.apply(step));
            cancelled.run_until_cancelled(steps).await;
        });
        cache
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::Fake;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    #[tokio::test]
    async fn a_kind_is_listed_and_watched_once() {
        let fake = Fake::new();
        fake.answer(
            "GET /api/v1/configmaps",
            json!({"metadata": {"resourceVersion": "3"}, "items": []}),
        );
        let tasks = Tasks::new();
        let informers = Informers::new(fake.client(), tasks.clone());
        informers.cache::<ConfigMap>().synced().await;
        informers.cache::<ConfigMap>().synced().await;
        tasks.shutdown(std::time::Duration::from_secs(5)).await;
        let lists = fake.seen();
        let lists = lists.iter().filter(|(line, _)| !line.contains("watch"));
        assert_eq!(lists.count(), 1);
    }
}
