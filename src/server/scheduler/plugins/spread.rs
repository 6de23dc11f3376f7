//! Topology spread: no domain (node, zone) gets many more of the same pods than another.
//!
//! A pod's own constraints count the pods its selectors select; the hard ones filter, the soft ones
//! score. A pod that names no constraint but has an owner is spread softly over nodes and zones
//! among that owner's pods.
//!
//! DEVIATION: upstream finds "the same pods" for its default constraints by the selectors of
//! Services and controllers; here the owner says it, which needs no search. Scores are scaled
//! between the emptiest and the fullest domain, so that equal nodes get equal numbers.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::api::selector::label::{Operator, Requirement, Selector};
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
struct Counted<'a> {
    pod: &'a PodInfo,
    constraint: &'a TopologySpreadConstraint,
    /// Labels a node must have to count.
    keys: Vec<&'a str>,
    selector: Selector,
    /// Values of the key that count; `None`: all there are.
    eligible: Option<HashSet<String>>,
    /// How many domains count.
    domains: usize,
    /// Selected pods by value of the key, where there are any.
    counts: HashMap<String, i64>,
    /// Of the emptiest and of the fullest domain.
    least: i64,
    most: i64,
    /// What the pod itself adds.
    own: i64,
}

struct Hard<'a>(Vec<Counted<'a>>);

struct Soft<'a>(Vec<Counted<'a>>);

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

/// Whether `other` counts for a hard constraint of `pod`.
pub(crate) fn concerns(pod: &PodInfo, other: &PodInfo) -> bool {
    let hard = constraints(pod).iter();
    let mut hard = hard.filter(|c| c.when_unsatisfiable == "DoNotSchedule");
    other.key.namespace == pod.key.namespace
        && hard.any(|c| selector_of(c, pod).matches(&other.labels()))
}

fn has_constraints(pod: &PodInfo) -> bool {
    !constraints(pod).is_empty()
}

fn counted<'a>(pod: &'a PodInfo, snapshot: &Snapshot, hard: bool) -> Vec<Counted<'a>> {
    let all: Vec<_> = constraints(pod)
        .iter()
        .filter(|c| (c.when_unsatisfiable == "DoNotSchedule") == hard)
        .collect();
    let keys: Vec<_> = all.iter().map(|c| c.topology_key.as_str()).collect();
    let all = all.iter().copied();
    all.map(|constraint| Counted::new(constraint, pod, snapshot, &keys))
        .collect()
}

/// The constraint's selector, with the pod's own values of `matchLabelKeys`.
fn selector_of(constraint: &TopologySpreadConstraint, pod: &PodInfo) -> Selector {
    let selector = label_selector(constraint.label_selector.as_ref());
    let same: Vec<_> = constraint
        .match_label_keys
        .iter()
        .flatten()
        .filter_map(|key| {
            let value = pod.labels()?.get(key)?.clone();
            Requirement::new(key, Operator::In, vec![value]).ok()
        })
        .collect();
    if same.is_empty() {
        return selector;
    }
    let all = selector.requirements().iter().cloned().chain(same);
    Selector::from_requirements(all.collect())
}

impl<'a> Counted<'a> {
    fn new(
        constraint: &'a TopologySpreadConstraint,
        pod: &'a PodInfo,
        snapshot: &Snapshot,
        keys: &[&'a str],
    ) -> Self {
        let selector = selector_of(constraint, pod);
        let mut counted = Self {
            pod,
            constraint,
            keys: keys.to_vec(),
            own: i64::from(selector.matches(&pod.labels())),
            selector,
            eligible: None,
            domains: 0,
            counts: HashMap::new(),
            least: 0,
            most: 0,
        };
        counted.find_domains(snapshot);
        for group in snapshot.groups().within(&pod.key.namespace) {
            if !counted.selects(&group.sample) {
                continue;
            }
            for (node, count) in &group.nodes {
                if let Some(node) = snapshot.node(node) {
                    counted.count(node, *count);
                }
            }
        }
        counted.find_extremes();
        counted
    }

    fn find_domains(&mut self, snapshot: &Snapshot) {
        let picks_nodes = self.honors_affinity()
            && (self.pod.node_selector.is_some() || self.pod.node_terms.is_some());
        if self.keys.len() == 1 && !picks_nodes && !self.honors_taints() {
            let all = snapshot.domains(&self.constraint.topology_key);
            self.domains = all.map_or(0, HashMap::len);
            return;
        }
        let nodes = snapshot
            .nodes()
            .iter()
            .filter(|node| self.is_eligible(node));
        let values = nodes.filter_map(|node| node.labels.get(&self.constraint.topology_key));
        let values: HashSet<_> = values.cloned().collect();
        self.domains = values.len();
        self.eligible = Some(values);
    }

    fn honors_affinity(&self) -> bool {
        self.constraint.node_affinity_policy.as_deref() != Some("Ignore")
    }

    fn honors_taints(&self) -> bool {
        self.constraint.node_taints_policy.as_deref() == Some("Honor")
    }

    /// Whether a node's pods and its domain count.
    fn is_eligible(&self, node: &NodeInfo) -> bool {
        node.node.is_some()
            && self.keys.iter().all(|key| node.labels.contains_key(*key))
            && (!self.honors_affinity() || node_affinity::matches(self.pod, node))
            && (!self.honors_taints() || taints::untolerated(self.pod, node).is_none())
    }

    fn selects(&self, other: &PodInfo) -> bool {
        other.key.namespace == self.pod.key.namespace
            && other.pod.metadata.deletion_timestamp.is_none()
            && self.selector.matches(&other.labels())
    }

    fn count(&mut self, node: &NodeInfo, by: i64) {
        if !self.is_eligible(node) {
            return;
        }
        let Some(value) = node.labels.get(&self.constraint.topology_key) else {
            return;
        };
        let count = self.counts.entry(value.clone()).or_default();
        *count += by;
        if *count == 0 {
            self.counts.remove(value);
        }
    }

    fn find_extremes(&mut self) {
        self.most = self.counts.values().copied().max().unwrap_or(0);
        let min_domains = self.constraint.min_domains.unwrap_or(1);
        let is_short = self.domains < usize::try_from(min_domains).unwrap_or(1);
        self.least = if is_short || self.counts.len() < self.domains {
            0
        } else {
            self.counts.values().copied().min().unwrap_or(0)
        };
    }

    fn change(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        if self.selects(other) {
            self.count(node, by);
            self.find_extremes();
        }
    }

    fn skew(&self, value: &str) -> i64 {
        let here = self.counts.get(value).copied().unwrap_or(0);
        here + self.own - self.least
    }

    /// How many are in the node's domain; `None`: it is in none that counts.
    fn here(&self, node: &NodeInfo) -> Option<i64> {
        let value = node.labels.get(&self.constraint.topology_key)?;
        let counts = self.eligible.as_ref().is_none_or(|all| all.contains(value));
        counts.then(|| self.counts.get(value).copied().unwrap_or(0))
    }
}

impl Filter for Hard<'_> {
    fn reject(&self, node: &NodeInfo) -> Option<Verdict> {
        for counted in &self.0 {
            let Some(value) = node.labels.get(&counted.constraint.topology_key) else {
                return Some(Verdict::lasting(Plugin::Spread, NO_LABEL));
            };
            if counted.skew(value) > i64::from(counted.constraint.max_skew) {
                return Some(Verdict::new(Plugin::Spread, UNEVEN));
            }
        }
        None
    }

    fn add(&mut self, other: &PodInfo, node: &NodeInfo) {
        for counted in &mut self.0 {
            counted.change(other, node, 1);
        }
    }

    fn remove(&mut self, other: &PodInfo, node: &NodeInfo) {
        for counted in &mut self.0 {
            counted.change(other, node, -1);
        }
    }

    fn figures(&self, node: &NodeInfo) -> Vec<String> {
        let figures = self.0.iter().filter_map(|counted| {
            let key = &counted.constraint.topology_key;
            let Some(value) = node.labels.get(key) else {
                return Some(format!("has no label {key}"));
            };
            let (skew, most) = (counted.skew(value), counted.constraint.max_skew);
            let least = counted.least;
            let uneven = skew > i64::from(most);
            uneven.then(|| {
                let with = skew + least;
                format!(
                    "{key}={value} would have {with} pods, the emptiest domain has {least}: skew \
                     {skew} of at most {most}"
                )
            })
        });
        figures.collect()
    }
}

/// Counts are compared in thousandths, because domains are weighed by their number.
const SCALE: f64 = 1000.0;

impl Score for Soft<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let parts = self.0.iter().map(|counted| {
            // A node outside of every domain is worse than the fullest domain.
            let here = counted.here(node).unwrap_or(counted.most + 1);
            weighed(here, counted.domains)
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
