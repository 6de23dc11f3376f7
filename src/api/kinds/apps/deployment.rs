//! Deployment: replica sets, one a version, rolled from one to the next.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::object::Object;
use crate::api::selector::label::format_label_selector;

pub(crate) const DEF: KindDef = KindDef {
    group: "apps",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    subresources: SUBRESOURCES,
    schema: "apps.v1.Deployment",
    storage: "deployments.apps",
    columns: COLUMNS,
    cells: row,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    prepare_status: prepare::only_status_without_labels,
    has_generation: true,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[
    rows::SCALE,
    rows::item("status", ("apps", "v1", "Deployment")),
];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string("Ready", "Number of the pod with ready state"),
    rows::string(
        "Up-to-date",
        "Total number of non-terminating pods targeted by this deployment that have the desired \
         template spec.",
    ),
    rows::string(
        "Available",
        "Total number of available non-terminating pods (ready for at least minReadySeconds) \
         targeted by this deployment.",
    ),
    rows::AGE,
    rows::wide("Containers", "Names of each container in the template."),
    rows::wide(
        "Images",
        "Images referenced by each container in the template.",
    ),
    rows::wide(
        "Selector",
        "Label selector for pods. Existing ReplicaSets whose pods are selected by this will be \
         the ones affected by this deployment. It must match the pod template's labels.",
    ),
];

fn row(deployment: &Object, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (deployment.field("spec"), deployment.field("status"));
    let ready = status["readyReplicas"].as_i64().unwrap_or(0);
    let wanted = spec["replicas"].as_i64().unwrap_or(0);
    let [names, images] = cells::containers(&spec["template"]["spec"]);
    vec![
        cells::name(deployment),
        format!("{ready}/{wanted}").into(),
        cells::number(&status["updatedReplicas"]),
        cells::number(&status["availableReplicas"]),
        cells::age(deployment, now),
        names,
        images,
        format_label_selector(&spec["selector"]).into(),
    ]
}
