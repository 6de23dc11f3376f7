//! Which nodes a DaemonSet's pods belong on, and how a pod is tied to its node
//! (`k8s.io/kubernetes/pkg/controller/daemon/util`).
//!
//! The controller chooses the node and the scheduler binds: the pod requires, by node affinity, the
//! one node of its name.

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};

use crate::api::selector::node::{NAME_FIELD, Required};
use crate::api::toleration::{NO_EXECUTE, NO_SCHEDULE, is_tolerated};
use crate::api::{meta, pod};
use crate::server::controllers::shared::{history::POD_REVISION, pods};

/// On pods: how often the template had changed when they were made.
pub(super) const POD_GENERATION: &str = "pod-template-generation";
/// On the set: how often its template has changed.
const GENERATION: &str = "deprecated.daemonset.template.generation";

/// Taints that do not keep daemons away.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", NO_EXECUTE),
    ("node.kubernetes.io/unreachable", NO_EXECUTE),
    ("node.kubernetes.io/disk-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/memory-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/pid-pressure", NO_SCHEDULE),
    ("node.kubernetes.io/unschedulable", NO_SCHEDULE),
];
/// The same, for pods on the host's network.
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", NO_SCHEDULE);

/// What a set's pods require of a node, parsed once for all nodes.
pub(super) struct Placement {
    node_name: Option<String>,
    required: Required,
    tolerations: Vec<Toleration>,
}

/// Whether a node is one of the set's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// It should get a pod where it has none.
    pub(super) should_run: bool,
    /// A pod that it has may stay.
    pub(super) may_stay: bool,
}

impl Placement {
    pub(super) fn of(set: &DaemonSet) -> Self {
        let spec = set.spec.template.spec.clone().unwrap_or_default();
        Self {
            node_name: spec.node_name.clone().filter(|name| !name.is_empty()),
            required: Required::of(&spec),
            tolerations: tolerations(&spec),
        }
    }

    pub(super) fn judge(&self, node: &Node) -> Verdict {
        let name = meta::name(&node.metadata);
        let is_named = self.node_name.as_ref().is_none_or(|wanted| wanted == name);
        if !is_named || !self.required.matches(node) {
            return Verdict {
                should_run: false,
                may_stay: false,
            };
        }
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref());
        let untolerated = |effects: &[&str]| {
            taints.unwrap_or_default().iter().any(|taint: &Taint| {
                effects.contains(&taint.effect.as_str()) && !is_tolerated(&self.tolerations, taint)
            })
        };
        Verdict {
            should_run: !untolerated(&[NO_SCHEDULE, NO_EXECUTE]),
            may_stay: !untolerated(&[NO_EXECUTE]),
        }
    }
}

/// The template's tolerations, and those every daemon has.
fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let network = (spec.host_network == Some(true)).then_some(NETWORK);
    let mut all = spec.tolerations.clone().unwrap_or_default();
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        all.retain(|known| *known != toleration);
        all.push(toleration);
    }
    all
}

/// How often the template has changed, where the set says so.
pub(super) fn generation(set: &DaemonSet) -> Option<&str> {
    meta::annotation(&set.metadata, GENERATION)
}

/// Whether a pod was made from the template the set has now.
pub(super) fn is_updated(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let made_of = meta::label(&pod.metadata, POD_GENERATION);
    let is_same_generation = made_of.is_some() && made_of == generation(set);
    is_same_generation || meta::label(&pod.metadata, POD_REVISION) == Some(hash)
}

/// The pod of the set's template, without a node yet.
pub(super) fn pod(set: &DaemonSet, hash: &str) -> Pod {
    let reference = meta::controller_ref(DaemonSet::API_VERSION, DaemonSet::KIND, &set.metadata);
    let mut pod = pods::from_template(&set.spec.template, &set.metadata, reference);
    let labels = pod.metadata.labels.get_or_insert_default();
    if let Some(generation) = generation(set) {
        labels.insert(POD_GENERATION.to_owned(), generation.to_owned());
    }
    labels.insert(POD_REVISION.to_owned(), hash.to_owned());
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    pod
}

/// Ties a pod to a node. The node satisfies the template's terms already, so they are replaced.
pub(super) fn tie(mut pod: Pod, node: &str) -> Pod {
    let spec = pod.spec.get_or_insert_default();
    let affinity = spec.affinity.get_or_insert_default();
    let by_node = affinity.node_affinity.get_or_insert_default();
    by_node.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: NAME_FIELD.to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
            match_expressions: None,
        }],
    });
    pod
}

/// The node a pod is on or tied to; empty where there is none.
pub(super) fn node_of(pod: &Pod) -> &str {
    let bound = pod::node_name(pod);
    if bound.is_empty() {
        return tied_to(pod).unwrap_or_default();
    }
    bound
}

fn tied_to(pod: &Pod) -> Option<&str> {
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?;
    let required = affinity
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?;
    let fields = required.node_selector_terms.iter();
    let mut fields = fields.flat_map(|term| term.match_fields.iter().flatten());
    let by_name = fields.find(|field| field.key == NAME_FIELD && field.operator == "In")?;
    by_name.values.as_ref()?.first().map(String::as_str)
}
