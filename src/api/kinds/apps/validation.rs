//! What the kinds of workloads share of validation.

use serde_json::Value;

use crate::api::int_or_string::percent;
use crate::api::kinds::defaults::set;
use crate::api::object::{Object, child_mut};
use crate::api::selector::label::Selector;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, list, pod_spec, text};

pub(super) const SPEC: Path<'static> = Path::root("spec");
pub(super) const STATUS: Path<'static> = Path::root("status");

/// One replica, and the defaults of the pod template.
pub(super) fn default(workload: &mut Object) {
    let spec = child_mut(&mut workload.0, "spec");
    set(spec, "replicas", 1);
    crate::api::kinds::core::pod::default::template(spec);
}

/// Replicas, selector and template, in the words of a kind.
pub(super) fn replicas_selector_template(errors: &mut Errors, spec: &Value, kind: &str) {
    errors.nonnegative(&SPEC.field("replicas"), &spec["replicas"]);
    errors.nonnegative(&SPEC.field("minReadySeconds"), &spec["minReadySeconds"]);
    let selector = &spec["selector"];
    let path = SPEC.field("selector");
    if selector.is_null() && kind != "DaemonSet" {
        errors.required(&path, "");
    } else if !selector.is_null() {
        common::label_selector(errors, selector, &path);
        let labels = selector["matchLabels"]
            .as_object()
            .map_or(0, serde_json::Map::len);
        if labels + list(&selector["matchExpressions"]).len() == 0 {
            // Upstream says `deployment` of ReplicaSets too.
            let name = match kind {
                "DaemonSet" => "daemonset",
                "StatefulSet" => "statefulset",
                _ => "deployment",
            };
            let why = format!("empty selector is invalid for {name}");
            errors.invalid(&path, selector.clone(), &why);
        }
    }
    match Selector::from_label_selector(selector) {
        Err(_) => errors.invalid(&path, selector.clone(), "invalid label selector"),
        Ok(selector) => template(errors, spec, &selector, kind),
    }
}

fn template(errors: &mut Errors, spec: &Value, selector: &Selector, kind: &str) {
    let path = SPEC.field("template");
    let template = &spec["template"];
    let labels = &template["metadata"]["labels"];
    if !selector.is_empty() && !selector.matches(labels) {
        let why = "`selector` does not match template `labels`";
        errors.invalid(&path.field("metadata").field("labels"), labels.clone(), why);
    }
    pod_spec::validate_template(errors, template, &path);
    let policy = text(&template["spec"]["restartPolicy"]);
    let path = path.field("spec");
    if policy != "Always" {
        errors.not_supported(&path.field("restartPolicy"), policy, &["Always"]);
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.forbidden(&path.field("activeDeadlineSeconds"), &why);
    }
}

/// The selector of a workload never changes: what it selected before would be left alone.
pub(super) fn same_selector(errors: &mut Errors, new: &Object, old: &Object) {
    let selector = |object: &Object| object.field("spec")["selector"].clone();
    errors.immutable(&SPEC.field("selector"), &selector(new), &selector(old));
}

/// How many pods may be missing or too many during a rollout: at most all.
pub(super) fn unavailable(errors: &mut Errors, value: &Value, path: &Path<'_>) {
    common::positive_int_or_percent(errors, value, path);
    at_most_all(errors, value, path);
}

/// Not above 100%.
pub(super) fn at_most_all(errors: &mut Errors, value: &Value, path: &Path<'_>) {
    if percent(text(value)).is_ok_and(|n| n > 100) {
        errors.invalid(path, value.clone(), "must not be greater than 100%");
    }
}

/// 0 or 0%.
pub(super) fn is_zero(value: &Value) -> bool {
    value.as_i64() == Some(0) || percent(text(value)) == Ok(0)
}

/// The count of collisions of names only grows.
pub(super) fn collisions(errors: &mut Errors, new: &Object, old: &Object) {
    let count = |object: &Object| object.field("status")["collisionCount"].clone();
    let number = |count: &Value| count.as_i64().unwrap_or(0);
    let (now, before) = (count(new), count(old));
    if number(&now) < number(&before) {
        let path = STATUS.field("collisionCount");
        errors.invalid(&path, now, "cannot be decremented");
    }
}

/// Counts of a status: none negative, none larger than all.
pub(super) fn counts(status: &Value, counts: &[&str]) -> Vec<FieldError> {
    let mut errors = Errors::new();
    for field in ["observedGeneration", "replicas"].iter().chain(counts) {
        errors.nonnegative(&STATUS.field(field), &status[*field]);
    }
    let number = |field: &str| status[field].as_i64().unwrap_or(0);
    for field in counts {
        if number(field) > number("replicas") {
            let why = "cannot be greater than status.replicas";
            errors.invalid(&STATUS.field(field), number(field), why);
        }
    }
    if number("availableReplicas") > number("readyReplicas") {
        let path = STATUS.field("availableReplicas");
        let why = "cannot be greater than readyReplicas";
        errors.invalid(&path, number("availableReplicas"), why);
    }
    errors.into_vec()
}
