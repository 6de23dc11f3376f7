//! Pod affinity and anti-affinity: nodes in the same domain as other pods, or not.
//!
//! Both ways: what the pod says of those that are there, and what those say of it.

use std::collections::HashMap;

use crate::server::scheduler::{
    affinity::Term,
    framework::{Filter, Plugin, SCORE_MAX, Score, Verdict},
    group::Group,
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

const NOT_NEAR: &str = "node(s) didn't match pod affinity rules";
const TOO_NEAR: &str = "node(s) didn't match pod anti-affinity rules";
const UNWELCOME: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// What a required affinity of another pod counts for the score of this one
/// (`hardPodAffinityWeight`).
const REQUIRED_WEIGHT: i64 = 1;

/// Label of nodes → value → a number.
type ByDomain = HashMap<String, HashMap<String, i64>>;

/// A term with the pods it speaks of, by the value of its label.
struct Counts<'a> {
    term: &'a Term,
    by_value: HashMap<String, i64>,
}

struct Required<'a> {
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
    /// Pods that all terms of affinity speak of.
    near: Vec<Counts<'a>>,
    /// The first of a group that wants to be together may go anywhere.
    may_be_first: bool,
    far: Vec<Counts<'a>>,
    /// Pods whose anti-affinity speaks of this one.
    repelled: ByDomain,
}

/// What another pod counts for.
struct Effect<'t> {
    is_near: bool,
    is_far: Vec<bool>,
    repels: Vec<&'t Term>,
}

struct Preferred {
    weights: ByDomain,
}

/// For pods with required terms, and pods that others repel, or that may meet pods to come.
pub(crate) fn filter<'a>(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
    let terms = pod.affinity.as_deref();
    let counts = |terms: &'a [Term]| -> Vec<Counts<'a>> {
        let empty = |term| Counts {
            term,
            by_value: HashMap::new(),
        };
        terms.iter().map(empty).collect()
    };
    let mut required = Required {
        pod,
        snapshot,
        near: counts(terms.map_or(&[][..], |terms| &terms.required)),
        may_be_first: terms.is_none_or(|t| t.required.iter().all(|t| t.selects(pod, snapshot))),
        far: counts(terms.map_or(&[][..], |terms| &terms.required_anti)),
        repelled: HashMap::new(),
    };
    if required.near.is_empty() && required.far.is_empty() {
        required.count(snapshot.groups().with_affinity());
    } else {
        required.count(snapshot.groups().all());
    }
    let is_idle = required.near.is_empty()
        && required.far.is_empty()
        && required.repelled.is_empty()
        && snapshot.nominations().is_empty();
    (!is_idle).then(|| Box::new(required) as _)
}

/// For pods with preferred terms, and pods that others attract or repel.
pub(crate) fn score<'a>(pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
    let mut weights = ByDomain::new();
    let mut weigh = |group: &Group, term: &Term, weight: i64| {
        for (node, count) in &group.nodes {
            if let Some(node) = snapshot.node(node) {
                change(&mut weights, term, node, weight * count);
            }
        }
    };
    let own = pod.affinity.as_deref().map_or(&[][..], |t| &t.preferred);
    if !own.is_empty() {
        for group in snapshot.groups().all() {
            let selecting = own.iter().filter(|t| t.selects(&group.sample, snapshot));
            for term in selecting {
                weigh(group, term, term.weight);
            }
        }
    }
    for group in snapshot.groups().with_affinity() {
        let Some(terms) = group.sample.affinity.as_deref() else {
            continue;
        };
        for term in terms.preferred.iter().filter(|t| t.selects(pod, snapshot)) {
            weigh(group, term, term.weight);
        }
        for term in terms.required.iter().filter(|t| t.selects(pod, snapshot)) {
            weigh(group, term, REQUIRED_WEIGHT);
        }
    }
    (!weights.is_empty()).then(|| Box::new(Preferred { weights }) as _)
}

/// Adds to the number of the node's domain; nothing is kept of numbers that become zero.
fn change(numbers: &mut ByDomain, term: &Term, node: &NodeInfo, by: i64) {
    let Some(value) = node.labels.get(&term.topology_key) else {
        return;
    };
    let values = numbers.entry(term.topology_key.clone()).or_default();
    let number = values.entry(value.clone()).or_default();
    *number += by;
    if *number == 0 {
        values.remove(value);
    }
    if values.is_empty() {
        numbers.remove(&term.topology_key);
    }
}

impl Counts<'_> {
    fn change(&mut self, node: &NodeInfo, by: i64) {
        let Some(value) = node.labels.get(&self.term.topology_key) else {
            return;
        };
        let count = self.by_value.entry(value.clone()).or_default();
        *count += by;
        if *count == 0 {
            self.by_value.remove(value);
        }
    }

    fn has(&self, value: &str) -> bool {
        self.by_value.contains_key(value)
    }
}

impl Required<'_> {
    fn count<'g>(&mut self, groups: impl Iterator<Item = &'g Group>) {
        let snapshot = self.snapshot;
        for group in groups {
            let effect = self.effect_of(&group.sample);
            if effect.is_none() {
                continue;
            }
            for (node, count) in &group.nodes {
                if let Some(node) = snapshot.node(node) {
                    self.apply(&effect, node, *count);
                }
            }
        }
    }

    fn effect_of<'t>(&self, other: &'t PodInfo) -> Effect<'t> {
        let selects = |term: &Term| term.selects(other, self.snapshot);
        let theirs = other.affinity.iter().flat_map(|t| &t.required_anti);
        Effect {
            is_near: !self.near.is_empty() && self.near.iter().all(|c| selects(c.term)),
            is_far: self.far.iter().map(|c| selects(c.term)).collect(),
            repels: theirs
                .filter(|t| t.selects(self.pod, self.snapshot))
                .collect(),
        }
    }

    fn apply(&mut self, effect: &Effect<'_>, node: &NodeInfo, by: i64) {
        if effect.is_near {
            self.near
                .iter_mut()
                .for_each(|counts| counts.change(node, by));
        }
        for (counts, is_far) in self.far.iter_mut().zip(&effect.is_far) {
            if *is_far {
                counts.change(node, by);
            }
        }
        for term in &effect.repels {
            change(&mut self.repelled, term, node, by);
        }
    }

    fn is_near(&self, node: &NodeInfo) -> bool {
        let is_first = self.may_be_first && self.near.iter().all(|c| c.by_value.is_empty());
        self.near.iter().all(|counts| {
            let value = node.labels.get(&counts.term.topology_key);
            value.is_some_and(|value| is_first || counts.has(value))
        })
    }

    fn is_too_near(&self, node: &NodeInfo) -> bool {
        self.far.iter().any(|counts| {
            let value = node.labels.get(&counts.term.topology_key);
            value.is_some_and(|value| counts.has(value))
        })
    }

    fn is_unwelcome(&self, node: &NodeInfo) -> bool {
        self.repelled.iter().any(|(key, values)| {
            let value = node.labels.get(key);
            value.is_some_and(|value| values.contains_key(value))
        })
    }
}

impl Effect<'_> {
    fn is_none(&self) -> bool {
        !self.is_near && !self.is_far.contains(&true) && self.repels.is_empty()
    }
}

impl Filter for Required<'_> {
    fn reject(&self, node: &NodeInfo) -> Option<Verdict> {
        if !self.is_near(node) {
            return Some(Verdict::lasting(Plugin::PodAffinity, NOT_NEAR));
        }
        if self.is_too_near(node) {
            return Some(Verdict::new(Plugin::PodAffinity, TOO_NEAR));
        }
        let unwelcome = self.is_unwelcome(node);
        unwelcome.then(|| Verdict::new(Plugin::PodAffinity, UNWELCOME))
    }

    fn add(&mut self, other: &PodInfo, node: &NodeInfo) {
        let effect = self.effect_of(other);
        self.apply(&effect, node, 1);
    }

    fn remove(&mut self, other: &PodInfo, node: &NodeInfo) {
        let effect = self.effect_of(other);
        self.apply(&effect, node, -1);
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
