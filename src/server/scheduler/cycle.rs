//! One decision: which node a pod goes to. Pure: the same snapshot, pod and seed give the same
//! decision.
//!
//! In large clusters not every node is looked at: the search stops when enough candidates are
//! found (`numFeasibleNodesToFind` upstream), and the next one begins where it stopped, so that
//! all nodes get their turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::util::rng::Rng;

use super::framework::{Filter, Plugin, Verdict};
use super::pod::PodInfo;
use super::profile::Profile;
use super::snapshot::{NodeInfo, Snapshot};

/// Clusters up to this size are searched whole.
const CANDIDATES_MIN: usize = 100;

/// What is to become of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It goes to this node.
    Bind(Arc<str>),
    /// No node takes it.
    Unschedulable(Rejections),
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
}

impl Rejections {
    fn add(&mut self, verdict: Verdict) {
        self.plugins.insert(verdict.plugin);
        for reason in verdict.reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    /// Upstream's text: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) …`.
    pub(crate) fn message(&self) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut counted: Vec<_> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        counted.sort();
        format!(
            "0/{} nodes are available: {}.",
            self.nodes,
            counted.join(", ")
        )
    }
}

/// Decides for `pod`. `start` says where the search begins and is moved on by it.
pub(crate) fn cycle(
    snapshot: &Snapshot,
    pod: &PodInfo,
    profile: &Profile,
    start: &mut usize,
    rng: &Rng,
) -> Decision {
    let filters = profile
        .filters
        .iter()
        .filter_map(|make| make(pod, snapshot));
    let filters: Vec<_> = filters.collect();
    let (candidates, rejections) = candidates(snapshot, &filters, start);
    match candidates.as_slice() {
        [] => Decision::Unschedulable(rejections),
        [only] => Decision::Bind(only.name.clone()),
        _ => {
            let scores = scores(snapshot, pod, profile, &candidates);
            Decision::Bind(best(&candidates, &scores, rng))
        }
    }
}

fn candidates<'a>(
    snapshot: &'a Snapshot,
    filters: &[Box<dyn Filter + '_>],
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
        let node = &all[(*start + step) % all.len()];
        looked_at += 1;
        if node.node.is_none() {
            continue;
        }
        match filters.iter().find_map(|filter| filter.reject(node)) {
            Some(verdict) => rejections.add(verdict),
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
