//! Namespace: a set of names, and what is deleted together.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::gvk::Scope;
use crate::api::kinds::{Column, KindDef, Subresource, cells, label_name, prepare, rows};
use crate::api::object::Object;

pub(crate) const DEF: KindDef = KindDef {
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    scope: Scope::Cluster,
    // A whole collection of namespaces is never deleted at once, as upstream.
    verbs: &[
        "create", "delete", "get", "list", "patch", "update", "watch",
    ],
    subresources: SUBRESOURCES,
    schema: "core.v1.Namespace",
    storage: "namespaces",
    columns: COLUMNS,
    cells: row,
    fields,
    prepare_update: prepare::keep_status,
    validate_name: label_name,
    ..KindDef::BASE
};

const ITSELF: (&str, &str, &str) = ("", "v1", "Namespace");

const SUBRESOURCES: &[Subresource] = &[
    Subresource {
        verbs: &["update"],
        ..rows::item("finalize", ITSELF)
    },
    rows::item("status", ITSELF),
];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string("Status", "The status of the namespace"),
    rows::AGE,
];

fn row(namespace: &Object, now: Timestamp) -> Vec<Value> {
    let phase = namespace.text_at(&["status", "phase"]);
    vec![
        cells::name(namespace),
        phase.into(),
        cells::age(namespace, now),
    ]
}

fn fields(namespace: &Object) -> Vec<(&'static str, String)> {
    let phase = namespace.text_at(&["status", "phase"]);
    vec![("status.phase", phase.to_owned())]
}
