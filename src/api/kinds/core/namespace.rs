//! Namespace: a set of names, and what is deleted together.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::gvk::Scope;
use crate::api::kinds::{Column, KindDef, Subresource, cells, label_name, prepare, rows};
use crate::api::name;
use crate::api::object::{Object, child_mut};
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, list, text};

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
    default,
    prepare_create,
    prepare_update,
    validate,
    validate_update: |new, _| validate(new),
    validate_status,
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

const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Every namespace can be selected by its name.
fn default(namespace: &mut Object) {
    let name = namespace.name().to_owned();
    if !name.is_empty() {
        let labels = child_mut(namespace.metadata_mut(), "labels");
        labels.insert(NAME_LABEL.to_owned(), name.into());
    }
}

/// A new namespace is active and is held until what is in it is gone.
fn prepare_create(namespace: &mut Object) {
    default(namespace);
    namespace
        .0
        .insert("status".to_owned(), json!({"phase": "Active"}));
    let spec = child_mut(&mut namespace.0, "spec");
    let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = finalizers.as_array_mut()
        && !list.contains(&json!("kubernetes"))
    {
        list.push("kubernetes".into());
    }
}

fn prepare_update(new: &mut Object, old: &Object) {
    prepare::keep_status(new, old);
    // Finalizers have a path of their own, `finalize`.
    prepare::keep(new, old, "spec");
}

fn validate(namespace: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("spec.finalizers");
    for (index, finalizer) in list(&namespace.field("spec")["finalizers"])
        .iter()
        .enumerate()
    {
        let finalizer = text(finalizer);
        let path = path.index(index);
        errors.invalid_each(&path, finalizer, name::qualified_name(finalizer));
        if !finalizer.contains('/')
            && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion")
        {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path, finalizer, why);
        }
    }
    errors.into_vec()
}

fn validate_status(new: &Object, _old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let phase = new.text_at(&["status", "phase"]);
    let path = Path::root("status.Phase");
    if new.is_terminating() && phase != "Terminating" {
        let why = "may only be 'Terminating' if `deletionTimestamp` is not empty";
        errors.invalid(&path, phase, why);
    } else if !new.is_terminating() && phase != "Active" {
        errors.invalid(
            &path,
            phase,
            "may only be 'Active' if `deletionTimestamp` is empty",
        );
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_namespace_is_active_labelled_and_held() {
        let mut namespace =
            Object::from_value(json!({"metadata": {"name": "a"}, "status": {"phase": "x"}}))
                .unwrap();
        prepare_create(&mut namespace);
        let expected = json!({
            "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"},
        });
        assert_eq!(namespace.clone().into_value(), expected);
        let old = namespace.clone();
        namespace.0.insert("spec".into(), json!({}));
        prepare_update(&mut namespace, &old);
        assert_eq!(namespace, old);
        namespace
            .0
            .insert("status".into(), json!({"phase": "Terminating"}));
        assert_eq!(validate_status(&namespace, &old).len(), 1);
    }
}
