//! Room for a pod that fits nowhere, by ending less important ones. Pure: says who is to go and
//! where; `super::bind` ends them.
//!
//! As `k8s.io/kubernetes/pkg/scheduler/framework/preemption`: on each node that more room would
//! help, all pods of lower priority are thought away; where the pod then fits, as many of them as
//! possible are let off, those first whose end would break a PodDisruptionBudget, then the more
//! important ones. Of the nodes the one is taken where the least is lost. In large clusters a
//! tenth of the nodes, and at least [`CANDIDATES_MIN`], is enough to choose among.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::api::{pod, pod::is_terminating};
use crate::util::rng::Rng;

use super::cycle::{self, Rejections};
use super::framework::Filters;
use super::pod::PodInfo;
use super::snapshot::{NodeInfo, Snapshot};

const CANDIDATES_MIN: usize = 100;
const CANDIDATES_PERCENT: usize = 10;

const NOBODY: &str = "No preemption victims found for incoming pod";
const NO_HELP: &str = "Preemption is not helpful for scheduling";
const NEVER: &str = "not eligible due to preemptionPolicy=Never.";
const UNDER_WAY: &str = "not eligible due to a terminating pod on the nominated node.";

/// Reason of the condition `DisruptionTarget` of those who have to go.
pub(crate) const BY_SCHEDULER: &str = "PreemptionByScheduler";

/// What came of looking for room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is room on `node` when `victims` have ended.
    Room {
        node: Arc<str>,
        victims: Vec<Victim>,
    },
    /// Ending others does not help.
    Useless(String),
    /// Nobody is ended for this pod, or not now; a nomination it has stands.
    Ineligible(String),
}

/// A victim; compared by what identifies it.
#[derive(Clone, Debug)]
pub(crate) struct Victim(pub(crate) Arc<PodInfo>);

impl PartialEq for Victim {
    fn eq(&self, other: &Self) -> bool {
        self.0.uid == other.0.uid && self.0.key == other.0.key
    }
}

impl Eq for Victim {}

struct Candidate {
    node: Arc<str>,
    /// The most important first.
    victims: Vec<Arc<PodInfo>>,
    violations: usize,
}

/// What is searched with.
pub(crate) struct Search<'s, 'f> {
    pub(crate) snapshot: &'s Snapshot,
    pub(crate) pod: &'s PodInfo,
    pub(crate) filters: &'s mut Filters<'f>,
}

impl Search<'_, '_> {
    /// Looks for room on the nodes whose rejection is not lasting.
    pub(crate) fn run(mut self, rejected: &Rejections, rng: &Rng) -> Outcome {
        if let Some(why) = self.ineligible(rejected) {
            return Outcome::Ineligible(why.to_owned());
        }
        let mut failed: BTreeMap<String, usize> = BTreeMap::new();
        let candidates = self.candidates(&rejected.may_preempt, rng, &mut failed);
        let best = candidates.into_iter().enumerate();
        match best.min_by_key(|(order, c)| (c.cost(), *order)) {
            Some((_, best)) => Outcome::Room {
                node: best.node,
                victims: best.victims.into_iter().map(Victim).collect(),
            },
            None => {
                let lasting = rejected.nodes - rejected.may_preempt.len();
                if lasting > 0 {
                    failed.insert(NO_HELP.to_owned(), lasting);
                }
                Outcome::Useless(cycle::message(rejected.nodes, &failed))
            }
        }
    }

    fn ineligible(&self, rejected: &Rejections) -> Option<&'static str> {
        if !self.pod.may_preempt() {
            return Some(NEVER);
        }
        let node = self.snapshot.nominations().node_of(&self.pod.key)?;
        let node = self.snapshot.node(node)?;
        let nodes = self.snapshot.nodes();
        let mut hopeful = rejected.may_preempt.iter();
        if !hopeful.any(|at| nodes[*at].name == node.name) {
            return None;
        }
        let leaving = node
            .pods
            .values()
            .any(|other| other.priority < self.pod.priority && is_victim(other));
        leaving.then_some(UNDER_WAY)
    }

    fn candidates(
        &mut self,
        nodes: &[usize],
        rng: &Rng,
        failed: &mut BTreeMap<String, usize>,
    ) -> Vec<Candidate> {
        if nodes.is_empty() || !self.snapshot.has_below(self.pod.priority) {
            if !nodes.is_empty() {
                failed.insert(NOBODY.to_owned(), nodes.len());
            }
            return Vec::new();
        }
        let snapshot = self.snapshot;
        let enough = (snapshot.known() * CANDIDATES_PERCENT / 100).max(CANDIDATES_MIN);
        let offset = rng.below(nodes.len());
        let (mut found, mut is_clean) = (Vec::new(), false);
        for at in nodes[offset..].iter().chain(&nodes[..offset]) {
            match self.on(&snapshot.nodes()[*at]) {
                Ok(candidate) => {
                    is_clean |= candidate.violations == 0;
                    found.push(candidate);
                }
                Err(reasons) => {
                    for reason in reasons {
                        *failed.entry(reason).or_default() += 1;
                    }
                }
            }
            if is_clean && found.len() >= enough {
                break;
            }
        }
        found
    }

    /// Who has to go from `node`; otherwise why ending pods does not help there.
    fn on(&mut self, node: &NodeInfo) -> Result<Candidate, Vec<String>> {
        let lower = node.pods.values();
        let lower = lower.filter(|other| other.priority < self.pod.priority);
        let mut lower: Vec<_> = lower.cloned().collect();
        if lower.is_empty() {
            return Err(vec![NOBODY.to_owned()]);
        }
        lower.sort_by(|a, b| importance(a).cmp(&importance(b)));
        let mut trial = node.clone();
        for other in &lower {
            self.take(&mut trial, other);
        }
        if let Some(verdict) = self.rejects(&trial) {
            for other in &lower {
                self.give_back(&mut trial, other);
            }
            return Err(verdict);
        }
        let breaks = self.snapshot.budgets().violations(&lower);
        let guarded = lower.iter().zip(&breaks).filter(|(_, breaks)| **breaks);
        let others = lower.iter().zip(&breaks).filter(|(_, breaks)| !**breaks);
        let (mut victims, mut violations) = (Vec::new(), 0);
        for (other, breaks) in guarded.chain(others) {
            self.give_back(&mut trial, other);
            if self.rejects(&trial).is_some() {
                self.take(&mut trial, other);
                victims.push(other.clone());
                violations += usize::from(*breaks);
            }
        }
        for victim in &victims {
            self.give_back(&mut trial, victim);
        }
        victims.sort_by(|a, b| importance(a).cmp(&importance(b)));
        Ok(Candidate {
            node: node.name.clone(),
            victims,
            violations,
        })
    }

    fn rejects(&mut self, node: &NodeInfo) -> Option<Vec<String>> {
        let verdict = cycle::reject(self.filters, self.snapshot, self.pod, node);
        verdict.map(|verdict| verdict.reasons)
    }

    fn take(&mut self, node: &mut NodeInfo, pod: &Arc<PodInfo>) {
        node.remove(&pod.key);
        for filter in self.filters.iter_mut() {
            filter.remove(pod, node);
        }
    }

    fn give_back(&mut self, node: &mut NodeInfo, pod: &Arc<PodInfo>) {
        node.add(pod.clone());
        for filter in self.filters.iter_mut() {
            filter.add(pod, node);
        }
    }
}

impl Candidate {
    /// The least is taken: budgets broken, the highest priority lost, the sum of priorities, how
    /// many pods, and of the most important the youngest.
    fn cost(&self) -> (usize, i32, i64, usize, Reverse<Timestamp>) {
        let highest = self.victims.first().map_or(i32::MIN, |v| v.priority);
        // Moved above zero, so that fewer pods of negative priority are not worse than more.
        let shifted = self
            .victims
            .iter()
            .map(|v| i64::from(v.priority) + i64::from(i32::MAX) + 1);
        let leaders = self.victims.iter().filter(|v| v.priority == highest);
        let oldest = leaders.map(|v| v.started()).min();
        (
            self.violations,
            highest,
            shifted.sum(),
            self.victims.len(),
            Reverse(oldest.unwrap_or(Timestamp::MAX)),
        )
    }
}

/// Sorts the most important first.
fn importance(pod: &PodInfo) -> (Reverse<i32>, Timestamp, &crate::api::object::ObjectKey) {
    (Reverse(pod.priority), pod.started(), &pod.key)
}

/// Whether the pod is ending because it was chosen here.
fn is_victim(other: &PodInfo) -> bool {
    let condition = pod::condition(&other.pod, "DisruptionTarget");
    let chosen =
        condition.is_some_and(|c| c.status == "True" && c.reason.as_deref() == Some(BY_SCHEDULER));
    is_terminating(&other.pod) && chosen
}
