//! A real server in this process, a runtime in memory, and the real agent between them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Event, Node, Pod};
use orch::agent::seam::{HostPort, NetworkError, PinnedNamespaces, PodNetwork};
use orch::agent::{self, Agent, Config};
use orch::api::object::ObjectKey;
use orch::client::{Client, DeleteParams, ListParams};
use orch::runtime::fake::Fake;
use orch::runtime::{ContainerSpec, ImageConfig};
use orch::server::Server;
use orch::server::config as server_config;
use orch::server::request::User;
use orch::util::clock::Clock;
use orch::util::rng::Rng;
use orch::util::tasks::Tasks;
use parking_lot::Mutex;
use serde_json::{Value, json};

pub const NODE: &str = "n1";
const LIMIT: Duration = Duration::from_secs(20);

/// A network that gives addresses and remembers who has one.
#[derive(Default)]
pub struct FakeNetwork {
    attached: Mutex<BTreeMap<String, Vec<IpAddr>>>,
    next: AtomicU8,
}

#[async_trait]
impl PodNetwork for FakeNetwork {
    async fn pin(
        &self,
        folder: &Path,
        _hostname: &str,
        _sysctls: &[(String, String)],
    ) -> Result<PinnedNamespaces, NetworkError> {
        Ok(PinnedNamespaces {
            network: folder.join("net"),
            ipc: folder.join("ipc"),
            uts: folder.join("uts"),
        })
    }

    async fn unpin(&self, _folder: &Path) -> Result<(), NetworkError> {
        Ok(())
    }

    async fn attach(
        &self,
        uid: &str,
        _network: &Path,
        _ports: &[HostPort],
    ) -> Result<Vec<IpAddr>, NetworkError> {
        let mut attached = self.attached.lock();
        let given = attached.entry(uid.to_owned()).or_insert_with(|| {
            let last = self.next.fetch_add(1, Ordering::Relaxed) + 2;
            vec![IpAddr::from([10, 244, 0, last])]
        });
        Ok(given.clone())
    }

    async fn detach(&self, uid: &str) -> Result<(), NetworkError> {
        self.attached.lock().remove(uid);
        Ok(())
    }

    async fn attached(&self) -> Result<Vec<(String, Vec<IpAddr>)>, NetworkError> {
        Ok(self.attached.lock().clone().into_iter().collect())
    }
}

impl FakeNetwork {
    pub fn count(&self) -> usize {
        self.attached.lock().len()
    }
}

/// A cluster of one node.
pub struct World {
    pub client: Client,
    pub runtime: Arc<Fake>,
    pub network: Arc<FakeNetwork>,
    pub agent: Option<Agent>,
    pub folder: tempfile::TempDir,
    server: Server,
    tasks: Tasks,
}

impl World {
    /// The server is up and the node is Ready.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tasks = Tasks::new();
        let options = server_config::Options {
            data_dir: folder.path().join("server"),
            bind_address: "127.0.0.1".into(),
            https_listen_port: 0,
            advertise_address: Some("192.168.77.5".into()),
            write_kubeconfig: PathBuf::new(),
            ..server_config::Options::default()
        };
        let config = server_config::Config::check(options).unwrap();
        let server = Server::start(config, Clock::system(), &tasks)
            .await
            .unwrap();
        let runtime = Fake::new(Clock::system());
        runtime.add_image("image:1", ImageConfig::default());
        let mut world = Self {
            client: server.client("test"),
            runtime,
            network: Arc::default(),
            agent: None,
            folder,
            server,
            tasks,
        };
        world.start_agent();
        world.until_ready().await;
        world
    }

    /// Starts an agent over the same folders and containers.
    pub fn start_agent(&mut self) {
        let user = User {
            name: format!("system:node:{NODE}"),
            groups: vec!["system:nodes".into(), "system:authenticated".into()],
            ..User::default()
        };
        let parts = agent::Parts {
            transport: self.server.handler().transport(user),
            runtime: self.runtime.clone(),
            network: self.network.clone(),
            clock: Clock::system(),
            rng: Rng::from_system(),
            cgroups: None,
        };
        let address = "192.168.77.5".parse().unwrap();
        let mut config = Config::new(NODE, address, self.folder.path().join("node"));
        // A test is not about how full this machine's disk is.
        config.eviction_hard.clear();
        self.agent = Some(Agent::start(config, parts, &self.tasks).unwrap());
    }

    pub async fn stop_agent(&mut self) {
        self.agent.take().unwrap().stop().await;
    }

    pub async fn stop(mut self) {
        self.stop_agent().await;
        assert!(self.server.stop().await);
    }

    async fn until_ready(&self) {
        let nodes = self.client.all::<Node>();
        self.until("the node is Ready", async || {
            let node = nodes.get_opt(NODE).await.unwrap();
            let node = node.ok_or("there is no node")?;
            let ready = node
                .status
                .iter()
                .flat_map(|s| s.conditions.iter().flatten());
            let mut ready = ready.filter(|c| c.type_ == "Ready");
            let ready = ready.next().ok_or("no condition")?;
            (ready.status == "True")
                .then_some(())
                .ok_or_else(|| format!("{:?}", ready.message))
        })
        .await;
    }

    /// Waits until `look` gives something.
    pub async fn until<T, E: ToString>(
        &self,
        what: &str,
        look: impl AsyncFn() -> Result<T, E>,
    ) -> T {
        let began = tokio::time::Instant::now();
        loop {
            match look().await {
                Ok(found) => return found,
                Err(seen) if began.elapsed() > LIMIT => {
                    panic!("{what}: last seen: {}", seen.to_string())
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Makes a pod in `default`; the scheduler or the spec puts it on the node.
    pub async fn create(&self, name: &str, spec: Value) -> Pod {
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let api = self.client.namespaced::<Pod>("default");
        api.create(&pod).await.unwrap()
    }

    /// The pod's status as JSON, when `is` holds of it.
    pub async fn until_status(&self, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let api = self.client.namespaced::<Pod>("default");
        self.until(&format!("status of {name}"), async || {
            let pod = api.get_opt(name).await.unwrap();
            let pod = pod.ok_or("there is no such pod")?;
            let status = serde_json::to_value(pod.status).unwrap();
            if is(&status) {
                Ok(status)
            } else {
                Err(status.to_string())
            }
        })
        .await
    }

    pub async fn until_ready_pod(&self, name: &str) -> Value {
        self.until_status(name, |status| condition(status, "Ready") == "True")
            .await
    }

    pub async fn delete(&self, name: &str, grace: Option<i64>) {
        let params = DeleteParams {
            grace_period_seconds: grace,
            ..DeleteParams::default()
        };
        let api = self.client.namespaced::<Pod>("default");
        api.delete(name, &params).await.unwrap();
    }

    pub async fn until_gone(&self, name: &str) {
        let api = self.client.namespaced::<Pod>("default");
        self.until(&format!("{name} is gone"), async || {
            match api.get_opt(name).await.unwrap() {
                None => Ok(()),
                Some(pod) => Err(format!("{:?}", pod.status)),
            }
        })
        .await;
    }

    /// The ids of a container's attempts, oldest first.
    pub fn ids(&self, pod: &str, container: &str) -> Vec<String> {
        let pods = self.agent.as_ref().unwrap().pods();
        let info = pods.pod(&ObjectKey::new("default", pod));
        let info = info.and_then(|info| info.containers.get(container).cloned());
        let info = info
            .into_iter()
            .flat_map(|info| [info.previous, info.current]);
        info.flatten().map(|attempt| attempt.id).collect()
    }

    /// The running attempt's id and spec.
    pub fn running(&self, pod: &str, container: &str) -> (String, ContainerSpec) {
        let id = self.ids(pod, container).pop().unwrap();
        let spec = self.runtime.spec(&id).unwrap();
        (id, spec)
    }

    /// Reasons of the events of a pod, in no order.
    pub async fn until_event(&self, pod: &str, reason: &str) -> String {
        let api = self.client.namespaced::<Event>("default");
        self.until(&format!("event {reason} of {pod}"), async || {
            let events = api.list(&ListParams::default()).await.unwrap().items;
            let seen = format!(
                "{:?}",
                events.iter().map(|e| e.reason.clone()).collect::<Vec<_>>()
            );
            let mut found = events.into_iter().filter(|event| {
                event.involved_object.name.as_deref() == Some(pod)
                    && event.reason.as_deref() == Some(reason)
            });
            found
                .next()
                .map(|event| event.message.unwrap_or_default())
                .ok_or(seen)
        })
        .await
    }
}

pub fn condition(status: &Value, kind: &str) -> String {
    let list = status["conditions"].as_array();
    let mut found = list.into_iter().flatten().filter(|c| c["type"] == kind);
    let found = found.next().and_then(|c| c["status"].as_str());
    found.unwrap_or_default().to_owned()
}

pub fn waiting(status: &Value) -> &str {
    let state = &status["containerStatuses"][0]["state"];
    state["waiting"]["reason"].as_str().unwrap_or_default()
}
