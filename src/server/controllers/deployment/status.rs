//! What a Deployment's status says of its rollout
//! (`k8s.io/kubernetes/pkg/controller/deployment/progress.go`).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSetCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api::{meta, workload};

use super::plan::{Sets, is_paused};
use super::wanted_of;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";

const COMPLETE: &str = "NewReplicaSetAvailable";
const UPDATED: &str = "ReplicaSetUpdated";
const CREATED: &str = "NewReplicaSetCreated";
const FOUND: &str = "FoundNewReplicaSet";
const CREATE_FAILED: &str = "ReplicaSetCreateError";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";
const RESUMED: &str = "DeploymentResumed";

/// The counts, and whether enough pods are available; the other conditions as they were.
pub(super) fn calculate(deployment: &Deployment, sets: &Sets, now: Timestamp) -> DeploymentStatus {
    let old = deployment.status.clone().unwrap_or_default();
    let sum = |of: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| -> i32 {
        let statuses = sets.all().filter_map(|set| set.status.as_ref());
        statuses.map(of).sum()
    };
    let some = |count: i32| (count > 0).then_some(count);
    let available = sum(|s| s.available_replicas.unwrap_or(0));
    let unavailable = wanted_of(sets.all()) - i64::from(available);
    let new_status = sets.new.as_ref().and_then(|set| set.status.as_ref());
    let mut conditions = old.conditions.unwrap_or_default();
    let least = workload::wanted_replicas(deployment) - workload::max_unavailable(deployment);
    let verdict = if i64::from(available) >= least {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    set(&mut conditions, AVAILABLE, verdict, now);
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(|s| s.replicas)),
        updated_replicas: new_status.and_then(|s| some(s.replicas)),
        ready_replicas: some(sum(|s| s.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: i32::try_from(unavailable).ok().and_then(some),
        terminating_replicas: Some(sum(|s| s.terminating_replicas.unwrap_or(0))),
        collision_count: old.collision_count,
        conditions: Some(conditions),
    }
}

/// Whether every pod is of the new template, available, and no other is left.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = i32::try_from(workload::wanted_replicas(deployment)).ok();
    let count = |count: Option<i32>| Some(count.unwrap_or(0));
    count(status.updated_replicas) == wanted
        && count(status.replicas) == wanted
        && count(status.available_replicas) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// The next status, and when it changes by time alone. `created` names the new set where it is
/// being created.
pub(super) fn next(
    deployment: &Deployment,
    sets: &Sets,
    created: Option<&str>,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let mut status = calculate(deployment, sets, now);
    let mut conditions = status.conditions.take().unwrap_or_default();
    if meta::is_terminating(&deployment.metadata) {
        status.conditions = Some(conditions);
        return (status, None);
    }
    match deadline(deployment) {
        None => conditions.retain(|c| !is(c, PROGRESSING)),
        Some(deadline) => {
            pause(deployment, &mut conditions, now);
            found(sets, created, &mut conditions, now);
            if !is_paused(deployment) {
                progress(deployment, sets, &status, &mut conditions, deadline, now);
            }
        }
    }
    match replica_failure(sets) {
        Some(failure) => {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let (state, reason, message) = (
                text(&failure.status),
                text(&failure.reason),
                text(&failure.message),
            );
            set(
                &mut conditions,
                REPLICA_FAILURE,
                (&state, &reason, &message),
                now,
            );
        }
        None => conditions.retain(|c| !is(c, REPLICA_FAILURE)),
    }
    let look_again = stuck_at(deployment, &status, &conditions, now);
    status.conditions = Some(conditions);
    (status, look_again)
}

/// The status after the new set could not be created.
pub(super) fn create_failed(
    deployment: &Deployment,
    why: &str,
    now: Timestamp,
) -> DeploymentStatus {
    let mut status = deployment.status.clone().unwrap_or_default();
    if deadline(deployment).is_some() {
        let conditions = status.conditions.get_or_insert_default();
        set(conditions, PROGRESSING, ("False", CREATE_FAILED, why), now);
    }
    status
}

/// `None` where a rollout may take for ever.
fn deadline(deployment: &Deployment) -> Option<i64> {
    let seconds = deployment.spec.progress_deadline_seconds;
    seconds.filter(|s| *s != i32::MAX).map(i64::from)
}

/// Notes that a deployment was paused, or goes on: paused time is not counted.
fn pause(deployment: &Deployment, conditions: &mut Vec<DeploymentCondition>, now: Timestamp) {
    let reason = reason_of(conditions, PROGRESSING);
    if reason == Some(TIMED_OUT) {
        return;
    }
    let was_paused = reason == Some(PAUSED);
    if is_paused(deployment) && !was_paused {
        let verdict = ("Unknown", PAUSED, "Deployment is paused");
        set(conditions, PROGRESSING, verdict, now);
    } else if !is_paused(deployment) && was_paused {
        let verdict = ("Unknown", RESUMED, "Deployment is resumed");
        set(conditions, PROGRESSING, verdict, now);
    }
}

/// The first word about a rollout: its set was created, or was there already.
fn found(
    sets: &Sets,
    created: Option<&str>,
    conditions: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) {
    if let Some(name) = created {
        let text = format!("Created new replica set \"{name}\"");
        set(conditions, PROGRESSING, ("True", CREATED, &text), now);
        return;
    }
    if let (Some(new), None) = (&sets.new, reason_of(conditions, PROGRESSING)) {
        let text = format!("Found new replica set \"{}\"", meta::name(&new.metadata));
        set(conditions, PROGRESSING, ("True", FOUND, &text), now);
    }
}

#[expect(
    clippy::too_many_arguments,
    reason = "two states and what they are judged by"
)]
fn progress(
    deployment: &Deployment,
    sets: &Sets,
    status: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
    deadline: i64,
    now: Timestamp,
) {
    let reason = reason_of(conditions, PROGRESSING);
    let was_complete = status.replicas == status.updated_replicas && reason == Some(COMPLETE);
    if was_complete {
        return;
    }
    let subject = match &sets.new {
        Some(new) => format!("ReplicaSet \"{}\"", meta::name(&new.metadata)),
        None => format!("Deployment \"{}\"", meta::name(&deployment.metadata)),
    };
    if is_complete(deployment, status) {
        let text = format!("{subject} has successfully progressed.");
        set(conditions, PROGRESSING, ("True", COMPLETE, &text), now);
    } else if has_moved(deployment, status) {
        let text = format!("{subject} is progressing.");
        renew(conditions, ("True", UPDATED, &text), now);
    } else if has_timed_out(conditions, deadline, now) {
        let text = format!("{subject} has timed out progressing.");
        set(conditions, PROGRESSING, ("False", TIMED_OUT, &text), now);
    }
}

/// Whether more pods are new, or fewer old, or more ready or available than before.
fn has_moved(deployment: &Deployment, new: &DeploymentStatus) -> bool {
    let old = deployment.status.clone().unwrap_or_default();
    let n = |count: Option<i32>| count.unwrap_or(0);
    let outdated = |s: &DeploymentStatus| n(s.replicas) - n(s.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(&old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn has_timed_out(conditions: &[DeploymentCondition], deadline: i64, now: Timestamp) -> bool {
    let Some(condition) = conditions.iter().find(|c| is(c, PROGRESSING)) else {
        return false;
    };
    match condition.reason.as_deref() {
        Some(COMPLETE | PAUSED) => false,
        Some(TIMED_OUT) => true,
        _ => condition
            .last_update_time
            .as_ref()
            .is_some_and(|at| at.0.as_second() + deadline < now.as_second()),
    }
}

/// How long until an unfinished rollout that does not move has timed out.
fn stuck_at(
    deployment: &Deployment,
    status: &DeploymentStatus,
    conditions: &[DeploymentCondition],
    now: Timestamp,
) -> Option<Duration> {
    let deadline = deadline(deployment).filter(|_| !is_paused(deployment))?;
    let condition = conditions.iter().find(|c| is(c, PROGRESSING))?;
    let over = matches!(condition.reason.as_deref(), Some(COMPLETE | TIMED_OUT));
    if over || is_complete(deployment, status) {
        return None;
    }
    let since = condition.last_update_time.as_ref()?.0.as_second();
    let seconds = since + deadline - now.as_second() + 1;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The failure of the new set, else of any.
fn replica_failure(sets: &Sets) -> Option<&ReplicaSetCondition> {
    let all = sets.new.iter().chain(&sets.old);
    let conditions = all.filter_map(|set| set.status.as_ref()?.conditions.as_ref());
    conditions
        .flatten()
        .find(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE))
}

fn is(condition: &DeploymentCondition, kind: &str) -> bool {
    condition.type_.as_deref() == Some(kind)
}

fn reason_of<'a>(conditions: &'a [DeploymentCondition], kind: &str) -> Option<&'a str> {
    let condition = conditions.iter().find(|c| is(c, kind))?;
    condition.reason.as_deref()
}

/// Sets a condition (status, reason, message). One with the same status and reason stays as it
/// is; the time of transition is kept where the status is the same.
fn set(
    conditions: &mut Vec<DeploymentCondition>,
    kind: &str,
    verdict: (&str, &str, &str),
    now: Timestamp,
) {
    let known = conditions.iter().find(|c| is(c, kind));
    let same_status = known.filter(|c| c.status.as_deref() == Some(verdict.0));
    if same_status.is_some_and(|c| c.reason.as_deref() == Some(verdict.1)) {
        return;
    }
    let transition = same_status.and_then(|c| c.last_transition_time.clone());
    let condition = DeploymentCondition {
        type_: Some(kind.to_owned()),
        status: Some(verdict.0.to_owned()),
        reason: Some(verdict.1.to_owned()),
        message: Some(verdict.2.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(transition.unwrap_or(Time(now))),
    };
    conditions.retain(|c| !is(c, kind));
    conditions.push(condition);
}

/// As [`set`] for `Progressing`, but with a new time of update also where nothing else changed:
/// the deadline counts from the last movement.
fn renew(conditions: &mut Vec<DeploymentCondition>, verdict: (&str, &str, &str), now: Timestamp) {
    let known = conditions.iter().find(|c| is(c, PROGRESSING));
    let same = known.filter(|c| c.status.as_deref() == Some(verdict.0));
    let transition = same.and_then(|c| c.last_transition_time.clone());
    conditions.retain(|c| !is(c, PROGRESSING));
    set(conditions, PROGRESSING, verdict, now);
    if let (Some(transition), Some(last)) = (transition, conditions.last_mut()) {
        last.last_transition_time = Some(transition);
    }
}
