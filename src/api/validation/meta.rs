//! Validation of `metadata`, alike for all kinds.

use serde_json::Value;

use super::path::Path;
use super::{Errors, common, entries, list, text};
use crate::api::gvk::Scope;
use crate::api::kinds::KindDef;
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;

const META: Path<'static> = Path::root("metadata");

/// Most bytes of all annotations together.
const ANNOTATIONS_MAX: usize = 256 * 1024;

/// All that is wrong with the `metadata` of a new object, by the rules of its kind.
pub fn validate_create(object: &Object, kind: &KindDef) -> Vec<FieldError> {
    let rules = Rules {
        is_namespaced: kind.scope == Scope::Namespaced,
        validate_name: kind.validate_name,
    };
    validate_create_with(object, &rules)
}

/// What of the rules for `metadata` depends on the kind.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whether objects live in a namespace.
    pub is_namespaced: bool,
    /// What is wrong with a name; `(name, is_prefix)`.
    pub validate_name: fn(&str, bool) -> Vec<String>,
}

/// [`validate_create`] for kinds that are not built in.
pub fn validate_create_with(object: &Object, rules: &Rules) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let meta = object.field("metadata");
    let prefix = text(&meta["generateName"]);
    if !prefix.is_empty() {
        let wrong = (rules.validate_name)(prefix, true);
        errors.invalid_each(&META.field("generateName"), prefix, wrong);
    }
    match object.name() {
        "" => errors.required(&META.field("name"), "name or generateName is required"),
        name => {
            let wrong = (rules.validate_name)(name, false);
            errors.invalid_each(&META.field("name"), name, wrong);
        }
    }
    check_namespace(&mut errors, object.namespace(), rules.is_namespaced);
    errors.nonnegative(&META.field("generation"), &meta["generation"]);
    check_shared(&mut errors, meta);
    check_finalizers(&mut errors, &meta["finalizers"]);
    errors.into_vec()
}

/// All that is wrong with the `metadata` of an update, for every kind alike. What the update
/// leaves out of what the server owns counts as unchanged.
pub fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let (meta, was) = (new.field("metadata"), old.field("metadata"));
    if old.is_terminating() {
        check_no_new_finalizers(&mut errors, &meta["finalizers"], &was["finalizers"]);
    }
    let generation = |meta: &Value| meta["generation"].as_i64().unwrap_or(0);
    if !meta["generation"].is_null() && generation(meta) < generation(was) {
        let path = META.field("generation");
        errors.invalid(&path, generation(meta), "must not be decremented");
    }
    errors.immutable(&META.field("name"), &meta["name"], &was["name"]);
    if !meta["namespace"].is_null() || !was["namespace"].is_null() {
        errors.immutable(
            &META.field("namespace"),
            &meta["namespace"],
            &was["namespace"],
        );
    }
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        if !meta[field].is_null() {
            errors.immutable(&META.field(field), &meta[field], &was[field]);
        }
    }
    check_shared(&mut errors, meta);
    if meta["finalizers"] != was["finalizers"] {
        check_finalizers(&mut errors, &meta["finalizers"]);
    }
    errors.into_vec()
}

fn check_namespace(errors: &mut Errors, namespace: &str, is_namespaced: bool) {
    let path = META.field("namespace");
    match (is_namespaced, namespace) {
        (true, "") => errors.required(&path, ""),
        (true, _) => errors.invalid_each(&path, namespace, name::dns1123_label(namespace)),
        (false, "") => {}
        (false, _) => errors.forbidden(&path, "not allowed on this type"),
    }
}

fn check_shared(errors: &mut Errors, meta: &Value) {
    common::labels(errors, &meta["labels"], &META.field("labels"));
    annotations(errors, &meta["annotations"], &META.field("annotations"));
    check_owners(errors, &meta["ownerReferences"]);
}

/// Keys that are qualified names, and not too much in all.
pub(crate) fn annotations(errors: &mut Errors, annotations: &Value, path: &Path<'_>) {
    let mut size_bytes = 0;
    for (key, value) in entries(annotations) {
        // The check of keys takes no upper case in the prefix, for which upstream lowers it.
        if !name::qualified_name(key).is_empty() {
            let wrong = name::qualified_name(&key.to_lowercase());
            errors.invalid_each(path, key, wrong);
        }
        size_bytes += key.len() + text(value).len();
    }
    if size_bytes > ANNOTATIONS_MAX {
        errors.too_long(path, ANNOTATIONS_MAX);
    }
}

fn check_owners(errors: &mut Errors, owners: &Value) {
    let path = META.field("ownerReferences");
    let mut first_controller: Option<String> = None;
    for (index, owner) in list(owners).iter().enumerate() {
        check_owner(errors, owner, &path.index(index));
        if owner["controller"] != true {
            continue;
        }
        let this = format!("{}/{}", text(&owner["kind"]), text(&owner["name"]));
        match &first_controller {
            Some(first) => {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {this}"
                );
                errors.invalid(&path, owners.clone(), &why);
            }
            None => first_controller = Some(this),
        }
    }
}

fn check_owner(errors: &mut Errors, owner: &Value, path: &Path<'_>) {
    let api_version = text(&owner["apiVersion"]);
    let version = api_version.rsplit('/').next().unwrap_or_default();
    if version.is_empty() {
        let why = "version must not be empty";
        errors.invalid(&path.field("apiVersion"), api_version, why);
    }
    for field in ["kind", "name", "uid"] {
        if text(&owner[field]).is_empty() {
            errors.invalid(&path.field(field), "", "must not be empty");
        }
    }
    if api_version == "v1" && owner["kind"] == "Event" {
        let why = "/v1, Kind=Event is disallowed from being an owner";
        errors.invalid(path, owner.clone(), why);
    }
}

fn check_finalizers(errors: &mut Errors, finalizers: &Value) {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    let path = META.field("finalizers");
    let names = || list(finalizers).iter().map(text);
    for finalizer in names() {
        errors.invalid_each(&path, finalizer, name::qualified_name(finalizer));
    }
    if names().any(|f| f == "orphan") && names().any(|f| f == "foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(&path, finalizers.clone(), why);
    }
    for (index, finalizer) in names().enumerate() {
        if !finalizer.contains('/') && !STANDARD.contains(&finalizer) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&path.index(index), finalizer, why);
        }
    }
}

fn check_no_new_finalizers(errors: &mut Errors, new: &Value, old: &Value) {
    let mut extra: Vec<_> = list(new)
        .iter()
        .filter(|f| !list(old).contains(f))
        .map(text)
        .collect();
    if extra.is_empty() {
        return;
    }
    extra.sort_unstable();
    let quoted: Vec<_> = extra.iter().map(|f| format!("{f:?}")).collect();
    let why = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers \
         []string{{{}}}",
        quoted.join(", ")
    );
    errors.forbidden(&META.field("finalizers"), &why);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;
    use serde_json::json;

    fn object(meta: Value) -> Object {
        Object::from_value(json!({"metadata": meta})).unwrap()
    }

    fn created(kind: &str, meta: Value) -> Vec<String> {
        let kind = kinds::all().iter().find(|row| row.kind == kind).unwrap();
        let errors = validate_create(&object(meta), kind);
        errors.iter().map(ToString::to_string).collect()
    }

    fn updated(new: Value, old: Value) -> Vec<String> {
        let errors = validate_update(&object(new), &object(old));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_and_namespaces_follow_the_kind() {
        assert!(created("ConfigMap", json!({"name": "a.b", "namespace": "n"})).is_empty());
        assert!(created("Role", json!({"name": "system:x", "namespace": "n"})).is_empty());
        assert_eq!(
            created("ConfigMap", json!({})),
            [
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Required value"
            ]
        );
        assert_eq!(
            created("Namespace", json!({"name": "a", "namespace": "b"})),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
        let wrong = created("Namespace", json!({"name": "a.b"}));
        assert!(
            wrong[0]
                .starts_with("metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label")
        );
        let wrong = created("Service", json!({"name": "1a", "namespace": "n"}));
        assert!(
            wrong[0].contains("a DNS-1035 label must consist"),
            "{wrong:?}"
        );
        let prefix = json!({"name": "web-x", "generateName": "web-", "namespace": "n"});
        assert!(created("Pod", prefix).is_empty());
    }

    #[test]
    fn labels_annotations_owners_and_finalizers_are_checked() {
        let long = "x".repeat(ANNOTATIONS_MAX);
        let wrong = created(
            "ConfigMap",
            json!({
                "name": "a", "namespace": "n",
                "labels": {"a b": "c", "ok": "-"},
                "annotations": {"Example.com/x": long},
                "finalizers": ["mine", "a/b", "orphan", "foregroundDeletion"],
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true},
                    {"apiVersion": "v1", "kind": "Pod", "name": "q", "uid": "", "controller": true},
                ],
            }),
        );
        let starts = [
            "metadata.labels: Invalid value: \"a b\": name part must consist of",
            "metadata.labels: Invalid value: \"-\": a valid label must be an empty string",
            "metadata.annotations: Too long: may not be more than 262144 bytes",
            "metadata.ownerReferences[1].uid: Invalid value: \"\": must not be empty",
            "metadata.ownerReferences: Invalid value: [",
            "metadata.finalizers: Invalid value: [\"mine\",",
            "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard",
        ];
        assert_eq!(wrong.len(), starts.len(), "{wrong:#?}");
        for (wrong, start) in wrong.iter().zip(starts) {
            assert!(wrong.starts_with(start), "{wrong}");
        }
        assert!(wrong[4].ends_with("Found \"true\" in references for Pod/p and Pod/q"));
    }

    #[test]
    fn what_the_server_owns_does_not_change() {
        let old = json!({"name": "a", "namespace": "n", "uid": "1", "generation": 3});
        assert!(updated(json!({"name": "a", "namespace": "n"}), old.clone()).is_empty());
        assert_eq!(
            updated(
                json!({"name": "b", "namespace": "n", "uid": "2", "generation": 2}),
                old
            ),
            [
                "metadata.generation: Invalid value: 2: must not be decremented",
                "metadata.name: Invalid value: \"b\": field is immutable",
                "metadata.uid: Invalid value: \"2\": field is immutable",
            ]
        );
        let terminating = json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(
            updated(json!({"name": "a", "finalizers": ["x/y"]}), terminating),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is \
                 being deleted, found new finalizers []string{\"x/y\"}"
            ]
        );
    }
}
