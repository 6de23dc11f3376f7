//! Names of resources (`pkg/apis/core/helper`), as the kinds that limit them know them.

use serde_json::Value;

use crate::api::name;
use crate::api::quantity::Quantity;
use crate::api::validation::Errors;
use crate::api::validation::path::Path;

const CONTAINER: &[&str] = &["cpu", "memory", "ephemeral-storage"];

const QUOTA: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "persistentvolumeclaims",
    "configmaps",
    "services.nodeports",
    "services.loadbalancers",
];

const COUNTED: &[&str] = &[
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// Whether a quota may name it without a domain.
pub(super) fn is_quota(name: &str) -> bool {
    QUOTA.contains(&name) || name.starts_with("hugepages-") || is_requested_huge(name)
}

fn is_requested_huge(name: &str) -> bool {
    name.starts_with("requests.hugepages-")
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn is_extended(name: &str) -> bool {
    let is_requested = name.starts_with("requests.");
    !is_native(name)
        && !is_requested
        && name::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Whether more of it may be promised than there is.
pub(super) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with("hugepages-")
}

/// A name of any resource.
pub(super) fn check(errors: &mut Errors, name: &str, path: &Path<'_>) {
    errors.invalid_each(path, name, name::qualified_name(name));
    let is_standard = is_quota(name) || name == "storage";
    if !name.contains('/') && !is_standard {
        let why = "must be a standard resource type or fully qualified";
        errors.invalid(path, name, why);
    }
}

/// A name of what a container asks for.
pub(super) fn check_container(errors: &mut Errors, name: &str, path: &Path<'_>) {
    check(errors, name, path);
    let is_standard = CONTAINER.contains(&name) || name.starts_with("hugepages-");
    if !name.contains('/') && !is_standard {
        errors.invalid(path, name, "must be a standard resource for containers");
    } else if !is_native(name) && !is_extended(name) {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// A name of what a quota counts.
pub(super) fn check_quota(errors: &mut Errors, name: &str, path: &Path<'_>) {
    check(errors, name, path);
    if !name.contains('/') && !is_quota(name) {
        errors.invalid(path, name, "must be a standard resource for quota");
    }
}

/// How much of it: not negative, and whole where it is counted.
pub(super) fn amount(errors: &mut Errors, name: &str, value: &Value, path: &Path<'_>) {
    let Some(amount) = quantity(errors, value, path) else {
        return;
    };
    if amount.is_negative() {
        let why = "must be greater than or equal to 0";
        errors.invalid(path, amount.to_string(), why);
    }
    let is_counted = COUNTED.contains(&name) || is_extended(name);
    if is_counted && !amount.is_whole() {
        errors.invalid(path, amount.to_string(), "must be an integer");
    }
}

/// More than nothing.
pub(super) fn positive(errors: &mut Errors, value: &Value, path: &Path<'_>) {
    let Some(amount) = quantity(errors, value, path) else {
        return;
    };
    if amount.is_negative() || amount.is_zero() {
        errors.invalid(path, amount.to_string(), "must be greater than zero");
    }
}

/// What a value says; an error where it is not a quantity.
pub(super) fn quantity(errors: &mut Errors, value: &Value, path: &Path<'_>) -> Option<Quantity> {
    match Quantity::from_json(value) {
        Ok(amount) => Some(amount),
        Err(error) => {
            errors.invalid(path, value.clone(), &error.to_string());
            None
        }
    }
}

/// As it is printed in a cell: 0 where there is none.
pub(super) fn printed(value: &Value) -> String {
    let amount = Quantity::from_json(value).unwrap_or(Quantity::ZERO);
    amount.to_string()
}
