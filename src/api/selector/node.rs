//! Node selector terms: which nodes a pod or a volume may be on
//! (`k8s.io/component-helpers/scheduling/corev1/nodeaffinity`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec,
};

use super::label::{Operator, Requirement, Selector};
use crate::api::meta;

/// The only field of a node that a term may speak of.
pub const NAME_FIELD: &str = "metadata.name";

/// Labels and fields that must all match. Never matches where it is empty.
#[derive(Clone, Debug)]
pub struct NodeTerm {
    labels: Vec<Requirement>,
    /// Only `metadata.name` is a field.
    names: Vec<Requirement>,
    /// A requirement that cannot be read matches nothing.
    invalid: bool,
}

impl NodeTerm {
    /// Parses one term.
    pub fn new(term: &NodeSelectorTerm) -> Self {
        let parse = |requirements: &Option<Vec<NodeSelectorRequirement>>| {
            let all = requirements.iter().flatten();
            all.map(requirement).collect::<Option<Vec<_>>>()
        };
        let (labels, names) = (parse(&term.match_expressions), parse(&term.match_fields));
        Self {
            invalid: labels.is_none() || names.is_none(),
            labels: labels.unwrap_or_default(),
            names: names.unwrap_or_default(),
        }
    }

    /// The terms of a node selector; one of them must match.
    pub fn all_of(selector: &NodeSelector) -> Vec<Self> {
        selector.node_selector_terms.iter().map(Self::new).collect()
    }

    /// Whether a node with this name and these labels matches.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let is_empty = self.labels.is_empty() && self.names.is_empty();
        if self.invalid || is_empty || !self.labels.iter().all(|r| r.matches(labels)) {
            return false;
        }
        if self.names.is_empty() {
            return true;
        }
        let by_name = BTreeMap::from([(NAME_FIELD.to_owned(), name.to_owned())]);
        self.names.iter().all(|r| r.matches(&by_name))
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

/// The nodes a pod requires by `nodeSelector` and required node affinity, parsed once.
#[derive(Clone, Debug)]
pub struct Required {
    selector: Option<Selector>,
    terms: Option<Vec<NodeTerm>>,
}

impl Required {
    /// What a pod of this spec requires.
    pub fn of(spec: &PodSpec) -> Self {
        let labels = spec.node_selector.as_ref();
        let affinity = spec
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|a| {
            a.required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        Self {
            selector: labels
                .map(|set| Selector::from_set(set.iter().map(|(k, v)| (k.as_str(), v.as_str())))),
            terms: required.map(NodeTerm::all_of),
        }
    }

    /// Whether `node` is what is required.
    pub fn matches(&self, node: &Node) -> bool {
        let none = BTreeMap::new();
        let labels = node.metadata.labels.as_ref().unwrap_or(&none);
        let selected = self.selector.as_ref().is_none_or(|s| s.matches(labels));
        let name = meta::name(&node.metadata);
        let terms = self.terms.as_ref();
        selected && terms.is_none_or(|terms| terms.iter().any(|t| t.matches(name, labels)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_node_is_required_by_labels_and_by_name() {
        let node: Node = serde_json::from_value(
            json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "gen": "7"}}}),
        )
        .unwrap();
        let terms = |terms: Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        let named = |name: &str| {
            json!({"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": [name]}]})
        };
        let newer =
            json!({"matchExpressions": [{"key": "gen", "operator": "Gt", "values": ["6"]}]});
        let both = json!({"matchFields": named("n1")["matchFields"],
            "matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}]});
        for (spec, expected) in [
            (json!({"containers": []}), true),
            (
                json!({"containers": [], "nodeSelector": {"disk": "ssd"}}),
                true,
            ),
            (
                json!({"containers": [], "nodeSelector": {"disk": "hdd"}}),
                false,
            ),
            (terms(json!([named("n1")])), true),
            (terms(json!([named("n2")])), false),
            (terms(json!([named("n2"), newer])), true),
            (terms(json!([both])), false),
            (terms(json!([{}])), false),
        ] {
            let pod: PodSpec = serde_json::from_value(spec.clone()).unwrap();
            assert_eq!(Required::of(&pod).matches(&node), expected, "{spec}");
        }
    }
}
