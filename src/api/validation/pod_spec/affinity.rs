//! Where a pod may and should run: affinity, tolerations, spreading.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::api::name;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, is_set, list, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// `affinity`
pub(super) fn affinity(errors: &mut Errors, affinity: &Value, path: &Path<'_>) {
    node_affinity(
        errors,
        &affinity["nodeAffinity"],
        &path.field("nodeAffinity"),
    );
    for kind in ["podAffinity", "podAntiAffinity"] {
        pod_affinity(errors, &affinity[kind], &path.field(kind));
    }
}

fn node_affinity(errors: &mut Errors, affinity: &Value, path: &Path<'_>) {
    let required = &affinity[REQUIRED];
    if !required.is_null() {
        node_selector(errors, required, &path.field(REQUIRED));
    }
    let path = path.field(PREFERRED);
    for (index, preferred) in list(&affinity[PREFERRED]).iter().enumerate() {
        let path = path.index(index);
        weight(errors, preferred, &path);
        node_term(errors, &preferred["preference"], &path.field("preference"));
    }
}

/// A `core/v1.NodeSelector`.
pub(crate) fn node_selector(errors: &mut Errors, selector: &Value, path: &Path<'_>) {
    let path = path.field("nodeSelectorTerms");
    let terms = list(&selector["nodeSelectorTerms"]);
    if terms.is_empty() {
        errors.required(&path, "must have at least one node selector term");
    }
    for (index, term) in terms.iter().enumerate() {
        node_term(errors, term, &path.index(index));
    }
}

fn weight(errors: &mut Errors, preferred: &Value, path: &Path<'_>) {
    let weight = preferred["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.field("weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(errors: &mut Errors, term: &Value, path: &Path<'_>) {
    let expressions = path.field("matchExpressions");
    for (index, expression) in list(&term["matchExpressions"]).iter().enumerate() {
        let path = expressions.index(index);
        node_requirement(errors, expression, &path);
        let key = text(&expression["key"]);
        errors.invalid_each(&path.field("key"), key, name::qualified_name(key));
    }
    let fields = path.field("matchFields");
    for (index, field) in list(&term["matchFields"]).iter().enumerate() {
        let path = fields.index(index);
        let (key, values) = (text(&field["key"]), list(&field["values"]));
        if !matches!(text(&field["operator"]), "In" | "NotIn") {
            let why = "not a valid selector operator";
            errors.invalid(&path.field("operator"), field["operator"].clone(), why);
        } else if values.len() != 1 {
            let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field \
                       selector";
            errors.required(&path.field("values"), why);
        }
        if key != "metadata.name" {
            errors.invalid(&path.field("key"), key, "not a valid field selector key");
        }
    }
}

fn node_requirement(errors: &mut Errors, expression: &Value, path: &Path<'_>) {
    let values = list(&expression["values"]);
    let values_path = path.field("values");
    match text(&expression["operator"]) {
        "In" | "NotIn" if values.is_empty() => {
            let why = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.required(&values_path, why);
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.forbidden(&values_path, why);
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.required(&values_path, why);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => {
            errors.invalid(
                &path.field("operator"),
                other,
                "not a valid selector operator",
            );
        }
    }
}

fn pod_affinity(errors: &mut Errors, affinity: &Value, path: &Path<'_>) {
    let required = path.field(REQUIRED);
    for (index, term) in list(&affinity[REQUIRED]).iter().enumerate() {
        pod_term(errors, term, &required.index(index));
    }
    let preferred = path.field(PREFERRED);
    for (index, weighted) in list(&affinity[PREFERRED]).iter().enumerate() {
        let path = preferred.index(index);
        weight(errors, weighted, &path);
        let term = &weighted["podAffinityTerm"];
        pod_term(errors, term, &path.field("podAffinityTerm"));
    }
}

fn pod_term(errors: &mut Errors, term: &Value, path: &Path<'_>) {
    for selector in ["labelSelector", "namespaceSelector"] {
        common::label_selector(errors, &term[selector], &path.field(selector));
    }
    let namespaces = path.field("namespaces");
    for namespace in list(&term["namespaces"]) {
        let namespace = text(namespace);
        errors.invalid_each(&namespaces, namespace, name::dns1123_label(namespace));
    }
    let key = text(&term["topologyKey"]);
    if key.is_empty() {
        errors.required(&path.field("topologyKey"), "can not be empty");
    }
    errors.invalid_each(&path.field("topologyKey"), key, name::qualified_name(key));
}

/// `tolerations`
pub(crate) fn tolerations(errors: &mut Errors, tolerations: &Value, path: &Path<'_>) {
    for (index, toleration) in list(tolerations).iter().enumerate() {
        let path = path.index(index);
        let field = |field: &str| text(&toleration[field]);
        let (key, operator, value) = (field("key"), field("operator"), field("value"));
        let operator_path = path.field("operator");
        if !key.is_empty() {
            errors.invalid_each(&path.field("key"), key, name::qualified_name(key));
        } else if operator != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all \
                       values and all keys\"";
            errors.invalid(&operator_path, operator, why);
        }
        if !toleration["tolerationSeconds"].is_null() && field("effect") != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid(&path.field("effect"), field("effect"), why);
        }
        match operator {
            "" | "Equal" => {
                let wrong = name::label_value(value);
                if !wrong.is_empty() {
                    errors.invalid(&operator_path, value, &wrong.join(";"));
                }
            }
            "Exists" if value.is_empty() => {}
            "Exists" => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.invalid(&operator_path, toleration.clone(), why);
            }
            other => errors.not_supported(&operator_path, other, &["Equal", "Exists"]),
        }
        common::taint_effect(errors, &toleration["effect"], &path.field("effect"), true);
    }
}

/// `topologySpreadConstraints`
pub(super) fn spread(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    const ACTIONS: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    let mut seen = BTreeSet::new();
    let constraints = list(&spec["topologySpreadConstraints"]);
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        let skew = constraint["maxSkew"].as_i64().unwrap_or(0);
        if skew <= 0 {
            errors.invalid(&path.field("maxSkew"), skew, "must be greater than zero");
        }
        let key = text(&constraint["topologyKey"]);
        match key {
            "" => errors.required(&path.field("topologyKey"), "can not be empty"),
            key => errors.invalid_each(&path.field("topologyKey"), key, name::qualified_name(key)),
        }
        let action = text(&constraint["whenUnsatisfiable"]);
        if !ACTIONS.contains(&action) {
            errors.not_supported(&path.field("whenUnsatisfiable"), action, &ACTIONS);
        }
        if !seen.insert((key, action)) {
            let pair = format!("{{{key}, {action}}}");
            errors.duplicate(&path.field("{topologyKey, whenUnsatisfiable}"), pair);
        }
        if let Some(least) = constraint["minDomains"].as_i64() {
            let path = path.field("minDomains");
            if least <= 0 {
                errors.invalid(&path, least, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let why = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}"
                );
                errors.invalid(&path, least, &why);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if is_set(&constraint[field]) {
                errors.one_of(&path.field(field), &constraint[field], &["Honor", "Ignore"]);
            }
        }
        let selector = &constraint["labelSelector"];
        common::label_selector(errors, selector, &path.field("labelSelector"));
    }
}
