//! What of a pod may change after it was made (`ValidatePodUpdate` and its like in
//! `pkg/apis/core/validation`).

use serde_json::{Value, json};

use super::prepare::qos;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, is_set, list, pod_spec, text};

const SPEC: Path<'static> = Path::root("spec");

const ONLY: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
    additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set \
    to 1 if it was previously negative)";

/// All that is wrong with a new pod.
pub(super) fn validate(pod: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    pod_spec::validate(&mut errors, pod.field("spec"), &SPEC);
    errors.into_vec()
}

/// All that is wrong with a changed pod.
pub(super) fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let (spec, was) = (new.field("spec"), old.field("spec"));
    pod_spec::validate(&mut errors, spec, &SPEC);
    for list in ["containers", "initContainers"] {
        if !same_containers(&mut errors, spec, was, list) {
            return errors.into_vec();
        }
    }
    deadline(
        &mut errors,
        &spec["activeDeadlineSeconds"],
        &was["activeDeadlineSeconds"],
    );
    only_added_tolerations(&mut errors, &spec["tolerations"], &was["tolerations"]);
    only_removed_gates(&mut errors, spec, was);
    if spec == was {
        return errors.into_vec();
    }
    if qos(new) != qos(old) {
        let class = new.text_at(&["status", "qosClass"]);
        errors.invalid(&SPEC, class, "Pod QoS is immutable");
    }
    let munged = munge(spec, was);
    if munged != *was {
        let why = format!("{ONLY}\n{}", differences(&munged, was));
        errors.forbidden(&SPEC, &why);
    }
    errors.into_vec()
}

/// Whether there are as many containers as before; they also need an image.
fn same_containers(errors: &mut Errors, spec: &Value, was: &Value, field: &str) -> bool {
    let path = SPEC.field(field);
    if list(&spec[field]).len() != list(&was[field]).len() {
        errors.forbidden(&path, "pod updates may not add or remove containers");
        return false;
    }
    true
}

fn deadline(errors: &mut Errors, new: &Value, old: &Value) {
    let path = SPEC.field("activeDeadlineSeconds");
    match (new.as_i64(), old.as_i64()) {
        (Some(new), Some(old)) if new > old => {
            errors.invalid(&path, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => {
            let why = "must not update from a positive integer to nil value";
            errors.invalid(&path, Value::Null, why);
        }
        _ => {}
    }
}

fn only_added_tolerations(errors: &mut Errors, new: &Value, old: &Value) {
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        if let Some(map) = toleration.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        toleration
    };
    let new: Vec<_> = list(new).iter().map(without_seconds).collect();
    let is_kept = |old: &Value| new.contains(&without_seconds(old));
    if !list(old).iter().all(is_kept) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(&SPEC.field("tolerations"), why);
    }
}

fn only_removed_gates(errors: &mut Errors, spec: &Value, was: &Value) {
    let path = SPEC.field("schedulingGates");
    let old = list(&was["schedulingGates"]);
    for (index, gate) in list(&spec["schedulingGates"]).iter().enumerate() {
        if !old.contains(gate) {
            let name = text(&gate["name"]);
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&path.index(index), &why);
        }
    }
}

/// The new spec with everything that may change put back.
fn munge(spec: &Value, was: &Value) -> Value {
    let mut munged = spec.clone();
    let Some(map) = munged.as_object_mut() else {
        return munged;
    };
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    let is_gated = !list(&was["schedulingGates"]).is_empty();
    if is_gated && may_narrow(spec, was) {
        free.extend(["nodeSelector", "affinity"]);
    }
    let grace = "terminationGracePeriodSeconds";
    if was[grace].as_i64().is_some_and(|old| old < 0) && spec[grace] == 1 {
        free.push(grace);
    }
    for field in free {
        match was.get(field) {
            Some(value) => map.insert(field.to_owned(), value.clone()),
            None => map.remove(field),
        };
    }
    for field in ["containers", "initContainers"] {
        let new = map.get_mut(field).and_then(Value::as_array_mut);
        for (container, old) in new.into_iter().flatten().zip(list(&was[field])) {
            if let (Some(container), Some(image)) = (container.as_object_mut(), old.get("image")) {
                container.insert("image".to_owned(), image.clone());
            }
        }
    }
    munged
}

/// A pod that waits at a gate may be bound to fewer nodes than before: node selectors are only
/// added, and where nothing was required of nodes, something may be.
fn may_narrow(spec: &Value, was: &Value) -> bool {
    let keeps_selector = was["nodeSelector"].as_object().is_none_or(|old| {
        old.iter()
            .all(|(key, value)| spec["nodeSelector"].get(key) == Some(value))
    });
    let required = |spec: &Value| {
        let node = &spec["affinity"]["nodeAffinity"];
        node["requiredDuringSchedulingIgnoredDuringExecution"].clone()
    };
    let others = |spec: &Value| {
        let affinity = &spec["affinity"];
        json!([affinity["podAffinity"], affinity["podAntiAffinity"]])
    };
    let keeps_affinity = required(was).is_null() || required(was) == required(spec);
    keeps_selector && keeps_affinity && others(spec) == others(was)
}

/// What differs, field by field, for people to read.
pub(in crate::api::kinds) fn differences(new: &Value, old: &Value) -> String {
    let mut lines = Vec::new();
    collect_differences("", new, old, &mut lines);
    lines.join("\n")
}

fn collect_differences(at: &str, new: &Value, old: &Value, lines: &mut Vec<String>) {
    const MOST: usize = 20;
    if new == old || lines.len() >= MOST {
        return;
    }
    match (new, old) {
        (Value::Object(a), Value::Object(b)) => {
            let fields: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for field in fields {
                let at = format!("{at}.{field}");
                collect_differences(&at, &new[field.as_str()], &old[field.as_str()], lines);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (new, old)) in a.iter().zip(b).enumerate() {
                collect_differences(&format!("{at}[{index}]"), new, old, lines);
            }
        }
        _ => {
            let at = at.trim_start_matches('.');
            if !old.is_null() {
                lines.push(format!("- {at}: {old}"));
            }
            if !new.is_null() {
                lines.push(format!("+ {at}: {new}"));
            }
        }
    }
}

/// All that is wrong with a new status.
pub(super) fn validate_status(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("status");
    let (status, was) = (new.field("status"), old.field("status"));
    let nominated = text(&status["nominatedNodeName"]);
    if !nominated.is_empty() {
        let wrong = crate::api::name::dns1123_subdomain(nominated);
        errors.invalid_each(&path.field("nominatedNodeName"), nominated, wrong);
    }
    let restarts = text(&old.field("spec")["restartPolicy"]).to_owned();
    for field in ["containerStatuses", "initContainerStatuses"] {
        let is_init = field == "initContainerStatuses";
        // Containers of a pod that restarts them may come back; init containers that failed too.
        if restarts == "Always" || (is_init && restarts == "OnFailure") {
            continue;
        }
        for (index, container) in list(&status[field]).iter().enumerate() {
            let same = |old: &&Value| old["name"] == container["name"];
            let Some(before) = list(&was[field]).iter().find(same) else {
                continue;
            };
            let ended = &before["state"]["terminated"];
            let ended_well = ended["exitCode"].as_i64().unwrap_or(0) == 0;
            let may_return = ended.is_null() || (restarts == "OnFailure" && !ended_well);
            if !may_return && container["state"]["terminated"].is_null() {
                let path = path.field(field);
                let path = path.index(index);
                let why = "may not be transitioned to non-terminated state";
                errors.forbidden(&path.field("state"), why);
            }
        }
    }
    let ips = path.field("podIPs");
    for (index, ip) in list(&status["podIPs"]).iter().enumerate() {
        let ip = &ip["ip"];
        if let Some(why) = crate::api::ip::wrong_address(text(ip)).filter(|_| is_set(ip)) {
            errors.invalid(&ips.index(index), text(ip), why);
        }
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(change: impl Fn(&mut Value)) -> Object {
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
            "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute"}],
            "containers": [{"name": "c", "image": "x:1", "imagePullPolicy": "Always",
                            "terminationMessagePolicy": "File"}],
        }});
        change(&mut pod);
        Object::from_value(pod).unwrap()
    }

    fn updated(change: impl Fn(&mut Value)) -> Vec<String> {
        let errors = validate_update(&pod(change), &pod(|_| {}));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn images_deadlines_and_more_tolerations_may_change() {
        let errors = updated(|pod| {
            pod["spec"]["containers"][0]["image"] = "x:2".into();
            pod["spec"]["activeDeadlineSeconds"] = 5.into();
            pod["spec"]["tolerations"][0]["tolerationSeconds"] = 5.into();
            let more = json!({"key": "b", "operator": "Exists"});
            pod["spec"]["tolerations"]
                .as_array_mut()
                .unwrap()
                .push(more);
        });
        assert_eq!(errors, [""; 0]);
    }

    #[test]
    fn nothing_else_may_change() {
        let errors = updated(|pod| pod["spec"]["containers"][0]["command"] = json!(["sh"]));
        assert_eq!(
            errors,
            [
                "spec: Forbidden: pod updates may not change fields other than \
                 `spec.containers[*].image`,`spec.initContainers[*].image`,\
                 `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
                 tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it \
                 was previously negative)\n+ containers[0].command: [\"sh\"]"
            ]
        );
        let errors = updated(|pod| pod["spec"]["tolerations"] = json!([]));
        assert_eq!(
            errors,
            [
                "spec.tolerations: Forbidden: existing toleration can not be modified except its \
                 tolerationSeconds"
            ]
        );
        let errors = updated(|pod| {
            let more = pod["spec"]["containers"][0].clone();
            pod["spec"]["containers"].as_array_mut().unwrap().push(more);
            pod["spec"]["containers"][1]["name"] = "d".into();
        });
        assert_eq!(
            errors,
            ["spec.containers: Forbidden: pod updates may not add or remove containers"]
        );
    }

    #[test]
    fn an_ended_container_does_not_come_back_unless_it_restarts() {
        let with = |policy: &str, state: Value| {
            pod(|pod| {
                pod["spec"]["restartPolicy"] = policy.into();
                pod["status"] = json!({"containerStatuses": [{"name": "c", "state": state}]});
            })
        };
        let (ended, running) = (
            json!({"terminated": {"exitCode": 0}}),
            json!({"running": {}}),
        );
        let count = |policy| {
            validate_status(&with(policy, running.clone()), &with(policy, ended.clone())).len()
        };
        assert_eq!(
            (count("Never"), count("OnFailure"), count("Always")),
            (1, 1, 0)
        );
    }
}
