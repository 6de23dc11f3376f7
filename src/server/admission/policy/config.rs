//! Policies and their bindings, read once after a change. One form serves both sorts: a validating
//! policy has validations, a mutating one mutations.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::server::admission::cel::{Conditions, Expression};
use crate::server::admission::matching::Match;
use crate::server::cacher::Item;

#[derive(Debug)]
pub(super) struct Policy {
    pub(super) name: String,
    /// `None`: `matchConstraints` is missing.
    pub(super) matching: Option<Match>,
    /// `apiVersion` and `kind`.
    pub(super) param_kind: Option<(String, String)>,
    pub(super) conditions: Conditions,
    pub(super) variables: Vec<(String, Expression)>,
    pub(super) validations: Vec<Validation>,
    /// Keys and their values.
    pub(super) annotations: Vec<(String, Expression)>,
    pub(super) mutations: Vec<Mutation>,
    /// `failurePolicy: Ignore`
    pub(super) fails_open: bool,
    /// `reinvocationPolicy: IfNeeded`
    pub(super) is_reinvoked: bool,
    pub(super) bindings: Vec<Binding>,
}

#[derive(Debug)]
pub(super) struct Binding {
    pub(super) name: String,
    /// `None`: everything the policy matches.
    pub(super) matching: Option<Match>,
    /// `paramRef`; null where there is none.
    pub(super) param_ref: Value,
    /// `Deny`, `Warn`, `Audit`.
    pub(super) actions: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Validation {
    pub(super) expression: Expression,
    pub(super) message: String,
    pub(super) message_expression: Option<Expression>,
    /// Empty: `Invalid`.
    pub(super) reason: String,
}

#[derive(Debug)]
pub(super) enum Mutation {
    Apply(Expression),
    JsonPatch(Expression),
}

/// The policies that have bindings, by name; `objects` are policies and bindings.
pub(super) fn compile(objects: &[Vec<Arc<Item>>]) -> Vec<Policy> {
    let [policies, bindings] = objects else {
        return Vec::new();
    };
    let mut bound: BTreeMap<String, Vec<Binding>> = BTreeMap::new();
    for item in bindings {
        let Ok(object) = item.object() else {
            continue;
        };
        let spec = object.field("spec");
        let policy = spec["policyName"].as_str().unwrap_or_default().to_owned();
        bound
            .entry(policy)
            .or_default()
            .push(binding(item.name(), spec));
    }
    let policies = policies.iter().filter_map(|item| {
        let bindings = bound.remove(item.name())?;
        let object = item.object().ok()?;
        Some(policy(item.name(), object.field("spec"), bindings))
    });
    policies.collect()
}

pub(super) fn binding(name: &str, spec: &Value) -> Binding {
    let matching = &spec["matchResources"];
    let actions = spec["validationActions"].as_array().into_iter().flatten();
    Binding {
        name: name.to_owned(),
        matching: matching.is_object().then(|| Match::of_policy(matching)),
        param_ref: spec["paramRef"].clone(),
        actions: actions
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
    }
}

pub(super) fn policy(name: &str, spec: &Value, bindings: Vec<Binding>) -> Policy {
    let matching = &spec["matchConstraints"];
    let list = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let expression = |value: &Value| Expression::compile(value.as_str().unwrap_or_default());
    let named = |field: &str, key: &str, source: &str| {
        let entries = list(field);
        let entries = entries.iter();
        entries
            .map(|entry| (text(&entry[key]), expression(&entry[source])))
            .collect()
    };
    let param_kind = &spec["paramKind"];
    Policy {
        name: name.to_owned(),
        matching: matching.is_object().then(|| Match::of_policy(matching)),
        param_kind: param_kind
            .is_object()
            .then(|| (text(&param_kind["apiVersion"]), text(&param_kind["kind"]))),
        conditions: Conditions::of(&spec["matchConditions"]),
        variables: named("variables", "name", "expression"),
        validations: list("validations").iter().map(validation).collect(),
        annotations: named("auditAnnotations", "key", "valueExpression"),
        mutations: list("mutations").iter().map(mutation).collect(),
        fails_open: spec["failurePolicy"] == "Ignore",
        is_reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
        bindings,
    }
}

fn validation(entry: &Value) -> Validation {
    let text = |field: &str| entry[field].as_str().unwrap_or_default();
    let message_expression = text("messageExpression");
    Validation {
        expression: Expression::compile(text("expression")),
        message: text("message").to_owned(),
        message_expression: (!message_expression.is_empty())
            .then(|| Expression::compile(message_expression)),
        reason: text("reason").to_owned(),
    }
}

fn mutation(entry: &Value) -> Mutation {
    let source = |field: &str| entry[field]["expression"].as_str().unwrap_or_default();
    match entry["patchType"].as_str() {
        Some("JSONPatch") => Mutation::JsonPatch(Expression::compile(source("jsonPatch"))),
        _ => Mutation::Apply(Expression::compile(source("applyConfiguration"))),
    }
}
