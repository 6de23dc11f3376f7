//! One decision: which node a pod goes to. Pure: the same snapshot, pod and seed give the same
//! decision.
//!
//! In large clusters not every node is looked at: the search stops when enough candidates are
//! found (`numFeasibleNodesToFind` upstream), and the next one begins where it stopped, so that
//! all nodes get their turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::util::rng::Rng;

use super::framework::{Filters, Plugin, Verdict};
use super::pod::PodInfo;
use super::preempt::{Outcome, Search};
use super::profile::Profile;
use super::snapshot::{NodeInfo, Snapshot};

/// Clusters up to this size are searched whole.
const CANDIDATES_MIN: usize = 100;

/// What is to become of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It goes to this node.
    Bind(Arc<str>),
    /// No node takes it; whether others are to make room.
    Unschedulable(Rejections, Outcome),
}

/// Why no node takes a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rejections {
    /// How many nodes there are.
    pub(crate) nodes: usize,
    /// How many nodes each reason holds for.
    pub(crate) reasons: BTreeMap<String, usize>,
    /// Who rejected any node.
    pub(crate) plugins: BTreeSet<Plugin>,
    /// What stands against every node.
    pub(crate) everywhere: Option<String>,
    /// Places in the snapshot of the nodes where ending pods might help.
    pub(crate) may_preempt: Vec<usize>,
}

impl Rejections {
    fn add(&mut self, at: usize, verdict: Verdict) {
        self.plugins.insert(verdict.plugin);
        if verdict.may_preempt {
            self.may_preempt.push(at);
        }
        for reason in verdict.reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    /// Upstream's text: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) …`.
    pub(crate) fn message(&self) -> String {
        match &self.everywhere {
            Some(why) if self.nodes > 0 => {
                format!("0/{} nodes are available: {why}.", self.nodes)
            }
            _ => message(self.nodes, &self.reasons),
        }
    }

    /// The same, and what came of preemption
    /// (`k8s.io/kubernetes/pkg/scheduler/framework.FitError`).
    pub(crate) fn message_after(&self, outcome: &Outcome) -> String {
        let message = self.message();
        match outcome {
            Outcome::Useless(why) | Outcome::Ineligible(why) if self.nodes > 0 => {
                format!("{message} no new claims to deallocate, preemption: {why}")
            }
            _ => message,
        }
    }
}

/// How many of `nodes` each reason holds for, in words.
pub(crate) fn message(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".to_owned();
    }
    let counted = reasons.iter();
    let mut counted: Vec<_> = counted
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    counted.sort();
    format!("0/{nodes} nodes are available: {}.", counted.join(", "))
}

/// Decides for `pod`. `start` says where the search begins and is moved on by it.
pub(crate) fn cycle(
    snapshot: &Snapshot,
    pod: &PodInfo,
    profile: &Profile,
    start: &mut usize,
    rng: &Rng,
) -> Decision {
    let mut filters = filters(snapshot, pod, profile);
    if let Some(why) = snapshot.volumes().problem(pod) {
        let rejections = Rejections {
            nodes: snapshot.known(),
            everywhere: Some(why),
            plugins: BTreeSet::from([Plugin::Volumes]),
            ..Rejections::default()
        };
        return unschedulable(snapshot, pod, filters, rejections, rng);
    }
    if let Some(node) = nominated(snapshot, pod, &mut filters) {
        return Decision::Bind(node);
    }
    let (candidates, rejections) = candidates(snapshot, pod, &mut filters, start);
    match candidates.as_slice() {
        [] => unschedulable(snapshot, pod, filters, rejections, rng),
        [only] => Decision::Bind(only.name.clone()),
        _ => {
            let scores = scores(snapshot, pod, profile, &candidates);
            Decision::Bind(best(&candidates, &scores, rng))
        }
    }
}

fn unschedulable(
    snapshot: &Snapshot,
    pod: &PodInfo,
    mut filters: Filters<'_>,
    rejections: Rejections,
    rng: &Rng,
) -> Decision {
    let search = Search {
        snapshot,
        pod,
        filters: &mut filters,
    };
    let outcome = search.run(&rejections, rng);
    Decision::Unschedulable(rejections, outcome)
}

/// The filters that have something to say about `pod`.
pub(crate) fn filters<'a>(
    snapshot: &'a Snapshot,
    pod: &'a PodInfo,
    profile: &Profile,
) -> Filters<'a> {
    let makers = profile.filters.iter();
    makers.filter_map(|make| make(pod, snapshot)).collect()
}

/// The first filter's verdict against `node`: with the pods that are to come there and go before
/// `pod`, since it must leave them their room; and without, since they may not come after all.
pub(crate) fn reject(
    filters: &mut Filters<'_>,
    snapshot: &Snapshot,
    pod: &PodInfo,
    node: &NodeInfo,
) -> Option<Verdict> {
    let nominations = snapshot.nominations();
    if !nominations.is_empty() {
        let guests: Vec<_> = nominations.ahead_of(pod, &node.name).collect();
        if !guests.is_empty() {
            let mut full = node.clone();
            for guest in &guests {
                full.add((*guest).clone());
                filters.iter_mut().for_each(|f| f.add(guest, node));
            }
            let verdict = filters.iter().find_map(|filter| filter.reject(&full));
            for guest in &guests {
                filters.iter_mut().for_each(|f| f.remove(guest, node));
            }
            if verdict.is_some() {
                return verdict;
            }
        }
    }
    filters.iter().find_map(|filter| filter.reject(node))
}

/// The node room was made on for `pod`, where it takes it by now.
fn nominated(snapshot: &Snapshot, pod: &PodInfo, filters: &mut Filters<'_>) -> Option<Arc<str>> {
    let node = snapshot.nominations().node_of(&pod.key)?;
    let node = snapshot.node(node).filter(|node| node.node.is_some())?;
    let verdict = reject(filters, snapshot, pod, node);
    verdict.is_none().then(|| node.name.clone())
}

fn candidates<'a>(
    snapshot: &'a Snapshot,
    pod: &PodInfo,
    filters: &mut Filters<'_>,
    start: &mut usize,
) -> (Vec<&'a NodeInfo>, Rejections) {
    let all = snapshot.nodes();
    let enough = enough_candidates(snapshot.known());
    let mut found = Vec::new();
    let mut rejections = Rejections {
        nodes: snapshot.known(),
        ..Rejections::default()
    };
    let mut looked_at = 0;
    for step in 0..all.len() {
        let at = (*start + step) % all.len();
        let node = &all[at];
        looked_at += 1;
        if node.node.is_none() {
            continue;
        }
        match reject(filters, snapshot, pod, node) {
            Some(verdict) => rejections.add(at, verdict),
            None => found.push(node),
        }
        if found.len() >= enough {
            break;
        }
    }
    *start = (*start + looked_at) % all.len().max(1);
    (found, rejections)
}

fn enough_candidates(nodes: usize) -> usize {
    if nodes <= CANDIDATES_MIN {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(CANDIDATES_MIN)
}

fn scores(
    snapshot: &Snapshot,
    pod: &PodInfo,
    profile: &Profile,
    candidates: &[&NodeInfo],
) -> Vec<i64> {
    let mut total = vec![0; candidates.len()];
    for (make, weight) in &profile.scores {
        let Some(plugin) = make(pod, snapshot) else {
            continue;
        };
        let mut scores: Vec<_> = candidates.iter().map(|node| plugin.score(node)).collect();
        plugin.normalize(&mut scores);
        for (total, score) in total.iter_mut().zip(scores) {
            *total += score * weight;
        }
    }
    total
}

/// The node with the highest score; among equals any.
fn best(candidates: &[&NodeInfo], scores: &[i64], rng: &Rng) -> Arc<str> {
    let most = scores.iter().copied().max().unwrap_or(0);
    let equals: Vec<_> = scores
        .iter()
        .zip(candidates)
        .filter(|(score, _)| **score == most)
        .map(|(_, node)| &node.name)
        .collect();
    equals[rng.below(equals.len())].clone()
}
