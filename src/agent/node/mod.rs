//! The node in the API: its object, status, lease and range of pod addresses.
//!
//! *Order after a start.* The object is made (or brought up to date), a controller gives it a
//! range, the network takes the range, the status says Ready. Each step follows from the one
//! before as soon as that is known; nothing waits for a fixed time.
//!
//! Writes: the Node's own labels at registration, its taints when it is new, its `status`; its
//! Lease.

pub(crate) mod lease;
pub mod register;
pub(crate) mod resources;
pub(crate) mod status;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, NodeSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;
use tokio::sync::{Notify, watch};

use crate::agent::config::Config;
use crate::agent::seam::PodNetwork;
use crate::api::object::ObjectKey;
use crate::client::{self, Cache, Client, Patch};
use crate::runtime::Runtime;
use crate::util::{backoff::Backoff, clock::Clock, errors::chain, rng::Rng, tasks::Tasks};

use resources::Facts;
use status::State;

/// How often the machine is looked at: what is left of memory and disk, whether the runtime
/// answers. Nothing is written where nothing changed.
const LOOK: Duration = Duration::from_secs(10);
/// Images are listed at each so many looks.
const LOOKS_PER_IMAGES: u32 = 6;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(10);
/// How long the runtime has to say that it lives.
const VERSION_LIMIT: Duration = Duration::from_secs(5);

/// What a node is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) facts: Facts,
    pub(crate) client: Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) network: Arc<dyn PodNetwork>,
    /// The cache of this one Node.
    pub(crate) nodes: Cache<Node>,
    pub(crate) runtime_health: watch::Receiver<Result<(), String>>,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
}

/// Keeps the node in the API.
pub(crate) struct Keeper {
    parts: Parts,
    uid: watch::Sender<String>,
    network_down: watch::Sender<Option<String>>,
    look: Notify,
}

impl Keeper {
    /// Starts to keep the node. `looked` of the result wakes it early.
    pub(crate) fn start(parts: Parts, tasks: &Tasks) -> Arc<Self> {
        let why = "the control plane has given this node no range of pod addresses yet";
        let keeper = Arc::new(Self {
            uid: watch::Sender::new(String::new()),
            network_down: watch::Sender::new(Some(why.to_owned())),
            look: Notify::new(),
            parts,
        });
        let spawn = |name, task: futures_util::future::BoxFuture<'static, ()>| {
            let cancelled = tasks.cancelled();
            tasks.service(name, async move {
                cancelled.run_until_cancelled(task).await;
            });
        };
        let parts = &keeper.parts;
        let time = (parts.clock.clone(), parts.rng.clone());
        let lease = lease::keep(
            parts.client.clone(),
            parts.config.node_name.clone(),
            time,
            keeper.uid.subscribe(),
        );
        spawn("node-lease", Box::pin(lease));
        let own = keeper.clone();
        spawn(
            "node-register",
            Box::pin(async move { own.register().await }),
        );
        let own = keeper.clone();
        spawn(
            "node-range",
            Box::pin(async move { own.follow_range().await }),
        );
        let own = keeper.clone();
        spawn("node-status", Box::pin(async move { own.report().await }));
        keeper
    }

    fn pause(&self) -> Backoff {
        Backoff::new(RETRY_FIRST, RETRY_MOST, self.parts.rng.clone())
    }

    fn node(&self) -> Option<Arc<Node>> {
        let key = ObjectKey::cluster(&self.parts.config.node_name);
        self.parts.nodes.get(&key)
    }

    // === The object ===

    /// Makes the Node whenever there is none.
    async fn register(&self) {
        let mut pause = self.pause();
        let changes = self.parts.nodes.changes();
        loop {
            match self.register_once().await {
                Ok(node) => {
                    pause.reset();
                    let uid = node.metadata.uid.unwrap_or_default();
                    self.uid.send_replace(uid);
                }
                Err(error) => {
                    tracing::info!(error = %chain(&error), "node not registered, trying again");
                    tokio::time::sleep(pause.next_delay()).await;
                    continue;
                }
            }
            // Made again where somebody deletes it.
            self.parts.nodes.synced().await;
            loop {
                let _keys = changes.next().await;
                self.look.notify_one();
                if self.node().is_none() && self.parts.nodes.is_synced() {
                    break;
                }
            }
        }
    }

    async fn register_once(&self) -> client::Result<Node> {
        let api = self.parts.client.all::<Node>();
        let name = &self.parts.config.node_name;
        let wanted = labels(&self.parts.config, &self.parts.facts);
        let Some(node) = api.get_opt(name).await? else {
            return match api.create(&new_node(&self.parts.config, wanted)).await {
                Err(error) if error.is_already_exists() => api.get(name).await,
                result => result,
            };
        };
        let have = node.metadata.labels.clone().unwrap_or_default();
        let changed: BTreeMap<_, _> = wanted
            .into_iter()
            .filter(|(key, value)| have.get(key) != Some(value))
            .collect();
        if changed.is_empty() {
            return Ok(node);
        }
        let patch = json!({"metadata": {"labels": changed}});
        api.patch(name, &Patch::Strategic(patch)).await
    }

    // === The range of pod addresses ===

    async fn follow_range(&self) {
        let mut pause = self.pause();
        let mut set: Vec<IpNet> = Vec::new();
        let changes = self.parts.nodes.changes();
        loop {
            let ranges = self.node().map(|node| ranges(&node)).unwrap_or_default();
            if ranges.is_empty() || ranges == set {
                let _keys = changes.next().await;
                continue;
            }
            let mut failed = None;
            for range in &ranges {
                if let Err(error) = self.parts.network.set_range(*range).await {
                    failed = Some(chain(&error));
                }
            }
            match failed {
                None => {
                    set = ranges;
                    pause.reset();
                    self.network_down.send_replace(None);
                }
                Some(why) => {
                    tracing::warn!(error = why, "pod network not set up, trying again");
                    self.network_down.send_replace(Some(why));
                    tokio::time::sleep(pause.next_delay()).await;
                }
            }
        }
    }

    // === The status ===

    async fn report(&self) {
        let mut state = State::default();
        let mut network = self.network_down.subscribe();
        let mut health = self.parts.runtime_health.clone();
        let mut uid = self.uid.subscribe();
        let mut looks = 0_u32;
        let mut pause = self.pause();
        if uid.wait_for(|uid| !uid.is_empty()).await.is_err() {
            return;
        }
        loop {
            let wants_images = looks.is_multiple_of(LOOKS_PER_IMAGES);
            looks = looks.wrapping_add(1);
            self.look_at_machine(&mut state, wants_images).await;
            network
                .borrow_and_update()
                .clone_into(&mut state.network_down);
            if let Err(why) = &*health.borrow_and_update() {
                state.runtime_down = Some(why.clone());
            }
            let wait = match self.report_once(&state).await {
                Ok(()) => {
                    pause.reset();
                    LOOK
                }
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "node status not taken, trying again");
                    pause.next_delay()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = network.changed() => {}
                _ = health.changed() => {}
                () = self.look.notified() => {}
            }
        }
    }

    async fn look_at_machine(&self, state: &mut State, wants_images: bool) {
        let parts = &self.parts;
        let free = resources::free(&parts.config.data_dir);
        state.pressure.see(
            (&parts.facts, &free),
            &parts.config.eviction_hard,
            parts.clock.now(),
        );
        let version = tokio::time::timeout(VERSION_LIMIT, parts.runtime.version()).await;
        state.runtime_down = match version {
            Ok(Ok(version)) => {
                state.runtime_version = version;
                None
            }
            Ok(Err(error)) => Some(chain(&error)),
            Err(_) => Some("it does not answer".to_owned()),
        };
        if (wants_images || state.images.is_empty())
            && state.runtime_down.is_none()
            && let Ok(images) = parts.runtime.images().await
        {
            state.images = images;
        }
    }

    async fn report_once(&self, state: &State) -> client::Result<()> {
        let parts = &self.parts;
        let name = &parts.config.node_name;
        let api = parts.client.all::<Node>();
        let node = match self.node() {
            Some(node) => node,
            // The copy is not there yet, or the node is about to be made again.
            None => match api.get_opt(name).await? {
                Some(node) => Arc::new(node),
                None => return Ok(()),
            },
        };
        let empty = k8s_openapi::api::core::v1::NodeStatus::default();
        let before = node.status.as_ref().unwrap_or(&empty);
        let now = parts.clock.now();
        let fresh = status::status(&parts.config, &parts.facts, state, (before, now));
        if let Some(patch) = status::patch(&node, &fresh, now) {
            api.patch_status(name, &Patch::Strategic(patch)).await?;
        }
        Ok(())
    }
}

fn labels(config: &Config, facts: &Facts) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", facts.architecture),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", facts.architecture),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    if config.is_control_plane {
        let name = "node-role.kubernetes.io/control-plane";
        labels.insert(name.to_owned(), "true".to_owned());
    }
    labels.extend(config.labels.clone());
    labels
}

fn new_node(config: &Config, labels: BTreeMap<String, String>) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            taints: (!config.taints.is_empty()).then(|| config.taints.clone()),
            ..NodeSpec::default()
        }),
        status: None,
    }
}

/// The ranges the control plane gave the node.
fn ranges(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let many = spec.pod_cidrs.as_deref().unwrap_or_default();
    let all: Vec<&String> = if many.is_empty() {
        spec.pod_cidr.iter().collect()
    } else {
        many.iter().collect()
    };
    all.into_iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_s_ranges_are_those_of_both_families_or_the_one() {
        let node = |spec: serde_json::Value| -> Node {
            serde_json::from_value(json!({"spec": spec})).unwrap()
        };
        assert!(ranges(&node(json!({}))).is_empty());
        let one = node(json!({"podCIDR": "10.244.1.0/24"}));
        assert_eq!(ranges(&one), ["10.244.1.0/24".parse().unwrap()]);
        let both = node(json!({"podCIDR": "10.244.1.0/24",
            "podCIDRs": ["10.244.1.0/24", "fd00::/64"]}));
        assert_eq!(ranges(&both).len(), 2);
    }

    #[test]
    fn own_labels_come_on_top_of_those_every_node_has() {
        let mut config = Config::new("n1", "10.0.0.1".parse().unwrap(), "/d".into());
        config.is_control_plane = true;
        config.labels.insert("disk".into(), "ssd".into());
        let facts = Facts {
            architecture: "amd64",
            ..Facts::default()
        };
        let got = labels(&config, &facts);
        assert_eq!(got["kubernetes.io/hostname"], "n1");
        assert_eq!(got["node-role.kubernetes.io/control-plane"], "true");
        assert_eq!(got["disk"], "ssd");
    }
}
