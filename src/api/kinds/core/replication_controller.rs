//! ReplicationController: what ReplicaSets were before they had expressions in their selectors.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::defaults::set;
use crate::api::kinds::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::object::{Object, child_mut};
use crate::api::selector::label::Selector;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, entries, pod_spec, text};

pub(crate) const DEF: KindDef = KindDef {
    kind: "ReplicationController",
    plural: "replicationcontrollers",
    singular: "replicationcontroller",
    short_names: &["rc"],
    categories: &["all"],
    subresources: SUBRESOURCES,
    schema: "core.v1.ReplicationController",
    storage: "replicationcontrollers",
    columns: COLUMNS,
    cells: row,
    fields,
    default,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    has_generation: true,
    validate,
    validate_update: |new, _| validate(new),
    validate_status,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[
    rows::SCALE,
    rows::item("status", ("", "v1", "ReplicationController")),
];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::integer(
        "Desired",
        "Replicas is the number of desired replicas. This is a pointer to distinguish between \
         explicit zero and unspecified. Defaults to 1. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
    ),
    rows::integer(
        "Current",
        "Replicas is the most recently observed number of replicas. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
    ),
    rows::integer(
        "Ready",
        "The number of ready replicas for this replication controller.",
    ),
    rows::AGE,
    rows::wide("Containers", "Names of each container in the template."),
    rows::wide(
        "Images",
        "Images referenced by each container in the template.",
    ),
    rows::wide(
        "Selector",
        "Selector is a label query over pods that should match the Replicas count. If Selector is \
         empty, it is defaulted to the labels present on the Pod template. Label keys and values \
         that must match in order to be controlled by this replication controller, if empty \
         defaulted to labels on Pod template. More info: \
         https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];

fn row(controller: &Object, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (controller.field("spec"), controller.field("status"));
    let [names, images] = cells::containers(&spec["template"]["spec"]);
    vec![
        cells::name(controller),
        cells::number(&spec["replicas"]),
        cells::number(&status["replicas"]),
        cells::number(&status["readyReplicas"]),
        cells::age(controller, now),
        names,
        images,
        cells::labels(&spec["selector"]),
    ]
}

fn fields(controller: &Object) -> Vec<(&'static str, String)> {
    let replicas = controller.field("status")["replicas"].as_i64().unwrap_or(0);
    vec![("status.replicas", replicas.to_string())]
}

/// Selector and labels are those of the template where nothing else is said.
fn default(controller: &mut Object) {
    let path = ["spec", "template", "metadata", "labels"];
    let labels = controller.at(&path).cloned();
    let spec = child_mut(&mut controller.0, "spec");
    set(spec, "replicas", 1);
    crate::api::kinds::core::pod::default::template(spec);
    let Some(labels) = labels.filter(|labels| cells::count(labels) > 0) else {
        return;
    };
    if cells::count(spec.get("selector").unwrap_or(&Value::Null)) == 0 {
        spec.insert("selector".to_owned(), labels.clone());
    }
    let meta = controller.metadata_mut();
    if cells::count(meta.get("labels").unwrap_or(&Value::Null)) == 0 {
        meta.insert("labels".to_owned(), labels);
    }
}

const SPEC: Path<'static> = Path::root("spec");
const STATUS: Path<'static> = Path::root("status");

fn validate(controller: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = controller.field("spec");
    errors.nonnegative(&SPEC.field("minReadySeconds"), &spec["minReadySeconds"]);
    let pairs = entries(&spec["selector"]).map(|(key, value)| (key, text(value)));
    let selector = Selector::from_set(pairs);
    if selector.is_empty() {
        errors.required(&SPEC.field("selector"), "");
    }
    common::labels(&mut errors, &spec["selector"], &SPEC.field("selector"));
    errors.nonnegative(&SPEC.field("replicas"), &spec["replicas"]);
    let template = &spec["template"];
    let path = SPEC.field("template");
    if template.is_null() {
        errors.required(&path, "");
        return errors.into_vec();
    }
    let labels = &template["metadata"]["labels"];
    if !selector.is_empty() && !selector.matches(labels) {
        let why = "`selector` does not match template `labels`";
        errors.invalid(&path.field("metadata").field("labels"), labels.clone(), why);
    }
    pod_spec::validate_template(&mut errors, template, &path);
    let path = path.field("spec");
    let policy = text(&template["spec"]["restartPolicy"]);
    if policy != "Always" {
        errors.not_supported(&path.field("restartPolicy"), policy, &["Always"]);
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let why = "activeDeadlineSeconds in ReplicationController is not Supported";
        errors.forbidden(&path.field("activeDeadlineSeconds"), why);
    }
    errors.into_vec()
}

fn validate_status(new: &Object, _old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let status = new.field("status");
    for field in [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
    ] {
        errors.nonnegative(&STATUS.field(field), &status[field]);
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_selector_is_that_of_the_template() {
        let value = json!({"spec": {"template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "a:1"}]}}}});
        let mut controller = Object::from_value(value).unwrap();
        default(&mut controller);
        assert!(validate(&controller).is_empty());
        assert_eq!(controller.field("spec")["selector"], json!({"app": "web"}));
        assert_eq!(row(&controller, Timestamp::UNIX_EPOCH)[7], "app=web");
        controller.0["spec"]["selector"] = json!({"app": "db"});
        let wrong = validate(&controller);
        assert_eq!(
            wrong[0].to_string(),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not \
             match template `labels`"
        );
    }
}
