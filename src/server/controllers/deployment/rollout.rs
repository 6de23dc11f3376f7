//! How many pods each set is to ask for next
//! (`k8s.io/kubernetes/pkg/controller/deployment/{rolling,recreate,sync}.go`).

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::json;

use crate::api::{meta, workload};

use super::plan::{self, MAX, Sets, Step};
use super::{most_replicas, wanted, wanted_of};

/// One step of a rolling update: the new set up as far as the surge allows; else old sets down as
/// far as enough pods stay available.
pub(super) fn roll(deployment: &Deployment, sets: &Sets) -> Vec<Step> {
    let Some(new) = &sets.new else {
        return Vec::new();
    };
    let total = wanted_of(sets.all());
    let target = new_replicas(deployment, wanted(new), total);
    if target != wanted(new) {
        return resize(deployment, new, target).into_iter().collect();
    }
    shrink_old(deployment, new, sets)
}

/// Old sets to nothing first; when their pods are gone (`waits` no more), the new one up.
pub(super) fn recreate(deployment: &Deployment, sets: &Sets, waits: bool) -> Vec<Step> {
    let active: Vec<_> = sets.old.iter().filter(|set| wanted(set) > 0).collect();
    if !active.is_empty() {
        let down = active.into_iter();
        return down.filter_map(|set| resize(deployment, set, 0)).collect();
    }
    let target = workload::wanted_replicas(deployment);
    match &sets.new {
        Some(new) if !waits && wanted(new) != target => {
            resize(deployment, new, target).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

/// How many pods a set that is to be created begins with.
pub(super) fn first_replicas(deployment: &Deployment, sets: &Sets) -> i64 {
    if workload::is_rolling(deployment) {
        new_replicas(deployment, 0, wanted_of(&sets.old))
    } else {
        workload::wanted_replicas(deployment)
    }
}

/// What the new set asks for next, where it asks for `now` and all sets for `total`.
fn new_replicas(deployment: &Deployment, now: i64, total: i64) -> i64 {
    let target = workload::wanted_replicas(deployment);
    if now >= target {
        return target;
    }
    let room = most_replicas(deployment) - total;
    now + room.clamp(0, target - now)
}

/// Unhealthy old pods go first: they are no loss. Then as many as stay dispensable.
fn shrink_old(deployment: &Deployment, new: &ReplicaSet, sets: &Sets) -> Vec<Step> {
    let available = |set: &ReplicaSet| {
        let status = set.status.as_ref();
        i64::from(status.and_then(|s| s.available_replicas).unwrap_or(0))
    };
    if wanted_of(&sets.old) == 0 {
        return Vec::new();
    }
    let least = workload::wanted_replicas(deployment) - workload::max_unavailable(deployment);
    let new_unavailable = wanted(new) - available(new);
    let mut removable = wanted_of(sets.all()) - least - new_unavailable;
    if removable <= 0 {
        return Vec::new();
    }
    let mut sizes: BTreeMap<usize, i64> = sets.old.iter().map(|s| wanted(s)).enumerate().collect();
    for (at, set) in sets.old.iter().enumerate() {
        let unhealthy = (wanted(set) - available(set)).clamp(0, removable);
        removable -= unhealthy;
        sizes.entry(at).and_modify(|size| *size -= unhealthy);
    }
    let all_available: i64 = sets.all().map(|set| available(set)).sum();
    let mut dispensable = (all_available - least).max(0);
    for size in sizes.values_mut() {
        let down = (*size).min(dispensable);
        dispensable -= down;
        *size -= down;
    }
    let old = sets.old.iter().enumerate();
    old.filter_map(|(at, set)| resize(deployment, set, sizes[&at]))
        .collect()
}

/// The deployment's size was changed, or it is paused: sizes follow without a rollout.
pub(super) fn scale(deployment: &Deployment, sets: &Sets) -> Vec<Step> {
    let target = workload::wanted_replicas(deployment);
    let active: Vec<_> = sets.all().filter(|set| wanted(set) > 0).collect();
    let only = match active.as_slice() {
        [] => sets.new.as_ref().or_else(|| latest(sets)),
        [only] => Some(*only),
        _ => None,
    };
    if active.len() < 2 {
        let step = only.and_then(|set| resize(deployment, set, target));
        return step.into_iter().collect();
    }
    if sets
        .new
        .as_ref()
        .is_some_and(|new| is_saturated(deployment, new))
    {
        let old = sets.old.iter().filter(|set| wanted(set) > 0);
        return old.filter_map(|set| resize(deployment, set, 0)).collect();
    }
    if workload::is_rolling(deployment) {
        return in_proportion(deployment, active);
    }
    Vec::new()
}

fn latest(sets: &Sets) -> Option<&Arc<ReplicaSet>> {
    sets.old.last()
}

/// Whether the new set has all that the deployment asks for.
fn is_saturated(deployment: &Deployment, new: &ReplicaSet) -> bool {
    let target = workload::wanted_replicas(deployment);
    let desired = meta::annotation(&new.metadata, plan::DESIRED);
    let status = new.status.as_ref();
    let available = status.and_then(|s| s.available_replicas).unwrap_or(0);
    wanted(new) == target
        && desired.and_then(|d| d.parse().ok()) == Some(target)
        && i64::from(available) == target
}

/// Shares the difference among the active sets in proportion to their sizes, the largest first.
fn in_proportion(deployment: &Deployment, mut active: Vec<&Arc<ReplicaSet>>) -> Vec<Step> {
    let target = workload::wanted_replicas(deployment);
    let allowed = if target > 0 {
        most_replicas(deployment)
    } else {
        0
    };
    let to_add = allowed - wanted_of(active.iter().copied());
    let created = |set: &ReplicaSet| set.metadata.creation_timestamp.as_ref().map(|t| t.0);
    // Growing favours the newer of two equal sets, shrinking takes from the older.
    if to_add > 0 {
        active.sort_by_key(|set| Reverse((wanted(set), created(set))));
    } else {
        active.sort_by_key(|set| (Reverse(wanted(set)), created(set)));
    }
    let mut added = 0;
    let mut sizes = Vec::new();
    for set in &active {
        let share = if to_add == 0 {
            0
        } else {
            proportion(deployment, set, to_add, added)
        };
        added += share;
        sizes.push(wanted(set) + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    let resized = active.iter().zip(sizes);
    resized
        .filter_map(|(set, size)| resize(deployment, set, size))
        .collect()
}

fn proportion(deployment: &Deployment, set: &ReplicaSet, to_add: i64, added: i64) -> i64 {
    if wanted(set) == 0 || to_add == added {
        return 0;
    }
    let left = to_add - added;
    let fraction = fraction(deployment, set);
    if to_add > 0 {
        fraction.min(left)
    } else {
        fraction.max(left)
    }
}

fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i64 {
    if workload::wanted_replicas(deployment) == 0 {
        return -wanted(set);
    }
    let annotated = meta::annotation(&set.metadata, MAX).and_then(|m| m.parse::<i64>().ok());
    let status = deployment.status.as_ref();
    let before =
        annotated.unwrap_or_else(|| i64::from(status.and_then(|s| s.replicas).unwrap_or(0)));
    if before == 0 {
        return 0;
    }
    let size = wanted(set) as f64 * most_replicas(deployment) as f64 / before as f64;
    size.round() as i64 - wanted(set)
}

/// Sets a set's size, and notes what the deployment asks for by now. `None`: it is so already.
fn resize(deployment: &Deployment, set: &Arc<ReplicaSet>, size: i64) -> Option<Step> {
    let from = set.spec.replicas.unwrap_or(1);
    let to = i32::try_from(size).unwrap_or(i32::MAX);
    let noted: BTreeMap<_, _> = plan::size_annotations(deployment).into_iter().collect();
    let known = |(key, value): (&String, &String)| {
        meta::annotation(&set.metadata, key) == Some(value.as_str())
    };
    let is_noted = noted.iter().all(known);
    if from == to && is_noted {
        return None;
    }
    let mut change = json!({"metadata": {"annotations": noted}});
    if from != to {
        change["spec"] = json!({ "replicas": to });
    }
    Some(Step::Update {
        set: set.clone(),
        change,
        scaled: (from != to).then_some((from, to)),
    })
}
