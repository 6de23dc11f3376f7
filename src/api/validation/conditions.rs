//! `metav1.Condition` lists (`k8s.io/apimachinery/pkg/apis/meta/v1/validation`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::path::Path;
use super::{Errors, is_set, list, text};
use crate::api::name;
use crate::api::status::FieldError;

const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;
const REASON_FORM: &str = "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?";

/// A list of conditions, one a type.
pub(crate) fn check(errors: &mut Errors, conditions: &Value, path: &Path<'_>) {
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for (index, condition) in list(conditions).iter().enumerate() {
        let here = path.index(index);
        if !seen.insert(text(&condition["type"])) {
            errors.duplicate(&here.field("type"), text(&condition["type"]));
        }
        check_one(errors, condition, &here);
    }
}

fn check_one(errors: &mut Errors, condition: &Value, path: &Path<'_>) {
    let kind = text(&condition["type"]);
    let wrong = name::qualified_name(kind);
    errors.invalid_each(&path.field("type"), kind, wrong);
    let statuses = ["False", "True", "Unknown"];
    if !statuses.contains(&text(&condition["status"])) {
        let path = path.field("status");
        errors.not_supported(&path, text(&condition["status"]), &statuses);
    }
    errors.nonnegative(
        &path.field("observedGeneration"),
        &condition["observedGeneration"],
    );
    if !is_set(&condition["lastTransitionTime"]) {
        errors.required(&path.field("lastTransitionTime"), "must be set");
    }
    reason(errors, text(&condition["reason"]), &path.field("reason"));
    if text(&condition["message"]).len() > MESSAGE_MAX {
        errors.push(FieldError::too_long(&path.field("message"), MESSAGE_MAX));
    }
}

fn reason(errors: &mut Errors, reason: &str, path: &Path<'_>) {
    if reason.is_empty() {
        return errors.required(path, "must be set");
    }
    let ends_well = !reason.ends_with([',', ':']);
    let starts_well = reason.starts_with(|c: char| c.is_ascii_alphabetic());
    let goes_on = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':');
    if !starts_well || !ends_well || !reason.chars().all(goes_on) {
        let message = "a condition reason must start with alphabetic character, optionally \
                       followed by a string of alphanumeric characters or '_,:', and must end \
                       with an alphanumeric character or '_'";
        let examples = [
            "my_name",
            "MY_NAME",
            "MyName",
            "ReasonA,ReasonB",
            "ReasonA:ReasonB",
        ];
        errors.invalid(
            path,
            reason,
            &name::regex_error(message, REASON_FORM, &examples),
        );
    }
    if reason.len() > REASON_MAX {
        errors.push(FieldError::too_long(path, REASON_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_are_whole_and_one_a_type() {
        let good = json!({"type": "Ready", "status": "True", "reason": "AllWell",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let bad = json!({"type": "Ready", "status": "Maybe"});
        let mut errors = Errors::new();
        check(&mut errors, &json!([good, bad]), &Path::root("c"));
        let texts: Vec<_> = errors.into_vec().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "c[1].type: Duplicate value: \"Ready\"",
                "c[1].status: Unsupported value: \"Maybe\": supported values: \"False\", \
                 \"True\", \"Unknown\"",
                "c[1].lastTransitionTime: Required value: must be set",
                "c[1].reason: Required value: must be set",
            ]
        );
    }
}
