//! What a failed Pod means for its Job: the rules of `spec.podFailurePolicy`. Pure; kubernetes
//! `pkg/controller/job/pod_failure_policy.go`.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use crate::api::meta;

/// What the first rule that fits says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts towards the back-off limit, as where no rule fits.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed, for this reason.
    FailJob(String),
}

/// The verdict on a failed Pod.
pub(super) fn verdict(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy
        .map(|policy| policy.rules.as_slice())
        .unwrap_or_default();
    for (position, rule) in rules.iter().enumerate() {
        let Some(what) = fits(rule, pod) else {
            continue;
        };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => {
                let action = &rule.action;
                Verdict::FailJob(format!("{what} matching {action} rule at index {position}"))
            }
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// What of the Pod the rule fits, as upstream words it.
fn fits(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    if let Some(wanted) = &rule.on_exit_codes {
        let status = exited(pod).find(|status| fits_exit(wanted, status))?;
        let code = exit_code(status)?;
        return Some(format!(
            "Container {} for pod {} failed with exit code {code}",
            status.name,
            place(pod),
        ));
    }
    let patterns = rule.on_pod_conditions.iter().flatten();
    let mut found = patterns.filter_map(|pattern| fits_condition(pattern, pod));
    let kind = found.next()?;
    Some(format!("Pod {} has condition {kind}", place(pod)))
}

fn place(pod: &Pod) -> String {
    let meta = &pod.metadata;
    format!("{}/{}", meta::namespace(meta), meta::name(meta))
}

/// Containers of both kinds that have ended.
fn exited(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let main = status.and_then(|s| s.container_statuses.as_ref());
    let init = status.and_then(|s| s.init_container_statuses.as_ref());
    main.into_iter().chain(init).flatten()
}

fn exit_code(status: &ContainerStatus) -> Option<i32> {
    Some(status.state.as_ref()?.terminated.as_ref()?.exit_code)
}

fn fits_exit(wanted: &PodFailurePolicyOnExitCodesRequirement, status: &ContainerStatus) -> bool {
    let is_named = wanted
        .container_name
        .as_ref()
        .is_none_or(|name| *name == status.name);
    let Some(code) = exit_code(status).filter(|code| *code != 0) else {
        return false;
    };
    let is_listed = wanted.values.contains(&code);
    is_named && is_listed == (wanted.operator == "In")
}

fn fits_condition(pattern: &PodFailurePolicyOnPodConditionsPattern, pod: &Pod) -> Option<String> {
    let wanted = pattern.status.as_deref().unwrap_or("True");
    let conditions = pod.status.as_ref()?.conditions.iter().flatten();
    let mut fitting = conditions.filter(|c| c.type_ == pattern.type_ && c.status == wanted);
    fitting.next().map(|condition| condition.type_.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_rule_that_fits_decides() {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            {"action": "FailJob", "onExitCodes":
                {"containerName": "main", "operator": "In", "values": [42]}},
            {"action": "FailIndex", "onExitCodes": {"operator": "NotIn", "values": [1, 42]}},
        ]}))
        .unwrap();
        let pod = |code: i32, disrupted: bool| -> Pod {
            let conditions = match disrupted {
                true => json!([{"type": "DisruptionTarget", "status": "True"}]),
                false => json!([]),
            };
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"},
                "status": {"phase": "Failed", "conditions": conditions, "containerStatuses": [
                    {"name": "main", "image": "", "imageID": "", "ready": false,
                    "restartCount": 0, "state": {"terminated": {"exitCode": code}}}]}}))
            .unwrap()
        };
        let of = |pod: &Pod| verdict(Some(&policy), pod);
        assert_eq!(of(&pod(42, true)), Verdict::Ignore);
        assert_eq!(
            of(&pod(42, false)),
            Verdict::FailJob(
                "Container main for pod n/p failed with exit code 42 matching FailJob rule at \
                 index 1"
                    .to_owned()
            )
        );
        assert_eq!(of(&pod(1, false)), Verdict::Count);
        assert_eq!(of(&pod(2, false)), Verdict::FailIndex);
        assert_eq!(of(&pod(0, false)), Verdict::Count);
        assert_eq!(verdict(None, &pod(1, false)), Verdict::Count);
    }
}
