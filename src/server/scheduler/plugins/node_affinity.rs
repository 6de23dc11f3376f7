//! `nodeSelector` and node affinity.

use crate::server::scheduler::{
    framework::{Filter, Plugin, Score, Verdict, scale_up},
    pod::PodInfo,
    snapshot::{NodeInfo, Snapshot},
};

struct Required<'a>(&'a PodInfo);

struct Preferred<'a>(&'a PodInfo);

/// For pods that require something of a node.
pub(crate) fn filter<'a>(pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
    let requires = pod.node_selector.is_some() || pod.node_terms.is_some();
    requires.then(|| Box::new(Required(pod)) as _)
}

/// For pods that prefer some nodes.
pub(crate) fn score<'a>(pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
    (!pod.preferred_nodes.is_empty()).then(|| Box::new(Preferred(pod)) as _)
}

/// Whether a node is what `pod` requires.
pub(crate) fn matches(pod: &PodInfo, node: &NodeInfo) -> bool {
    let selected = pod
        .node_selector
        .as_ref()
        .is_none_or(|selector| selector.matches(&node.labels));
    let terms = pod.node_terms.as_ref();
    let in_terms = terms.is_none_or(|terms| {
        terms
            .iter()
            .any(|term| term.matches(&node.name, &node.labels))
    });
    selected && in_terms
}

impl Filter for Required<'_> {
    fn reject(&self, node: &NodeInfo) -> Option<Verdict> {
        let reason = "node(s) didn't match Pod's node affinity/selector";
        (!matches(self.0, node)).then(|| Verdict::lasting(Plugin::NodeAffinity, reason))
    }
}

impl Score for Preferred<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let preferred = self.0.preferred_nodes.iter();
        preferred
            .filter(|(_, term)| term.matches(&node.name, &node.labels))
            .map(|(weight, _)| weight)
            .sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale_up(scores);
    }
}
