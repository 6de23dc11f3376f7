//! Requests and limits.

use serde_json::Value;

use crate::api::name;
use crate::api::quantity::Quantity;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, entries, list, text};

/// `resources` of a container.
pub(super) fn of_container(errors: &mut Errors, resources: &Value, path: &Path<'_>) {
    let (limits_path, requests_path) = (path.field("limits"), path.field("requests"));
    for (name, value) in entries(&resources["limits"]) {
        amount(errors, name, value, &limits_path.key(name));
    }
    for (name, value) in entries(&resources["requests"]) {
        let Some(request) = amount(errors, name, value, &requests_path.key(name)) else {
            continue;
        };
        let limit = Quantity::from_json(&resources["limits"][name]).ok();
        match limit {
            Some(limit) if request != limit && !may_overcommit(name) => {
                let why = format!("must be equal to {name} limit of {limit}");
                errors.invalid(&requests_path, request.to_string(), &why);
            }
            Some(limit) if request > limit => {
                let why = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(&requests_path, request.to_string(), &why);
            }
            None if !may_overcommit(name) => {
                let why = "Limit must be set for non overcommitable resources";
                errors.required(&limits_path, why);
            }
            _ => {}
        }
    }
    let claims_path = path.field("claims");
    for (index, claim) in list(&resources["claims"]).iter().enumerate() {
        if text(&claim["name"]).is_empty() {
            errors.required(&claims_path.index(index).field("name"), "");
        }
    }
}

/// `overhead` of a pod.
pub(super) fn overhead(errors: &mut Errors, overhead: &Value, path: &Path<'_>) {
    for (name, value) in entries(overhead) {
        amount(errors, name, value, &path.key(name));
    }
}

fn amount(errors: &mut Errors, name: &str, value: &Value, path: &Path<'_>) -> Option<Quantity> {
    resource_name(errors, name, path);
    let amount = match Quantity::from_json(value) {
        Ok(amount) => amount,
        Err(error) => {
            errors.invalid(path, value.clone(), &error.to_string());
            return None;
        }
    };
    if amount.is_negative() {
        let why = "must be greater than or equal to 0";
        errors.invalid(path, amount.to_string(), why);
    }
    if is_extended(name) && !amount.is_whole() {
        errors.invalid(path, amount.to_string(), "must be an integer");
    }
    Some(amount)
}

fn resource_name(errors: &mut Errors, name: &str, path: &Path<'_>) {
    let wrong = name::qualified_name(name);
    if !wrong.is_empty() {
        errors.invalid_each(path, name, wrong);
        return;
    }
    let is_standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || is_huge(name);
    if !name.contains('/') && !is_standard {
        errors.invalid(path, name, "must be a standard resource for containers");
    } else if name.starts_with("requests.") {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn is_huge(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// A resource of somebody else's domain (`nvidia.com/gpu`), counted in whole pieces.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// Resources that are shared out beyond what there is.
fn may_overcommit(name: &str) -> bool {
    (!name.contains('/') || name.contains("kubernetes.io/")) && !is_huge(name)
}
