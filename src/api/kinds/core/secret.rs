//! Secret: bytes that not everybody may read.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;

pub(crate) const DEF: KindDef = KindDef {
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    schema: "core.v1.Secret",
    storage: "secrets",
    columns: COLUMNS,
    cells: row,
    fields,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Type",
        "Used to facilitate programmatic handling of secret data. More info: \
         https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
    ),
    rows::string(
        "Data",
        "Data contains the secret data. Each key must consist of alphanumeric characters, '-', \
         '_' or '.'. The serialized form of the secret data is a base64 encoded string, \
         representing the arbitrary (possibly non-string) data value here. Described in \
         https://tools.ietf.org/html/rfc4648#section-4",
    ),
    rows::AGE,
];

fn row(secret: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        cells::name(secret),
        secret.text_at(&["type"]).into(),
        cells::count(secret.field("data")).into(),
        cells::age(secret, now),
    ]
}

fn fields(secret: &Object) -> Vec<(&'static str, String)> {
    vec![("type", secret.text_at(&["type"]).to_owned())]
}
