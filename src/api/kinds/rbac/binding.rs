//! RoleBinding and ClusterRoleBinding: who has a role.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::gvk::Scope;
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;

pub(crate) const ROLE_BINDING: KindDef = KindDef {
    group: super::GROUP,
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    schema: "rbac.v1.RoleBinding",
    storage: "rolebindings.rbac.authorization.k8s.io",
    columns: COLUMNS,
    cells: row,
    validate_name: super::segment_name,
    creates_on_update: true,
    ..KindDef::BASE
};

pub(crate) const CLUSTER_ROLE_BINDING: KindDef = KindDef {
    kind: "ClusterRoleBinding",
    plural: "clusterrolebindings",
    singular: "clusterrolebinding",
    scope: Scope::Cluster,
    schema: "rbac.v1.ClusterRoleBinding",
    storage: "clusterrolebindings.rbac.authorization.k8s.io",
    ..ROLE_BINDING
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Role",
        "RoleRef can reference a Role in the current namespace or a ClusterRole in the global \
         namespace. If the RoleRef cannot be resolved, the Authorizer must return an error. This \
         field is immutable.",
    ),
    rows::AGE,
    rows::wide("Users", "Users in the roleBinding"),
    rows::wide("Groups", "Groups in the roleBinding"),
    rows::wide("ServiceAccounts", "ServiceAccounts in the roleBinding"),
];

fn row(binding: &Object, now: Timestamp) -> Vec<Value> {
    let role = |field| binding.text_at(&["roleRef", field]);
    vec![
        cells::name(binding),
        format!("{}/{}", role("kind"), role("name")).into(),
        cells::age(binding, now),
        subjects(binding, "User").into(),
        subjects(binding, "Group").into(),
        subjects(binding, "ServiceAccount").into(),
    ]
}

fn subjects(binding: &Object, kind: &str) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let subjects = binding.field("subjects").as_array().into_iter().flatten();
    let names = subjects.filter(|s| s["kind"] == kind).map(|subject| {
        let name = text(&subject["name"]);
        match text(&subject["namespace"]).as_str() {
            "" => name,
            namespace if kind == "ServiceAccount" => format!("{namespace}/{name}"),
            _ => name,
        }
    });
    names.collect::<Vec<_>>().join(", ")
}
