//! Checks of values that occur in several kinds.

use serde_json::Value;

use super::path::Path;
use super::{Errors, entries, list, text};
use crate::api::int_or_string::percent;
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;

/// Labels: keys that are qualified names, values that are label values.
pub(crate) fn labels(errors: &mut Errors, labels: &Value, path: &Path<'_>) {
    for (key, value) in entries(labels) {
        errors.invalid_each(path, key, name::qualified_name(key));
        let value = text(value);
        errors.invalid_each(path, value, name::label_value(value));
    }
}

/// A `metav1.LabelSelector`.
pub(crate) fn label_selector(errors: &mut Errors, selector: &Value, path: &Path<'_>) {
    labels(errors, &selector["matchLabels"], &path.field("matchLabels"));
    let path = path.field("matchExpressions");
    for (index, expression) in list(&selector["matchExpressions"]).iter().enumerate() {
        selector_requirement(errors, expression, &path.index(index));
    }
}

fn selector_requirement(errors: &mut Errors, expression: &Value, path: &Path<'_>) {
    let values = list(&expression["values"]);
    let values_path = path.field("values");
    match text(&expression["operator"]) {
        "In" | "NotIn" if values.is_empty() => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.required(&values_path, why);
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if values.is_empty() => {}
        "Exists" | "DoesNotExist" => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&values_path, why);
        }
        other => {
            let why = "not a valid selector operator";
            errors.invalid(&path.field("operator"), other, why);
        }
    }
    let key = text(&expression["key"]);
    errors.invalid_each(&path.field("key"), key, name::qualified_name(key));
    for (index, value) in values.iter().enumerate() {
        let value = text(value);
        errors.invalid_each(&values_path.index(index), value, name::label_value(value));
    }
}

/// A number that is not negative, or a percentage.
pub(crate) fn positive_int_or_percent(errors: &mut Errors, value: &Value, path: &Path<'_>) {
    match value {
        Value::String(text) if percent(text).is_ok_and(|n| n >= 0) => {}
        Value::String(text) => {
            let message =
                "a valid percent string must be a numeric string followed by an ending '%'";
            let why = name::regex_error(message, "[0-9]+%", &["1%", "93%"]);
            errors.invalid(path, text.as_str(), &why);
        }
        Value::Number(_) => errors.nonnegative(path, value),
        _ => errors.invalid(
            path,
            value.clone(),
            "must be an integer or percentage (e.g '5%%')",
        ),
    }
}

/// A number of a port, or the name of one.
pub(crate) fn port_or_name(errors: &mut Errors, value: &Value, path: &Path<'_>) {
    match value {
        Value::Number(number) => {
            let number = number.as_i64().unwrap_or(0);
            port(errors, number, path);
        }
        other => {
            let name = text(other);
            errors.invalid_each(path, name, name::port_name(name));
        }
    }
}

/// A number of a port.
pub(crate) fn port(errors: &mut Errors, number: i64, path: &Path<'_>) {
    for wrong in name::port_number(number) {
        errors.invalid(path, number, &wrong);
    }
}

/// A taint's effect.
pub(crate) fn taint_effect(
    errors: &mut Errors,
    effect: &Value,
    path: &Path<'_>,
    may_be_empty: bool,
) {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if !(may_be_empty && text(effect).is_empty()) {
        errors.one_of(path, effect, &EFFECTS);
    }
}

/// Keys and total size of the data of a ConfigMap or Secret.
pub(crate) fn data_keys(errors: &mut Errors, data: &Value, path: &Path<'_>) {
    for (key, _) in entries(data) {
        errors.invalid_each(&path.key(key), key, name::config_key(key));
    }
}

/// The length of what a base64 text stands for.
pub(crate) fn decoded_len(base64: &str) -> usize {
    let padding = base64.bytes().rev().take_while(|c| *c == b'=').count();
    (base64.len() / 4 * 3).saturating_sub(padding)
}

/// Most bytes of the data of a ConfigMap or Secret.
pub(crate) const DATA_MAX: usize = 1024 * 1024;

/// The fields that do not change once `immutable` is true; `immutable` is one of them.
pub(crate) fn immutable_data(errors: &mut Errors, new: &Object, old: &Object, fields: &[&str]) {
    let why = "field is immutable when `immutable` is set";
    if old.field("immutable") != true {
        return;
    }
    if new.field("immutable") != true {
        errors.forbidden(&Path::root("immutable"), why);
    }
    for field in fields {
        if new.field(field) != old.field(field) {
            errors.forbidden(&Path::root(field), why);
        }
    }
}

/// Taints of a node.
pub(crate) fn taints(errors: &mut Errors, taints: &Value, path: &Path<'_>) {
    let mut seen = std::collections::BTreeSet::new();
    for (index, taint) in list(taints).iter().enumerate() {
        let path = path.index(index);
        let (key, value) = (text(&taint["key"]), text(&taint["value"]));
        errors.invalid_each(&path.field("key"), key, name::qualified_name(key));
        let wrong = name::label_value(value);
        if !wrong.is_empty() {
            errors.invalid(&path.field("value"), value, &wrong.join(";"));
        }
        taint_effect(errors, &taint["effect"], &path.field("effect"), false);
        if !seen.insert((key, text(&taint["effect"]))) {
            let mut error = FieldError::duplicate(&path, taint);
            error
                .detail
                .push_str(": taints must be unique by key and effect pair");
            errors.push(error);
        }
    }
}
