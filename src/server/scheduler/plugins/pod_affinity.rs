//! Pod affinity and anti-affinity: nodes in the same domain as other pods, or not.
//!
//! Both ways: what the pod says of those that are there, and what those say of it.

use std::collections::{HashMap, HashSet};

use crate::server::scheduler::{
    affinity::Term,
    framework::{Filter, Plugin, SCORE_MAX, Score, Verdict},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const TOO_NEAR: &str = "node(s) didn't match pod anti-affinity rules";
const UNWELCOME: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// What a required affinity of another pod counts for the score of this one
/// (`hardPodAffinityWeight`).
const REQUIRED_WEIGHT: i64 = 1;

/// A label of nodes and its value.
type Domain = (String, String);

struct Required<'a> {
    near: &'a [Term],
    /// Domains with pods that all of `near` speak of.
    near_domains: HashSet<Domain>,
    /// The first of a group that wants to be together may go anywhere.
    is_first: bool,
    far: &'a [Term],
    far_domains: HashSet<Domain>,
    repelled: HashSet<Domain>,
}

struct Preferred {
    weights: HashMap<String, HashMap<String, i64>>,
}

/// For pods with required terms, and pods that others repel.
pub(crate) fn filter<'a>(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
    let terms = pod.affinity.as_deref();
    let near = terms.map_or(&[][..], |terms| &terms.required);
    let far = terms.map_or(&[][..], |terms| &terms.required_anti);
    let repelled = repelled(pod, snapshot);
    if near.is_empty() && far.is_empty() && repelled.is_empty() {
        return None;
    }
    let mut near_domains = HashSet::new();
    let mut far_domains = HashSet::new();
    for (other, node) in pods(snapshot) {
        if !near.is_empty() && near.iter().all(|term| term.selects(other, snapshot)) {
            near_domains.extend(near.iter().filter_map(|term| domain(node, term)));
        }
        let repels = far.iter().filter(|term| term.selects(other, snapshot));
        far_domains.extend(repels.filter_map(|term| domain(node, term)));
    }
    let is_first = near_domains.is_empty() && near.iter().all(|term| term.selects(pod, snapshot));
    Some(Box::new(Required {
        near,
        near_domains,
        is_first,
        far,
        far_domains,
        repelled,
    }))
}

/// For pods with preferred terms, and pods that others attract or repel.
pub(crate) fn score<'a>(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
    let mut weights: HashMap<String, HashMap<String, i64>> = HashMap::new();
    let mut weigh = |node: &NodeInfo, term: &Term, weight: i64| {
        if let Some((key, value)) = domain(node, term) {
            *weights.entry(key).or_default().entry(value).or_default() += weight;
        }
    };
    let own = pod.affinity.as_deref().map_or(&[][..], |t| &t.preferred);
    if !own.is_empty() {
        for (other, node) in pods(snapshot) {
            for term in own.iter().filter(|term| term.selects(other, snapshot)) {
                weigh(node, term, term.weight);
            }
        }
    }
    for (other, node) in snapshot.with_affinity() {
        let Some(terms) = other.affinity.as_deref() else {
            continue;
        };
        for term in terms.preferred.iter().filter(|t| t.selects(pod, snapshot)) {
            weigh(node, term, term.weight);
        }
        for term in terms.required.iter().filter(|t| t.selects(pod, snapshot)) {
            weigh(node, term, REQUIRED_WEIGHT);
        }
    }
    (!weights.is_empty()).then(|| Box::new(Preferred { weights }) as _)
}

fn pods(snapshot: &Snapshot) -> impl Iterator<Item = (&PodInfo, &NodeInfo)> {
    let nodes = snapshot.nodes().iter();
    nodes.flat_map(|node| node.pods.values().map(move |pod| (&**pod, node)))
}

fn domain(node: &NodeInfo, term: &Term) -> Option<Domain> {
    let value = node.labels.get(&term.topology_key)?;
    Some((term.topology_key.clone(), value.clone()))
}

/// Domains of pods whose required anti-affinity speaks of `pod`.
fn repelled(pod: &PodInfo, snapshot: &Snapshot) -> HashSet<Domain> {
    let mut domains = HashSet::new();
    for (other, node) in snapshot.with_affinity() {
        let terms = other.affinity.iter().flat_map(|terms| &terms.required_anti);
        let repelling = terms.filter(|term| term.selects(pod, snapshot));
        domains.extend(repelling.filter_map(|term| domain(node, term)));
    }
    domains
}

impl Filter for Required<'_> {
    fn reject(&self, node: &NodeInfo) -> Option<Verdict> {
        let verdict = |reason| Some(Verdict::new(Plugin::PodAffinity, reason));
        let is_near = self.near.iter().all(|term| match domain(node, term) {
            Some(domain) => self.is_first || self.near_domains.contains(&domain),
            None => false,
        });
        if !is_near {
            return verdict(NOT_NEAR);
        }
        let far = self.far.iter().filter_map(|term| domain(node, term));
        if far.into_iter().any(|d| self.far_domains.contains(&d)) {
            return verdict(TOO_NEAR);
        }
        let unwelcome = |(key, value): &Domain| node.labels.get(key) == Some(value);
        if self.repelled.iter().any(unwelcome) {
            return verdict(UNWELCOME);
        }
        None
    }
}

impl Score for Preferred {
    fn score(&self, node: &NodeInfo) -> i64 {
        let weights = self.weights.iter();
        weights
            .filter_map(|(key, values)| values.get(node.labels.get(key)?))
            .sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let most = scores.iter().copied().max().unwrap_or(0);
        let least = scores.iter().copied().min().unwrap_or(0);
        for score in scores {
            *score = if most == least {
                0
            } else {
                (*score - least) * SCORE_MAX / (most - least)
            };
        }
    }
}
