//! What the server does to a pod before it is validated (`pkg/registry/core/pod/strategy.go`).

use serde_json::{Value, json};

use crate::api::kinds::prepare;
use crate::api::object::{Object, child_mut};
use crate::api::pod::{Qos, Resources, qos_of};
use crate::api::quantity::Quantity;
use crate::api::validation::{entries, list, text};

/// A new pod is pending, whatever its creator says.
pub(super) fn create(pod: &mut Object) {
    let mut status = json!({"phase": "Pending", "qosClass": qos(pod).name()});
    if !list(&pod.field("spec")["schedulingGates"]).is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
    pod.0.insert("status".to_owned(), status);
}

/// A new status keeps owners, class and deletion, and both forms of the addresses agree.
pub(super) fn status(new: &mut Object, old: &Object) {
    prepare::only_status(new, old);
    for field in [
        "ownerReferences",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        prepare::keep_meta(new, old, field);
    }
    let class = old.text_at(&["status", "qosClass"]).to_owned();
    let status = child_mut(&mut new.0, "status");
    if !class.is_empty() {
        status.insert("qosClass".to_owned(), class.into());
    }
    for (one, all) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let first = status
            .get(all)
            .map_or("", |ips| text(&ips[0]["ip"]))
            .to_owned();
        let single = status.get(one).map_or("", text).to_owned();
        if !first.is_empty() {
            status.insert(one.to_owned(), first.into());
        } else if !single.is_empty() {
            status.insert(all.to_owned(), json!([{"ip": single}]));
        }
    }
}

/// The class of a pod that is still JSON.
pub(super) fn qos(pod: &Object) -> Qos {
    let spec = pod.field("spec");
    let of = |resources: &Value| {
        (
            amounts(&resources["requests"]),
            amounts(&resources["limits"]),
        )
    };
    let own = of(&spec["resources"]);
    if !own.0.is_empty() || !own.1.is_empty() {
        return qos_of([own]);
    }
    let containers = list(&spec["initContainers"])
        .iter()
        .chain(list(&spec["containers"]));
    qos_of(containers.map(|container| of(&container["resources"])))
}

fn amounts(amounts: &Value) -> Resources {
    entries(amounts)
        .filter_map(|(name, amount)| Some((name.to_owned(), Quantity::from_json(amount).ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_pod_is_pending_with_its_class() {
        let mut pod = Object::from_value(json!({
            "spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}],
                     "schedulingGates": [{"name": "x"}]},
            "status": {"phase": "Running"},
        }))
        .unwrap();
        create(&mut pod);
        assert_eq!(pod.text_at(&["status", "phase"]), "Pending");
        assert_eq!(pod.text_at(&["status", "qosClass"]), "Burstable");
        assert_eq!(
            pod.field("status")["conditions"][0]["reason"],
            "SchedulingGated"
        );
    }

    #[test]
    fn a_new_status_changes_nothing_else() {
        let old = Object::from_value(json!({
            "metadata": {"name": "a", "ownerReferences": [1], "deletionTimestamp": "t"},
            "spec": {"nodeName": "n"}, "status": {"qosClass": "Burstable"},
        }))
        .unwrap();
        let mut new = Object::from_value(json!({
            "metadata": {"name": "a", "labels": {"x": "y"}}, "spec": {"nodeName": "other"},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "qosClass": "Guaranteed"},
        }))
        .unwrap();
        status(&mut new, &old);
        assert_eq!(new.field("spec"), old.field("spec"));
        assert!(new.is_terminating());
        assert_eq!(new.field("metadata")["ownerReferences"][0], 1);
        let expected = json!({"phase": "Running", "podIP": "10.0.0.1",
            "podIPs": [{"ip": "10.0.0.1"}], "qosClass": "Burstable"});
        assert_eq!(new.field("status"), &expected);
    }
}
