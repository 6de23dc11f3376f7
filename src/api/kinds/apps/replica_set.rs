//! ReplicaSet: as many pods of one template as asked for.

use jiff::Timestamp;
use serde_json::Value;

use super::validation;
use crate::api::kinds::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::object::Object;
use crate::api::selector::label::format_label_selector;
use crate::api::status::FieldError;
use crate::api::validation::Errors;

pub(crate) const DEF: KindDef = KindDef {
    group: "apps",
    kind: "ReplicaSet",
    plural: "replicasets",
    singular: "replicaset",
    short_names: &["rs"],
    categories: &["all"],
    subresources: SUBRESOURCES,
    schema: "apps.v1.ReplicaSet",
    storage: "replicasets.apps",
    columns: COLUMNS,
    cells: row,
    fields,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    has_generation: true,
    default: validation::default,
    validate,
    validate_update,
    validate_status,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[
    rows::SCALE,
    rows::item("status", ("apps", "v1", "ReplicaSet")),
];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::integer(
        "Desired",
        "Replicas is the number of desired pods. This is a pointer to distinguish between \
         explicit zero and unspecified. Defaults to 1. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
    ),
    rows::integer(
        "Current",
        "Replicas is the most recently observed number of non-terminating pods. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
    ),
    rows::integer(
        "Ready",
        "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition.",
    ),
    rows::AGE,
    rows::wide("Containers", "Names of each container in the template."),
    rows::wide(
        "Images",
        "Images referenced by each container in the template.",
    ),
    rows::wide(
        "Selector",
        "Selector is a label query over pods that should match the replica count. Label keys and \
         values that must match in order to be controlled by this replica set. It must match the \
         pod template's labels. More info: \
         https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];

fn row(set: &Object, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (set.field("spec"), set.field("status"));
    let [names, images] = cells::containers(&spec["template"]["spec"]);
    vec![
        cells::name(set),
        cells::number(&spec["replicas"]),
        cells::number(&status["replicas"]),
        cells::number(&status["readyReplicas"]),
        cells::age(set, now),
        names,
        images,
        format_label_selector(&spec["selector"]).into(),
    ]
}

fn fields(set: &Object) -> Vec<(&'static str, String)> {
    let replicas = set.field("status")["replicas"].as_i64().unwrap_or(0);
    vec![("status.replicas", replicas.to_string())]
}

fn validate(set: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    validation::replicas_selector_template(&mut errors, set.field("spec"), "ReplicaSet");
    errors.into_vec()
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    validation::same_selector(&mut errors, new, old);
    errors.into_vec()
}

fn validate_status(new: &Object, _old: &Object) -> Vec<FieldError> {
    let counts = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    validation::counts(new.field("status"), &counts)
}
