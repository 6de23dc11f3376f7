//! What a PodDisruptionBudget's status says: how many pods are healthy, how many must be, how many
//! may go. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{
    PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::int_or_string::{self, Round, scaled};
use crate::api::{meta, pod};

/// How long a pod that was evicted may still be there before it counts again, and how long it may
/// say that it is to be disrupted, as upstream.
const PATIENCE: SignedDuration = SignedDuration::from_mins(2);
const ALLOWED: &str = "DisruptionAllowed";

/// Pods there should be, and healthy ones there must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) expected: i64,
    pub(super) desired: i64,
}

/// Pods whose eviction was answered and that are not seen going yet.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Disrupted {
    pub(super) since: BTreeMap<String, Time>,
    /// When the first of them counts again.
    pub(super) look_in: Option<Duration>,
    /// Those that should have gone and did not.
    pub(super) overdue: Vec<Arc<Pod>>,
}

/// Whether the bound is relative to what the pods' controllers ask for.
pub(super) fn is_relative(spec: &PodDisruptionBudgetSpec) -> bool {
    let is_percentage = matches!(spec.min_available, Some(IntOrString::String(_)));
    spec.max_unavailable.is_some() || is_percentage
}

/// `pods`: how many are selected; `scale`: how many their controllers ask for.
pub(super) fn wish(
    spec: &PodDisruptionBudgetSpec,
    pods: usize,
    scale: i64,
) -> Result<Wish, int_or_string::Error> {
    let (expected, desired) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (scale, (scale - scaled(most, scale, Round::Up)?).max(0)),
        (None, Some(IntOrString::Int(least))) => {
            (i64::try_from(pods).unwrap_or(i64::MAX), i64::from(*least))
        }
        (None, Some(least)) => (scale, scaled(least, scale, Round::Up)?),
        (None, None) => (0, 0),
    };
    Ok(Wish { expected, desired })
}

pub(super) fn disrupted(
    pods: &[Arc<Pod>],
    status: Option<&PodDisruptionBudgetStatus>,
    now: Timestamp,
) -> Disrupted {
    let mut found = Disrupted::default();
    let Some(noted) = status.and_then(|status| status.disrupted_pods.as_ref()) else {
        return found;
    };
    for pod in pods.iter().filter(|pod| !pod::is_terminating(pod)) {
        let name = meta::name(&pod.metadata);
        let Some(since) = noted.get(name) else {
            continue;
        };
        let left = PATIENCE - now.duration_since(since.0);
        if left.is_negative() {
            found.overdue.push(pod.clone());
            continue;
        }
        let left = left.unsigned_abs();
        found.look_in = Some(found.look_in.map_or(left, |other| other.min(left)));
        found.since.insert(name.to_owned(), since.clone());
    }
    found
}

fn healthy(pods: &[Arc<Pod>], disrupted: &Disrupted) -> usize {
    let counts = |pod: &&Arc<Pod>| {
        !pod::is_terminating(pod)
            && !disrupted.since.contains_key(meta::name(&pod.metadata))
            && pod::is_ready(pod)
    };
    pods.iter().filter(counts).count()
}

pub(super) fn status(
    budget: &PodDisruptionBudget,
    (pods, disrupted): (&[Arc<Pod>], &Disrupted),
    wish: Wish,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let number = |count: i64| i32::try_from(count).unwrap_or(i32::MAX);
    let current = i64::try_from(healthy(pods, disrupted)).unwrap_or(i64::MAX);
    let allowed = match wish.expected {
        ..=0 => 0,
        _ => (current - wish.desired).max(0),
    };
    let old = budget.status.as_ref().and_then(|s| s.conditions.clone());
    let condition = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let observed = budget.metadata.generation;
    let since = &disrupted.since;
    PodDisruptionBudgetStatus {
        conditions: Some(with_condition(old, condition, "", (observed, now))),
        current_healthy: Some(number(current)),
        desired_healthy: Some(number(wish.desired)),
        disrupted_pods: (!since.is_empty()).then(|| since.clone()),
        disruptions_allowed: Some(number(allowed)),
        expected_pods: Some(number(wish.expected)),
        observed_generation: observed,
    }
}

/// The status where the budget cannot be worked out: nothing may go.
pub(super) fn failed(
    budget: &PodDisruptionBudget,
    why: &str,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let old = budget.status.clone().unwrap_or_default();
    let observed = (old.observed_generation, now);
    let condition = ("False", "SyncFailed");
    PodDisruptionBudgetStatus {
        conditions: Some(with_condition(old.conditions, condition, why, observed)),
        disruptions_allowed: Some(0),
        ..old
    }
}

fn with_condition(
    conditions: Option<Vec<Condition>>,
    (status, reason): (&str, &str),
    message: &str,
    (observed_generation, now): (Option<i64>, Timestamp),
) -> Vec<Condition> {
    let mut conditions = conditions.unwrap_or_default();
    let known = conditions.iter().find(|c| c.type_ == ALLOWED);
    let since = known.filter(|c| c.status == status);
    let new = Condition {
        type_: ALLOWED.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.map_or(Time(now), |c| c.last_transition_time.clone()),
        observed_generation,
    };
    match conditions.iter_mut().find(|c| c.type_ == ALLOWED) {
        Some(old) => *old = new,
        None => conditions.push(new),
    }
    conditions
}

/// How long until a pod that was to be disrupted and was not should stop saying so: zero for now,
/// `None` where it says nothing of it. What the node itself says stays, as upstream.
pub(super) fn stale_in(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let condition = pod::condition(pod, "DisruptionTarget")?;
    let by_node = condition.reason.as_deref() == Some("TerminationByKubelet");
    let applies = condition.status == "True"
        && !by_node
        && !pod::is_terminating(pod)
        && !pod::is_terminal(pod);
    if !applies {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map_or(now, |t| t.0);
    let left = PATIENCE - now.duration_since(since);
    Some(match left.is_negative() {
        true => Duration::ZERO,
        false => left.unsigned_abs(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        let budget = json!({"metadata": {"generation": 3}, "spec": spec, "status": status});
        serde_json::from_value(budget).unwrap()
    }

    fn none() -> Value {
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0,
            "expectedPods": 0})
    }

    #[test]
    fn bounds_are_of_what_the_controllers_ask_for() {
        for (spec, pods, scale, expected, desired) in [
            (json!({"minAvailable": 2}), 3, 0, 3, 2),
            (json!({"minAvailable": "50%"}), 3, 7, 7, 4),
            (json!({"maxUnavailable": 1}), 3, 5, 5, 4),
            (json!({"maxUnavailable": "30%"}), 3, 5, 5, 3),
            (json!({"maxUnavailable": 9}), 3, 5, 5, 0),
            (json!({}), 3, 5, 0, 0),
        ] {
            let spec = budget(spec, none()).spec.unwrap();
            let wish = wish(&spec, pods, scale).unwrap();
            assert_eq!(wish, Wish { expected, desired }, "{spec:?}");
        }
        let percent = |text: &str| budget(json!({"minAvailable": text}), none()).spec.unwrap();
        assert!(is_relative(&percent("1%")));
        assert!(wish(&percent("x"), 1, 1).is_err());
    }

    #[test]
    fn what_was_evicted_does_not_count_until_it_should_have_gone() {
        let pods = [
            pod("a", true),
            pod("b", true),
            pod("c", true),
            pod("d", false),
        ];
        let mut status = none();
        status["disruptedPods"] = json!({
            "a": at(100).to_string(), "b": at(10).to_string(), "gone": at(100).to_string(),
        });
        let budget = budget(json!({"minAvailable": 1}), status);
        let disrupted = disrupted(&pods, budget.status.as_ref(), at(160));
        assert_eq!(disrupted.look_in, Some(Duration::from_secs(60)));
        assert_eq!(disrupted.since.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(disrupted.overdue, [pods[1].clone()]);
        let wish = wish(budget.spec.as_ref().unwrap(), 4, 0).unwrap();
        let status = super::status(&budget, (&pods, &disrupted), wish, at(160));
        assert_eq!(
            (
                status.current_healthy,
                status.disruptions_allowed,
                status.expected_pods
            ),
            (Some(2), Some(1), Some(4))
        );
        assert_eq!(status.observed_generation, Some(3));
        assert_eq!(status.conditions.unwrap()[0].reason, "SufficientPods");
    }

    #[test]
    fn a_condition_keeps_its_time_while_its_status_stays() {
        let mut old = none();
        old["disruptionsAllowed"] = 2.into();
        old["conditions"] = json!([{"type": ALLOWED, "status": "False", "message": "",
            "reason": "InsufficientPods", "lastTransitionTime": at(5).to_string()}]);
        let status = failed(&budget(json!({}), old), "no scale", at(9));
        let condition = &status.conditions.unwrap()[0];
        assert_eq!(condition.last_transition_time.0, at(5));
        assert_eq!(
            (&*condition.reason, &*condition.message),
            ("SyncFailed", "no scale")
        );
        assert_eq!(status.disruptions_allowed, Some(0));
    }

    #[test]
    fn a_pod_that_was_not_disrupted_stops_saying_so_in_time() {
        let with = |reason: &str| -> Pod {
            let pod = json!({"status": {"phase": "Running", "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": reason,
                "lastTransitionTime": at(100).to_string()}]}});
            serde_json::from_value(pod).unwrap()
        };
        let evicted = with("EvictionByEvictionAPI");
        assert_eq!(stale_in(&evicted, at(160)), Some(Duration::from_secs(60)));
        assert_eq!(stale_in(&evicted, at(900)), Some(Duration::ZERO));
        assert_eq!(stale_in(&with("TerminationByKubelet"), at(900)), None);
        assert_eq!(stale_in(&pod("a", true), at(900)), None);
    }
}
