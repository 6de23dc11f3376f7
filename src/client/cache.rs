//! A watched copy of one kind in memory: one [`Writer`] owned by the watching task, any number of
//! cheap read handles.
//!
//! Objects are `Arc`s and never changed. A relist swaps in whole, and what changed by it is told
//! like any other change. Listeners are called by the writing task, in order, after the cache
//! shows the change; they must not block: they put keys into queues, which are bounded by the
//! number of objects because a key is in a queue once. So no change is ever lost on a listener.
//!
//! Lock order: listeners, then objects. No lock is held while a listener runs but the listeners'
//! own, so a listener may read any cache, and must not add a listener.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::api::{meta, object::ObjectKey};

use super::watch::{Event, Step};
use super::{Kind, key_of, trim};

/// Index of [`Cache::controlled_by`].
const BY_CONTROLLER: &str = "controller";
/// Index of [`Cache::in_namespace`].
const BY_NAMESPACE: &str = "namespace";

/// A change of one object.
#[derive(Debug)]
pub struct Change<K> {
    /// As it was; `None` where it is new.
    pub old: Option<Arc<K>>,
    /// As it is; `None` where it is gone.
    pub new: Option<Arc<K>>,
}

impl<K: Kind> Change<K> {
    /// The object, new where there is a new one.
    pub fn object(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }

    /// The key of the object.
    pub fn key(&self) -> ObjectKey {
        self.object()
            .map(|object| key_of(object.metadata()))
            .unwrap_or_default()
    }

    /// Both states, the old one first, where they are.
    pub fn both(&self) -> impl Iterator<Item = &Arc<K>> {
        self.old.iter().chain(self.new.iter())
    }
}

type Listener<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;
type Values<K> = fn(&K) -> Vec<String>;

/// A read handle. Clones share the copy.
pub struct Cache<K> {
    shared: Arc<Shared<K>>,
}

/// The one writer of a copy.
pub struct Writer<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    objects: RwLock<Objects<K>>,
    listeners: Mutex<Vec<Listener<K>>>,
    synced: watch::Sender<bool>,
}

struct Objects<K> {
    by_key: HashMap<Arc<ObjectKey>, Arc<K>>,
    indexes: BTreeMap<&'static str, Index<K>>,
}

struct Index<K> {
    values: Values<K>,
    keys: HashMap<String, BTreeSet<Arc<ObjectKey>>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<K: Kind> std::fmt::Debug for Cache<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache<{}>({})", K::KIND, self.len())
    }
}

impl<K: Kind> std::fmt::Debug for Writer<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer<{}>", K::KIND)
    }
}

/// An empty copy: its writer and a first handle.
pub fn cache<K: Kind>() -> (Writer<K>, Cache<K>) {
    let objects = Objects {
        by_key: HashMap::new(),
        indexes: BTreeMap::new(),
    };
    let shared = Arc::new(Shared {
        objects: RwLock::new(objects),
        listeners: Mutex::new(Vec::new()),
        synced: watch::Sender::new(false),
    });
    let cache = Cache {
        shared: shared.clone(),
    };
    (Writer { shared }, cache)
}

// === impl Cache ===

impl<K: Kind> Cache<K> {
    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.objects.read().by_key.get(key).cloned()
    }

    /// All objects, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared
            .objects
            .read()
            .by_key
            .values()
            .cloned()
            .collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.shared.objects.read().by_key.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps an index from now on: `values` are what an object is found by. Setting it again
    /// changes nothing.
    pub fn index(&self, name: &'static str, values: Values<K>) {
        let mut objects = self.shared.objects.write();
        if objects.indexes.contains_key(name) {
            return;
        }
        let mut index = Index {
            values,
            keys: HashMap::new(),
        };
        for (key, object) in &objects.by_key {
            index.add(key, object);
        }
        objects.indexes.insert(name, index);
    }

    /// The objects found by `value` in an index made with [`Cache::index`], ordered by key. None
    /// where there is no such index.
    pub fn by_index(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        let objects = self.shared.objects.read();
        let index = objects.indexes.get(name);
        debug_assert!(index.is_some(), "no index `{name}` of {}", K::KIND);
        let keys = index.and_then(|index| index.keys.get(value));
        let keys = keys.into_iter().flatten();
        keys.filter_map(|key| objects.by_key.get(key).cloned())
            .collect()
    }

    /// The objects of a namespace, ordered by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.ensure_index(BY_NAMESPACE, namespace_of);
        self.by_index(BY_NAMESPACE, namespace)
    }

    /// The objects whose controller has this uid, ordered by key.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.ensure_index(BY_CONTROLLER, controller_uid);
        self.by_index(BY_CONTROLLER, uid)
    }

    /// Resolves when the copy was complete once.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives in `shared`, which `self` holds: waiting cannot fail.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Whether the copy was complete once.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Calls `listener` now for every object there is, and from now on at every change.
    pub fn on_change(&self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut listeners = self.shared.listeners.lock();
        for object in self.list() {
            listener(&Change {
                old: None,
                new: Some(object),
            });
        }
        listeners.push(Box::new(listener));
    }

    /// The keys that change from now on, each once until taken; at first those there are.
    pub fn changes(&self) -> Changes {
        let changes = Changes::default();
        let told = changes.clone();
        self.on_change(move |change| told.add(change.key()));
        changes
    }

    fn ensure_index(&self, name: &'static str, values: Values<K>) {
        if !self.shared.objects.read().indexes.contains_key(name) {
            self.index(name, values);
        }
    }
}

// === impl Writer ===

impl<K: Kind> Writer<K> {
    /// Carries out a step of the watch and tells the listeners.
    pub fn apply(&mut self, step: Step<K>) {
        match step {
            Step::Listed(objects) => self.replace(objects),
            Step::Changed(Event::Added(object) | Event::Modified(object)) => {
                let key = key_of(object.metadata());
                self.set(key, Some(object));
            }
            Step::Changed(Event::Deleted(object)) => self.set(key_of(object.metadata()), None),
            Step::Changed(Event::Bookmark(_)) => {}
        }
    }

    fn replace(&mut self, objects: Vec<K>) {
        let named: HashSet<_> = objects.iter().map(|o| key_of(o.metadata())).collect();
        let known: Vec<_> = {
            let objects = self.shared.objects.read();
            objects.by_key.keys().cloned().collect()
        };
        for key in known {
            if !named.contains(&*key) {
                self.set((*key).clone(), None);
            }
        }
        for object in objects {
            let key = key_of(object.metadata());
            if !self.has(&key, &object) {
                self.set(key, Some(object));
            }
        }
        self.shared.synced.send_replace(true);
    }

    fn has(&self, key: &ObjectKey, object: &K) -> bool {
        let objects = self.shared.objects.read();
        let known = objects.by_key.get(key);
        known.is_some_and(|known| {
            let (known, object) = (known.metadata(), object.metadata());
            known.uid == object.uid
                && known.resource_version == object.resource_version
                && object.resource_version.is_some()
        })
    }

    fn set(&mut self, key: ObjectKey, object: Option<K>) {
        let new = object.map(|mut object| {
            trim(object.metadata_mut());
            Arc::new(object)
        });
        let listeners = self.shared.listeners.lock();
        let old = self.shared.objects.write().set(key, new.clone());
        if old.is_none() && new.is_none() {
            return;
        }
        let change = Change { old, new };
        for listener in listeners.iter() {
            listener(&change);
        }
    }
}

impl<K> Objects<K> {
    fn set(&mut self, key: ObjectKey, object: Option<Arc<K>>) -> Option<Arc<K>> {
        let known = self.by_key.remove_entry(&key);
        let (key, old) = match known {
            Some((key, old)) => {
                for index in self.indexes.values_mut() {
                    index.remove(&key, &old);
                }
                (key, Some(old))
            }
            None => (Arc::new(key), None),
        };
        if let Some(object) = object {
            for index in self.indexes.values_mut() {
                index.add(&key, &object);
            }
            self.by_key.insert(key, object);
        }
        old
    }
}

impl<K> Index<K> {
    fn add(&mut self, key: &Arc<ObjectKey>, object: &K) {
        for value in (self.values)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Arc<ObjectKey>, object: &K) {
        for value in (self.values)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

/// Keys that changed, each once until taken. Clones share the set.
#[derive(Clone, Debug, Default)]
pub struct Changes<T: Ord = ObjectKey>(Arc<Pending<T>>);

#[derive(Debug)]
struct Pending<T> {
    keys: Mutex<BTreeSet<T>>,
    more: Notify,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self {
            keys: Mutex::default(),
            more: Notify::new(),
        }
    }
}

impl<T: Ord> Changes<T> {
    /// Adds a key and wakes who waits.
    pub fn add(&self, key: T) {
        self.0.keys.lock().insert(key);
        self.0.more.notify_one();
    }

    /// Takes all keys there are now.
    pub fn take(&self) -> BTreeSet<T> {
        std::mem::take(&mut *self.0.keys.lock())
    }

    /// Resolves when there is a key to take. For one consumer.
    pub async fn changed(&self) {
        while self.0.keys.lock().is_empty() {
            self.0.more.notified().await;
        }
    }

    /// Takes all keys, waiting for the first. For one consumer. Nothing is lost when dropped
    /// while waiting.
    pub async fn next(&self) -> BTreeSet<T> {
        loop {
            let keys = std::mem::take(&mut *self.0.keys.lock());
            if !keys.is_empty() {
                return keys;
            }
            self.0.more.notified().await;
        }
    }
}

fn namespace_of<K: Kind>(object: &K) -> Vec<String> {
    object.metadata().namespace.iter().cloned().collect()
}

fn controller_uid<K: Kind>(object: &K) -> Vec<String> {
    let owner = meta::controller_of(object.metadata());
    owner.map(|owner| owner.uid.clone()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    fn object(name: &str, revision: &str, controller: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {
            "name": name, "namespace": "d", "resourceVersion": revision,
            "managedFields": [{"manager": "x"}],
            "ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "x",
                "uid": controller, "controller": true}]}}))
        .unwrap()
    }

    fn names(objects: &[Arc<ConfigMap>]) -> Vec<&str> {
        objects
            .iter()
            .filter_map(|o| o.metadata.name.as_deref())
            .collect()
    }

    #[test]
    fn indexes_follow_every_change() {
        let (mut writer, cache) = cache::<ConfigMap>();
        writer.apply(Step::Listed(vec![
            object("b", "1", "u"),
            object("a", "2", "u"),
        ]));
        assert_eq!(names(&cache.controlled_by("u")), ["a", "b"]);
        writer.apply(Step::Changed(Event::Modified(object("a", "3", "v"))));
        assert_eq!(names(&cache.controlled_by("u")), ["b"]);
        assert_eq!(names(&cache.in_namespace("d")), ["a", "b"]);
        writer.apply(Step::Changed(Event::Deleted(object("b", "4", "u"))));
        assert!(cache.controlled_by("u").is_empty());
        let kept = cache.get(&ObjectKey::new("d", "a")).unwrap();
        assert!(kept.metadata.managed_fields.is_none());
    }

    #[tokio::test]
    async fn a_relist_tells_only_what_differs() {
        let (mut writer, cache) = cache::<ConfigMap>();
        let changes = cache.changes();
        assert!(!cache.is_synced());
        writer.apply(Step::Listed(vec![
            object("a", "1", "u"),
            object("b", "2", "u"),
            object("c", "3", "u"),
        ]));
        cache.synced().await;
        assert_eq!(changes.next().await.len(), 3);
        writer.apply(Step::Listed(vec![
            object("a", "1", "u"),
            object("b", "9", "u"),
        ]));
        let changed: BTreeSet<_> = changes.next().await.into_iter().map(|k| k.name).collect();
        assert_eq!(changed, BTreeSet::from(["b".to_owned(), "c".to_owned()]));
        assert_eq!(cache.len(), 2);
    }

    #[test]
    fn a_listener_that_comes_late_is_told_of_what_there_is() {
        let (mut writer, cache) = cache::<ConfigMap>();
        writer.apply(Step::Listed(vec![object("a", "1", "u")]));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let told = seen.clone();
        cache.on_change(move |change| {
            told.lock().push((change.key().name, change.old.is_some()));
        });
        writer.apply(Step::Changed(Event::Modified(object("a", "2", "u"))));
        assert_eq!(
            *seen.lock(),
            [("a".to_owned(), false), ("a".to_owned(), true)]
        );
    }
}
