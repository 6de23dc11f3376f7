//! Pod: containers that run together on one node.

mod cells;
pub(crate) mod default;
mod prepare;
pub(crate) mod update;

use crate::api::kinds::prepare::keep_status;
use crate::api::kinds::{KindDef, Subresource, rows};
use crate::api::object::Object;

pub(crate) const DEF: KindDef = KindDef {
    kind: "Pod",
    plural: "pods",
    singular: "pod",
    short_names: &["po"],
    categories: &["all"],
    subresources: SUBRESOURCES,
    schema: "core.v1.Pod",
    storage: "pods",
    columns: cells::COLUMNS,
    cells: cells::row,
    fields,
    default: default::pod,
    prepare_create: prepare::create,
    prepare_update: keep_status,
    prepare_status: prepare::status,
    has_generation: true,
    validate: update::validate,
    validate_update: update::validate_update,
    validate_status: update::validate_status,
    graceful: Some(grace_seconds),
    ..KindDef::BASE
};

const ITSELF: (&str, &str, &str) = ("", "v1", "Pod");

const SUBRESOURCES: &[Subresource] = &[
    rows::connect("attach", "PodAttachOptions"),
    rows::posted("binding", ("", "v1", "Binding")),
    rows::item("ephemeralcontainers", ITSELF),
    rows::posted("eviction", ("policy", "v1", "Eviction")),
    rows::connect("exec", "PodExecOptions"),
    Subresource {
        verbs: &["get"],
        ..rows::item("log", ITSELF)
    },
    rows::connect("portforward", "PodPortForwardOptions"),
    rows::proxy("PodProxyOptions"),
    rows::item("resize", ITSELF),
    rows::item("status", ITSELF),
];

/// The pod's own period; at once where nothing of it can be running.
fn grace_seconds(pod: &Object) -> i64 {
    let phase = pod.text_at(&["status", "phase"]);
    let is_unbound = pod.text_at(&["spec", "nodeName"]).is_empty();
    if is_unbound || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    pod.field("spec")["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30)
}

fn fields(pod: &Object) -> Vec<(&'static str, String)> {
    let text = |part, field| pod.text_at(&[part, field]).to_owned();
    let host_network = pod.field("spec")["hostNetwork"] == true;
    vec![
        ("spec.nodeName", text("spec", "nodeName")),
        ("spec.restartPolicy", text("spec", "restartPolicy")),
        ("spec.schedulerName", text("spec", "schedulerName")),
        (
            "spec.serviceAccountName",
            text("spec", "serviceAccountName"),
        ),
        ("spec.hostNetwork", host_network.to_string()),
        ("status.phase", text("status", "phase")),
        ("status.podIP", text("status", "podIP")),
        (
            "status.nominatedNodeName",
            text("status", "nominatedNodeName"),
        ),
    ]
}
