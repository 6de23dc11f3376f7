//! The ConfigMaps and Secrets that pods of this node refer to, each watched alone: a node may read
//! no others, and holds no others in memory.
//!
//! A pod *holds* what it refers to from its first set-up until it is gone. A change of what it
//! holds wakes it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret, VolumeProjection};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::client::{Client, HasMeta, Kind, ListParams, watch as api_watch};
use crate::util::{rng::Rng, tasks::Tasks};

/// How long a pod waits for the first answer about an object.
const FIRST_ANSWER: Duration = Duration::from_secs(10);

/// Called when something a pod holds has changed.
pub(crate) type Wake = Arc<dyn Fn() + Send + Sync>;

/// Which kind is referred to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Sort {
    ConfigMap,
    Secret,
}

/// An object of the pod's namespace.
pub(crate) type Reference = (Sort, String);

/// What was found of what a pod refers to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub(crate) secrets: BTreeMap<String, Arc<Secret>>,
}

impl Found {
    pub(crate) fn config_map(&self, name: &str) -> Option<&ConfigMap> {
        self.config_maps.get(name).map(|object| &**object)
    }

    pub(crate) fn secret(&self, name: &str) -> Option<&Secret> {
        self.secrets.get(name).map(|object| &**object)
    }
}

#[derive(Clone)]
enum Value {
    ConfigMap(Arc<ConfigMap>),
    Secret(Arc<Secret>),
}

/// `None`: not known yet; `Some(None)`: there is none.
type Known = Option<Option<Value>>;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    sort: Sort,
    namespace: String,
    name: String,
}

struct Held {
    users: HashMap<String, Wake>,
    value: watch::Receiver<Known>,
    tasks: Tasks,
}

/// The objects held. Clones share them.
#[derive(Clone)]
pub(crate) struct Objects(Arc<Inner>);

struct Inner {
    client: Client,
    rng: Rng,
    tasks: Tasks,
    held: Mutex<HashMap<Key, Held>>,
}

impl Objects {
    pub(crate) fn new(client: Client, rng: Rng, tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            client,
            rng,
            tasks,
            held: Mutex::default(),
        }))
    }

    /// Starts to watch what the pod refers to, where nobody does yet.
    pub(crate) fn hold(&self, pod: &Pod, wake: &Wake) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let mut held = self.0.held.lock();
        for (sort, name) in references(pod) {
            let key = Key {
                sort,
                namespace: namespace.clone(),
                name,
            };
            let entry = held.entry(key.clone()).or_insert_with(|| self.follow(key));
            entry.users.insert(uid.clone(), wake.clone());
        }
    }

    /// The pod needs nothing any more.
    pub(crate) fn release(&self, uid: &str) {
        self.0.held.lock().retain(|_, held| {
            held.users.remove(uid);
            if held.users.is_empty() {
                held.tasks.cancel();
            }
            !held.users.is_empty()
        });
    }

    /// What there is of what the pod holds.
    ///
    /// Errors: an object about which the server has not answered in time.
    pub(crate) async fn found(&self, pod: &Pod) -> Result<Found, String> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let mut found = Found::default();
        for (sort, name) in references(pod) {
            let key = Key {
                sort,
                namespace: namespace.clone(),
                name,
            };
            let receiver = self.0.held.lock().get(&key).map(|held| held.value.clone());
            let Some(mut receiver) = receiver else {
                continue;
            };
            let known = tokio::time::timeout(FIRST_ANSWER, receiver.wait_for(Option::is_some));
            let value = match known.await {
                Ok(Ok(value)) => value.clone().flatten(),
                _ => {
                    let kind = match key.sort {
                        Sort::ConfigMap => "configmap",
                        Sort::Secret => "secret",
                    };
                    return Err(format!(
                        "failed to sync {kind} cache: timed out waiting for the condition"
                    ));
                }
            };
            match value {
                Some(Value::ConfigMap(object)) => {
                    found.config_maps.insert(key.name, object);
                }
                Some(Value::Secret(object)) => {
                    found.secrets.insert(key.name, object);
                }
                None => {}
            }
        }
        Ok(found)
    }

    fn follow(&self, key: Key) -> Held {
        let (sender, value) = watch::channel(None);
        let tasks = self.0.tasks.child();
        let objects = self.clone();
        let cancelled = tasks.cancelled();
        tasks.service("object", async move {
            let follow = async {
                match key.sort {
                    Sort::ConfigMap => {
                        objects
                            .run::<ConfigMap>(&key, &sender, |o| Value::ConfigMap(Arc::new(o)))
                            .await;
                    }
                    Sort::Secret => {
                        objects
                            .run::<Secret>(&key, &sender, |o| Value::Secret(Arc::new(o)))
                            .await;
                    }
                }
            };
            tokio::select! {
                () = follow => {}
                () = cancelled.cancelled() => {}
            }
        });
        Held {
            users: HashMap::new(),
            value,
            tasks,
        }
    }

    async fn run<K: Kind + HasMeta + DeserializeOwned>(
        &self,
        key: &Key,
        sender: &watch::Sender<Known>,
        made: fn(K) -> Value,
    ) {
        let api = self.0.client.namespaced::<K>(&key.namespace);
        let params = ListParams::fields(&format!("metadata.name={}", key.name));
        api_watch::run(&api, &params, self.0.rng.clone(), |step| {
            use api_watch::{Event, Step};
            let value = match step {
                Step::Listed(items) => items.into_iter().next().map(made),
                Step::Changed(Event::Added(object) | Event::Modified(object)) => Some(made(object)),
                Step::Changed(Event::Deleted(_)) => None,
                Step::Changed(Event::Bookmark(_)) => return,
            };
            let was_known = sender.send_replace(Some(value)).is_some();
            if was_known {
                self.wake(key);
            }
        })
        .await;
    }

    fn wake(&self, key: &Key) {
        let wakes: Vec<Wake> = {
            let held = self.0.held.lock();
            let users = held.get(key).map(|held| held.users.values().cloned());
            users.map(Iterator::collect).unwrap_or_default()
        };
        for wake in wakes {
            wake();
        }
    }
}

/// Every ConfigMap and Secret that variables and volumes of the pod name.
pub(crate) fn references(pod: &Pod) -> BTreeSet<Reference> {
    let mut all = BTreeSet::new();
    let Some(spec) = &pod.spec else { return all };
    let init = spec.init_containers.iter().flatten();
    for container in init.chain(&spec.containers) {
        of_container(container, &mut all);
    }
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = &volume.config_map {
            all.insert((Sort::ConfigMap, source.name.clone()));
        }
        if let Some(name) = volume.secret.as_ref().and_then(|s| s.secret_name.clone()) {
            all.insert((Sort::Secret, name));
        }
        let projected = volume.projected.as_ref();
        let sources = projected.and_then(|p| p.sources.as_deref());
        for source in sources.unwrap_or_default() {
            of_projection(source, &mut all);
        }
    }
    all.retain(|(_, name)| !name.is_empty());
    all
}

fn of_container(container: &Container, all: &mut BTreeSet<Reference>) {
    for variable in container.env.iter().flatten() {
        let Some(from) = &variable.value_from else {
            continue;
        };
        if let Some(key) = &from.config_map_key_ref {
            all.insert((Sort::ConfigMap, key.name.clone()));
        }
        if let Some(key) = &from.secret_key_ref {
            all.insert((Sort::Secret, key.name.clone()));
        }
    }
    for from in container.env_from.iter().flatten() {
        if let Some(reference) = &from.config_map_ref {
            all.insert((Sort::ConfigMap, reference.name.clone()));
        }
        if let Some(reference) = &from.secret_ref {
            all.insert((Sort::Secret, reference.name.clone()));
        }
    }
}

fn of_projection(source: &VolumeProjection, all: &mut BTreeSet<Reference>) {
    if let Some(map) = &source.config_map {
        all.insert((Sort::ConfigMap, map.name.clone()));
    }
    if let Some(secret) = &source.secret {
        all.insert((Sort::Secret, secret.name.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::Fake;
    use bytes::Bytes;
    use serde_json::json;
    use tokio::sync::mpsc;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [{"name": "c", "env": [{"name": "X", "valueFrom":
                {"configMapKeyRef": {"name": "cm", "key": "k"}}}]}],
                "volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}))
        .unwrap()
    }

    #[test]
    fn references_come_from_variables_and_volumes() {
        let expected = [
            (Sort::ConfigMap, "cm".to_owned()),
            (Sort::Secret, "s".to_owned()),
        ];
        assert_eq!(references(&pod()), BTreeSet::from(expected));
    }

    #[tokio::test]
    async fn a_held_object_is_followed_and_its_changes_wake_the_pod() {
        let fake = Fake::new();
        let maps = "/api/v1/namespaces/n/configmaps";
        let list = |items: serde_json::Value| json!({"metadata": {"resourceVersion": "5"}, "items": items});
        let map = json!({"metadata": {"name": "cm"}, "data": {"k": "1"}});
        fake.answer(&format!("GET {maps}"), list(json!([map])));
        fake.answer("GET /api/v1/namespaces/n/secrets", list(json!([])));
        let mut stream = fake.stream(maps);
        let tasks = Tasks::new();
        let objects = Objects::new(fake.client(), Rng::seeded(1), tasks.clone());
        let (woken, mut wakes) = mpsc::channel(8);
        let wake: Wake = Arc::new(move || woken.try_send(()).unwrap());
        objects.hold(&pod(), &wake);
        let found = objects.found(&pod()).await.unwrap();
        assert_eq!(
            found.config_map("cm").unwrap().data.as_ref().unwrap()["k"],
            "1"
        );
        assert!(found.secret("s").is_none());
        let changed = json!({"type": "MODIFIED", "object":
            {"metadata": {"name": "cm", "resourceVersion": "6"}, "data": {"k": "2"}}});
        let line = Bytes::from(format!("{changed}\n"));
        stream.send_data(line).await.unwrap();
        wakes.recv().await.unwrap();
        let found = objects.found(&pod()).await.unwrap();
        assert_eq!(
            found.config_map("cm").unwrap().data.as_ref().unwrap()["k"],
            "2"
        );
        objects.release("u");
        assert!(objects.0.held.lock().is_empty());
        assert!(tasks.shutdown(Duration::from_secs(5)).await);
    }
}
