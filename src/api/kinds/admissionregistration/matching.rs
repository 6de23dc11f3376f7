//! What a webhook or a policy is asked about: rules, selectors, match conditions, parameters.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::MATCH_POLICIES;
use crate::api::kinds::defaults::{child, items, set, text as set_text};
use crate::api::name;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, list, text};

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
const MATCH_CONDITIONS_MAX: usize = 64;

/// Scope of the rules in `field`.
pub(super) fn default_rules(owner: &mut Map<String, Value>, field: &str) {
    for rule in items(owner, field) {
        set(rule, "scope", "*");
    }
}

/// What a `MatchResources` has where nothing is said.
pub(super) fn default_resources(owner: &mut Map<String, Value>, field: &str) {
    let Some(resources) = child(owner, field) else {
        return;
    };
    set(resources, "matchPolicy", "Equivalent");
    set(resources, "namespaceSelector", json!({}));
    set(resources, "objectSelector", json!({}));
    default_rules(resources, "resourceRules");
    default_rules(resources, "excludeResourceRules");
}

/// A `MatchResources`.
pub(super) fn resources(errors: &mut Errors, resources: &Value, path: &Path<'_>) {
    match &resources["matchPolicy"] {
        Value::Null => errors.required(&path.field("matchPolicy"), ""),
        policy => known(errors, policy, &path.field("matchPolicy"), &MATCH_POLICIES),
    }
    for field in ["namespaceSelector", "objectSelector"] {
        match &resources[field] {
            Value::Null => errors.required(&path.field(field), ""),
            selector => common::label_selector(errors, selector, &path.field(field)),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (index, rule) in list(&resources[field]).iter().enumerate() {
            named_rule(errors, rule, &path.field(field).index(index));
        }
    }
}

fn named_rule(errors: &mut Errors, rule_: &Value, path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    for (index, one) in list(&rule_["resourceNames"]).iter().enumerate() {
        let path = path.field("resourceNames");
        let path = path.index(index);
        errors.invalid_each(&path, text(one), name::path_segment(text(one)));
        if !seen.insert(text(one)) {
            errors.duplicate(&path, text(one));
        }
    }
    rule(errors, rule_, path);
}

/// A rule with its operations.
pub(super) fn rule(errors: &mut Errors, rule: &Value, path: &Path<'_>) {
    let operations = list(&rule["operations"]);
    let here = path.field("operations");
    if operations.is_empty() {
        errors.required(&here, "");
    }
    only_wildcard(errors, &rule["operations"], &here, "operations");
    for (index, one) in operations.iter().enumerate() {
        known(errors, one, &here.index(index), &OPERATIONS);
    }
    let here = path.field("apiGroups");
    if list(&rule["apiGroups"]).is_empty() {
        errors.required(&here, "");
    }
    only_wildcard(errors, &rule["apiGroups"], &here, "API groups");
    let here = path.field("apiVersions");
    if list(&rule["apiVersions"]).is_empty() {
        errors.required(&here, "");
    }
    only_wildcard(errors, &rule["apiVersions"], &here, "API versions");
    for (index, version) in list(&rule["apiVersions"]).iter().enumerate() {
        if text(version).is_empty() {
            errors.required(&here.index(index), "");
        }
    }
    rule_resources(errors, &rule["resources"], &path.field("resources"));
    if !rule["scope"].is_null() {
        known(errors, &rule["scope"], &path.field("scope"), &SCOPES);
    }
}

fn only_wildcard(errors: &mut Errors, values: &Value, path: &Path<'_>, what: &str) {
    if list(values).len() > 1 && list(values).iter().any(|v| v == "*") {
        let why = format!("if '*' is present, must not specify other {what}");
        errors.invalid(path, values.clone(), &why);
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale`, `*`, `*/*`; none that another one covers.
fn rule_resources(errors: &mut Errors, resources: &Value, path: &Path<'_>) {
    if list(resources).is_empty() {
        errors.required(path, "");
    }
    let (mut all_below, mut all_with) = (BTreeSet::new(), BTreeSet::new());
    let mut has_plain = false;
    for (index, one) in list(resources).iter().map(text).enumerate() {
        let here = path.index(index);
        if one.is_empty() {
            errors.required(&here, "");
            continue;
        }
        let Some((resource, sub)) = one.split_once('/') else {
            has_plain = one != "*";
            continue;
        };
        if all_below.contains(resource) {
            let why = format!("if '{resource}/*' is present, must not specify {one}");
            errors.invalid(&here, one, &why);
        }
        if all_with.contains(sub) {
            let why = format!("if '*/{sub}' is present, must not specify {one}");
            errors.invalid(&here, one, &why);
        }
        if sub == "*" {
            all_below.insert(resource);
        }
        if resource == "*" {
            all_with.insert(sub);
        }
    }
    let has = |what: &str| list(resources).iter().any(|one| one == what);
    if list(resources).len() > 1 && has("*/*") {
        let why = "if '*/*' is present, must not specify other resources";
        errors.invalid(path, resources.clone(), why);
    }
    if has("*") && has_plain {
        let why = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, resources.clone(), why);
    }
}

/// A list of named expressions.
pub(super) fn conditions(errors: &mut Errors, conditions: &Value, path: &Path<'_>) {
    let conditions = list(conditions);
    if conditions.len() > MATCH_CONDITIONS_MAX {
        let error = FieldError::too_many(path, conditions.len(), MATCH_CONDITIONS_MAX);
        errors.push(error);
    }
    let mut seen = BTreeSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let here = path.index(index);
        if text(&condition["expression"]).trim().is_empty() {
            errors.required(&here.field("expression"), "");
        }
        let name_path = here.field("name");
        match text(&condition["name"]) {
            "" => errors.required(&name_path, ""),
            name => {
                errors.invalid_each(&name_path, name, name::qualified_name(name));
                if !seen.insert(name) {
                    errors.duplicate(&name_path, name);
                }
            }
        }
    }
}

/// Kind of the objects that parametrize a policy.
pub(super) fn param_kind(errors: &mut Errors, kind: &Value, path: &Path<'_>) {
    let version_path = path.field("apiVersion");
    let whole = text(&kind["apiVersion"]);
    let (group, version) = whole.split_once('/').unwrap_or(("", whole));
    let joined = |wrong: Vec<String>| wrong.join(",");
    if whole.is_empty() {
        errors.required(&version_path, "");
    } else if version.contains('/') {
        let why = format!("unexpected GroupVersion string: {whole}");
        errors.invalid(&version_path, whole, &why);
    } else {
        if !group.is_empty() {
            let wrong = name::dns1123_subdomain(group);
            if !wrong.is_empty() {
                errors.invalid(&version_path, group, &joined(wrong));
            }
        }
        let wrong = name::dns1035_label(version);
        if version.is_empty() {
            errors.invalid(&version_path, whole, "version must be specified");
        } else if !wrong.is_empty() {
            errors.invalid(&version_path, version, &joined(wrong));
        }
    }
    let kind_path = path.field("kind");
    let kind = text(&kind["kind"]);
    let wrong = name::dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errors.required(&kind_path, "");
    } else if !wrong.is_empty() {
        let why = format!(
            "may have mixed case, but should otherwise match: {}",
            joined(wrong)
        );
        errors.invalid(&kind_path, kind, &why);
    }
}

/// Which objects parametrize a policy.
pub(super) fn param_ref(errors: &mut Errors, param: &Value, path: &Path<'_>) {
    const BOTH: &str = "name and selector are mutually exclusive";
    if param.is_null() {
        return;
    }
    let (name, selector) = (text(&param["name"]), &param["selector"]);
    if !name.is_empty() {
        errors.invalid_each(&path.field("name"), name, name::path_segment(name));
        if !selector.is_null() {
            errors.forbidden(&path.field("name"), BOTH);
        }
    }
    if !selector.is_null() {
        common::label_selector(errors, selector, &path.field("selector"));
        if !name.is_empty() {
            errors.forbidden(&path.field("selector"), BOTH);
        }
    }
    if name.is_empty() && selector.is_null() {
        errors.required(path, "one of name or selector must be specified");
    }
    let action = &param["parameterNotFoundAction"];
    errors.one_of(
        &path.field("parameterNotFoundAction"),
        action,
        &["Deny", "Allow"],
    );
}

/// A text that is one of `supported`, the empty one too being an error.
pub(super) fn known(errors: &mut Errors, value: &Value, path: &Path<'_>, supported: &[&str]) {
    if !supported.contains(&text(value)) {
        errors.not_supported(path, text(value), supported);
    }
}

/// Failure policy of a webhook or policy.
pub(super) fn default_failure_policy(owner: &mut Map<String, Value>) {
    set_text(owner, "failurePolicy", "Fail");
}
