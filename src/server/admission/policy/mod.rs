//! Admission policies in CEL, validating and mutating
//! (`k8s.io/apiserver/pkg/admission/plugin/policy`).

mod config;
mod decide;
mod mutating;
mod select;
mod validating;

use serde_json::json;

use crate::api::status::ApiError;

use super::Attributes;

pub(super) use mutating::MutatingPolicies;
pub(super) use validating::ValidatingPolicies;

/// A policy's refusal.
fn denied(attributes: &Attributes<'_>, message: &str, reason: &str) -> ApiError {
    let (reason, code) = match reason {
        "Forbidden" => ("Forbidden", 403),
        "Unauthorized" => ("Unauthorized", 401),
        "RequestEntityTooLarge" => ("RequestEntityTooLarge", 413),
        _ => ("Invalid", 422),
    };
    let mut error = attributes.forbidden(message);
    error.reason = reason;
    error.code = code;
    if let Some(details) = &mut error.details {
        details["causes"] = json!([{"message": message}]);
    }
    error
}
