//! A Pod stays for five minutes on a node that is not ready or not reachable, unless it says
//! something else (`plugin/pkg/admission/defaulttolerationseconds`).

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::api::object::{Object, child_mut};
use crate::api::status::ApiError;

use super::{Attributes, Operation, Plugin};

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];

pub(super) struct DefaultTolerations;

#[async_trait]
impl Plugin for DefaultTolerations {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        attributes.is_core("pods") && attributes.is_put()
    }

    async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        if attributes.is_core("pods")
            && attributes.subresource.is_empty()
            && attributes.operation != Operation::Delete
        {
            add(object);
        }
        Ok(())
    }
}

fn add(pod: &mut Object) {
    let spec = child_mut(&mut pod.0, "spec");
    let tolerations = spec
        .get("tolerations")
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let missing: Vec<Value> = TAINTS
        .iter()
        .filter(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
        .map(|taint| {
            json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": SECONDS,
            })
        })
        .collect();
    if !missing.is_empty() {
        let all: Vec<Value> = tolerations.iter().cloned().chain(missing).collect();
        spec.insert("tolerations".into(), all.into());
    }
}

/// Whether the toleration says something about the taint with effect `NoExecute`.
fn tolerates(toleration: &Value, taint: &str) -> bool {
    let text = |field: &str| toleration[field].as_str().unwrap_or_default();
    (text("key") == taint || text("key").is_empty())
        && (text("effect") == "NoExecute" || text("effect").is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_pod_does_not_say_itself_is_added() {
        let mut pod = Object::from_value(json!({"spec": {"tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
        ]}}))
        .unwrap();
        add(&mut pod);
        add(&mut pod);
        let tolerations = pod.0["spec"]["tolerations"].as_array().unwrap();
        assert_eq!(tolerations.len(), 2);
        assert_eq!(tolerations[1]["key"], "node.kubernetes.io/unreachable");
        assert_eq!(tolerations[1]["tolerationSeconds"], 300);
    }
}
