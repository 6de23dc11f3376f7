//! Environment variables, and references to fields, resources and keys.

use serde_json::Value;

use crate::api::name;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, is_set, list, text};

/// What a variable may be taken from.
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What a file may be made of.
pub(super) const FILE_FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `env`
pub(super) fn variables(errors: &mut Errors, env: &Value, path: &Path<'_>) {
    for (index, variable) in list(env).iter().enumerate() {
        let path = path.index(index);
        match text(&variable["name"]) {
            "" => errors.required(&path.field("name"), ""),
            name => errors.invalid_each(&path.field("name"), name, name::env_var(name)),
        }
        if !variable["valueFrom"].is_null() {
            value_from(errors, variable, &path.field("valueFrom"));
        }
    }
}

fn value_from(errors: &mut Errors, variable: &Value, path: &Path<'_>) {
    const SOURCES: [&str; 5] = [
        "fieldRef",
        "resourceFieldRef",
        "configMapKeyRef",
        "secretKeyRef",
        "fileKeyRef",
    ];
    let from = &variable["valueFrom"];
    let count = SOURCES
        .iter()
        .filter(|source| !from[**source].is_null())
        .count();
    if !from["fieldRef"].is_null() {
        field_ref(
            errors,
            &from["fieldRef"],
            &ENV_FIELDS,
            &path.field("fieldRef"),
        );
    }
    if !from["resourceFieldRef"].is_null() {
        let path = path.field("resourceFieldRef");
        resource_ref(errors, &from["resourceFieldRef"], false, &path);
    }
    for source in ["configMapKeyRef", "secretKeyRef"] {
        if !from[source].is_null() {
            key_ref(errors, &from[source], &path.field(source));
        }
    }
    if count == 0 {
        let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                   `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path, "", why);
    } else if is_set(&variable["value"]) {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if count > 1 {
        errors.invalid(
            path,
            "",
            "may not have more than one field specified at a time",
        );
    }
}

/// A `fieldRef`, to one of `supported`, or to one label or annotation.
pub(super) fn field_ref(
    errors: &mut Errors,
    reference: &Value,
    supported: &[&str],
    path: &Path<'_>,
) {
    if !is_set(&reference["apiVersion"]) {
        errors.required(&path.field("apiVersion"), "");
    }
    let field = text(&reference["fieldPath"]);
    let path_of_field = path.field("fieldPath");
    if field.is_empty() {
        errors.required(&path_of_field, "");
        return;
    }
    let subscript = field.strip_suffix("']").and_then(|f| f.split_once("['"));
    match subscript {
        Some(("metadata.annotations", key)) => {
            errors.invalid_each(path, key, name::qualified_name(&key.to_lowercase()));
        }
        Some(("metadata.labels", key)) => {
            errors.invalid_each(path, key, name::qualified_name(key));
        }
        Some((other, _)) => {
            let why = format!(
                "error converting fieldPath: field label does not support subscript: {other}"
            );
            errors.invalid(&path_of_field, field, &why);
        }
        None if supported.contains(&field) => {}
        None if ENV_FIELDS.contains(&field) || FILE_FIELDS.contains(&field) => {
            errors.not_supported(&path_of_field, field, supported);
        }
        None => {
            let why = format!("error converting fieldPath: field label not supported: {field}");
            errors.invalid(&path_of_field, field, &why);
        }
    }
}

/// A `resourceFieldRef`; `of_volume`: one that must name its container.
pub(super) fn resource_ref(
    errors: &mut Errors,
    reference: &Value,
    of_volume: bool,
    path: &Path<'_>,
) {
    if of_volume && !is_set(&reference["containerName"]) {
        errors.required(&path.field("containerName"), "");
    }
    let resource = text(&reference["resource"]);
    let is_huge = ["limits.hugepages-", "requests.hugepages-"]
        .iter()
        .any(|prefix| resource.starts_with(prefix));
    if resource.is_empty() {
        errors.required(&path.field("resource"), "");
    } else if !is_huge && !RESOURCES.contains(&resource) {
        errors.not_supported(&path.field("resource"), resource, &RESOURCES);
    }
}

fn key_ref(errors: &mut Errors, reference: &Value, path: &Path<'_>) {
    if !is_set(&reference["name"]) {
        errors.required(&path.field("name"), "");
    }
    match text(&reference["key"]) {
        "" => errors.required(&path.field("key"), ""),
        key => errors.invalid_each(&path.field("key"), key, name::config_key(key)),
    }
}

/// `envFrom`
pub(super) fn sources(errors: &mut Errors, sources: &Value, path: &Path<'_>) {
    for (index, source) in list(sources).iter().enumerate() {
        let path = path.index(index);
        let prefix = text(&source["prefix"]);
        if !prefix.is_empty() {
            errors.invalid_each(&path.field("prefix"), prefix, name::env_var(prefix));
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            if source[kind].is_null() {
                continue;
            }
            count += 1;
            let path = path.field(kind);
            match text(&source[kind]["name"]) {
                "" => errors.required(&path.field("name"), ""),
                name => {
                    errors.invalid_each(&path.field("name"), name, name::dns1123_subdomain(name))
                }
            }
        }
        match count {
            0 => errors.invalid(
                &path,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            ),
            1 => {}
            _ => errors.invalid(
                &path,
                "",
                "may not have more than one field specified at a time",
            ),
        }
    }
}
