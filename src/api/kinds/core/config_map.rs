//! ConfigMap: texts and bytes for pods to read.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;

pub(crate) const DEF: KindDef = KindDef {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    schema: "core.v1.ConfigMap",
    storage: "configmaps",
    columns: COLUMNS,
    cells: row,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Data",
        "Data contains the configuration data. Each key must consist of alphanumeric characters, \
         '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The \
         keys stored in Data must not overlap with the keys in the BinaryData field, this is \
         enforced during validation process.",
    ),
    rows::AGE,
];

fn row(map: &Object, now: Timestamp) -> Vec<Value> {
    let count = cells::count(map.field("data")) + cells::count(map.field("binaryData"));
    vec![cells::name(map), count.into(), cells::age(map, now)]
}
