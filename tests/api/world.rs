//! A real server with everything it starts, and nodes that run what is bound to them at once.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use orch::api::{object::ObjectKey, pod};
use orch::client::controller::{self, Action, Reconcile};
use orch::client::{
    Cache, Client, DeleteParams, Informers, Kind, ListParams, Patch, Queue, Result,
};
use orch::server::Server;
use orch::server::config::{Config, Options};
use orch::util::clock::Clock;
use orch::util::tasks::Tasks;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// A cluster.
pub struct World {
    pub client: Client,
    pub informers: Informers,
    pub tasks: Tasks,
    pub kubelets: Arc<Kubelets>,
    server: Server,
    _folder: tempfile::TempDir,
}

impl World {
    /// With the nodes `n1` … `nCOUNT`, Ready.
    pub async fn start(nodes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let options = Options {
            data_dir: folder.path().join("server"),
            bind_address: "127.0.0.1".into(),
            https_listen_port: 0,
            advertise_address: Some("192.0.2.7".into()),
            write_kubeconfig: PathBuf::new(),
            ..Options::default()
        };
        let config = Config::check(options).unwrap();
        let server = Server::start(config, Clock::system(), &tasks)
            .await
            .unwrap();
        let client = server.client("test");
        let informers = Informers::new(client.clone(), tasks.clone());
        let kubelets = Kubelets::start(&client, &informers, &tasks);
        let world = Self {
            client,
            informers,
            tasks,
            kubelets,
            server,
            _folder: folder,
        };
        for number in 1..=nodes {
            world.add_node(&format!("n{number}")).await;
        }
        world
            .until("the account of pods", || async {
                let api = world.client.namespaced::<ServiceAccount>("default");
                let account = api.get_opt("default").await.unwrap();
                account.map(drop).ok_or_else(|| "none".to_owned())
            })
            .await;
        world
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    pub async fn add_node(&self, name: &str) {
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]},
        });
        let node: Node = serde_json::from_value(node).unwrap();
        let nodes = self.client.all::<Node>();
        nodes.create(&node).await.unwrap();
        let status = json!({"status": node.status});
        nodes
            .patch_status(name, &Patch::Merge(status))
            .await
            .unwrap();
    }

    pub async fn create<K: Kind>(&self, namespace: &str, object: Value) -> K {
        let object = serde_json::from_value(object).unwrap();
        let api = self.client.namespaced::<K>(namespace);
        api.create(&object).await.unwrap()
    }

    pub async fn patch<K: Kind>(&self, name: &str, patch: Value) {
        let api = self.client.namespaced::<K>("default");
        api.patch(name, &Patch::Strategic(patch)).await.unwrap();
    }

    /// All objects of a kind in `default`.
    pub async fn list<K: Kind>(&self) -> Vec<K> {
        self.list_in("default").await
    }

    pub async fn list_in<K: Kind>(&self, namespace: &str) -> Vec<K> {
        let api = self.client.namespaced::<K>(namespace);
        api.list(&ListParams::default()).await.unwrap().items
    }

    /// Waits until `look` gives something; the failure shows what it saw last.
    pub async fn until<T, F>(&self, what: &str, mut look: impl FnMut() -> F) -> T
    where
        F: Future<Output = std::result::Result<T, String>>,
    {
        let deadline = tokio::time::Instant::now() + LIMIT;
        loop {
            match look().await {
                Ok(found) => return found,
                Err(seen) if tokio::time::Instant::now() > deadline => {
                    panic!("{what}: not within {LIMIT:?}; last seen: {seen}")
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Waits until `default` has exactly `count` pods, all ready; returns them.
    pub async fn ready_pods(&self, count: usize) -> Vec<Pod> {
        self.until("ready pods", || async {
            let pods = self.list::<Pod>().await;
            let ready = pods.iter().filter(|pod| pod::is_ready(pod)).count();
            if pods.len() == count && ready == count {
                return Ok(pods);
            }
            let names: Vec<_> = pods.iter().map(|pod| &pod.metadata.name).collect();
            Err(format!("{ready} of {} ready: {names:?}", pods.len()))
        })
        .await
    }

    /// Waits until `default` has no object of a kind left.
    pub async fn gone<K: Kind>(&self) {
        self.until("all gone", || async {
            let left = self.list::<K>().await;
            if left.is_empty() {
                return Ok(());
            }
            Err(format!("{} {} left", left.len(), K::KIND))
        })
        .await;
    }
}

/// How many pods are on each node.
pub fn by_node(pods: &[Pod]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for pod in pods {
        *counts.entry(pod::node_name(pod)).or_default() += 1;
    }
    counts
}

/// A Deployment of pods labelled `app=NAME`.
pub fn deployment(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}}},
    })
}

/// Images of pods that end at once.
pub const SUCCEEDS: &str = "succeeds:1";
pub const FAILS: &str = "fails:1";

fn image_of(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    let image = spec.and_then(|spec| spec.containers[0].image.as_deref());
    image.unwrap_or_default()
}

/// Plays every node: what is bound runs, or ends where its image says so; what is deleted ends.
pub struct Kubelets {
    client: Client,
    pods: Cache<Pod>,
    dead: Mutex<HashSet<String>>,
    address: AtomicU32,
}

struct Kubelet(Arc<Kubelets>);

impl Kubelets {
    fn start(client: &Client, informers: &Informers, tasks: &Tasks) -> Arc<Self> {
        let kubelets = Arc::new(Self {
            client: client.clone(),
            pods: informers.cache(),
            dead: Mutex::default(),
            address: AtomicU32::new(1),
        });
        let queue = Queue::new();
        let changed = queue.clone();
        kubelets
            .pods
            .on_change(move |change| changed.add(change.key()));
        let kubelet = Arc::new(Kubelet(kubelets.clone()));
        controller::start(tasks, kubelet, queue, 16, std::future::ready(()));
        kubelets
    }

    /// The node does nothing any more.
    pub fn kill(&self, node: &str) {
        self.dead.lock().insert(node.to_owned());
    }
}

impl Reconcile for Kubelet {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "kubelet"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(pod) = self.0.pods.get(key) else {
            return Ok(Action::Done);
        };
        let node = pod::node_name(&pod);
        if node.is_empty() || self.0.dead.lock().contains(node) {
            return Ok(Action::Done);
        }
        let api = self.0.client.namespaced::<Pod>(&key.namespace);
        if pod::is_terminating(&pod) {
            let result = api.delete(&key.name, &DeleteParams::now()).await;
            return result
                .or_else(|e| if e.is_not_found() { Ok(()) } else { Err(e) })
                .map(|()| Action::Done);
        }
        if pod::phase(&pod) == "Running" || pod::is_terminal(&pod) {
            return Ok(Action::Done);
        }
        let number = self.0.address.fetch_add(1, Ordering::Relaxed);
        let ip = format!("10.244.{}.{}", number / 250, number % 250 + 1);
        let (phase, ready) = match image_of(&pod) {
            SUCCEEDS => ("Succeeded", "False"),
            FAILS => ("Failed", "False"),
            _ => ("Running", "True"),
        };
        let status = json!({"metadata": {"uid": pod.metadata.uid}, "status": {
            "phase": phase, "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": ready,
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        match api.patch_status(&key.name, &Patch::Strategic(status)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Action::Done),
        }
    }
}
