//! The cluster as the scheduler sees it: nodes with the pods on them, kept up to date by
//! differences, so that a cycle reads sums and never adds up pods.
//!
//! A pod is on at most one node here. Pods on a node that is not known (yet, or no longer) are
//! kept with it, so that they count when it appears.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::api::{object::ObjectKey, pod::HostPort};

use super::budget::Budgets;
use super::group::Groups;
use super::nominate::Nominations;
use super::pod::PodInfo;
use super::resources::{self, Resources};
use super::volumes::Volumes;

/// Label whose value is a node's zone.
pub(crate) const ZONE: &str = "topology.kubernetes.io/zone";

/// One node.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeInfo {
    pub(crate) name: Arc<str>,
    /// `None` while only pods speak of it.
    pub(crate) node: Option<Arc<Node>>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Resources,
    pub(crate) pods_max: i64,
    /// Image name → size in bytes.
    pub(crate) images: HashMap<String, i64>,
    pub(crate) pods: HashMap<ObjectKey, Arc<PodInfo>>,
    /// Sum over `pods`.
    pub(crate) requested: Resources,
    /// Sum over `pods`, for scores.
    pub(crate) score_requested: Resources,
    pub(crate) host_ports: Vec<HostPort>,
}

/// All nodes, and sums over them.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<Arc<str>, usize>,
    /// Where each pod is.
    placed: HashMap<ObjectKey, Arc<str>>,
    /// Owner's uid → node → its pods there.
    owners: HashMap<String, HashMap<Arc<str>, usize>>,
    /// Image name → nodes that have it.
    image_nodes: HashMap<String, usize>,
    /// Placed pods that are alike to selectors.
    groups: Groups,
    /// Label of nodes → its values → nodes that have it.
    domains: HashMap<String, HashMap<String, usize>>,
    /// How many placed pods have a priority.
    priorities: BTreeMap<i32, usize>,
    nominations: Nominations,
    budgets: Budgets,
    volumes: Volumes,
    namespaces: HashMap<String, BTreeMap<String, String>>,
    known: usize,
}

impl Snapshot {
    /// Every node that may be scheduled to, and those only pods speak of.
    pub(crate) fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// How many nodes are known.
    pub(crate) fn known(&self) -> usize {
        self.known
    }

    /// One node.
    pub(crate) fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|at| &self.nodes[*at])
    }

    /// How many pods an owner has on each node it has any on.
    pub(crate) fn of_owner(&self, uid: &str) -> Option<&HashMap<Arc<str>, usize>> {
        self.owners.get(uid)
    }

    /// How many nodes have an image.
    pub(crate) fn nodes_with_image(&self, image: &str) -> usize {
        self.image_nodes.get(image).copied().unwrap_or(0)
    }

    /// Placed pods that are alike to selectors.
    pub(crate) fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The values of a label over all known nodes, each with how many nodes have it.
    pub(crate) fn domains(&self, key: &str) -> Option<&HashMap<String, usize>> {
        self.domains.get(key)
    }

    /// Whether any placed pod has a lower priority.
    pub(crate) fn has_below(&self, priority: i32) -> bool {
        self.priorities.range(..priority).next().is_some()
    }

    /// Pods that room is being made for.
    pub(crate) fn nominations(&self) -> &Nominations {
        &self.nominations
    }

    /// The same, to change them.
    pub(crate) fn nominations_mut(&mut self) -> &mut Nominations {
        &mut self.nominations
    }

    /// What limits disruptions.
    pub(crate) fn budgets(&self) -> &Budgets {
        &self.budgets
    }

    /// The same, to change them.
    pub(crate) fn budgets_mut(&mut self) -> &mut Budgets {
        &mut self.budgets
    }

    /// What is known of storage.
    pub(crate) fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// The same, to change it.
    pub(crate) fn volumes_mut(&mut self) -> &mut Volumes {
        &mut self.volumes
    }

    /// The labels of a namespace, where it is known.
    pub(crate) fn namespace_labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces.get(name)
    }

    /// A namespace came, changed, or is gone (`None`).
    pub(crate) fn set_namespace(&mut self, name: &str, labels: Option<BTreeMap<String, String>>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
    }

    /// The pod as it is known here, where it is on a node.
    pub(crate) fn pod(&self, key: &ObjectKey) -> Option<&Arc<PodInfo>> {
        let node = self.placed.get(key)?;
        self.node(node)?.pods.get(key)
    }

    /// A node came or changed.
    pub(crate) fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let at = self.slot(&name);
        let old = std::mem::take(&mut self.nodes[at].images);
        self.count_images(&old, false);
        let was_known = self.nodes[at].node.is_some();
        self.known += usize::from(!was_known);
        let labels = self.nodes[at].labels.clone();
        self.nodes[at].read(node);
        if !was_known || labels != self.nodes[at].labels {
            let now = self.nodes[at].labels.clone();
            self.count_domains(&now, true);
            if was_known {
                self.count_domains(&labels, false);
            }
        }
        let images = self.nodes[at].images.clone();
        self.count_images(&images, true);
    }

    /// A node is gone. Pods on it stay known.
    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(at) = self.by_name.get(name).copied() else {
            return;
        };
        let old = std::mem::take(&mut self.nodes[at].images);
        self.count_images(&old, false);
        if self.nodes[at].node.take().is_some() {
            self.known -= 1;
            let labels = std::mem::take(&mut self.nodes[at].labels);
            self.count_domains(&labels, false);
        }
        self.drop_if_empty(at);
    }

    /// The pod is on `node`; it is taken from where it was.
    pub(crate) fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.unplace(&pod.key);
        let at = self.slot(node);
        let name = self.nodes[at].name.clone();
        if let Some(owner) = &pod.owner {
            let owned = self.owners.entry(owner.clone()).or_default();
            *owned.entry(name.clone()).or_default() += 1;
        }
        self.groups.add(&pod, &name);
        self.volumes.add_user(&pod);
        *self.priorities.entry(pod.priority).or_default() += 1;
        self.placed.insert(pod.key.clone(), name);
        self.nodes[at].add(pod);
    }

    /// The pod is on no node. Returns the node it was on.
    pub(crate) fn unplace(&mut self, key: &ObjectKey) -> Option<Arc<str>> {
        let name = self.placed.remove(key)?;
        let at = self.by_name.get(&name).copied()?;
        let pod = self.nodes[at].remove(key)?;
        self.groups.remove(&pod, &name);
        self.volumes.remove_user(&pod);
        if let Some(count) = self.priorities.get_mut(&pod.priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities.remove(&pod.priority);
            }
        }
        if let Some(owner) = &pod.owner
            && let Some(owned) = self.owners.get_mut(owner)
        {
            let left = owned.get(&name).copied().unwrap_or(0);
            if left > 1 {
                owned.insert(name.clone(), left - 1);
            } else {
                owned.remove(&name);
            }
            if owned.is_empty() {
                self.owners.remove(owner);
            }
        }
        self.drop_if_empty(at);
        Some(name)
    }

    fn slot(&mut self, name: &str) -> usize {
        if let Some(at) = self.by_name.get(name) {
            return *at;
        }
        let name: Arc<str> = name.into();
        self.by_name.insert(name.clone(), self.nodes.len());
        self.nodes.push(NodeInfo {
            name,
            ..NodeInfo::default()
        });
        self.nodes.len() - 1
    }

    fn drop_if_empty(&mut self, at: usize) {
        if self.nodes[at].node.is_some() || !self.nodes[at].pods.is_empty() {
            return;
        }
        let gone = self.nodes.swap_remove(at);
        self.by_name.remove(&gone.name);
        if let Some(moved) = self.nodes.get(at) {
            self.by_name.insert(moved.name.clone(), at);
        }
    }

    fn count_domains(&mut self, labels: &BTreeMap<String, String>, add: bool) {
        for (key, value) in labels {
            let values = self.domains.entry(key.clone()).or_default();
            let count = values.entry(value.clone()).or_default();
            *count = if add { *count + 1 } else { *count - 1 };
            if *count == 0 {
                values.remove(value);
            }
            if values.is_empty() {
                self.domains.remove(key);
            }
        }
    }

    fn count_images(&mut self, images: &HashMap<String, i64>, add: bool) {
        for image in images.keys() {
            let count = self.image_nodes.entry(image.clone()).or_default();
            *count = if add { *count + 1 } else { *count - 1 };
            if *count == 0 {
                self.image_nodes.remove(image);
            }
        }
    }
}

impl NodeInfo {
    fn read(&mut self, node: Arc<Node>) {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        self.allocatable = Resources::from_list(allocatable);
        self.pods_max = allocatable
            .and_then(|list| list.get("pods"))
            .map_or(0, resources::units);
        self.images = status
            .and_then(|s| s.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                image
                    .names
                    .iter()
                    .flatten()
                    .map(move |name| (name.clone(), size))
            })
            .collect();
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        let spec = node.spec.as_ref();
        self.taints = spec.and_then(|s| s.taints.clone()).unwrap_or_default();
        self.unschedulable = spec.and_then(|s| s.unschedulable).unwrap_or(false);
        self.node = Some(node);
    }

    /// The pod is on it.
    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.score_requested.add(&pod.score_requests);
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.pods.insert(pod.key.clone(), pod);
    }

    /// The pod is not on it.
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(key)?;
        self.requested.subtract(&pod.requests);
        self.score_requested.subtract(&pod.score_requests);
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|used| used == port) {
                self.host_ports.swap_remove(at);
            }
        }
        Some(pod)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::scheduler::testing::{node, pod};

    #[test]
    fn sums_follow_pods_and_unknown_nodes_are_no_candidates() {
        let mut snapshot = Snapshot::default();
        let p = pod("p").cpu("500m").owner("u").host_port(80).info();
        snapshot.place(p.clone(), "n1");
        assert_eq!(snapshot.known(), 0);
        snapshot.set_node(node("n1").cpu("2").build());
        let seen = snapshot.node("n1").unwrap();
        assert_eq!(seen.requested.milli_cpu, 500);
        assert_eq!(seen.host_ports.len(), 1);
        assert_eq!(snapshot.of_owner("u").unwrap()["n1"], 1);
        snapshot.place(p.clone(), "n2");
        assert_eq!(snapshot.node("n1").unwrap().requested, Resources::default());
        assert_eq!(snapshot.unplace(&p.key).as_deref(), Some("n2"));
        assert!(
            snapshot.node("n2").is_none(),
            "nothing speaks of it any more"
        );
        assert!(snapshot.of_owner("u").is_none());
    }

    #[test]
    fn removing_a_node_keeps_the_others_reachable_by_name() {
        let mut snapshot = Snapshot::default();
        for name in ["a", "b", "c"] {
            snapshot.set_node(node(name).image("nginx", 5).build());
        }
        assert_eq!(snapshot.nodes_with_image("nginx"), 3);
        snapshot.remove_node("a");
        assert_eq!(snapshot.known(), 2);
        assert_eq!(snapshot.nodes_with_image("nginx"), 2);
        for name in ["b", "c"] {
            assert_eq!(&*snapshot.node(name).unwrap().name, name);
        }
    }
}
