//! ResourceQuota: how much all objects of a namespace may ask for together.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::resource_name as resource;
use crate::api::kinds::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, entries, list, text};

pub(crate) const DEF: KindDef = KindDef {
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    subresources: SUBRESOURCES,
    schema: "core.v1.ResourceQuota",
    storage: "resourcequotas",
    columns: COLUMNS,
    cells: row,
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    validate,
    validate_update,
    validate_status,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[rows::item("status", ("", "v1", "ResourceQuota"))];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Request",
        "Request represents a minimum amount of cpu/memory that a container may consume.",
    ),
    rows::string(
        "Limit",
        "Limits control the maximum amount of cpu/memory that a container may use independent of \
         contention on the node.",
    ),
    rows::AGE,
];

fn row(quota: &Object, now: Timestamp) -> Vec<Value> {
    let status = quota.field("status");
    let mut hard: Vec<_> = entries(&status["hard"]).collect();
    hard.sort_unstable_by_key(|(name, _)| *name);
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in hard {
        let used = resource::printed(&status["used"][name]);
        let cell = format!("{name}: {used}/{}", resource::printed(hard));
        let cells = match name.starts_with("limits.") {
            true => &mut limits,
            false => &mut requests,
        };
        cells.push(cell);
    }
    vec![
        cells::name(quota),
        requests.join(", ").into(),
        limits.join(", ").into(),
        cells::age(quota, now),
    ]
}

const SPEC: Path<'static> = Path::root("spec");
const STATUS: Path<'static> = Path::root("status");
const SCOPES: [&str; 7] = [
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

fn validate(quota: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = quota.field("spec");
    amounts(&mut errors, &spec["hard"], &SPEC.field("hard"));
    let scopes: Vec<_> = list(&spec["scopes"]).iter().map(text).collect();
    let path = SPEC.field("scopes");
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid(&path, spec["scopes"].clone(), "unsupported scope");
        }
        fits(&mut errors, scope, spec, ("scopes", &path));
    }
    conflicts(&mut errors, &scopes, spec, &path);
    if spec["scopeSelector"].is_object() {
        scope_selector(&mut errors, spec);
    }
    errors.into_vec()
}

fn amounts(errors: &mut Errors, amounts: &Value, path: &Path<'_>) {
    for (name, amount) in entries(amounts) {
        let path = path.key(name);
        resource::check_quota(errors, name, &path);
        resource::amount(errors, name, amount, &path);
    }
}

/// Each resource must be one that objects of the scope have.
fn fits(errors: &mut Errors, scope: &str, spec: &Value, (field, path): (&str, &Path<'_>)) {
    let mut names: Vec<_> = entries(&spec["hard"]).map(|(name, _)| name).collect();
    names.sort_unstable();
    for name in names {
        if resource::is_quota(name) && !scope_has(scope, name) {
            let why = "unsupported scope applied to resource";
            errors.invalid(path, spec[field].clone(), why);
        }
    }
}

fn scope_has(scope: &str, resource: &str) -> bool {
    let is_compute = matches!(
        resource,
        "cpu" | "memory" | "limits.cpu" | "limits.memory" | "requests.cpu" | "requests.memory"
    );
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            matches!(resource, "persistentvolumeclaims" | "requests.storage")
        }
        scope if SCOPES.contains(&scope) => resource == "pods" || is_compute,
        _ => true,
    }
}

fn conflicts(errors: &mut Errors, scopes: &[&str], spec: &Value, path: &Path<'_>) {
    for pair in [
        ["BestEffort", "NotBestEffort"],
        ["Terminating", "NotTerminating"],
    ] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.invalid(path, spec["scopes"].clone(), "conflicting scopes");
        }
    }
}

fn scope_selector(errors: &mut Errors, spec: &Value) {
    let path = SPEC.field("scopeSelector");
    let path = path.field("matchExpressions");
    let expressions = list(&spec["scopeSelector"]["matchExpressions"]);
    for expression in expressions {
        let scope = text(&expression["scopeName"]);
        if !SCOPES.contains(&scope) {
            errors.invalid(&path.field("scopeName"), scope, "unsupported scope");
        }
        fits(errors, scope, spec, ("scopeSelector", &path));
        let operator = text(&expression["operator"]);
        let takes_values = matches!(scope, "PriorityClass" | "VolumeAttributesClass");
        if SCOPES.contains(&scope) && !takes_values && operator != "Exists" {
            let why = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
                ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.invalid(&path.field("operator"), operator, why);
        }
        scope_values(errors, operator, &expression["values"], &path);
    }
    let scopes: Vec<_> = expressions.iter().map(|e| text(&e["scopeName"])).collect();
    conflicts(errors, &scopes, spec, &path);
}

fn scope_values(errors: &mut Errors, operator: &str, values: &Value, path: &Path<'_>) {
    let values_path = path.field("values");
    match (operator, list(values).is_empty()) {
        ("In" | "NotIn", true) => {
            let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope \
                       selector";
            errors.required(&values_path, why);
        }
        ("Exists" | "DoesNotExist", false) => {
            let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope \
                       selector";
            errors.invalid(&values_path, values.clone(), why);
        }
        ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
        (other, _) => {
            let why = "not a valid selector operator";
            errors.invalid(&path.field("operator"), other, why);
        }
    }
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    let set = |object: &Object| -> BTreeSet<String> {
        let scopes = list(&object.field("spec")["scopes"]).iter();
        scopes.map(|scope| text(scope).to_owned()).collect()
    };
    if set(new) != set(old) {
        let scopes = new.field("spec")["scopes"].clone();
        errors.invalid(&SPEC.field("scopes"), scopes, "field is immutable");
    }
    errors.into_vec()
}

fn validate_status(new: &Object, _old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    for field in ["hard", "used"] {
        amounts(
            &mut errors,
            &new.field("status")[field],
            &STATUS.field(field),
        );
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn quota(spec: Value) -> Object {
        Object::from_value(json!({"spec": spec})).unwrap()
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn resources_are_known_and_whole() {
        let fine = json!({"hard": {"pods": "10", "requests.cpu": "500m", "count/jobs.batch": "3",
            "requests.nvidia.com/gpu": 4, "limits.memory": "1Gi"}});
        assert_eq!(texts(&validate(&quota(fine))), [""; 0]);
        let wrong = validate(&quota(json!({"hard": {"pods": "500m", "x": "-1"}})));
        assert_eq!(
            texts(&wrong),
            [
                "spec.hard[pods]: Invalid value: \"500m\": must be an integer",
                "spec.hard[x]: Invalid value: \"x\": must be a standard resource type or fully \
                 qualified",
                "spec.hard[x]: Invalid value: \"x\": must be a standard resource for quota",
                "spec.hard[x]: Invalid value: \"-1\": must be greater than or equal to 0",
            ]
        );
    }

    #[test]
    fn scopes_fit_and_stay() {
        let best = quota(json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}));
        let scopes = "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]";
        assert_eq!(
            texts(&validate_update(&best, &quota(json!({})))),
            [
                format!("{scopes}: unsupported scope applied to resource"),
                format!("{scopes}: conflicting scopes"),
                format!("{scopes}: field is immutable"),
            ]
        );
        let with = |expression: Value| {
            let selector = json!({"matchExpressions": [expression]});
            texts(&validate(&quota(json!({"scopeSelector": selector}))))
        };
        assert_eq!(
            with(json!({"scopeName": "PriorityClass", "operator": "In"})),
            [
                "spec.scopeSelector.matchExpressions.values: Required value: must be at least one \
              value when `operator` is 'In' or 'NotIn' for scope selector"
            ]
        );
        let high = json!({"scopeName": "PriorityClass", "operator": "In", "values": ["high"]});
        assert_eq!(with(high), [""; 0]);
    }

    #[test]
    fn cells_show_requests_and_limits_apart() {
        let quota = Object::from_value(json!({"status": {
            "hard": {"pods": "4", "limits.cpu": "2", "requests.cpu": "1"},
            "used": {"pods": "1", "limits.cpu": "500m"},
        }}));
        let row = row(&quota.unwrap(), Timestamp::UNIX_EPOCH);
        assert_eq!(row[1], "pods: 1/4, requests.cpu: 0/1");
        assert_eq!(row[2], "limits.cpu: 500m/2");
    }
}
