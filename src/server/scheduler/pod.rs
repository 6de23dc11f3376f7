//! A pod as the scheduler reads it: parsed once when it changes, read by every cycle.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::api::{
    meta,
    object::ObjectKey,
    pod::{self, HostPort},
    selector::label::{Operator, Requirement, Selector},
};
use crate::client;

use super::affinity::Terms;
use super::group;
use super::resources::{self, Resources};
use super::volumes::{self, Claim};

/// A term of a node affinity: labels and fields that must all match. Never matches where it is
/// empty.
#[derive(Clone, Debug)]
pub(crate) struct NodeTerm {
    labels: Vec<Requirement>,
    /// Only `metadata.name` is a field.
    names: Vec<Requirement>,
    /// A requirement that cannot be read matches nothing.
    invalid: bool,
}

/// A pod, with what scheduling needs of it parsed.
#[derive(Clone, Debug)]
pub(crate) struct PodInfo {
    pub(crate) pod: Arc<Pod>,
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    pub(crate) priority: i32,
    /// Uid of the controller.
    pub(crate) owner: Option<String>,
    pub(crate) requests: Resources,
    pub(crate) score_requests: Resources,
    pub(crate) host_ports: Vec<HostPort>,
    /// `spec.nodeSelector` and the required node affinity; `None`: any node.
    pub(crate) node_selector: Option<Selector>,
    pub(crate) node_terms: Option<Vec<NodeTerm>>,
    pub(crate) preferred_nodes: Vec<(i64, NodeTerm)>,
    pub(crate) affinity: Option<Box<Terms>>,
    pub(crate) images: Vec<String>,
    /// Of its volumes.
    pub(crate) claims: Vec<Claim>,
    /// The same for pods that are alike to every selector and say the same of others.
    pub(crate) group: Arc<str>,
}

impl PodInfo {
    /// Parses `pod`.
    pub(crate) fn new(pod: Arc<Pod>) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let affinity = spec
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        let preferred = affinity.and_then(|a| {
            a.preferred_during_scheduling_ignored_during_execution
                .as_ref()
        });
        let selector = spec.node_selector.as_ref().filter(|s| !s.is_empty());
        Self {
            key: client::key_of(&pod.metadata),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            owner: meta::controller_of(&pod.metadata).map(|owner| owner.uid.clone()),
            requests: resources::of_pod(&pod),
            score_requests: resources::of_pod_for_score(&pod),
            host_ports: pod::host_ports(&pod),
            node_selector: selector
                .map(|s| Selector::from_set(s.iter().map(|(k, v)| (k.as_str(), v.as_str())))),
            node_terms: required.map(node_terms),
            preferred_nodes: preferred
                .into_iter()
                .flatten()
                .map(|p| (i64::from(p.weight), node_term(&p.preference)))
                .collect(),
            affinity: Terms::parse(
                spec.affinity.as_ref(),
                pod.metadata.namespace.as_deref().unwrap_or_default(),
                pod.metadata.labels.as_ref(),
            ),
            images: spec
                .containers
                .iter()
                .filter_map(|c| c.image.clone())
                .collect(),
            claims: volumes::claims_of(&pod),
            group: group::of(&pod),
            pod,
        }
    }

    /// The pod's labels, where it has any.
    pub(crate) fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.pod.metadata.labels.as_ref()
    }

    /// The pod's spec, where it has one.
    pub(crate) fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    /// The node the pod is bound to.
    pub(crate) fn node_name(&self) -> Option<&str> {
        let name = self.spec()?.node_name.as_deref();
        name.filter(|name| !name.is_empty())
    }

    /// The node room is being made on for it, as its status says.
    pub(crate) fn nominated_node(&self) -> Option<&str> {
        let status = self.pod.status.as_ref()?;
        let name = status.nominated_node_name.as_deref();
        name.filter(|name| !name.is_empty())
    }

    /// When the node took it on; the far future where it has not.
    pub(crate) fn started(&self) -> Timestamp {
        let status = self.pod.status.as_ref();
        let time = status.and_then(|s| s.start_time.as_ref());
        time.map_or(Timestamp::MAX, |time| time.0)
    }

    /// Whether pods less important may be ended for it.
    pub(crate) fn may_preempt(&self) -> bool {
        let policy = self.spec().and_then(|s| s.preemption_policy.as_deref());
        policy != Some("Never")
    }

    /// What the pod tolerates.
    pub(crate) fn tolerations(&self) -> &[Toleration] {
        self.spec()
            .and_then(|spec| spec.tolerations.as_deref())
            .unwrap_or_default()
    }

    /// Whether it has ended and uses nothing any more.
    pub(crate) fn has_ended(&self) -> bool {
        pod::is_terminal(&self.pod)
    }

    /// Whether the scheduler is to find a node for it.
    pub(crate) fn is_waiting(&self) -> bool {
        let ours = self.spec().is_some_and(|spec| {
            let gated = spec
                .scheduling_gates
                .as_ref()
                .is_some_and(|g| !g.is_empty());
            let name = spec.scheduler_name.as_deref();
            matches!(name, None | Some("" | super::SCHEDULER)) && !gated
        });
        let ending = self.pod.metadata.deletion_timestamp.is_some();
        ours && !ending && self.node_name().is_none() && !self.has_ended()
    }

    /// Whether what decides about a node is the same in `other`.
    pub(crate) fn wants_the_same_as(&self, other: &Self) -> bool {
        self.uid == other.uid && self.labels() == other.labels() && self.pod.spec == other.pod.spec
    }
}

impl NodeTerm {
    /// Whether a node with this name and these labels matches.
    pub(crate) fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let by_name = BTreeMap::from([("metadata.name".to_owned(), name.to_owned())]);
        let is_empty = self.labels.is_empty() && self.names.is_empty();
        !(self.invalid || is_empty)
            && self.labels.iter().all(|r| r.matches(labels))
            && self.names.iter().all(|r| r.matches(&by_name))
    }
}

/// The terms of a node selector; one of them must match.
pub(crate) fn node_terms(selector: &NodeSelector) -> Vec<NodeTerm> {
    selector.node_selector_terms.iter().map(node_term).collect()
}

fn node_term(term: &NodeSelectorTerm) -> NodeTerm {
    let parse = |requirements: &Option<Vec<NodeSelectorRequirement>>| {
        let all = requirements.iter().flatten();
        all.map(requirement).collect::<Option<Vec<_>>>()
    };
    let (labels, names) = (parse(&term.match_expressions), parse(&term.match_fields));
    NodeTerm {
        invalid: labels.is_none() || names.is_none(),
        labels: labels.unwrap_or_default(),
        names: names.unwrap_or_default(),
    }
}

fn requirement(from: &NodeSelectorRequirement) -> Option<Requirement> {
    let operator = match from.operator.as_str() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        "Gt" => Operator::GreaterThan,
        "Lt" => Operator::LessThan,
        _ => return None,
    };
    Requirement::new(&from.key, operator, from.values.clone().unwrap_or_default()).ok()
}

/// A `metav1.LabelSelector`; absent or invalid selects nothing.
pub(crate) fn label_selector(selector: Option<&LabelSelector>) -> Selector {
    let value = selector.and_then(|s| serde_json::to_value(s).ok());
    let parsed = Selector::from_label_selector(&value.unwrap_or_default());
    parsed.unwrap_or_else(|_| Selector::nothing())
}
