//! Whether a pod that was put on this node fits on it: the last word over whoever placed it
//! (kubernetes `pkg/kubelet/lifecycle/predicate.go`). Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

use crate::api::pod::{self as reading, Resources};
use crate::api::quantity::Quantity;

use super::state::Ended;

/// Why `pod` cannot run beside `others`; `None`: it can. What is not in `allocatable` is not
/// counted.
pub(crate) fn refusal(
    pod: &Pod,
    others: &[Arc<Pod>],
    allocatable: &BTreeMap<String, Text>,
) -> Option<Ended> {
    let refused = |reason: &'static str, why: String| {
        Some(Ended {
            reason,
            message: format!("Pod was rejected: {why}"),
        })
    };
    let lacks = |name: &str, (asked, used, most): (i64, i64, i64)| {
        format!(
            "Node didn't have enough resource: {name}, requested: {asked}, used: {used}, \
             capacity: {most}"
        )
    };
    let amount = |name: &str| allocatable.get(name)?.0.parse::<Quantity>().ok();
    if let Some(most) = amount("pods") {
        let used = i64::try_from(others.len()).unwrap_or(i64::MAX);
        if used + 1 > most.value() {
            return refused("OutOfpods", lacks("pods", (1, used, most.value())));
        }
    }
    let asked = reading::requests(pod);
    let mut used = Resources::new();
    for other in others {
        reading::add(&mut used, &reading::requests(other));
    }
    for (name, asked) in &asked {
        let Some(most) = amount(name) else { continue };
        let before = used.get(name).copied().unwrap_or_default();
        if asked.is_zero() || before + *asked <= most {
            continue;
        }
        let number = |q: Quantity| {
            if name == "cpu" {
                q.milli_value()
            } else {
                q.value()
            }
        };
        let why = lacks(name, (number(*asked), number(before), number(most)));
        return refused(reason_for(name), why);
    }
    let ports = reading::host_ports(pod);
    let taken = others.iter().flat_map(|other| reading::host_ports(other));
    for other in taken {
        if ports.iter().any(|port| port.collides_with(&other)) {
            let why = "Predicate NodePorts failed: node(s) didn't have free ports for the \
                requested pod ports";
            return refused("NodePorts", why.to_owned());
        }
    }
    None
}

fn reason_for(resource: &str) -> &'static str {
    match resource {
        "cpu" => "OutOfcpu",
        "memory" => "OutOfmemory",
        "ephemeral-storage" => "OutOfephemeral-storage",
        _ => "OutOfResource",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::pod::testing::pod;
    use serde_json::json;

    fn asks(cpu: &str, port: i32) -> Arc<Pod> {
        Arc::new(pod(json!({"containers": [{"name": "a",
            "ports": [{"containerPort": 80, "hostPort": port}],
            "resources": {"requests": {"cpu": cpu}}}]})))
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_reason() {
        let node: BTreeMap<String, Text> = [("cpu", "2"), ("pods", "2")]
            .map(|(name, amount)| (name.to_owned(), Text(amount.to_owned())))
            .into();
        let one = [asks("1500m", 1)];
        assert_eq!(refusal(&asks("500m", 2), &one, &node), None);
        let refused = refusal(&asks("501m", 2), &one, &node).unwrap();
        assert_eq!(refused.reason, "OutOfcpu");
        assert_eq!(
            refused.message,
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 501, used: 1500, \
             capacity: 2000"
        );
        assert_eq!(
            refusal(&asks("1m", 1), &one, &node).unwrap().reason,
            "NodePorts"
        );
        let two = [asks("1m", 1), asks("1m", 2)];
        assert_eq!(
            refusal(&asks("1m", 3), &two, &node).unwrap().reason,
            "OutOfpods"
        );
        assert_eq!(refusal(&asks("9", 3), &two, &BTreeMap::new()), None);
    }
}
