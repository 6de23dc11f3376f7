//! The kinds of `networking.k8s.io`: who may talk to whom, and how HTTP comes in.

pub(super) mod ingress;
pub(super) mod ingress_class;
pub(super) mod ip_address;
pub(super) mod network_policy;
pub(super) mod service_cidr;

use serde_json::Value;

use crate::api::name;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, text};

const GROUP: &str = "networking.k8s.io";

/// A text that must be there and can be part of a path.
fn segment(errors: &mut Errors, value: &Value, path: &Path<'_>) {
    match text(value) {
        "" => errors.required(path, ""),
        value => errors.invalid_each(path, value, name::path_segment(value)),
    }
}

/// Group, kind and name of an object an ingress names.
fn reference(errors: &mut Errors, reference: &Value, path: &Path<'_>) {
    if !reference["apiGroup"].is_null() {
        let group = text(&reference["apiGroup"]);
        errors.invalid_each(
            &path.field("apiGroup"),
            group,
            name::dns1123_subdomain(group),
        );
    }
    segment(errors, &reference["kind"], &path.field("kind"));
    segment(errors, &reference["name"], &path.field("name"));
}
