//! Volumes of a pod.

use std::collections::BTreeSet;

use serde_json::Value;

use super::container::{descending_path, no_backsteps};
use super::env;
use crate::api::name;
use crate::api::quantity::Quantity;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, is_set, list, text};

/// The names that containers may mount.
pub(super) struct Volumes<'a>(BTreeSet<&'a str>);

impl Volumes<'_> {
    /// Whether there is a volume `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// Checks all volumes.
pub(super) fn volumes<'a>(errors: &mut Errors, volumes: &'a Value, path: &Path<'_>) -> Volumes<'a> {
    let mut names = BTreeSet::new();
    for (index, volume) in list(volumes).iter().enumerate() {
        let path = path.index(index);
        source(errors, volume, &path);
        let name = text(&volume["name"]);
        let wrong = name::dns1123_label(name);
        if name.is_empty() {
            errors.required(&path.field("name"), "");
        } else if !wrong.is_empty() {
            errors.invalid_each(&path.field("name"), name, wrong);
        } else if !names.insert(name) {
            errors.duplicate(&path.field("name"), name);
        }
    }
    Volumes(names)
}

fn source(errors: &mut Errors, volume: &Value, path: &Path<'_>) {
    let kinds = volume.as_object().into_iter().flatten();
    let kinds = kinds.filter(|(field, value)| *field != "name" && !value.is_null());
    for (index, (kind, source)) in kinds.clone().enumerate() {
        let path = path.field(kind);
        if index > 0 {
            errors.forbidden(&path, "may not specify more than 1 volume type");
            continue;
        }
        match kind.as_str() {
            "emptyDir" => empty_dir(errors, source, &path),
            "hostPath" => host_path(errors, source, &path),
            "secret" => required_name(errors, source, "secretName", &path),
            "configMap" => required_name(errors, source, "name", &path),
            "persistentVolumeClaim" => required_name(errors, source, "claimName", &path),
            "projected" => projected(errors, source, &path),
            "nfs" => nfs(errors, source, &path),
            "csi" => required_name(errors, source, "driver", &path),
            _ => {}
        }
        mode(errors, &source["defaultMode"], &path.field("defaultMode"));
        if kind == "downwardAPI" {
            downward(errors, source, &path);
        } else {
            items(errors, source, &path.field("items"));
        }
    }
    if kinds.count() == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn required_name(errors: &mut Errors, source: &Value, field: &str, path: &Path<'_>) {
    if !is_set(&source[field]) {
        errors.required(&path.field(field), "");
    }
}

fn empty_dir(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    let limit = &source["sizeLimit"];
    if !limit.is_null() && Quantity::from_json(limit).is_ok_and(Quantity::is_negative) {
        let why = "SizeLimit field must be a valid resource quantity";
        errors.forbidden(&path.field("sizeLimit"), why);
    }
}

pub(crate) fn host_path(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    const TYPES: [&str; 8] = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    match text(&source["path"]) {
        "" => errors.required(&path.field("path"), ""),
        value => no_backsteps(errors, value, &path.field("path")),
    }
    let kind = text(&source["type"]);
    if !TYPES.contains(&kind) {
        errors.not_supported(&path.field("type"), kind, &TYPES);
    }
}

pub(crate) fn nfs(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    required_name(errors, source, "server", path);
    required_name(errors, source, "path", path);
    let exported = text(&source["path"]);
    if !exported.is_empty() && !exported.starts_with('/') {
        errors.invalid(&path.field("path"), exported, "must be an absolute path");
    }
}

fn mode(errors: &mut Errors, mode: &Value, path: &Path<'_>) {
    if let Some(mode) = mode.as_i64().filter(|mode| !(0..=0o777).contains(mode)) {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.invalid(path, mode, why);
    }
}

/// `items` that put keys at paths.
fn items(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    for (index, item) in list(&source["items"]).iter().enumerate() {
        let path = path.index(index);
        required_name(errors, item, "key", &path);
        required_name(errors, item, "path", &path);
        local_path(errors, text(&item["path"]), &path.field("path"));
        mode(errors, &item["mode"], &path.field("mode"));
    }
}

/// A path below the volume that is not one of those the volume keeps for itself.
fn local_path(errors: &mut Errors, value: &str, path: &Path<'_>) {
    descending_path(errors, value, path);
    // A first part of `..` has its own message above.
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        errors.invalid(path, value, "must not start with '..'");
    }
}

fn downward(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    for item in list(&source["items"]) {
        downward_item(errors, item, path);
    }
}

fn downward_item(errors: &mut Errors, item: &Value, path: &Path<'_>) {
    required_name(errors, item, "path", path);
    local_path(errors, text(&item["path"]), &path.field("path"));
    let (field, resource) = (&item["fieldRef"], &item["resourceFieldRef"]);
    if !field.is_null() {
        env::field_ref(errors, field, &env::FILE_FIELDS, &path.field("fieldRef"));
        if !resource.is_null() {
            let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.invalid(path, "resource", why);
        }
    } else if !resource.is_null() {
        env::resource_ref(errors, resource, true, &path.field("resourceFieldRef"));
    } else {
        errors.required(path, "one of fieldRef and resourceFieldRef is required");
    }
    mode(errors, &item["mode"], &path.field("mode"));
}

fn projected(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    let path = path.field("sources");
    for (index, part) in list(&source["sources"]).iter().enumerate() {
        let path = path.index(index);
        let kinds = part.as_object().into_iter().flatten();
        let kinds = kinds.filter(|(_, value)| !value.is_null());
        for (index, (kind, part)) in kinds.enumerate() {
            let path = path.field(kind);
            if index > 0 {
                errors.forbidden(&path, "may not specify more than 1 volume type per source");
                continue;
            }
            match kind.as_str() {
                "secret" | "configMap" => {
                    required_name(errors, part, "name", &path);
                    items(errors, part, &path.field("items"));
                }
                "downwardAPI" => downward(errors, part, &path),
                "serviceAccountToken" => token(errors, part, &path),
                _ => {}
            }
        }
    }
}

fn token(errors: &mut Errors, part: &Value, path: &Path<'_>) {
    let seconds = part["expirationSeconds"].as_i64().unwrap_or(3600);
    let path_of_seconds = path.field("expirationSeconds");
    if seconds < 600 {
        let why = "may not specify a duration less than 10 minutes";
        errors.invalid(&path_of_seconds, seconds, why);
    } else if seconds > 1 << 32 {
        let why = "may not specify a duration larger than 2^32 seconds";
        errors.invalid(&path_of_seconds, seconds, why);
    }
    match text(&part["path"]) {
        "" => errors.required(&path.field("path"), ""),
        value => local_path(errors, value, &path.field("path")),
    }
}
