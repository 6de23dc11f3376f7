//! RoleBinding and ClusterRoleBinding: who has a role.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::gvk::Scope;
use crate::api::kinds::defaults::{child, items, text as set_text};
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, list, text};

pub(crate) const ROLE_BINDING: KindDef = KindDef {
    group: super::GROUP,
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    schema: "rbac.v1.RoleBinding",
    storage: "rolebindings.rbac.authorization.k8s.io",
    columns: COLUMNS,
    cells: row,
    default,
    validate: |binding| validate(binding, &["Role", "ClusterRole"]),
    validate_update: |new, old| validate_update(new, old, &["Role", "ClusterRole"]),
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
    validate: |binding| validate(binding, &["ClusterRole"]),
    validate_update: |new, old| validate_update(new, old, &["ClusterRole"]),
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

fn default(binding: &mut Object) {
    if let Some(role) = child(&mut binding.0, "roleRef") {
        set_text(role, "apiGroup", super::GROUP);
    }
    for subject in items(&mut binding.0, "subjects") {
        if matches!(subject.get("kind").map_or("", text), "User" | "Group") {
            set_text(subject, "apiGroup", super::GROUP);
        }
    }
}

fn validate(binding: &Object, kinds: &[&str]) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("roleRef");
    let role = |field: &str| text(&binding.field("roleRef")[field]);
    if role("apiGroup") != super::GROUP {
        errors.not_supported(&path.field("apiGroup"), role("apiGroup"), &[super::GROUP]);
    }
    if !kinds.contains(&role("kind")) {
        errors.not_supported(&path.field("kind"), role("kind"), kinds);
    }
    match role("name") {
        "" => errors.required(&path.field("name"), ""),
        name => errors.invalid_each(&path.field("name"), name, name::path_segment(name)),
    }
    let is_namespaced = kinds.contains(&"Role");
    let path = Path::root("subjects");
    for (index, one) in list(binding.field("subjects")).iter().enumerate() {
        subject(&mut errors, one, is_namespaced, &path.index(index));
    }
    errors.into_vec()
}

fn subject(errors: &mut Errors, subject: &Value, is_namespaced: bool, path: &Path<'_>) {
    let field = |field: &str| text(&subject[field]);
    let (name, group) = (field("name"), field("apiGroup"));
    if name.is_empty() {
        errors.required(&path.field("name"), "");
    }
    match field("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.invalid_each(&path.field("name"), name, name::dns1123_subdomain(name));
            }
            if !group.is_empty() {
                errors.not_supported(&path.field("apiGroup"), group, &[""]);
            }
            if !is_namespaced && field("namespace").is_empty() {
                errors.required(&path.field("namespace"), "");
            }
        }
        "User" | "Group" if group != super::GROUP => {
            errors.not_supported(&path.field("apiGroup"), group, &[super::GROUP]);
        }
        "User" | "Group" => {}
        kind => {
            let supported = ["ServiceAccount", "User", "Group"];
            errors.not_supported(&path.field("kind"), kind, &supported);
        }
    }
}

fn validate_update(new: &Object, old: &Object, kinds: &[&str]) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new, kinds));
    if new.field("roleRef") != old.field("roleRef") {
        let role = new.field("roleRef").clone();
        errors.invalid(&Path::root("roleRef"), role, "cannot change roleRef");
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn groups_are_filled_in_and_roles_stay() {
        let make = |role: &str| {
            let mut binding = Object::from_value(json!({
                "roleRef": {"kind": "Role", "name": role},
                "subjects": [{"kind": "User", "name": "a"},
                    {"kind": "ServiceAccount", "name": "s", "namespace": "n"},
                    {"kind": "Dog", "name": "d"}],
            }))
            .unwrap();
            default(&mut binding);
            binding
        };
        let errors = (ROLE_BINDING.validate_update)(&make("a"), &make("b"));
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "subjects[2].kind: Unsupported value: \"Dog\": supported values: \
                 \"ServiceAccount\", \"User\", \"Group\"",
                "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\
                 \"Role\",\"name\":\"a\"}: cannot change roleRef",
            ]
        );
        let errors = (CLUSTER_ROLE_BINDING.validate)(&make("a"));
        assert!(
            errors[0]
                .to_string()
                .starts_with("roleRef.kind: Unsupported value: \"Role\"")
        );
        assert_eq!(row(&make("a"), Timestamp::UNIX_EPOCH)[5], "n/s");
    }
}
