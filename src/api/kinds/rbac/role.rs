//! Role and ClusterRole: what may be done.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::gvk::Scope;
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;

pub(crate) const ROLE: KindDef = KindDef {
    group: super::GROUP,
    kind: "Role",
    plural: "roles",
    singular: "role",
    schema: "rbac.v1.Role",
    storage: "roles.rbac.authorization.k8s.io",
    columns: COLUMNS,
    cells: row,
    validate_name: super::segment_name,
    creates_on_update: true,
    ..KindDef::BASE
};

pub(crate) const CLUSTER_ROLE: KindDef = KindDef {
    kind: "ClusterRole",
    plural: "clusterroles",
    singular: "clusterrole",
    scope: Scope::Cluster,
    schema: "rbac.v1.ClusterRole",
    storage: "clusterroles.rbac.authorization.k8s.io",
    ..ROLE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    Column {
        name: "Created At",
        ..rows::AGE
    },
];

fn row(role: &Object, _now: Timestamp) -> Vec<Value> {
    vec![cells::name(role), role.meta("creationTimestamp").into()]
}
