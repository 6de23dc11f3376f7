//! Topology spread: no domain (node, zone) gets many more of the same pods than another.
//!
//! A pod's own constraints count the pods its selectors select; the hard ones filter, the soft ones
//! score. A pod that names no constraint but has an owner is spread softly over nodes and zones
//! among that owner's pods.
//!
//! DEVIATION: upstream finds "the same pods" for its default constraints by the selectors of
//! Services and controllers; here the owner says it, which needs no search. Scores are scaled
//! between the emptiest and the fullest domain, so that equal nodes get equal numbers.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::api::selector::label::Selector;
use crate::server::scheduler::{
    framework::{Filter, Plugin, Score, Verdict, invert},
    pod::{PodInfo, label_selector},
    snapshot::{NodeInfo, Snapshot, ZONE},
};

use super::{node_affinity, taints};

const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str =
    "node(s) didn't match pod topology spread constraints (missing required label)";

/// One constraint with the counts of its domains.
struct Counted {
    key: String,
    max_skew: i64,
    /// Pods by value of `key`; every domain that counts is there.
    domains: HashMap<String, i64>,
    /// What the pod itself adds.
    own: i64,
    min_domains: usize,
}

struct Hard(Vec<Counted>);

struct Soft(Vec<Counted>);

/// Owner's pods by node name and by zone.
struct ByOwner<'a> {
    nodes: &'a HashMap<std::sync::Arc<str>, usize>,
    zones: HashMap<&'a str, usize>,
}

/// For pods with hard constraints.
pub(crate) fn filter<'a>(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
    let counted = counted(pod, snapshot, true);
    (!counted.is_empty()).then(|| Box::new(Hard(counted)) as _)
}

/// For pods with soft constraints, and pods with none that have an owner.
pub(crate) fn score<'a>(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
    if has_constraints(pod) {
        let counted = counted(pod, snapshot, false);
        return (!counted.is_empty()).then(|| Box::new(Soft(counted)) as _);
    }
    let nodes = snapshot.of_owner(pod.owner.as_ref()?)?;
    let mut zones = HashMap::new();
    for (name, count) in nodes {
        let zone = snapshot.node(name).and_then(|node| node.labels.get(ZONE));
        if let Some(zone) = zone {
            *zones.entry(zone.as_str()).or_default() += count;
        }
    }
    Some(Box::new(ByOwner { nodes, zones }))
}

fn constraints(pod: &PodInfo) -> &[TopologySpreadConstraint] {
    pod.spec()
        .and_then(|spec| spec.topology_spread_constraints.as_deref())
        .unwrap_or_default()
}

fn has_constraints(pod: &PodInfo) -> bool {
    !constraints(pod).is_empty()
}

fn counted(pod: &PodInfo, snapshot: &Snapshot, hard: bool) -> Vec<Counted> {
    let all: Vec<_> = constraints(pod)
        .iter()
        .filter(|c| (c.when_unsatisfiable == "DoNotSchedule") == hard)
        .collect();
    let keys: Vec<_> = all.iter().map(|c| c.topology_key.as_str()).collect();
    all.iter()
        .map(|constraint| count(constraint, pod, snapshot, &keys))
        .collect()
}

fn count(
    constraint: &TopologySpreadConstraint,
    pod: &PodInfo,
    snapshot: &Snapshot,
    keys: &[&str],
) -> Counted {
    let selector = label_selector(constraint.label_selector.as_ref());
    let same: BTreeMap<_, _> = constraint
        .match_label_keys
        .iter()
        .flatten()
        .filter_map(|key| Some((key, pod.labels()?.get(key)?)))
        .collect();
    let selects = |other: &PodInfo| {
        let labels = other.labels();
        let equal = |(key, value): (&&String, &&String)| {
            labels.and_then(|labels| labels.get(*key)) == Some(*value)
        };
        other.key.namespace == pod.key.namespace
            && other.pod.metadata.deletion_timestamp.is_none()
            && selects_labels(&selector, other)
            && same.iter().all(equal)
    };
    let mut domains = HashMap::new();
    for node in snapshot.nodes() {
        if !is_eligible(constraint, pod, node, keys) {
            continue;
        }
        let Some(value) = node.labels.get(&constraint.topology_key) else {
            continue;
        };
        let here = node.pods.values().filter(|other| selects(other)).count();
        *domains.entry(value.clone()).or_insert(0) += i64::try_from(here).unwrap_or(i64::MAX);
    }
    Counted {
        key: constraint.topology_key.clone(),
        max_skew: i64::from(constraint.max_skew),
        domains,
        own: i64::from(selects_labels(&selector, pod)),
        min_domains: usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1),
    }
}

fn selects_labels(selector: &Selector, pod: &PodInfo) -> bool {
    selector.matches(&pod.labels())
}

/// Whether a node's pods and its domain count for a constraint.
fn is_eligible(
    constraint: &TopologySpreadConstraint,
    pod: &PodInfo,
    node: &NodeInfo,
    keys: &[&str],
) -> bool {
    let honors_affinity = constraint.node_affinity_policy.as_deref() != Some("Ignore");
    let honors_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    node.node.is_some()
        && keys.iter().all(|key| node.labels.contains_key(*key))
        && (!honors_affinity || node_affinity::matches(pod, node))
        && (!honors_taints || taints::untolerated(pod, node).is_none())
}

impl Filter for Hard {
    fn reject(&self, node: &NodeInfo) -> Option<Verdict> {
        for constraint in &self.0 {
            let Some(value) = node.labels.get(&constraint.key) else {
                return Some(Verdict::new(Plugin::Spread, NO_LABEL));
            };
            let least = if constraint.domains.len() < constraint.min_domains {
                0
            } else {
                constraint.domains.values().copied().min().unwrap_or(0)
            };
            let here = constraint.domains.get(value).copied().unwrap_or(0);
            if here + constraint.own - least > constraint.max_skew {
                return Some(Verdict::new(Plugin::Spread, UNEVEN));
            }
        }
        None
    }
}

/// Counts are compared in thousandths, because domains are weighed by their number.
const SCALE: f64 = 1000.0;

impl Score for Soft {
    fn score(&self, node: &NodeInfo) -> i64 {
        let parts = self.0.iter().map(|constraint| {
            let value = node.labels.get(&constraint.key);
            let here = value.and_then(|value| constraint.domains.get(value));
            // A node outside of every domain is worse than the fullest domain.
            let fullest = || constraint.domains.values().copied().max().unwrap_or(0) + 1;
            let here = here.copied().unwrap_or_else(fullest);
            weighed(here, constraint.domains.len())
        });
        parts.sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        invert(scores);
    }
}

impl Score for ByOwner<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let here = self.nodes.get(&node.name).copied().unwrap_or(0);
        let zone = node.labels.get(ZONE);
        let in_zone = zone.and_then(|zone| self.zones.get(zone.as_str()));
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        weighed(count(here), self.nodes.len())
            + weighed(count(in_zone.copied().unwrap_or(0)), self.zones.len())
    }

    fn normalize(&self, scores: &mut [i64]) {
        invert(scores);
    }
}

/// A constraint with many domains counts more: its differences are smaller.
fn weighed(count: i64, domains: usize) -> i64 {
    (count as f64 * ((domains + 2) as f64).ln() * SCALE) as i64
}
