//! ServiceAccount: who a pod is.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;

pub(crate) const DEF: KindDef = KindDef {
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    subresources: &[rows::posted(
        "token",
        ("authentication.k8s.io", "v1", "TokenRequest"),
    )],
    schema: "core.v1.ServiceAccount",
    storage: "serviceaccounts",
    columns: COLUMNS,
    cells: row,
    unconditional_update: false,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Secrets",
        "Secrets is a list of the secrets in the same namespace that pods running using this \
         ServiceAccount are allowed to use.",
    ),
    rows::AGE,
];

fn row(account: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        cells::name(account),
        cells::count(account.field("secrets")).into(),
        cells::age(account, now),
    ]
}
