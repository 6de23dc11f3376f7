//! What one look at a StatefulSet does: pure
//! (`k8s.io/kubernetes/pkg/controller/statefulset/stateful_set_control.go`).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec, StatefulSetStatus,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::api::int_or_string::{Round, scaled};
use crate::api::{meta, pod};
use crate::server::controllers::shared::history::POD_REVISION;

use super::identity;

/// A template the set has or had.
pub(super) struct Version<'a> {
    /// The name of its revision.
    pub(super) name: &'a str,
    pub(super) template: &'a PodTemplateSpec,
}

/// What is looked at.
pub(super) struct View<'a> {
    pub(super) set: &'a StatefulSet,
    /// What pods were made of until the last rollout was complete.
    pub(super) current: Version<'a>,
    /// What pods are made of now.
    pub(super) update: Version<'a>,
    pub(super) pods: &'a [Arc<Pod>],
    /// A claim by its name.
    pub(super) claim: &'a dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>>,
    pub(super) collisions: i32,
    pub(super) now: Timestamp,
}

/// One thing to do for one pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Creates a pod after those of its claims that are missing.
    Create {
        pod: Box<Pod>,
        claims: Vec<PersistentVolumeClaim>,
    },
    /// A pod cannot be created while a claim of its name goes.
    Refuse { pod: String, why: String },
    /// Creates missing claims of a pod that waits for them.
    AddClaims {
        pod: Arc<Pod>,
        claims: Vec<PersistentVolumeClaim>,
    },
    /// Gives a pod the labels that name it.
    Label {
        pod: Arc<Pod>,
        labels: BTreeMap<String, String>,
    },
    /// Gives a claim the owners it is to go with.
    Own {
        claim: Arc<PersistentVolumeClaim>,
        owners: Vec<OwnerReference>,
    },
    /// Deletes a pod.
    Delete(Arc<Pod>),
}

/// All that one look does. A phase begins when all of the one before it succeeded.
#[derive(Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) phases: Vec<Vec<Step>>,
    /// The steps of a phase one after another, or all at once.
    pub(super) in_order: bool,
    pub(super) status: StatefulSetStatus,
    /// When a pod becomes available by time alone.
    pub(super) wake_at: Option<Timestamp>,
}

/// Where a pod should be.
struct Slot {
    ordinal: usize,
    pod: Option<Arc<Pod>>,
}

/// Whether the phases after this one may begin.
#[derive(PartialEq)]
enum Flow {
    On,
    Wait,
}

/// What to do now.
pub(super) fn plan(view: &View<'_>) -> Plan {
    let (slots, condemned) = view.sort();
    let in_order = view.is_ordered();
    let mut phases = vec![Vec::new()];
    let mut taken_down = 0;
    let mut flow = view.keep(&slots, &mut phases[0]);
    if flow == Flow::On {
        let claims = condemned
            .iter()
            .flat_map(|(o, pod)| view.hand_over(*o, pod, true));
        phases.push(claims.collect());
        let mut down = Vec::new();
        flow = view.scale_down(&condemned, &mut down);
        phases.push(down);
    }
    if flow == Flow::On && view.is_rolling() {
        let stale = view.roll(&slots);
        let is_current = |pod: &&Arc<Pod>| revision(pod) == Some(view.current.name);
        taken_down = stale.iter().filter(is_current).count();
        phases.push(stale.into_iter().map(Step::Delete).collect());
    }
    phases.retain(|steps| !steps.is_empty());
    Plan {
        phases,
        in_order,
        status: view.status(taken_down),
        wake_at: view.wake_at(),
    }
}

impl View<'_> {
    fn spec(&self) -> &StatefulSetSpec {
        &self.set.spec
    }

    fn wanted(&self) -> usize {
        usize::try_from(self.spec().replicas.unwrap_or(1)).unwrap_or(0)
    }

    fn min_ready(&self) -> i32 {
        self.spec().min_ready_seconds.unwrap_or(0)
    }

    fn is_ordered(&self) -> bool {
        self.spec().pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.spec().update_strategy.as_ref();
        let kind = strategy.and_then(|strategy| strategy.type_.as_deref());
        kind.unwrap_or("RollingUpdate") == "RollingUpdate"
    }

    fn rolling(&self) -> Option<&RollingUpdateStatefulSetStrategy> {
        let strategy = self.spec().update_strategy.as_ref();
        strategy.and_then(|strategy| strategy.rolling_update.as_ref())
    }

    /// Slots below this one keep what they have during a rolling update.
    fn partition(&self) -> usize {
        let partition = self.rolling().and_then(|rolling| rolling.partition);
        usize::try_from(partition.unwrap_or(0)).unwrap_or(0)
    }

    fn max_unavailable(&self) -> usize {
        let most = self.rolling().and_then(|r| r.max_unavailable.as_ref());
        let wanted = i64::try_from(self.wanted()).unwrap_or(i64::MAX);
        let most = most.and_then(|most| scaled(most, wanted, Round::Down).ok());
        usize::try_from(most.unwrap_or(1)).unwrap_or(1).max(1)
    }

    /// Slots by ordinal, and pods beyond them, the highest ordinal first.
    fn sort(&self) -> (Vec<Slot>, Vec<(usize, Arc<Pod>)>) {
        let start = identity::start(self.set);
        let all = self.pods.iter().filter_map(|pod| {
            let ordinal = identity::ordinal(&self.set.metadata, meta::name(&pod.metadata))?;
            Some((ordinal, pod.clone()))
        });
        let (mut within, mut beyond): (BTreeMap<_, _>, Vec<_>) = (BTreeMap::new(), Vec::new());
        for (ordinal, pod) in all {
            if (start..start + self.wanted()).contains(&ordinal) {
                within.insert(ordinal, pod);
            } else {
                beyond.push((ordinal, pod));
            }
        }
        beyond.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
        let slots = (start..start + self.wanted()).map(|ordinal| Slot {
            ordinal,
            pod: within.remove(&ordinal),
        });
        (slots.collect(), beyond)
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        let available = pod::is_available(pod, self.min_ready(), self.now);
        pod::phase(pod) == "Running" && available && !pod::is_terminating(pod)
    }

    /// Every slot gets its pod; in order, each waits for those before it.
    fn keep(&self, slots: &[Slot], steps: &mut Vec<Step>) -> Flow {
        for slot in slots {
            let flow = match &slot.pod {
                None => self.create(slot.ordinal, steps),
                Some(pod) => self.keep_one(slot.ordinal, pod, steps),
            };
            if flow == Flow::Wait && self.is_ordered() {
                return Flow::Wait;
            }
        }
        Flow::On
    }

    fn keep_one(&self, ordinal: usize, pod: &Arc<Pod>, steps: &mut Vec<Step>) -> Flow {
        if pod::is_terminal(pod) {
            if !pod::is_terminating(pod) {
                steps.push(Step::Delete(pod.clone()));
            }
            return Flow::Wait;
        }
        if pod::phase(pod) == "Pending" {
            let claims = self.missing_claims(ordinal);
            if !claims.is_empty() {
                let pod = pod.clone();
                steps.push(Step::AddClaims { pod, claims });
            }
        }
        if !self.is_healthy(pod) && self.is_ordered() {
            return Flow::Wait;
        }
        let labels = identity::own_labels(meta::name(&pod.metadata), ordinal);
        if meta::label(&pod.metadata, identity::POD_NAME) != Some(labels[0].1.as_str()) {
            steps.push(Step::Label {
                pod: pod.clone(),
                labels: labels.into_iter().collect(),
            });
        }
        steps.extend(self.hand_over(ordinal, pod, false));
        Flow::On
    }

    fn create(&self, ordinal: usize, steps: &mut Vec<Step>) -> Flow {
        let version = self.version_of(ordinal);
        let pod = identity::pod(self.set, version.template, version.name, ordinal);
        let name = meta::name(&pod.metadata);
        let known = identity::known_claims(self.set, ordinal, self.claim);
        // A claim that belongs to a pod of this name which is gone goes soon.
        if known.iter().any(|c| identity::is_stale(&c.metadata, name)) {
            return Flow::Wait;
        }
        let going = known.iter().find(|c| meta::is_terminating(&c.metadata));
        steps.push(match going {
            Some(claim) => Step::Refuse {
                pod: name.to_owned(),
                why: format!("pvc {} is being deleted", meta::name(&claim.metadata)),
            },
            None => Step::Create {
                claims: self.missing_claims(ordinal),
                pod: Box::new(pod),
            },
        });
        Flow::Wait
    }

    /// Below the partition, pods are made of what they were before.
    fn version_of(&self, ordinal: usize) -> &Version<'_> {
        let kept = match self.rolling() {
            _ if !self.is_rolling() => 0,
            Some(_) => self.partition(),
            None => {
                let status = self.set.status.as_ref();
                let count = status.and_then(|s| s.current_replicas).unwrap_or(0);
                usize::try_from(count).unwrap_or(0)
            }
        };
        if ordinal < identity::start(self.set) + kept {
            &self.current
        } else {
            &self.update
        }
    }

    fn missing_claims(&self, ordinal: usize) -> Vec<PersistentVolumeClaim> {
        let claims = identity::claims(self.set, ordinal).into_iter();
        claims
            .filter(|claim| (self.claim)(meta::name(&claim.metadata)).is_none())
            .collect()
    }

    fn hand_over(&self, ordinal: usize, pod: &Arc<Pod>, is_condemned: bool) -> Vec<Step> {
        let condemned = is_condemned.then_some(&**pod);
        let claims = identity::known_claims(self.set, ordinal, self.claim).into_iter();
        claims
            .filter_map(|claim| {
                let owners = identity::owners(&claim.metadata, self.set, condemned)?;
                Some(Step::Own { claim, owners })
            })
            .collect()
    }

    /// Pods beyond the wanted ones go; in order, the highest first, and only while the others are
    /// healthy. The lowest that is not may always be the one.
    fn scale_down(&self, condemned: &[(usize, Arc<Pod>)], steps: &mut Vec<Step>) -> Flow {
        let unhealthy = condemned.iter().rev().find(|(_, p)| !self.is_healthy(p));
        let unhealthy = unhealthy.map(|(ordinal, _)| *ordinal);
        for (ordinal, pod) in condemned {
            let may_go = !self.is_ordered() || self.is_healthy(pod) || unhealthy == Some(*ordinal);
            if may_go && !pod::is_terminating(pod) {
                steps.push(Step::Delete(pod.clone()));
            }
            if self.is_ordered() {
                return Flow::Wait;
            }
        }
        Flow::On
    }

    /// Pods of another version that go now, the highest first. Ones that are not healthy are no
    /// loss; of the others as many as may be unavailable beside those that are already.
    fn roll(&self, slots: &[Slot]) -> Vec<Arc<Pod>> {
        let most = self.max_unavailable();
        let is_healthy = |slot: &&Slot| slot.pod.as_ref().is_some_and(|p| self.is_healthy(p));
        let unhealthy = slots.len() - slots.iter().filter(is_healthy).count();
        let mut spare = most.saturating_sub(unhealthy);
        let mut in_transit = 0;
        let mut stale = Vec::new();
        for slot in slots.iter().skip(self.partition()).rev() {
            if in_transit >= most {
                break;
            }
            let pod = slot.pod.as_ref();
            let doomed = pod
                .filter(|pod| revision(pod) != Some(self.update.name) && !pod::is_terminating(pod));
            let healthy = pod.is_some_and(|pod| self.is_healthy(pod));
            match doomed {
                Some(pod) if !healthy || spare > 0 => {
                    spare -= usize::from(healthy);
                    in_transit += 1;
                    stale.push(pod.clone());
                }
                None if !healthy => in_transit += 1,
                _ => {}
            }
        }
        stale
    }

    /// Counts as observed, less the `taken_down` ones of the current version.
    fn status(&self, taken_down: usize) -> StatefulSetStatus {
        let count = |test: &dyn Fn(&Pod) -> bool| {
            let count = self.pods.iter().filter(|pod| test(pod)).count();
            i32::try_from(count).unwrap_or(i32::MAX)
        };
        let is_created = |pod: &Pod| !pod::phase(pod).is_empty();
        let runs = |pod: &Pod| pod::phase(pod) == "Running" && pod::is_ready(pod);
        let of = |version: &str| {
            count(&|pod| {
                is_created(pod) && !pod::is_terminating(pod) && revision(pod) == Some(version)
            })
        };
        let some = |count: i32| (count > 0).then_some(count);
        let (replicas, ready) = (count(&is_created), count(&runs));
        let available =
            count(&|pod| runs(pod) && pod::is_available(pod, self.min_ready(), self.now));
        let updated = of(self.update.name);
        let wanted = i32::try_from(self.wanted()).unwrap_or(i32::MAX);
        let is_complete =
            self.is_rolling() && updated == wanted && ready == wanted && replicas == wanted;
        let (current, current_name) = if is_complete {
            (updated, self.update.name)
        } else {
            let down = i32::try_from(taken_down).unwrap_or(0);
            (of(self.current.name) - down, self.current.name)
        };
        let old = self.set.status.as_ref();
        StatefulSetStatus {
            replicas,
            ready_replicas: some(ready),
            available_replicas: Some(available),
            current_replicas: some(current),
            updated_replicas: some(updated),
            current_revision: Some(current_name.to_owned()),
            update_revision: Some(self.update.name.to_owned()),
            collision_count: Some(self.collisions),
            observed_generation: self.set.metadata.generation,
            conditions: old.and_then(|status| status.conditions.clone()),
        }
    }

    fn wake_at(&self) -> Option<Timestamp> {
        let min_ready = self.min_ready();
        let active = self.pods.iter().filter(|pod| pod::is_active(pod));
        active
            .filter_map(|pod| pod::available_at(pod, min_ready))
            .filter(|at| *at > self.now)
            .min()
    }
}

/// The name of the revision a pod was made of.
pub(super) fn revision(pod: &Pod) -> Option<&str> {
    meta::label(&pod.metadata, POD_REVISION)
}
