//! What PersistentVolumes and PersistentVolumeClaims share.

use serde_json::Value;

use super::resource_name as resource;
use crate::api::name;
use crate::api::object::Object;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, list, text};

const ACCESS_MODES: [(&str, &str); 4] = [
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];

const MODES_SORTED: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

/// `RWO,ROX`
pub(super) fn short_modes(modes: &Value) -> String {
    let has = |mode: &&(&str, &str)| list(modes).iter().any(|m| m == mode.0);
    let short: Vec<_> = ACCESS_MODES.iter().filter(has).map(|m| m.1).collect();
    short.join(",")
}

/// Known modes, `ReadWriteOncePod` only alone.
pub(super) fn access_modes(errors: &mut Errors, modes: &Value, path: &Path<'_>) {
    for mode in list(modes).iter().map(text) {
        if !MODES_SORTED.contains(&mode) {
            errors.not_supported(path, mode, &MODES_SORTED);
        }
    }
    let once_pod = |mode: &Value| mode == "ReadWriteOncePod";
    if list(modes).iter().any(once_pod) && !list(modes).iter().all(once_pod) {
        let why = "may not use ReadWriteOncePod with other access modes";
        errors.forbidden(path, why);
    }
}

/// `Block` or `Filesystem`, where it is said.
pub(super) fn volume_mode(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    if !spec["volumeMode"].is_null() {
        let mode = text(&spec["volumeMode"]);
        if !matches!(mode, "Block" | "Filesystem") {
            errors.not_supported(&path.field("volumeMode"), mode, &["Block", "Filesystem"]);
        }
    }
}

/// Names of a StorageClass and a VolumeAttributesClass.
pub(super) fn class_names(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let class = text(&spec[field]);
        if !class.is_empty() {
            errors.invalid_each(&path.field(field), class, name::dns1123_subdomain(class));
        }
    }
}

/// The class, which an old annotation names before the field does.
pub(super) fn class(object: &Object) -> &str {
    const ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
    match object.text_at(&["metadata", "annotations", ANNOTATION]) {
        "" => object.text_at(&["spec", "storageClassName"]),
        class => class,
    }
}

/// `Terminating` while it is being deleted, else the phase.
pub(super) fn phase(object: &Object) -> &str {
    match object.is_terminating() {
        true => "Terminating",
        false => object.text_at(&["status", "phase"]),
    }
}

/// The text of a field of `spec`, or `<unset>`.
pub(super) fn or_unset(object: &Object, field: &str) -> Value {
    object.field("spec")[field]
        .as_str()
        .unwrap_or("<unset>")
        .into()
}

/// A capacity: amounts that are more than nothing.
pub(super) fn capacity(errors: &mut Errors, capacity: &Value, path: &Path<'_>) {
    for (name, amount) in crate::api::validation::entries(capacity) {
        resource::positive(errors, amount, &path.key(name));
    }
}
