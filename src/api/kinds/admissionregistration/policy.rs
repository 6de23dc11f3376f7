//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: expressions that check or change an
//! object before it is written.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::matching::{self, known};
use super::{FAILURE_POLICIES, GROUP, REINVOCATION_POLICIES};
use crate::api::gvk::Scope;
use crate::api::kinds::defaults::child;
use crate::api::kinds::{Column, KindDef, cells, prepare, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, conditions, is_set, list, text};

pub(crate) const VALIDATING: KindDef = KindDef {
    group: GROUP,
    kind: "ValidatingAdmissionPolicy",
    plural: "validatingadmissionpolicies",
    singular: "validatingadmissionpolicy",
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    subresources: &[rows::item(
        "status",
        (GROUP, "v1", "ValidatingAdmissionPolicy"),
    )],
    schema: "admissionregistration.v1.ValidatingAdmissionPolicy",
    storage: "validatingadmissionpolicies.admissionregistration.k8s.io",
    columns: &[
        rows::NAME,
        rows::integer(
            "Validations",
            "Validations indicates the number of validation rules defined in this configuration",
        ),
        PARAM_KIND,
        rows::AGE,
    ],
    cells: |policy, now| row(policy, "validations", now),
    prepare_create: prepare::drop_status,
    prepare_update: prepare::keep_status,
    has_generation: true,
    unconditional_update: false,
    default,
    validate: validating,
    validate_update: |new, _| validating(new),
    validate_status: |new, _| status(new),
    ..KindDef::BASE
};

pub(crate) const MUTATING: KindDef = KindDef {
    kind: "MutatingAdmissionPolicy",
    plural: "mutatingadmissionpolicies",
    singular: "mutatingadmissionpolicy",
    subresources: &[],
    schema: "admissionregistration.v1.MutatingAdmissionPolicy",
    storage: "mutatingadmissionpolicies.admissionregistration.k8s.io",
    columns: &[
        rows::NAME,
        rows::integer(
            "Mutations",
            "Mutation indicates the number of mutations rules defined in this configuration",
        ),
        PARAM_KIND,
        rows::AGE,
    ],
    cells: |policy, now| row(policy, "mutations", now),
    prepare_create: |_| {},
    prepare_update: |_, _| {},
    validate: mutating,
    validate_update: |new, _| mutating(new),
    validate_status: |_, _| Vec::new(),
    ..VALIDATING
};

const PARAM_KIND: Column = rows::string(
    "ParamKind",
    "ParamKind specifies the kind of resources used to parameterize this policy",
);

const SPEC: Path<'static> = Path::root("spec");
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const AUDIT_ANNOTATIONS_MAX: usize = 20;
const VALUE_EXPRESSION_MAX: usize = 5 * 1024;
/// A mutation of what is deleted would be for nothing.
const MUTATED_OPERATIONS: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];

fn row(policy: &Object, counted: &str, now: Timestamp) -> Vec<Value> {
    let spec = policy.field("spec");
    let kind = &spec["paramKind"];
    let kind = match kind {
        Value::Null => "<unset>".to_owned(),
        kind => format!("{}/{}", text(&kind["apiVersion"]), text(&kind["kind"])),
    };
    vec![
        cells::name(policy),
        cells::count(&spec[counted]).into(),
        kind.into(),
        cells::age(policy, now),
    ]
}

fn default(policy: &mut Object) {
    if let Some(spec) = child(&mut policy.0, "spec") {
        matching::default_failure_policy(spec);
        matching::default_resources(spec, "matchConstraints");
    }
}

/// What both kinds of policy have.
fn shared(errors: &mut Errors, spec: &Value) {
    match &spec["failurePolicy"] {
        Value::Null => errors.required(&SPEC.field("failurePolicy"), ""),
        policy => known(
            errors,
            policy,
            &SPEC.field("failurePolicy"),
            &FAILURE_POLICIES,
        ),
    }
    if !spec["paramKind"].is_null() {
        matching::param_kind(errors, &spec["paramKind"], &SPEC.field("paramKind"));
    }
    let path = SPEC.field("matchConstraints");
    match &spec["matchConstraints"] {
        Value::Null => errors.required(&path, ""),
        constraints => {
            matching::resources(errors, constraints, &path);
            if list(&constraints["resourceRules"]).is_empty() {
                errors.required(&path.field("resourceRules"), "");
            }
        }
    }
}

fn conditions_and_variables(errors: &mut Errors, spec: &Value) {
    let path = SPEC.field("matchConditions");
    matching::conditions(errors, &spec["matchConditions"], &path);
    let path = SPEC.field("variables");
    for (index, variable) in list(&spec["variables"]).iter().enumerate() {
        let here = path.index(index);
        let name = text(&variable["name"]);
        if name.trim().is_empty() {
            errors.required(&here.field("name"), "name is not specified");
        } else if !is_identifier(name) {
            let why = "name is not a valid CEL identifier";
            errors.invalid(&here.field("name"), name, why);
        }
        if text(&variable["expression"]).trim().is_empty() {
            errors.required(&here.field("expression"), "expression is not specified");
        }
    }
}

/// A name CEL takes for a variable.
fn is_identifier(name: &str) -> bool {
    const RESERVED: &[&str] = &[
        "as",
        "break",
        "const",
        "continue",
        "else",
        "false",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "namespace",
        "null",
        "package",
        "return",
        "true",
        "var",
        "void",
        "while",
    ];
    let starts_well = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
    let goes_on = |c: char| c == '_' || c.is_ascii_alphanumeric();
    starts_well && name.chars().all(goes_on) && !RESERVED.contains(&name)
}

fn validating(policy: &Object) -> Vec<FieldError> {
    const NOTHING: &str = "validations or auditAnnotations must contain at least one item";
    let mut errors = Errors::new();
    let spec = policy.field("spec");
    shared(&mut errors, spec);
    conditions_and_variables(&mut errors, spec);
    let validations = list(&spec["validations"]);
    let annotations = list(&spec["auditAnnotations"]);
    if validations.is_empty() && annotations.is_empty() {
        errors.required(&SPEC.field("validations"), NOTHING);
        errors.required(&SPEC.field("auditAnnotations"), NOTHING);
    }
    let path = SPEC.field("validations");
    for (index, one) in validations.iter().enumerate() {
        validation(&mut errors, one, &path.index(index));
    }
    let path = SPEC.field("auditAnnotations");
    if annotations.len() > AUDIT_ANNOTATIONS_MAX {
        let why = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        errors.invalid(&path, spec["auditAnnotations"].clone(), &why);
    }
    let mut keys = BTreeSet::new();
    for (index, one) in annotations.iter().enumerate() {
        let here = path.index(index);
        audit_annotation(&mut errors, one, policy.name(), &here);
        if !keys.insert(text(&one["key"])) {
            errors.duplicate(&here.field("key"), text(&one["key"]));
        }
    }
    errors.into_vec()
}

fn validation(errors: &mut Errors, validation: &Value, path: &Path<'_>) {
    if text(&validation["expression"]).trim().is_empty() {
        errors.required(&path.field("expression"), "expression is not specified");
    }
    let of_message = text(&validation["messageExpression"]);
    if !of_message.is_empty() && of_message.trim().is_empty() {
        let why = "must be non-empty if specified";
        errors.invalid(&path.field("messageExpression"), of_message, why);
    }
    let message = text(&validation["message"]);
    let message_path = path.field("message");
    if !message.is_empty() && message.trim().is_empty() {
        let why = "message must be non-empty if specified";
        errors.invalid(&message_path, message, why);
    } else if message.trim().contains(['\n', '\r']) {
        let why = "message must not contain line breaks";
        errors.invalid(&message_path, message, why);
    }
    if !validation["reason"].is_null() {
        known(
            errors,
            &validation["reason"],
            &path.field("reason"),
            &REASONS,
        );
    }
}

fn audit_annotation(errors: &mut Errors, annotation: &Value, owner: &str, path: &Path<'_>) {
    let (key, key_path) = (text(&annotation["key"]), path.field("key"));
    if owner.is_empty() {
        errors.invalid(&key_path, key, "requires metadata.name be non-empty");
    } else {
        let key = format!("{owner}/{key}");
        errors.invalid_each(&key_path, &key, name::qualified_name(&key));
    }
    let expression = text(&annotation["valueExpression"]).trim();
    let value_path = path.field("valueExpression");
    if expression.is_empty() {
        errors.required(&value_path, "valueExpression is not specified");
    } else if expression.len() > VALUE_EXPRESSION_MAX {
        let why = format!("must not exceed {VALUE_EXPRESSION_MAX} bytes in length");
        errors.required(&value_path, &why);
    }
}

fn mutating(policy: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = policy.field("spec");
    shared(&mut errors, spec);
    let path = SPEC.field("matchConstraints");
    mutated_operations(&mut errors, &spec["matchConstraints"], &path);
    conditions_and_variables(&mut errors, spec);
    let path = SPEC.field("mutations");
    if list(&spec["mutations"]).is_empty() {
        errors.required(&path, "mutations must contain at least one item");
    }
    for (index, one) in list(&spec["mutations"]).iter().enumerate() {
        mutation(&mut errors, one, &path.index(index));
    }
    let path = SPEC.field("reinvocationPolicy");
    errors.one_of(&path, &spec["reinvocationPolicy"], &REINVOCATION_POLICIES);
    errors.into_vec()
}

/// The operations of a `MatchResources` that a mutation can be for.
pub(super) fn mutated_operations(errors: &mut Errors, resources: &Value, path: &Path<'_>) {
    let path = path.field("resourceRules");
    let path = path.field("operations");
    for rule in list(&resources["resourceRules"]) {
        for operation in list(&rule["operations"]) {
            known(errors, operation, &path, &MUTATED_OPERATIONS);
        }
    }
}

fn mutation(errors: &mut Errors, mutation: &Value, path: &Path<'_>) {
    let (wanted, other) = match text(&mutation["patchType"]) {
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "" => return errors.required(&path.field("patchType"), ""),
        odd => {
            let supported = ["ApplyConfiguration", "JSONPatch"];
            return errors.not_supported(&path.field("patchType"), odd, &supported);
        }
    };
    let kind = text(&mutation["patchType"]);
    let wanted_path = path.field(wanted);
    if mutation[wanted].is_null() {
        let why = format!("must be specified when patchType is {kind}");
        errors.required(&wanted_path, &why);
    } else if text(&mutation[wanted]["expression"]).trim().is_empty() {
        errors.required(&wanted_path.field("expression"), "");
    }
    if !mutation[other].is_null() {
        let why = format!("must not be specified when patchType is {kind}");
        errors.invalid(&path.field(other), format!("{{{other}}}"), &why);
    }
}

fn status(policy: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let status = policy.field("status");
    let root = Path::root("status.typeChecking.expressionWarnings");
    let warnings = list(&status["typeChecking"]["expressionWarnings"]);
    for (index, warning) in warnings.iter().enumerate() {
        for field in ["warning", "fieldRef"] {
            if !is_set(&warning[field]) {
                errors.required(&root.index(index).field(field), "");
            }
        }
    }
    conditions::check(
        &mut errors,
        &status["conditions"],
        &Path::root("status.conditions"),
    );
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn policy(change: impl Fn(&mut Value)) -> Object {
        let mut value = json!({"metadata": {"name": "p.example.com"}, "spec": {
            "matchConstraints": {"resourceRules": [{"operations": ["CREATE"],
                "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]},
            "validations": [{"expression": "object.spec.replicas <= 5"}],
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}],
            "reinvocationPolicy": "Never",
        }});
        change(&mut value["spec"]);
        let mut object = Object::from_value(value).unwrap();
        default(&mut object);
        object
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_smallest_policy_is_filled_in_and_valid() {
        let object = policy(|_| {});
        assert_eq!(texts(&validating(&object)), [""; 0]);
        assert_eq!(texts(&mutating(&object)), [""; 0]);
        let spec = object.field("spec");
        assert_eq!(spec["failurePolicy"], "Fail");
        assert_eq!(spec["matchConstraints"]["matchPolicy"], "Equivalent");
        assert_eq!(spec["matchConstraints"]["resourceRules"][0]["scope"], "*");
        assert_eq!(
            row(&object, "validations", Timestamp::UNIX_EPOCH)[2],
            "<unset>"
        );
    }

    #[test]
    fn what_is_wrong_with_a_validating_policy_is_named() {
        let wrong = |change: fn(&mut Value)| texts(&validating(&policy(change)));
        assert_eq!(
            wrong(|s| s["validations"] = json!([])),
            [
                "spec.validations: Required value: validations or auditAnnotations must contain \
                 at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must \
                 contain at least one item",
            ]
        );
        assert_eq!(
            wrong(|s| s["variables"] = json!([{"name": "if", "expression": "1"}])),
            ["spec.variables[0].name: Invalid value: \"if\": name is not a valid CEL identifier"]
        );
        assert_eq!(
            wrong(|s| s["paramKind"] = json!({"apiVersion": "a/b/c"})),
            [
                "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion \
                 string: a/b/c",
                "spec.paramKind.kind: Required value",
            ]
        );
        assert_eq!(
            wrong(|s| s["matchConstraints"] = json!({})),
            ["spec.matchConstraints.resourceRules: Required value"]
        );
        assert_eq!(
            wrong(|s| s["validations"][0]["message"] = "a\nb".into()),
            [
                "spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain \
                 line breaks"
            ]
        );
    }

    #[test]
    fn what_is_wrong_with_a_mutating_policy_is_named() {
        let wrong = |change: fn(&mut Value)| texts(&mutating(&policy(change)));
        assert_eq!(
            wrong(|s| s["mutations"][0]["patchType"] = "ApplyConfiguration".into()),
            [
                "spec.mutations[0].applyConfiguration: Required value: must be specified when \
                 patchType is ApplyConfiguration",
                "spec.mutations[0].jsonPatch: Invalid value: \"{jsonPatch}\": must not be \
                 specified when patchType is ApplyConfiguration",
            ]
        );
        assert_eq!(
            wrong(|s| {
                s["matchConstraints"]["resourceRules"][0]["operations"] = json!(["DELETE"]);
                s["reinvocationPolicy"] = Value::Null;
            }),
            [
                "spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": \
                 supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\"",
                "spec.reinvocationPolicy: Required value",
            ]
        );
    }
}
