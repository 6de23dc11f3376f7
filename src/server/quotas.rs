//! Keeps `status` of every ResourceQuota: `hard` is what its spec says, `used` is counted anew
//! when something in its namespace goes or changes, and every five minutes.
//!
//! Beside the controllers and not among them, because it counts with the rules of admission
//! (`admission::resource_quota`), which charges every write before it is made. Between that charge
//! and the write the count would be too low: a count that lowers what is used is written only when
//! the quota has stood still for a while, and always with the revision it was read at.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::api::gvk::GroupVersionResource;
use crate::api::object::{Object, ObjectKey};
use crate::api::pod::Resources;
use crate::client::{
    Cache, Client, Informers, Kind, ListParams, Patch, Queue, Result,
    controller::{self, Action, Reconcile},
    key_of,
};
use crate::server::admission::resource_quota::plan;
use crate::server::registry::{Registry, ResourceDef};
use crate::util::tasks::Tasks;

const WORKERS: usize = 2;
/// How long a charged write may take to be seen.
const SETTLED: Duration = Duration::from_secs(1);
/// What is counted by `count/…` of any resource is counted anew this often (upstream's resync).
const RECOUNT: Duration = Duration::from_secs(300);

struct Quotas {
    quotas: Cache<ResourceQuota>,
    registry: Arc<Registry>,
    client: Client,
    /// Since when a quota has been at a revision, as seen here.
    seen: Mutex<HashMap<ObjectKey, (String, Instant)>>,
}

/// Starts in `tasks`.
pub(super) fn start(client: Client, informers: &Informers, registry: Arc<Registry>, tasks: &Tasks) {
    let quotas = informers.cache::<ResourceQuota>();
    let queue = Queue::new();
    let own = queue.clone();
    quotas.on_change(move |change| own.add(change.key()));
    follow(&informers.cache::<Pod>(), &quotas, &queue);
    follow(&informers.cache::<Service>(), &quotas, &queue);
    follow(&informers.cache::<PersistentVolumeClaim>(), &quotas, &queue);
    let controller = Quotas {
        quotas: quotas.clone(),
        registry,
        client,
        seen: Mutex::default(),
    };
    let ready = async move { quotas.synced().await };
    controller::start(tasks, Arc::new(controller), queue, WORKERS, ready);
}

/// Every change of an object puts the quotas of its namespace in the queue.
fn follow<K: Kind>(objects: &Cache<K>, quotas: &Cache<ResourceQuota>, queue: &Queue<ObjectKey>) {
    let (quotas, queue) = (quotas.clone(), queue.clone());
    objects.on_change(move |change| {
        for quota in quotas.in_namespace(&change.key().namespace) {
            queue.add(key_of(&quota.metadata));
        }
    });
}

impl Reconcile for Quotas {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "resource_quota"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        if self.quotas.get(key).is_none() {
            self.seen.lock().remove(key);
            return Ok(Action::Done);
        }
        let gvr = GroupVersionResource::new("", "v1", "resourcequotas");
        let api = self.client.dynamic(&gvr, &key.namespace);
        let Some(quota) = api.get_opt(&key.name).await? else {
            return Ok(Action::Done);
        };
        let stands_for = self.stands_for(key, quota.resource_version());
        let used = self.count(&quota, &key.namespace).await?;
        let Some(status) = status(&quota, &used) else {
            return Ok(Action::After(RECOUNT));
        };
        if lowers(&quota, &used) && stands_for < SETTLED {
            return Ok(Action::After(SETTLED - stands_for));
        }
        let patch = json!({"metadata": {"uid": quota.uid(),
            "resourceVersion": quota.resource_version()}, "status": status});
        match api.patch_status(&key.name, &Patch::Merge(patch)).await {
            Ok(_) => Ok(Action::After(RECOUNT)),
            Err(error) if error.is_not_found() => Ok(Action::Done),
            // Charged or written meanwhile: its change is in the queue.
            Err(error) if error.is_conflict() => Ok(Action::After(SETTLED)),
            Err(error) => Err(error),
        }
    }
}

impl Quotas {
    fn stands_for(&self, key: &ObjectKey, revision: &str) -> Duration {
        let mut seen = self.seen.lock();
        let entry = seen
            .entry(key.clone())
            .or_insert_with(|| (String::new(), Instant::now()));
        if entry.0 != revision {
            *entry = (revision.to_owned(), Instant::now());
        }
        entry.1.elapsed()
    }

    async fn count(&self, quota: &Object, namespace: &str) -> Result<Resources> {
        let hard = plan::amounts(quota, &["spec", "hard"]);
        let names = hard.into_keys();
        let mut used: Resources = names.map(|name| (name, Default::default())).collect();
        for def in counted(&self.registry, quota) {
            let api = self.client.dynamic(&def.gvr, namespace);
            let objects = api.list(&ListParams::default()).await?.items;
            plan::add_used(&mut used, quota, (&def, &objects));
        }
        Ok(used)
    }
}

/// The resources whose objects use something of the quota; of several versions the first.
fn counted(registry: &Registry, quota: &Object) -> Vec<Arc<ResourceDef>> {
    let snapshot = registry.snapshot();
    let mut known = BTreeSet::new();
    let all = snapshot.resources().iter();
    let lists = all.filter(|def| def.is_namespaced() && def.serves("list"));
    lists
        .filter(|def| plan::concerns(quota, def) && known.insert(def.storage.clone()))
        .cloned()
        .collect()
}

/// The new status; `None` where the quota has it.
fn status(quota: &Object, used: &Resources) -> Option<Value> {
    let hard = plan::amounts(quota, &["spec", "hard"]);
    let is_hard = plan::amounts(quota, &["status", "hard"]) == hard;
    let before = plan::amounts(quota, &["status", "used"]);
    if is_hard && before == *used {
        return None;
    }
    // What is no longer limited goes: a merge patch removes by null.
    let write = |new: &Resources, path: &[&str]| {
        let old = plan::amounts(quota, path).into_keys();
        let mut map: Map<String, Value> = old.map(|name| (name, Value::Null)).collect();
        map.extend(
            new.iter()
                .map(|(name, amount)| (name.clone(), amount.to_string().into())),
        );
        Value::Object(map)
    };
    Some(json!({"hard": write(&hard, &["status", "hard"]),
        "used": write(used, &["status", "used"])}))
}

fn lowers(quota: &Object, used: &Resources) -> bool {
    let before = plan::amounts(quota, &["status", "used"]);
    used.iter()
        .any(|(name, amount)| before.get(name).is_some_and(|before| amount < before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(status: Value) -> Object {
        Object::from_value(json!({"metadata": {"name": "q", "namespace": "n"},
            "spec": {"hard": {"pods": "2", "count/configmaps": "5"}}, "status": status}))
        .unwrap()
    }

    #[test]
    fn only_what_a_quota_names_is_counted() {
        let registry = Registry::builtin();
        let counted = counted(&registry, &quota(json!({})));
        let names: Vec<_> = counted.iter().map(|d| d.gvr.resource.as_str()).collect();
        assert_eq!(names, ["configmaps", "pods"]);
        let mut used: Resources = [("pods".to_owned(), Default::default())].into();
        let pod = |phase: &str| {
            Object::from_value(json!({"spec": {"containers": []}, "status": {"phase": phase}}))
                .unwrap()
        };
        let pods = [pod("Running"), pod("Succeeded")];
        plan::add_used(&mut used, &quota(json!({})), (&counted[1], &pods));
        assert_eq!(used["pods"].to_string(), "1");
    }

    #[test]
    fn a_status_is_written_where_it_differs() {
        let used: Resources = [("pods".to_owned(), "1".parse().unwrap())].into();
        let old = quota(json!({"hard": {"pods": "3", "cpu": "1"}, "used": {"pods": "2"}}));
        let new = status(&old, &used).unwrap();
        assert_eq!(
            new,
            json!({"hard": {"pods": "2", "count/configmaps": "5", "cpu": null},
                "used": {"pods": "1"}})
        );
        assert!(lowers(&old, &used));
        let same = quota(json!({"hard": {"pods": "2", "count/configmaps": "5"},
            "used": {"pods": "1"}}));
        assert_eq!(status(&same, &used), None);
    }
}
