//! `GET /orch/v1/explain/pods/NAMESPACE/NAME`: why a Pod waits, node by node, and the smallest
//! change that would let it fit.
//!
//! The scheduler answers between two batches, from the very state it decides on: all filters of
//! each node are asked, not only up to the first that refuses. Nothing is kept for it, so that it
//! costs nothing until somebody asks. Where another server of the cluster schedules, that one has
//! to be asked.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::api::object::ObjectKey;
use crate::api::status::ApiError;

use super::SCHEDULER;
use super::cycle;
use super::framework::Plugin;
use super::plugins::resources_fit;
use super::pod::PodInfo;
use super::profile::Profile;
use super::snapshot::{NodeInfo, Snapshot};

/// Where it is served: `PATH` + `NAMESPACE/NAME`.
pub const PATH: &str = "/orch/v1/explain/pods/";

/// Nodes shown; the rest is counted.
const NODES_MAX: usize = 200;
/// Questions that wait while the scheduler decides; more are refused.
const QUESTIONS_MAX: usize = 16;
/// For those that are refused.
const RETRY_SECONDS: u32 = 1;

/// Why a pod is where it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// `NAMESPACE/NAME`.
    pub pod: String,
    /// The node it is on, where it is on one.
    pub node: Option<String>,
    /// What holds wherever it would go, or that nothing does.
    pub summary: String,
    /// The smallest change that would let it fit.
    pub change: Option<String>,
    /// The nodes, those that refuse least first.
    pub nodes: Vec<Node>,
    /// How many nodes are not shown.
    pub more_nodes: usize,
}

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Who refuses; nobody where the pod fits.
    pub refusals: Vec<Refusal>,
}

/// One rule that refuses a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// Upstream's name of the plugin.
    pub rule: String,
    /// Upstream's words.
    pub reasons: Vec<String>,
    /// In numbers, where there are any.
    pub figures: Vec<String>,
    /// Whether ending less important pods could change it.
    pub may_preempt: bool,
}

/// Asks the scheduler of this process. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Explainer(Arc<Mutex<Option<mpsc::Sender<Question>>>>);

/// A question and where its answer goes.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) pod: ObjectKey,
    pub(crate) answer: oneshot::Sender<Option<Explanation>>,
}

impl Explainer {
    /// Questions come here from now on.
    pub(super) fn open(&self) -> mpsc::Receiver<Question> {
        let (sender, receiver) = mpsc::channel(QUESTIONS_MAX);
        *self.0.lock() = Some(sender);
        receiver
    }

    /// Explains the pod a path names.
    ///
    /// Errors: 404 where there is none, 503 where this server does not schedule, 429 where too many
    /// ask.
    pub async fn explain(&self, path: &str) -> Result<Explanation, ApiError> {
        let names = path
            .strip_prefix(PATH)
            .and_then(|rest| rest.split_once('/'));
        let (namespace, name) = names
            .filter(|(namespace, name)| !namespace.is_empty() && !name.contains('/'))
            .ok_or_else(ApiError::no_such_path)?;
        let not_here = || {
            ApiError::unavailable(
                "this server does not schedule: ask the holder of the Lease \
                 kube-system/orch-server",
            )
        };
        let sender = self.0.lock().clone().ok_or_else(not_here)?;
        let (answer, answered) = oneshot::channel();
        let pod = ObjectKey::new(namespace, name);
        match sender.try_send(Question { pod, answer }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                let message = "too many questions to the scheduler, please try again later";
                return Err(ApiError::too_many_requests(message, RETRY_SECONDS));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(not_here()),
        }
        let found = answered.await.map_err(|_| not_here())?;
        found.ok_or_else(|| ApiError::not_found("", "pods", name))
    }
}

/// Explains `pod` as it would be decided for now.
pub(crate) fn explain(snapshot: &Snapshot, pod: &PodInfo, profile: &Profile) -> Explanation {
    let mut explanation = Explanation {
        pod: pod.key.to_string(),
        node: pod.node_name().map(str::to_owned),
        ..Explanation::default()
    };
    if let Some(node) = &explanation.node {
        explanation.summary = format!("is bound to {node}");
        return explanation;
    }
    if let Some((summary, change)) = held_back(pod) {
        (explanation.summary, explanation.change) = (summary, Some(change));
        return explanation;
    }
    if let Some(problem) = snapshot.volumes().problem(pod) {
        explanation.change = Some(format!("make its claims right: {problem}"));
        explanation.summary = problem;
        return explanation;
    }
    let mut nodes = judged(snapshot, pod, profile);
    nodes.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.name.cmp(&b.1.name)));
    let fitting = nodes.iter().filter(|(_, n)| n.refusals.is_empty()).count();
    explanation.summary = match (nodes.len(), fitting) {
        (0, _) => "there are no nodes".to_owned(),
        (all, 0) => format!("none of {all} nodes takes it"),
        (all, fitting) => format!("{fitting} of {all} nodes take it: it is tried again soon"),
    };
    explanation.change = match nodes.first() {
        None => Some("join a node: `orch agent --join …`".to_owned()),
        Some((_, best)) if best.refusals.is_empty() => None,
        Some((_, best)) => Some(change(snapshot, pod, best)),
    };
    explanation.more_nodes = nodes.len().saturating_sub(NODES_MAX);
    explanation.nodes = nodes.into_iter().take(NODES_MAX).map(|(_, n)| n).collect();
    explanation
}

/// What keeps a pod from being decided for at all, and what to do.
fn held_back(pod: &PodInfo) -> Option<(String, String)> {
    let spec = pod.spec()?;
    let gates = spec.scheduling_gates.iter().flatten();
    let gates: Vec<_> = gates.map(|gate| gate.name.as_str()).collect();
    let scheduler = spec.scheduler_name.as_deref().unwrap_or(SCHEDULER);
    if pod.has_ended() {
        return Some(("has ended".to_owned(), "make a new one".to_owned()));
    }
    if pod.pod.metadata.deletion_timestamp.is_some() {
        let change = "wait, or remove its finalizers".to_owned();
        return Some(("is being deleted".to_owned(), change));
    }
    if !matches!(scheduler, "" | SCHEDULER) {
        return Some((
            format!("is left to the scheduler `{scheduler}`"),
            format!("run that scheduler, or set schedulerName to `{SCHEDULER}`"),
        ));
    }
    (!gates.is_empty()).then(|| {
        let gates = gates.join(", ");
        (
            "Scheduling is blocked due to non-empty scheduling gates".to_owned(),
            format!("remove its scheduling gates: {gates}"),
        )
    })
}

/// Every known node, with how far it is from taking the pod.
fn judged(snapshot: &Snapshot, pod: &PodInfo, profile: &Profile) -> Vec<(f64, Node)> {
    let filters = cycle::filters(snapshot, pod, profile);
    let known = snapshot.nodes().iter().filter(|node| node.node.is_some());
    known
        .map(|node| {
            let mut distance = 0.0;
            let mut refusals = Vec::new();
            for filter in &filters {
                let Some(verdict) = filter.reject(node) else {
                    continue;
                };
                distance += weight(verdict.plugin) + missing(verdict.plugin, pod, node);
                refusals.push(Refusal {
                    rule: verdict.plugin.name().to_owned(),
                    reasons: verdict.reasons,
                    figures: filter.figures(node),
                    may_preempt: verdict.may_preempt,
                });
            }
            let name = node.name.to_string();
            (distance, Node { name, refusals })
        })
        .collect()
}

/// How hard it is to change what a rule says.
fn weight(plugin: Plugin) -> f64 {
    match plugin {
        Plugin::Unschedulable => 1.0,
        Plugin::Taints => 2.0,
        Plugin::ResourcesFit => 3.0,
        Plugin::Ports | Plugin::Spread | Plugin::PodAffinity => 5.0,
        Plugin::NodeAffinity => 6.0,
        Plugin::Volumes => 8.0,
        Plugin::NodeName => 9.0,
    }
}

/// The part of what the pod asks for that is not free: how far from fitting it is.
fn missing(plugin: Plugin, pod: &PodInfo, node: &NodeInfo) -> f64 {
    match plugin {
        Plugin::ResourcesFit => resources_fit::shortage(pod, node),
        _ => 0.0,
    }
}

/// What would have to be done for `best`.
fn change(snapshot: &Snapshot, pod: &PodInfo, best: &Node) -> String {
    let node = &best.name;
    let info = snapshot.node(node);
    let steps = best
        .refusals
        .iter()
        .map(|refusal| match refusal.rule.as_str() {
            "NodeUnschedulable" => format!("`kubectl uncordon {node}`"),
            "TaintToleration" => {
                match info.and_then(|n| super::plugins::taints::untolerated(pod, n)) {
                    Some(taint) => format!(
                        "tolerate the taint {}:{}, or `kubectl taint nodes {node} {}-`",
                        taint.key, taint.effect, taint.key
                    ),
                    None => format!("tolerate the taints of {node}"),
                }
            }
            "NodeResourcesFit" => {
                let change = info.map(|node| resources_fit::change(pod, node));
                change.unwrap_or_default()
            }
            "NodePorts" => "use another host port, or none".to_owned(),
            "NodeAffinity" => {
                format!("give {node} the labels that its node selector and affinity ask for")
            }
            "PodTopologySpread" => format!(
                "raise maxSkew, or spread softly: {}",
                refusal.figures.join("; ")
            ),
            "InterPodAffinity" => {
                "loosen its pod affinity or anti-affinity, or that of the pods there".to_owned()
            }
            _ => refusal.reasons.join(", "),
        });
    format!("on {node}: {}", steps.collect::<Vec<_>>().join("; and "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::scheduler::testing::{node, pod};
    use serde_json::json;

    fn cluster() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let nodes = [
            node("small").cpu("1"),
            node("large").cpu("4"),
            node("kept").cpu("8").cordoned().taint("own", "NoSchedule"),
        ];
        for node in nodes {
            snapshot.set_node(node.build());
        }
        snapshot.place(pod("busy").cpu("3500m").info(), "large");
        snapshot
    }

    #[test]
    fn every_rule_is_named_with_figures_and_the_least_change_comes_first() {
        let pod = pod("p").cpu("800m").spec("nodeSelector", json!({}));
        let large = pod.cpu("2").info();
        let told = explain(&cluster(), &large, &Profile::default());
        assert_eq!(told.summary, "none of 3 nodes takes it");
        let kept = told.nodes.iter().find(|n| n.name == "kept").unwrap();
        let rules: Vec<_> = kept.refusals.iter().map(|r| r.rule.as_str()).collect();
        assert_eq!(rules, ["NodeUnschedulable", "TaintToleration"]);
        let first = told.nodes.iter().find(|n| n.name == "large").unwrap();
        assert_eq!(first.refusals[0].figures, ["needs 2 cpu, 0.5 free of 4"]);
        let change = told.change.unwrap();
        assert!(change.contains("uncordon kept"), "{change}");
        assert!(
            change.contains("tolerate the taint own:NoSchedule"),
            "{change}"
        );
    }

    #[test]
    fn what_is_short_is_said_with_what_would_do() {
        let mut snapshot = cluster();
        snapshot.remove_node("kept");
        let told = explain(
            &snapshot,
            &pod("p").cpu("1200m").info(),
            &Profile::default(),
        );
        assert_eq!(
            told.change.unwrap(),
            "on small: ask for 1 cpu instead of 1.2"
        );
    }

    #[test]
    fn pods_that_are_not_decided_for_say_why() {
        let told = |pod: super::super::testing::PodBuilder| {
            explain(&cluster(), &pod.info(), &Profile::default()).summary
        };
        let gated = pod("p").spec("schedulingGates", json!([{"name": "a.b/c"}]));
        assert!(told(gated).contains("scheduling gates"));
        let other = pod("p").spec("schedulerName", json!("mine"));
        assert_eq!(told(other), "is left to the scheduler `mine`");
        assert_eq!(told(pod("p").on("small")), "is bound to small");
        assert!(told(pod("p")).starts_with("2 of 3 nodes take it"));
    }
}
