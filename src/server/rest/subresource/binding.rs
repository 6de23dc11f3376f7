//! `pods/binding` and `bindings`: the scheduler's only write. A Pod is bound once
//! (`pkg/registry/core/pod/storage.BindingREST`).

use http::Response;
use serde_json::{Value, json};

use crate::api::object::{Object, child_mut};
use crate::api::options::WriteOptions;
use crate::api::status::{ApiError, FieldError};
use crate::api::time;
use crate::client::Body;
use crate::server::admission::{Attributes, Operation};
use crate::server::rest::call::{Call, named_type, read_body};
use crate::server::rest::part::Part;
use crate::server::rest::update::{self, Change};
use crate::server::rest::{Core, errors, prepare};

/// `call` is on `pods`, with the name of the Pod, also where it was posted to `bindings`.
pub(in crate::server::rest) async fn bind(
    core: &Core,
    call: &mut Call,
    body: Body,
) -> Result<Response<Body>, ApiError> {
    let options = WriteOptions::for_create(&call.query)?;
    let ty = named_type("core.v1.Binding")?;
    let mut binding = call.decode_as(&read_body(body).await?, ty, &options)?;
    prepare::place(call, &mut binding)?;
    if call.info.name.is_empty() {
        call.info.name = binding.name().to_owned();
    }
    if binding.name() != call.info.name {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    check(&binding)?;
    let attributes = Attributes {
        subresource: "binding",
        dry_run: options.dry_run,
        ..call.attributes(Operation::Create, &call.info.name)
    };
    let mut admitted = binding.clone();
    core.admission.mutate(&attributes, &mut admitted).await?;
    core.admission
        .validate(&attributes, Some(&admitted))
        .await?;
    let now = time::seconds(core.clock.now());
    let manager = call.manager(&options);
    let change = Change {
        part: Part::Whole,
        subresource: "binding",
        manager: Some(&manager),
        dry_run: options.dry_run,
        make: &|pod| assign(pod, &binding, &now),
    };
    let written = update::carry_out(core, call, &change).await?;
    written.ok_or_else(|| errors::not_found(&call.def, &call.info.name))?;
    super::done(core, call)
}

fn check(binding: &Object) -> Result<(), ApiError> {
    let mut wrong = Vec::new();
    let kind = binding.text_at(&["target", "kind"]);
    if !matches!(kind, "" | "Node") {
        let supported = ["Node", "<empty>"];
        wrong.push(FieldError::not_supported(
            "target.kind",
            &kind.into(),
            &supported,
        ));
    }
    if binding.text_at(&["target", "name"]).is_empty() {
        wrong.push(FieldError::required("target.name", ""));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid("", "Binding", binding.name(), &wrong))
}

/// The Pod on its node.
fn assign(pod: &Object, binding: &Object, now: &str) -> Result<Object, ApiError> {
    let name = pod.name();
    let refuse = |why: String| Err(ApiError::conflict("", "pods/binding", name, &why));
    if !binding.uid().is_empty() && binding.uid() != pod.uid() {
        return refuse(format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            binding.uid(),
            pod.uid()
        ));
    }
    if pod.is_terminating() {
        return refuse(format!(
            "pod {name} is being deleted, cannot be assigned to a host"
        ));
    }
    let node = pod.text_at(&["spec", "nodeName"]);
    if !node.is_empty() {
        return refuse(format!("pod {name} is already assigned to node \"{node}\""));
    }
    let gates = pod
        .at(&["spec", "schedulingGates"])
        .and_then(Value::as_array);
    if gates.is_some_and(|gates| !gates.is_empty()) {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut pod = pod.clone();
    let node = binding.text_at(&["target", "name"]);
    child_mut(&mut pod.0, "spec").insert("nodeName".into(), node.into());
    if let Some(annotations) = binding
        .at(&["metadata", "annotations"])
        .and_then(Value::as_object)
    {
        let own = child_mut(pod.metadata_mut(), "annotations");
        own.extend(annotations.clone());
    }
    let status = child_mut(&mut pod.0, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = conditions.as_array_mut() {
        let scheduled = json!({
            "type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": now,
        });
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(scheduled);
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn a_pod_is_bound_once() {
        let pod = object(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}}));
        let binding = object(json!({
            "metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"name": "n1"},
        }));
        let bound = assign(&pod, &binding, "2026-01-01T00:00:00Z").unwrap();
        assert_eq!(bound.text_at(&["spec", "nodeName"]), "n1");
        assert_eq!(bound.text_at(&["metadata", "annotations", "a"]), "b");
        assert_eq!(bound.0["status"]["conditions"][0]["type"], "PodScheduled");
        let error = assign(&bound, &binding, "").unwrap_err();
        assert_eq!(
            error.message,
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to \
             node \"n1\""
        );
        let other = object(json!({"metadata": {"name": "p", "uid": "v"}, "target": {"name": "n"}}));
        assert!(assign(&pod, &other, "").unwrap_err().is_conflict());
    }
}
