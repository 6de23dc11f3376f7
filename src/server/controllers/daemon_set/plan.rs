//! What one look at a DaemonSet does: pure
//! (`k8s.io/kubernetes/pkg/controller/daemon/{daemon_controller,update}.go`).
//!
//! First every node gets the pod it should have and loses those it should not; only where nothing
//! of that is to be done, a rolling update takes its next step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::int_or_string::{Round, scaled};
use crate::api::{meta, pod};

use super::placement::{self, Placement, Verdict};

/// What is looked at.
pub(super) struct View<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) nodes: &'a [Arc<Node>],
    pub(super) pods: &'a [Arc<Pod>],
    /// Of the revision that is the set's template.
    pub(super) hash: &'a str,
    pub(super) collisions: i32,
    /// Whether all that was asked for was seen; if not, only the status is brought up to date.
    pub(super) is_settled: bool,
    /// How long to leave a failed pod on a node as it is.
    pub(super) hold: &'a dyn Fn(&str) -> Option<Duration>,
    pub(super) now: Timestamp,
}

/// What happened to a pod that ended on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Failed,
    Succeeded,
}

/// All that one look does.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods that ended, among those to delete; told to the user.
    pub(super) ended: Vec<(End, Arc<Pod>)>,
    pub(super) status: DaemonSetStatus,
    pub(super) look_in: Option<Duration>,
}

/// A node, and the set's pods on it.
struct Place<'a> {
    verdict: Verdict,
    /// Bound ones first, then oldest first.
    pods: Vec<&'a Arc<Pod>>,
}

/// The pods on a node that are not going: at most one of the template the set has now, and at most
/// one of another.
#[derive(Default)]
struct Pair<'a> {
    new: Option<&'a Arc<Pod>>,
    old: Option<&'a Arc<Pod>>,
}

/// What to do now.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let (places, strays) = view.places();
    let mut plan = Plan {
        status: view.status(&places),
        look_in: view.next_available(),
        ..Plan::default()
    };
    if !view.is_settled {
        plan.status.observed_generation = view.observed();
        return plan;
    }
    for (name, place) in &places {
        view.manage(name, place, &mut plan);
    }
    plan.delete.extend(strays.into_iter().cloned());
    if plan.create.is_empty() && plan.delete.is_empty() && view.is_rolling() {
        view.roll(&places, &mut plan);
    }
    plan
}

impl View<'_> {
    fn spec(&self) -> &DaemonSetSpec {
        &self.set.spec
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.spec().update_strategy.as_ref();
        let kind = strategy.and_then(|strategy| strategy.type_.as_deref());
        kind.unwrap_or("RollingUpdate") == "RollingUpdate"
    }

    /// How many nodes of `desired` may have two pods, and how many none that is available.
    fn posts(&self, desired: usize) -> (usize, usize) {
        if !self.is_rolling() {
            return (0, 0);
        }
        let strategy = self.spec().update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let total = i64::try_from(desired).unwrap_or(i64::MAX);
        let resolve = |value: Option<&IntOrString>, default: i64| {
            let value = value.and_then(|value| scaled(value, total, Round::Up).ok());
            usize::try_from(value.unwrap_or(default)).unwrap_or(0)
        };
        let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), 0);
        let unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), 1);
        if surge == 0 && unavailable == 0 {
            return (0, 1);
        }
        (surge, unavailable)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pod::is_available(pod, self.spec().min_ready_seconds.unwrap_or(0), self.now)
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        placement::is_updated(self.set, pod, self.hash)
    }

    /// Every node with its pods; and waiting pods that are tied to a node that is gone.
    fn places(&self) -> (BTreeMap<&str, Place<'_>>, Vec<&Arc<Pod>>) {
        let placement = Placement::of(self.set);
        let mut places: BTreeMap<&str, Place<'_>> = BTreeMap::new();
        for node in self.nodes {
            let place = Place {
                verdict: placement.judge(node),
                pods: Vec::new(),
            };
            places.insert(meta::name(&node.metadata), place);
        }
        let mut strays = Vec::new();
        let present = self
            .pods
            .iter()
            .filter(|pod| !(pod::is_terminal(pod) && pod::is_terminating(pod)));
        for pod in present {
            match places.get_mut(placement::node_of(pod)) {
                Some(place) => place.pods.push(pod),
                None if pod::node_name(pod).is_empty() && !pod::is_terminating(pod) => {
                    strays.push(pod);
                }
                None => {}
            }
        }
        for place in places.values_mut() {
            place.pods.sort_by_key(|pod| {
                let created = pod.metadata.creation_timestamp.as_ref().map(|t| t.0);
                let is_waiting = pod::node_name(pod).is_empty();
                (is_waiting, created, meta::name(&pod.metadata))
            });
        }
        (places, strays)
    }

    /// One node: a pod where there should be one, none where there should not, and no more than
    /// allowed.
    fn manage(&self, node: &str, place: &Place<'_>, plan: &mut Plan) {
        let live = place.pods.iter().filter(|pod| !pod::is_terminating(pod));
        if !place.verdict.may_stay {
            plan.delete.extend(live.map(|pod| (*pod).clone()));
            return;
        }
        if place.verdict.should_run && place.pods.is_empty() {
            plan.create.push(node.to_owned());
            return;
        }
        let mut running = Vec::new();
        for pod in live {
            match pod::phase(pod) {
                "Failed" => match (self.hold)(node) {
                    Some(wait) => plan.look_in = sooner(plan.look_in, wait),
                    None => plan.end(End::Failed, pod),
                },
                "Succeeded" => plan.end(End::Succeeded, pod),
                _ => running.push(*pod),
            }
        }
        let surplus = self.surplus(&running);
        plan.delete.extend(surplus.into_iter().cloned());
    }

    /// Which of the running pods of one node are too many: all but the oldest; while surging, the
    /// oldest old one may stay until the oldest new one is available.
    fn surplus<'a>(&self, running: &[&'a Arc<Pod>]) -> Vec<&'a Arc<Pod>> {
        if self.posts(self.nodes.len()).0 == 0 {
            return running.iter().skip(1).copied().collect();
        }
        if running.len() < 2 {
            return Vec::new();
        }
        let has_hash = |pod: &Pod| {
            let label = super::history::POD_REVISION;
            meta::label(&pod.metadata, label) == Some(self.hash)
        };
        let (new, old): (Vec<_>, Vec<_>) = running.iter().copied().partition(|pod| has_hash(pod));
        let mut surplus: Vec<_> = new
            .iter()
            .skip(1)
            .chain(old.iter().skip(1))
            .copied()
            .collect();
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pod::is_ready(old) || self.is_available(new))
        {
            surplus.push(old);
        }
        surplus
    }

    /// The pods of a node by version; `None` where there are too many, which is put right first.
    fn pair<'a>(&self, place: &Place<'a>) -> Option<Pair<'a>> {
        let mut pair = Pair::default();
        for pod in place.pods.iter().filter(|pod| !pod::is_terminating(pod)) {
            let slot = if self.is_updated(pod) {
                &mut pair.new
            } else {
                &mut pair.old
            };
            if slot.replace(*pod).is_some() {
                return None;
            }
        }
        Some(pair)
    }

    fn roll(&self, places: &BTreeMap<&str, Place<'_>>, plan: &mut Plan) {
        let concerned = places
            .iter()
            .filter(|(_, place)| place.verdict.should_run || !place.pods.is_empty());
        let desired = places.values().filter(|p| p.verdict.should_run).count();
        let (surge, unavailable) = self.posts(desired);
        let pairs = concerned.map(|(node, place)| (*node, self.pair(place)));
        if surge == 0 {
            self.replace(pairs, unavailable, plan);
        } else {
            self.surge(pairs, surge, plan);
        }
    }

    /// Deletes old pods: those that are not available, and as many others as may be missing.
    fn replace<'a>(
        &self,
        pairs: impl Iterator<Item = (&'a str, Option<Pair<'a>>)>,
        most_unavailable: usize,
        plan: &mut Plan,
    ) {
        let (mut unavailable, mut candidates) = (0, Vec::new());
        for (_, pair) in pairs {
            match pair.map(|pair| (pair.new, pair.old)) {
                Some((Some(new), None)) => unavailable += usize::from(!self.is_available(new)),
                Some((None, Some(old))) if self.is_available(old) => candidates.push(old.clone()),
                Some((None, Some(old))) => plan.delete.push(old.clone()),
                _ => unavailable += 1,
            }
        }
        // Old pods that were not available before are missing in any case.
        let spare = most_unavailable.saturating_sub(unavailable);
        plan.delete.extend(candidates.into_iter().take(spare));
    }

    /// Creates new pods beside old ones, and deletes the old once the new are available.
    fn surge<'a>(
        &self,
        pairs: impl Iterator<Item = (&'a str, Option<Pair<'a>>)>,
        most: usize,
        plan: &mut Plan,
    ) {
        let (mut surging, mut candidates) = (0, Vec::new());
        for (node, pair) in pairs {
            match pair.map(|pair| (pair.new, pair.old)) {
                None => surging += 1,
                Some((Some(new), Some(old))) => {
                    if self.is_available(new) {
                        plan.delete.push(old.clone());
                    } else {
                        surging += 1;
                    }
                }
                Some((None, Some(old))) if self.is_available(old) => candidates.push(node),
                Some((None, Some(_))) => plan.create.push(node.to_owned()),
                Some((_, None)) => {}
            }
        }
        let room = most.saturating_sub(surging);
        let chosen = candidates.into_iter().take(room).map(str::to_owned);
        plan.create.extend(chosen);
    }

    fn status(&self, places: &BTreeMap<&str, Place<'_>>) -> DaemonSetStatus {
        let wanted = places.values().filter(|place| place.verdict.should_run);
        let first: Vec<_> = wanted.clone().map(|place| place.pods.first()).collect();
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let count = |test: &dyn Fn(&Pod) -> bool| {
            number(first.iter().flatten().filter(|pod| test(pod)).count())
        };
        let misplaced = places
            .values()
            .filter(|place| !place.verdict.should_run && !place.pods.is_empty());
        let some = |count: i32| (count > 0).then_some(count);
        let desired = number(first.len());
        let available = count(&|pod| pod::is_ready(pod) && self.is_available(pod));
        let old = self.set.status.as_ref();
        let collided = old.is_some_and(|status| status.collision_count.is_some());
        DaemonSetStatus {
            desired_number_scheduled: desired,
            current_number_scheduled: count(&|_| true),
            number_misscheduled: number(misplaced.count()),
            number_ready: count(&pod::is_ready),
            number_available: some(available),
            number_unavailable: some(desired - available),
            updated_number_scheduled: some(count(&|pod| self.is_updated(pod))),
            observed_generation: self.set.metadata.generation,
            collision_count: (collided || self.collisions > 0).then_some(self.collisions),
            conditions: old.and_then(|status| status.conditions.clone()),
        }
    }

    fn observed(&self) -> Option<i64> {
        self.set.status.as_ref()?.observed_generation
    }

    /// When a pod becomes available by time alone.
    fn next_available(&self) -> Option<Duration> {
        let min_ready = self.spec().min_ready_seconds.unwrap_or(0);
        let active = self.pods.iter().filter(|pod| pod::is_active(pod));
        let next = active
            .filter_map(|pod| pod::available_at(pod, min_ready))
            .filter(|at| *at > self.now)
            .min()?;
        Duration::try_from(next.duration_since(self.now)).ok()
    }
}

impl Plan {
    fn end(&mut self, end: End, pod: &Arc<Pod>) {
        self.ended.push((end, pod.clone()));
        self.delete.push(pod.clone());
    }
}

fn sooner(known: Option<Duration>, wait: Duration) -> Option<Duration> {
    Some(known.map_or(wait, |known| known.min(wait)))
}
