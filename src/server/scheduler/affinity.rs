//! Pod affinity and anti-affinity terms, parsed.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm};

use crate::api::selector::label::{Operator, Requirement, Selector};

use super::pod::{PodInfo, label_selector};
use super::snapshot::Snapshot;

/// Which pods, and over which label of nodes.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    pub(crate) topology_key: String,
    /// Of a preferred term; negative for anti-affinity.
    pub(crate) weight: i64,
    selector: Selector,
    namespaces: Vec<String>,
    namespace_selector: Option<Selector>,
}

/// All terms of a pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) required: Vec<Term>,
    pub(crate) required_anti: Vec<Term>,
    pub(crate) preferred: Vec<Term>,
}

impl Terms {
    /// `None` where a pod has none.
    pub(crate) fn parse(
        affinity: Option<&Affinity>,
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
    ) -> Option<Box<Self>> {
        let affinity = affinity?;
        let (near, far) = (
            affinity.pod_affinity.as_ref(),
            affinity.pod_anti_affinity.as_ref(),
        );
        let parse = |term: &PodAffinityTerm, weight| Term::parse(term, namespace, labels, weight);
        let mut terms = Self::default();
        if let Some(near) = near {
            let required = near
                .required_during_scheduling_ignored_during_execution
                .iter();
            terms.required = required.flatten().map(|t| parse(t, 0)).collect();
            let preferred = near
                .preferred_during_scheduling_ignored_during_execution
                .iter();
            for term in preferred.flatten() {
                let weight = i64::from(term.weight);
                terms.preferred.push(parse(&term.pod_affinity_term, weight));
            }
        }
        if let Some(far) = far {
            let required = far
                .required_during_scheduling_ignored_during_execution
                .iter();
            terms.required_anti = required.flatten().map(|t| parse(t, 0)).collect();
            let preferred = far
                .preferred_during_scheduling_ignored_during_execution
                .iter();
            for term in preferred.flatten() {
                let weight = -i64::from(term.weight);
                terms.preferred.push(parse(&term.pod_affinity_term, weight));
            }
        }
        (!terms.is_empty()).then(|| Box::new(terms))
    }

    fn is_empty(&self) -> bool {
        self.required.is_empty() && self.required_anti.is_empty() && self.preferred.is_empty()
    }
}

impl Term {
    fn parse(
        term: &PodAffinityTerm,
        namespace: &str,
        labels: Option<&BTreeMap<String, String>>,
        weight: i64,
    ) -> Self {
        let selector = label_selector(term.label_selector.as_ref());
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        Self {
            topology_key: term.topology_key.clone(),
            weight,
            selector: with_keys(selector, term, labels),
            namespaces,
            namespace_selector: term
                .namespace_selector
                .as_ref()
                .map(|selector| label_selector(Some(selector))),
        }
    }

    /// Whether `pod` is one of those the term speaks of.
    pub(crate) fn selects(&self, pod: &PodInfo, snapshot: &Snapshot) -> bool {
        let namespace = &pod.key.namespace;
        let by_labels = || {
            self.namespace_selector.as_ref().is_some_and(|selector| {
                selector.is_empty() || selector.matches(&snapshot.namespace_labels(namespace))
            })
        };
        (self.namespaces.contains(namespace) || by_labels()) && self.selector.matches(&pod.labels())
    }
}

/// `matchLabelKeys` and `mismatchLabelKeys` take the values of the pod's own labels.
fn with_keys(
    selector: Selector,
    term: &PodAffinityTerm,
    labels: Option<&BTreeMap<String, String>>,
) -> Selector {
    let same = term.match_label_keys.iter().flatten();
    let other = term.mismatch_label_keys.iter().flatten();
    let keys = same
        .map(|key| (key, Operator::In))
        .chain(other.map(|key| (key, Operator::NotIn)));
    let more: Vec<_> = keys
        .filter_map(|(key, operator)| {
            let value = labels?.get(key)?.clone();
            Requirement::new(key, operator, vec![value]).ok()
        })
        .collect();
    if more.is_empty() {
        return selector;
    }
    let all = selector.requirements().iter().cloned().chain(more);
    Selector::from_requirements(all.collect())
}
