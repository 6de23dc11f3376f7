//! Claims, volumes and classes as scheduling reads them: which volume a claim has, and for a claim
//! that waits for its first pod, which volume it could get on a node.
//!
//! A pod with such claims is decided for twice. The first decision is written to the claims
//! (`volume.kubernetes.io/selected-node`, or the claim in the volume's `claimRef`); the pod waits
//! as nominated to the node, which keeps its room there, until the claims are bound; the second
//! decision then binds the pod. Nothing of that is only in memory, so a crash between costs nothing.
//!
//! DEVIATION: CSIStorageCapacity is not looked at: a provisioner that cannot make a volume takes the
//! chosen node off the claim, and the pod is decided for again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, TopologySelectorTerm,
};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass};

use crate::api::{meta, object::ObjectKey, quantity::Quantity};
use crate::client;

use super::pod::{NodeTerm, PodInfo, label_selector, node_terms};
use super::snapshot::NodeInfo;

/// The node a claim's volume is to be made for.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const ONE_POD: &str = "ReadWriteOncePod";

/// A pod's claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) name: String,
    /// Made for this pod by the controller of ephemeral volumes.
    pub(crate) is_ephemeral: bool,
}

/// A volume with its node affinity parsed.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) object: Arc<PersistentVolume>,
    terms: Option<Vec<NodeTerm>>,
    bytes: i64,
}

/// What is known of storage.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    claims: HashMap<ObjectKey, Arc<PersistentVolumeClaim>>,
    volumes: HashMap<String, Volume>,
    /// Class → its volumes, the smallest first.
    by_class: HashMap<String, BTreeSet<(i64, String)>>,
    classes: HashMap<String, Arc<StorageClass>>,
    csi_nodes: HashMap<String, Arc<CSINode>>,
    /// Volumes given to a claim that do not say so yet.
    promised: HashMap<String, ObjectKey>,
    /// Claim → placed pods that use it.
    users: HashMap<ObjectKey, BTreeSet<ObjectKey>>,
}

/// What has to be written for a claim before its pod can be bound.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// A volume is to be made for the node.
    Provision(Arc<PersistentVolumeClaim>),
    /// This volume is the claim's.
    Take(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>),
    /// It was written before; the claim is not bound yet.
    Wait,
}

/// The claims of a pod's volumes.
pub(crate) fn claims_of(pod: &Pod) -> Vec<Claim> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
    let claims = volumes.into_iter().flatten().filter_map(|volume| {
        if let Some(source) = &volume.persistent_volume_claim {
            return Some(Claim {
                name: source.claim_name.clone(),
                is_ephemeral: false,
            });
        }
        volume.ephemeral.as_ref().map(|_| Claim {
            name: format!("{name}-{}", volume.name),
            is_ephemeral: true,
        })
    });
    claims.collect()
}

fn key_of(pod: &PodInfo, claim: &Claim) -> ObjectKey {
    ObjectKey::new(&pod.key.namespace, &claim.name)
}

impl Volumes {
    /// A claim came, changed, or is gone.
    pub(crate) fn set_claim(&mut self, key: &ObjectKey, claim: Option<Arc<PersistentVolumeClaim>>) {
        match claim {
            Some(claim) => self.claims.insert(key.clone(), claim),
            None => self.claims.remove(key),
        };
    }

    /// A volume came, changed, or is gone.
    pub(crate) fn set_volume(&mut self, name: &str, object: Option<Arc<PersistentVolume>>) {
        if let Some(old) = self.volumes.remove(name) {
            let class = class_of_volume(&old.object).to_owned();
            if let Some(all) = self.by_class.get_mut(&class) {
                all.remove(&(old.bytes, name.to_owned()));
                if all.is_empty() {
                    self.by_class.remove(&class);
                }
            }
        }
        let Some(object) = object else {
            self.promised.remove(name);
            return;
        };
        let spec = object.spec.as_ref();
        if spec.is_some_and(|s| s.claim_ref.is_some()) {
            self.promised.remove(name);
        }
        let affinity = spec.and_then(|s| s.node_affinity.as_ref());
        let capacity = spec.and_then(|s| s.capacity.as_ref()?.get("storage"));
        let volume = Volume {
            terms: affinity.and_then(|a| a.required.as_ref()).map(node_terms),
            bytes: capacity.map_or(0, |q| bytes(&q.0)),
            object,
        };
        let class = class_of_volume(&volume.object).to_owned();
        let all = self.by_class.entry(class).or_default();
        all.insert((volume.bytes, name.to_owned()));
        self.volumes.insert(name.to_owned(), volume);
    }

    /// A class came, changed, or is gone.
    pub(crate) fn set_class(&mut self, name: &str, class: Option<Arc<StorageClass>>) {
        match class {
            Some(class) => self.classes.insert(name.to_owned(), class),
            None => self.classes.remove(name),
        };
    }

    /// What a node's drivers can came, changed, or is gone.
    pub(crate) fn set_csi_node(&mut self, name: &str, node: Option<Arc<CSINode>>) {
        match node {
            Some(node) => self.csi_nodes.insert(name.to_owned(), node),
            None => self.csi_nodes.remove(name),
        };
    }

    /// The pod uses its claims from now on.
    pub(super) fn add_user(&mut self, pod: &PodInfo) {
        for claim in &pod.claims {
            let users = self.users.entry(key_of(pod, claim)).or_default();
            users.insert(pod.key.clone());
        }
    }

    /// The pod does not use its claims any more.
    pub(super) fn remove_user(&mut self, pod: &PodInfo) {
        for claim in &pod.claims {
            let key = key_of(pod, claim);
            if let Some(users) = self.users.get_mut(&key) {
                users.remove(&pod.key);
                if users.is_empty() {
                    self.users.remove(&key);
                }
            }
        }
    }

    /// The volume is `claim`'s, though it does not say so yet.
    pub(crate) fn promise(&mut self, volume: &str, claim: &ObjectKey) {
        self.promised.insert(volume.to_owned(), claim.clone());
    }

    /// The volume is nobody's after all.
    pub(crate) fn take_back(&mut self, volume: &str) {
        self.promised.remove(volume);
    }

    /// What is wrong with a pod's claims wherever it goes
    /// (`k8s.io/kubernetes/pkg/scheduler/framework/plugins/volumebinding`, its PreFilter).
    pub(crate) fn problem(&self, pod: &PodInfo) -> Option<String> {
        let mut is_unbound = false;
        for claim in &pod.claims {
            let name = &claim.name;
            let Some(object) = self.claims.get(&key_of(pod, claim)) else {
                return Some(if claim.is_ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the \
                         persistentvolumeclaim \"{name}\""
                    )
                } else {
                    format!("persistentvolumeclaim \"{name}\" not found")
                });
            };
            if object.metadata.deletion_timestamp.is_some() {
                return Some(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            let owner = meta::controller_of(&object.metadata);
            if claim.is_ephemeral && owner.is_none_or(|owner| owner.uid != pod.uid) {
                return Some(format!(
                    "PVC {} was not created for pod {} (pod is not owner)",
                    key_of(pod, claim),
                    pod.key
                ));
            }
            is_unbound |= !is_bound(object) && !self.waits_for_pod(object);
        }
        is_unbound.then(|| "pod has unbound immediate PersistentVolumeClaims".to_owned())
    }

    fn waits_for_pod(&self, claim: &PersistentVolumeClaim) -> bool {
        let class = self.classes.get(class_of(claim));
        let mode = class.and_then(|class| class.volume_binding_mode.as_deref());
        mode == Some("WaitForFirstConsumer") && volume_name(claim).is_empty()
    }

    /// The claims of a pod that exist.
    pub(crate) fn claims<'a>(
        &'a self,
        pod: &'a PodInfo,
    ) -> impl Iterator<Item = &'a Arc<PersistentVolumeClaim>> {
        let claims = pod.claims.iter();
        claims.filter_map(move |claim| self.claims.get(&key_of(pod, claim)))
    }

    /// The volumes of a pod's bound claims; `None` for one that does not exist.
    pub(crate) fn bound<'a>(
        &'a self,
        pod: &'a PodInfo,
    ) -> impl Iterator<Item = Option<&'a Volume>> {
        let bound = self.claims(pod).filter(|claim| is_bound(claim));
        bound.map(move |claim| self.volumes.get(volume_name(claim)))
    }

    /// The claims of `pod` only one pod may use, and how many others use one of them.
    pub(crate) fn exclusive(&self, pod: &PodInfo) -> (BTreeSet<String>, i64) {
        let mut names = BTreeSet::new();
        let mut users = 0;
        for claim in self.claims(pod) {
            let modes = claim.spec.as_ref().and_then(|s| s.access_modes.as_ref());
            if !modes.is_some_and(|modes| modes.iter().any(|mode| mode == ONE_POD)) {
                continue;
            }
            let key = client::key_of(&claim.metadata);
            let others = self.users.get(&key).into_iter().flatten();
            users += i64::try_from(others.filter(|user| **user != pod.key).count()).unwrap_or(0);
            names.insert(key.name);
        }
        (names, users)
    }

    /// What has to be done so that `pod` has its volumes on `node`; `None`: that cannot be.
    pub(crate) fn plan(&self, pod: &PodInfo, node: &NodeInfo) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        let mut taken = BTreeSet::new();
        for claim in self.claims(pod).filter(|claim| !is_bound(claim)) {
            if let Some(selected) = meta::annotation(&claim.metadata, SELECTED_NODE) {
                if *selected != *node.name {
                    return None;
                }
                steps.push(Step::Wait);
                continue;
            }
            steps.push(self.step(claim, node, &mut taken)?);
        }
        Some(steps)
    }

    fn step<'a>(
        &'a self,
        claim: &Arc<PersistentVolumeClaim>,
        node: &NodeInfo,
        taken: &mut BTreeSet<&'a str>,
    ) -> Option<Step> {
        let class = class_of(claim);
        let key = client::key_of(&claim.metadata);
        if let Some((name, _)) = self.promised.iter().find(|(_, of)| **of == key) {
            let there = self.volumes.get(name).is_some_and(|v| v.fits_node(node));
            return there.then_some(Step::Wait);
        }
        let sized = self.by_class.get(class).into_iter().flatten();
        for (_, name) in sized {
            let Some(volume) = self.volumes.get(name) else {
                continue;
            };
            let is_free = !taken.contains(name.as_str()) && !self.promised.contains_key(name);
            if is_free && volume.serves(claim) && volume.fits_node(node) {
                taken.insert(name);
                let is_ours = volume.claim_ref().is_some();
                return Some(if is_ours {
                    Step::Wait
                } else {
                    Step::Take(volume.object.clone(), claim.clone())
                });
            }
        }
        let class = self.classes.get(class)?;
        let makes = !class.provisioner.is_empty() && class.provisioner != NO_PROVISIONER;
        let allowed = class.allowed_topologies.as_deref().unwrap_or_default();
        let in_reach = allowed.is_empty() || allowed.iter().any(|term| reaches(term, node));
        (makes && in_reach).then(|| Step::Provision(claim.clone()))
    }

    /// Whether `node` can hold the volumes of `pod` beside those it has, by the limits of its CSI
    /// drivers.
    pub(crate) fn within_limits(&self, pod: &PodInfo, node: &NodeInfo) -> bool {
        let Some(limits) = self.csi_nodes.get(&*node.name) else {
            return true;
        };
        let mut wanted = self.handles(pod).peekable();
        if wanted.peek().is_none() {
            return true;
        }
        let mut there: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (driver, handle) in node.pods.values().flat_map(|other| self.handles(other)) {
            there.entry(driver).or_default().insert(handle);
        }
        let mut grown = BTreeSet::new();
        for (driver, handle) in wanted {
            if there.entry(driver).or_default().insert(handle) {
                grown.insert(driver);
            }
        }
        limits.spec.drivers.iter().all(|driver| {
            let most = driver.allocatable.as_ref().and_then(|a| a.count);
            let count = there.get(driver.name.as_str()).map_or(0, BTreeSet::len);
            let fits = most.is_none_or(|most| i64::from(most) >= count as i64);
            fits || !grown.contains(driver.name.as_str())
        })
    }

    /// CSI driver and handle of each of a pod's volumes; of one that is to be made, its claim.
    fn handles<'a>(&'a self, pod: &'a PodInfo) -> impl Iterator<Item = (&'a str, String)> {
        self.claims(pod).filter_map(move |claim| {
            if let Some(volume) = self.volumes.get(volume_name(claim)) {
                let csi = volume.object.spec.as_ref()?.csi.as_ref()?;
                return Some((csi.driver.as_str(), csi.volume_handle.clone()));
            }
            let class = self.classes.get(class_of(claim))?;
            let key = client::key_of(&claim.metadata);
            Some((class.provisioner.as_str(), key.to_string()))
        })
    }
}

impl Volume {
    /// Whether the volume can be reached from `node`.
    pub(crate) fn fits_node(&self, node: &NodeInfo) -> bool {
        let terms = self.terms.as_ref();
        terms.is_none_or(|terms| terms.iter().any(|t| t.matches(&node.name, &node.labels)))
    }

    /// Whether the node is in the zone and region the volume says it is in.
    pub(crate) fn fits_zone(&self, node: &NodeInfo) -> bool {
        const LABELS: [(&str, &str); 4] = [
            ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
            (
                "topology.kubernetes.io/region",
                "topology.kubernetes.io/region",
            ),
            (
                "failure-domain.beta.kubernetes.io/zone",
                "topology.kubernetes.io/zone",
            ),
            (
                "failure-domain.beta.kubernetes.io/region",
                "topology.kubernetes.io/region",
            ),
        ];
        let has_any = LABELS
            .iter()
            .any(|(old, new)| node.labels.contains_key(*old) || node.labels.contains_key(*new));
        let labels = self.object.metadata.labels.as_ref();
        let labels = labels.filter(|_| has_any);
        LABELS.iter().all(|(old, new)| {
            let Some(wanted) = labels.and_then(|labels| labels.get(*old)) else {
                return true;
            };
            let there = node.labels.get(*old).or_else(|| node.labels.get(*new));
            there.is_some_and(|there| wanted.split("__").any(|zone| zone == there))
        })
    }

    fn claim_ref(&self) -> Option<&ObjectReference> {
        self.object.spec.as_ref()?.claim_ref.as_ref()
    }

    fn serves(&self, claim: &PersistentVolumeClaim) -> bool {
        let (Some(has), Some(wants)) = (&self.object.spec, &claim.spec) else {
            return false;
        };
        let is_free = match &has.claim_ref {
            None => {
                let status = self.object.status.as_ref();
                let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or_default();
                matches!(phase, "" | "Available" | "Pending")
            }
            Some(of) => {
                of.name == claim.metadata.name
                    && of.namespace == claim.metadata.namespace
                    && of
                        .uid
                        .as_ref()
                        .is_none_or(|uid| claim.metadata.uid.as_ref() == Some(uid))
            }
        };
        let modes = wants.access_modes.iter().flatten();
        let mut modes = modes.map(|mode| has.access_modes.iter().flatten().any(|m| m == mode));
        let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".to_owned());
        let requests = wants.resources.as_ref().and_then(|r| r.requests.as_ref());
        let size = requests.and_then(|r| r.get("storage"));
        let labels = self.object.metadata.labels.as_ref();
        let selected =
            wants.selector.is_none() || label_selector(wants.selector.as_ref()).matches(&labels);
        is_free
            && self.object.metadata.deletion_timestamp.is_none()
            && mode(&has.volume_mode) == mode(&wants.volume_mode)
            && self.bytes >= size.map_or(0, |q| bytes(&q.0))
            && modes.all(|there| there)
            && selected
    }
}

fn bytes(text: &str) -> i64 {
    text.parse::<Quantity>().unwrap_or_default().value()
}

fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref();
    let name = spec.and_then(|s| s.volume_name.as_deref());
    name.unwrap_or_default()
}

fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && meta::annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

fn class_of(claim: &PersistentVolumeClaim) -> &str {
    let old = meta::annotation(&claim.metadata, "volume.beta.kubernetes.io/storage-class");
    let class = claim
        .spec
        .as_ref()
        .and_then(|s| s.storage_class_name.as_deref());
    old.or(class).unwrap_or_default()
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let old = meta::annotation(&volume.metadata, "volume.beta.kubernetes.io/storage-class");
    let class = volume
        .spec
        .as_ref()
        .and_then(|s| s.storage_class_name.as_deref());
    old.or(class).unwrap_or_default()
}

fn reaches(term: &TopologySelectorTerm, node: &NodeInfo) -> bool {
    let all = term.match_label_expressions.iter().flatten();
    let mut all = all.map(|wanted| {
        let value = node.labels.get(&wanted.key);
        value.is_some_and(|value| wanted.values.contains(value))
    });
    all.all(|matches| matches)
}
