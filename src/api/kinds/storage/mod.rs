//! The kinds of `storage.k8s.io`: classes of volumes, and the drivers that provide them.

pub(super) mod attachment;
pub(super) mod capacity;
pub(super) mod class;
pub(super) mod csi_driver;
pub(super) mod csi_node;

use serde_json::Value;

use crate::api::name;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, entries, text};

const GROUP: &str = "storage.k8s.io";
const PARAMETERS_MAX: usize = 512;
const PARAMETERS_SIZE_MAX: usize = 256 * 1024;
const DRIVER_NAME_MAX: usize = 63;

/// A qualified name, in any case.
fn provisioner(errors: &mut Errors, value: &Value, path: &Path<'_>) {
    match text(value) {
        "" => errors.required(path, ""),
        value => errors.invalid_each(path, value, name::qualified_name(&value.to_lowercase())),
    }
}

/// What a driver is told about the volumes of a class.
fn parameters(errors: &mut Errors, value: &Value, path: &Path<'_>) {
    if entries(value).count() > PARAMETERS_MAX {
        return errors.too_long(path, PARAMETERS_MAX);
    }
    let mut size_bytes = 0;
    for (key, value) in entries(value) {
        if key.is_empty() {
            errors.invalid(path, key, "field can not be empty.");
        }
        size_bytes += key.len() + text(value).len();
    }
    if size_bytes > PARAMETERS_SIZE_MAX {
        errors.too_long(path, PARAMETERS_SIZE_MAX);
    }
}

/// The name of a CSI driver.
fn driver_name(errors: &mut Errors, name: &str, path: &Path<'_>) {
    if name.is_empty() {
        errors.required(path, "");
    }
    if name.len() > DRIVER_NAME_MAX {
        errors.too_long(path, DRIVER_NAME_MAX);
    }
    for wrong in name::dns1123_subdomain(&name.to_lowercase()) {
        errors.invalid(path, name, &wrong);
    }
}
