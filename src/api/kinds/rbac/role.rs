//! Role and ClusterRole: what may be done.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::gvk::Scope;
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, list};

pub(crate) const ROLE: KindDef = KindDef {
    group: super::GROUP,
    kind: "Role",
    plural: "roles",
    singular: "role",
    schema: "rbac.v1.Role",
    storage: "roles.rbac.authorization.k8s.io",
    columns: COLUMNS,
    cells: row,
    validate: |role| rules(role, true),
    validate_update: |role, _| rules(role, true),
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
    validate: cluster_role,
    validate_update: |role, _| cluster_role(role),
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

fn cluster_role(role: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(rules(role, false));
    let aggregation = role.field("aggregationRule");
    if aggregation.is_object() {
        let path = Path::root("aggregationRule.clusterRoleSelectors");
        let selectors = list(&aggregation["clusterRoleSelectors"]);
        if selectors.is_empty() {
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.required(&path, why);
        }
        for (index, selector) in selectors.iter().enumerate() {
            common::label_selector(&mut errors, selector, &path.index(index));
        }
    }
    errors.into_vec()
}

fn rules(role: &Object, is_namespaced: bool) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("rules");
    for (index, one) in list(role.field("rules")).iter().enumerate() {
        rule(&mut errors, one, is_namespaced, &path.index(index));
    }
    errors.into_vec()
}

fn rule(errors: &mut Errors, rule: &Value, is_namespaced: bool, path: &Path<'_>) {
    let is_empty = |field: &str| list(&rule[field]).is_empty();
    if is_empty("verbs") {
        errors.required(
            &path.field("verbs"),
            "verbs must contain at least one value",
        );
    }
    if !is_empty("nonResourceURLs") {
        let path = path.field("nonResourceURLs");
        let mut refuse = |why| errors.invalid(&path, rule["nonResourceURLs"].clone(), why);
        if is_namespaced {
            refuse("namespaced rules cannot apply to non-resource URLs");
        }
        if !["apiGroups", "resources", "resourceNames"]
            .into_iter()
            .all(is_empty)
        {
            refuse("rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if is_empty("apiGroups") {
        let why = "resource rules must supply at least one api group";
        errors.required(&path.field("apiGroups"), why);
    }
    if is_empty("resources") {
        let why = "resource rules must supply at least one resource";
        errors.required(&path.field("resources"), why);
    }
}
