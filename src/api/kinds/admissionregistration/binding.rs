//! ValidatingAdmissionPolicyBinding and MutatingAdmissionPolicyBinding: where a policy holds, and
//! with which parameters.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::GROUP;
use super::matching::{self, known};
use super::policy::mutated_operations;
use crate::api::gvk::Scope;
use crate::api::kinds::defaults::child;
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::selector::label::format_label_selector;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, list, text};

pub(crate) const VALIDATING: KindDef = KindDef {
    group: GROUP,
    kind: "ValidatingAdmissionPolicyBinding",
    plural: "validatingadmissionpolicybindings",
    singular: "validatingadmissionpolicybinding",
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    schema: "admissionregistration.v1.ValidatingAdmissionPolicyBinding",
    storage: "validatingadmissionpolicybindings.admissionregistration.k8s.io",
    columns: COLUMNS,
    cells: row,
    has_generation: true,
    unconditional_update: false,
    default,
    validate: validating,
    validate_update: |new, _| validating(new),
    ..KindDef::BASE
};

pub(crate) const MUTATING: KindDef = KindDef {
    kind: "MutatingAdmissionPolicyBinding",
    plural: "mutatingadmissionpolicybindings",
    singular: "mutatingadmissionpolicybinding",
    schema: "admissionregistration.v1.MutatingAdmissionPolicyBinding",
    storage: "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
    validate: mutating,
    validate_update: |new, _| mutating(new),
    ..VALIDATING
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "PolicyName",
        "PolicyName indicates the policy definition which the policy binding binded to",
    ),
    rows::string(
        "ParamRef",
        "ParamRef indicates the param resource which sets the configration param",
    ),
    rows::AGE,
];

const SPEC: Path<'static> = Path::root("spec");
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];

fn row(binding: &Object, now: Timestamp) -> Vec<Value> {
    let spec = binding.field("spec");
    vec![
        cells::name(binding),
        text(&spec["policyName"]).into(),
        param_text(&spec["paramRef"]).into(),
        cells::age(binding, now),
    ]
}

fn param_text(param: &Value) -> String {
    match (text(&param["namespace"]), text(&param["name"])) {
        ("", "") | (_, "") if param["selector"].is_null() => "<unset>".to_owned(),
        (_, "") => format_label_selector(&param["selector"]),
        // Nothing here says whether the parameters live in namespaces.
        ("", name) => format!("*/{name}"),
        (namespace, name) => format!("{namespace}/{name}"),
    }
}

fn default(binding: &mut Object) {
    if let Some(spec) = child(&mut binding.0, "spec") {
        matching::default_resources(spec, "matchResources");
    }
}

fn shared(errors: &mut Errors, spec: &Value, resources_path: &Path<'_>) {
    let path = SPEC.field("policyName");
    match text(&spec["policyName"]) {
        "" => errors.required(&path, ""),
        name => errors.invalid_each(&path, name, name::dns1123_subdomain(name)),
    }
    matching::param_ref(errors, &spec["paramRef"], &SPEC.field("paramRef"));
    if !spec["matchResources"].is_null() {
        matching::resources(errors, &spec["matchResources"], resources_path);
    }
}

fn validating(binding: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = binding.field("spec");
    // Upstream's own spelling of this path.
    shared(&mut errors, spec, &SPEC.field("matchResouces"));
    actions(
        &mut errors,
        &spec["validationActions"],
        &SPEC.field("validationActions"),
    );
    errors.into_vec()
}

fn actions(errors: &mut Errors, actions: &Value, path: &Path<'_>) {
    let mut seen = BTreeSet::new();
    for (index, action) in list(actions).iter().enumerate() {
        known(errors, action, &path.index(index), &ACTIONS);
        if !seen.insert(text(action)) {
            errors.duplicate(&path.index(index), text(action));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure \
                   information in the API response and headers serves no purpose)";
        errors.invalid(path, actions.clone(), why);
    }
    if seen.is_empty() {
        errors.required(path, "at least one validation action is required");
    }
}

fn mutating(binding: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = binding.field("spec");
    let path = SPEC.field("matchResources");
    shared(&mut errors, spec, &path);
    mutated_operations(&mut errors, &spec["matchResources"], &path);
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn binding(spec: Value) -> Object {
        let mut object = Object::from_value(json!({"spec": spec})).unwrap();
        default(&mut object);
        object
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn bindings_are_filled_in_and_checked() {
        let good = binding(json!({"policyName": "p", "validationActions": ["Deny"],
            "matchResources": {}, "paramRef": {"name": "n", "parameterNotFoundAction": "Deny"}}));
        assert_eq!(texts(&validating(&good)), [""; 0]);
        assert_eq!(row(&good, Timestamp::UNIX_EPOCH)[2], "*/n");
        assert_eq!(
            texts(&validating(&binding(json!({"paramRef": {}})))),
            [
                "spec.policyName: Required value",
                "spec.paramRef: Required value: one of name or selector must be specified",
                "spec.paramRef.parameterNotFoundAction: Required value",
                "spec.validationActions: Required value: at least one validation action is \
                 required",
            ]
        );
        let both = json!({"policyName": "p", "validationActions": ["Deny", "Warn", "Warn"]});
        assert_eq!(
            texts(&validating(&binding(both))),
            [
                "spec.validationActions[2]: Duplicate value: \"Warn\"",
                "spec.validationActions: Invalid value: [\"Deny\",\"Warn\",\"Warn\"]: must not \
                 contain both Deny and Warn (repeating the same validation failure information in \
                 the API response and headers serves no purpose)",
            ]
        );
        assert_eq!(
            texts(&mutating(&binding(json!({"policyName": "p"})))),
            [""; 0]
        );
    }
}
