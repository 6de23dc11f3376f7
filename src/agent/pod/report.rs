//! What of a status is sent: only what differs from what the server has, as a strategic merge
//! patch (kubernetes `pkg/util/pod.PatchPodStatus`). Pure.

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use serde_json::{Map, Value, json};

use super::status::OWN_CONDITIONS;

/// The patch from `old` to `new`; `None` where they are equal.
pub(crate) fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    if old == new {
        return None;
    }
    let conditions = conditions(old, new);
    let (old, new) = (fields(old), fields(new));
    let mut status = Map::new();
    for (name, value) in &new {
        match name.as_str() {
            "conditions" => {}
            _ if old.get(name) == Some(value) => {}
            "podIPs" | "hostIPs" => {
                status.insert(name.clone(), replaced(old.get(name), value));
            }
            _ => {
                status.insert(name.clone(), value.clone());
            }
        }
    }
    for name in old.keys() {
        if !new.contains_key(name) && name != "conditions" {
            status.insert(name.clone(), Value::Null);
        }
    }
    if !conditions.is_empty() {
        status.insert("conditions".to_owned(), Value::Array(conditions));
    }
    Some(json!({"metadata": {"uid": uid}, "status": status}))
}

fn fields(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// Lists that merge by key are replaced as a whole: an old address must go.
fn replaced(old: Option<&Value>, new: &Value) -> Value {
    let is_empty = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    if old.is_none_or(is_empty) {
        return new.clone();
    }
    let mut list = new.as_array().cloned().unwrap_or_default();
    list.push(json!({"$patch": "replace"}));
    Value::Array(list)
}

/// The conditions that changed; a field that one has lost is set to null.
fn conditions(old: &PodStatus, new: &PodStatus) -> Vec<Value> {
    let mut changed = Vec::new();
    for condition in new.conditions.iter().flatten() {
        let before = old.conditions.iter().flatten();
        let before: Option<&PodCondition> = before.into_iter().find(|c| c.type_ == condition.type_);
        if before == Some(condition) {
            continue;
        }
        let mut value = serde_json::to_value(condition).unwrap_or_default();
        for (field, is_set) in [
            ("reason", condition.reason.is_some()),
            ("message", condition.message.is_some()),
        ] {
            if before.is_some() && !is_set {
                value[field] = Value::Null;
            }
        }
        changed.push(value);
    }
    changed
}

/// What the server has after it took `sent`: the agent's own conditions as they are in its answer.
/// Between what the patch was made from and the patch another may have written (the node lifecycle
/// controller, for a node that was away a moment), and a patch leaves alone what it does not name.
pub(crate) fn taken(mut sent: PodStatus, answer: &PodStatus) -> PodStatus {
    let ours = sent.conditions.iter_mut().flatten();
    for condition in ours.filter(|c| OWN_CONDITIONS.contains(&c.type_.as_str())) {
        let mut there = answer.conditions.iter().flatten();
        if let Some(other) =
            there.find(|c| c.type_ == condition.type_ && c.status != condition.status)
        {
            *condition = other.clone();
        }
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn equal_statuses_need_no_patch() {
        let one = status(json!({"phase": "Running"}));
        assert_eq!(patch("u", &one, &one), None);
    }

    #[test]
    fn only_changes_are_sent_and_what_is_gone_is_null() {
        let old = status(
            json!({"phase": "Pending", "reason": "x", "hostIP": "1.1.1.1",
            "conditions": [{"type": "Ready", "status": "False", "reason": "No", "message": "m"},
                {"type": "Mine", "status": "True"}]}),
        );
        let new = status(json!({"phase": "Running", "hostIP": "1.1.1.1",
            "conditions": [{"type": "Ready", "status": "True"},
                {"type": "Mine", "status": "True"}]}));
        let expected = json!({"metadata": {"uid": "u"}, "status": {
            "phase": "Running", "reason": null,
            "conditions": [{"type": "Ready", "status": "True", "reason": null,
                "message": null}]}});
        assert_eq!(patch("u", &old, &new), Some(expected));
    }

    #[test]
    fn addresses_replace_the_old_ones() {
        let old = status(json!({"podIPs": [{"ip": "10.0.0.1"}]}));
        let new = status(json!({"podIPs": [{"ip": "10.0.0.2"}]}));
        let sent = patch("u", &old, &new).unwrap();
        assert_eq!(
            sent["status"]["podIPs"],
            json!([{"ip": "10.0.0.2"}, {"$patch": "replace"}])
        );
        let sent = patch("u", &PodStatus::default(), &new).unwrap();
        assert_eq!(sent["status"]["podIPs"], json!([{"ip": "10.0.0.2"}]));
    }

    #[test]
    fn what_another_wrote_meanwhile_is_sent_again() {
        let wanted = status(json!({"conditions": [{"type": "Ready", "status": "True"},
            {"type": "Gate", "status": "False"}]}));
        let answer = status(json!({"conditions": [{"type": "Ready", "status": "False"},
            {"type": "Gate", "status": "True"}]}));
        let known = taken(wanted.clone(), &answer);
        let again = patch("u", &known, &wanted).unwrap();
        let expected = json!([{"type": "Ready", "status": "True", "reason": null,
            "message": null}]);
        assert_eq!(again["status"]["conditions"], expected);
        assert_eq!(taken(wanted.clone(), &wanted), wanted);
    }
}
