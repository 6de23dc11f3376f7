//! From changes of caches to keys in queues.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::{meta, object::ObjectKey};
use crate::client::{Cache, Kind, Queue, key_of};

/// Every change of an object puts its key in the queue.
pub(crate) fn on_own<K: Kind>(cache: &Cache<K>, queue: &Queue<ObjectKey>) {
    let queue = queue.clone();
    cache.on_change(move |change| queue.add(change.key()));
}

/// Every change of an object puts the key of its controller in the queue, and of the controller it
/// had before, where it is a `kind`.
pub(crate) fn on_owned<K: Kind>(cache: &Cache<K>, kind: &'static str, queue: &Queue<ObjectKey>) {
    let queue = queue.clone();
    cache.on_change(move |change| {
        for object in change.both() {
            if let Some(key) = controller_key(object.metadata(), kind) {
                queue.add(key);
            }
        }
    });
}

/// The key of the controller, where it is a `kind`.
pub(crate) fn controller_key(object: &ObjectMeta, kind: &str) -> Option<ObjectKey> {
    let owner = meta::controller_of(object).filter(|owner| owner.kind == kind)?;
    Some(ObjectKey::new(meta::namespace(object), &owner.name))
}

/// Every object of `cache` that `selects` says is concerned by an orphan puts its key in the queue.
pub(crate) fn on_orphan<K: Kind, O: Kind>(
    orphans: &Cache<O>,
    owners: &Cache<K>,
    selects: impl Fn(&K, &ObjectMeta) -> bool + Send + Sync + 'static,
    queue: &Queue<ObjectKey>,
) {
    let (owners, queue) = (owners.clone(), queue.clone());
    orphans.on_change(move |change| {
        let Some(object) = &change.new else { return };
        let object = object.metadata();
        if meta::controller_of(object).is_some() || object.labels.is_none() {
            return;
        }
        for owner in owners.in_namespace(meta::namespace(object)) {
            if selects(&owner, object) {
                queue.add(key_of(owner.metadata()));
            }
        }
    });
}
