//! MutatingAdmissionPolicy: expressions that change the object, by what they apply to it or by JSON
//! patches.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::api::apply;
use crate::api::object::Object;
use crate::api::schema;
use crate::api::status::ApiError;
use crate::server::admission::cel::{Expression, Outcome, Scope};
use crate::server::admission::compiled::Compiled;
use crate::server::admission::notes::Sort;
use crate::server::admission::review::Seen;
use crate::server::admission::webhook::settle;
use crate::server::admission::{Attributes, Lookup, Plugin, matching};
use crate::server::authz::Authz;

use super::config::{self, Mutation, Policy};
use super::select::{Finder, Invocation, set_variables};

const STORAGES: &[&str] = &[
    "mutatingadmissionpolicies.admissionregistration.k8s.io",
    "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
];

pub(in crate::server::admission) struct MutatingPolicies {
    lookup: Lookup,
    authz: Arc<Authz>,
    policies: Compiled<Vec<Policy>>,
}

impl MutatingPolicies {
    pub(in crate::server::admission) fn new(lookup: &Lookup, authz: &Arc<Authz>) -> Self {
        Self {
            lookup: lookup.clone(),
            authz: Arc::clone(authz),
            policies: Compiled::new(lookup, STORAGES, config::compile),
        }
    }

    async fn dispatch(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        let policies = self.policies.get();
        let finder = Finder {
            lookup: &self.lookup,
            authz: &self.authz,
        };
        let found = finder
            .invocations(&policies, attributes, Some(&*object))
            .await?;
        let (invocations, wrong) = found;
        let mut failures: Vec<(&Policy, Option<&str>, String)> = wrong
            .into_iter()
            .map(|broken| (broken.policy, broken.binding.map(|b| &*b.name), broken.why))
            .collect();
        for invocation in &invocations {
            let scope = finder.scope(invocation, attributes, Some(&*object)).await?;
            if let Err(why) = invoke(invocation, attributes, (&mut *object, scope)) {
                failures.push((invocation.policy, Some(&invocation.binding.name), why));
            }
        }
        failures.retain(|(policy, ..)| !policy.fails_open);
        let Some((policy, binding, why)) = failures.first() else {
            return Ok(());
        };
        let policy = &policy.name;
        let message = match binding {
            Some(binding) => {
                format!("policy '{policy}' with binding '{binding}' denied request: {why}")
            }
            None => format!("policy '{policy}' denied request: {why}"),
        };
        let mut error = super::denied(attributes, &message, "");
        error.message = message;
        Err(error)
    }
}

#[async_trait]
impl Plugin for MutatingPolicies {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        !self.policies.get().is_empty() && !matching::is_exempt(attributes)
    }

    async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        attributes.notes.enter(Sort::Policy, object);
        self.dispatch(attributes, object).await?;
        attributes.notes.leave(Sort::Policy, object);
        Ok(())
    }
}

/// Lets one policy change the object.
fn invoke(
    invocation: &Invocation<'_>,
    attributes: &Attributes<'_>,
    (object, mut scope): (&mut Object, Scope),
) -> Result<(), String> {
    let policy = invocation.policy;
    if !policy.conditions.hold(&scope, policy.fails_open)? {
        return Ok(());
    }
    let param = &invocation.param["metadata"];
    let id = format!(
        "{}/{}/{}/{}",
        policy.name, invocation.binding.name, param["namespace"], param["name"]
    );
    if !attributes.notes.is_due(Sort::Policy, &id) {
        return Ok(());
    }
    let seen = &invocation.seen;
    let before = seen.show(attributes, object).into_owned();
    let mut current = before.clone();
    let mut failed = None;
    for mutation in &policy.mutations {
        set_variables(&mut scope, policy);
        match mutate(mutation, &scope, seen, &current) {
            Ok(changed) => {
                scope.set_object(&changed.clone().into_value());
                current = changed;
            }
            Err(why) => {
                failed.get_or_insert(why);
            }
        }
    }
    let is_changed = current != before;
    if is_changed {
        *object = seen.unshow(attributes, current);
    }
    let state = (is_changed, policy.is_reinvoked);
    attributes.notes.invoked(Sort::Policy, &id, state);
    failed.map_or(Ok(()), Err)
}

fn mutate(
    mutation: &Mutation,
    scope: &Scope,
    seen: &Seen,
    object: &Object,
) -> Result<Object, String> {
    let patched = match mutation {
        Mutation::Apply(expression) => apply_configuration(expression, scope, seen, object)?,
        Mutation::JsonPatch(expression) => match json_patched(expression, scope, object)? {
            Some(patched) => patched,
            // A test did not hold: the patch is not for this object.
            None => return Ok(object.clone()),
        },
    };
    settle(seen, patched).map_err(|error| error.message)
}

fn apply_configuration(
    expression: &Expression,
    scope: &Scope,
    seen: &Seen,
    object: &Object,
) -> Result<Value, String> {
    let Outcome::Json(Value::Object(config)) = expression.evaluate(scope)? else {
        return Err("unsupported return type from ApplyConfiguration expression".to_owned());
    };
    let mut config = Object(config);
    for field in ["apiVersion", "kind"] {
        config.0.insert(field.into(), object.field(field).clone());
    }
    let ty = schema::type_for(&seen.kind).ok_or_else(|| {
        let kind = &seen.kind;
        format!(
            "Resource kind {}, Kind={} not found",
            kind.api_version(),
            kind.kind
        )
    })?;
    let merged = apply::overlay(object, &config, ty);
    let merged = merged.map_err(|why| format!("error applying patch: {why}"))?;
    Ok(merged.into_value())
}

/// `None`: a `test` of the patch does not hold.
fn json_patched(
    expression: &Expression,
    scope: &Scope,
    object: &Object,
) -> Result<Option<Value>, String> {
    let Outcome::Json(patch @ Value::Array(_)) = expression.evaluate(scope)? else {
        let why = "type mismatch: JSONPatchType.expression should evaluate to array";
        return Err(why.to_owned());
    };
    let patch: json_patch::Patch =
        serde_json::from_value(patch).map_err(|error| format!("JSON Patch: {error}"))?;
    let mut value = object.clone().into_value();
    match json_patch::patch(&mut value, &patch) {
        Ok(()) => Ok(Some(value)),
        Err(error) if matches!(error.kind, json_patch::PatchErrorKind::TestFailed) => Ok(None),
        Err(error) => Err(format!("JSON Patch: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::admission::testing::Asked;
    use serde_json::json;

    fn mutated(mutation: Value) -> Result<Value, String> {
        let asked = Asked::new("pods", "default", "p");
        let attributes = asked.attributes();
        let seen = Seen::sent(&attributes);
        let object = Object::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "a", "image": "x"}]},
        }))
        .unwrap();
        let spec = json!({"mutations": [mutation]});
        let policy = config::policy("p", &spec, Vec::new());
        let scope = Scope::new(&object.clone().into_value(), &Value::Null, &json!({}));
        let mutated = mutate(&policy.mutations[0], &scope, &seen, &object)?;
        Ok(mutated.into_value())
    }

    #[test]
    fn objects_are_applied_to_and_patched() {
        let applied = mutated(json!({
            "patchType": "ApplyConfiguration",
            "applyConfiguration": {"expression": "Object{
                metadata: Object.metadata{labels: {'app': object.metadata.name}},
                spec: Object.spec{initContainers: [
                    Object.spec.initContainers{name: 'mesh', image: 'm', restartPolicy: 'Always'}
                ]}
            }"},
        }))
        .unwrap();
        assert_eq!(applied["metadata"]["labels"]["app"], "p");
        assert_eq!(applied["spec"]["containers"][0]["image"], "x");
        assert_eq!(
            applied["spec"]["initContainers"][0]["restartPolicy"],
            "Always"
        );
        let patched = mutated(json!({
            "patchType": "JSONPatch",
            "jsonPatch": {"expression": "[
                JSONPatch{op: 'test', path: '/spec/containers/0/name', value: 'a'},
                JSONPatch{op: 'add', path: '/metadata/labels', value: {}},
                JSONPatch{op: 'add', path: '/metadata/labels/' +
                    jsonpatch.escapeKey('example.com/env'), value: 'test'}
            ]"},
        }))
        .unwrap();
        assert_eq!(patched["metadata"]["labels"]["example.com/env"], "test");
        let untested = mutated(json!({
            "patchType": "JSONPatch",
            "jsonPatch": {"expression": "[
                JSONPatch{op: 'test', path: '/spec/containers/0/name', value: 'b'},
                JSONPatch{op: 'remove', path: '/spec/containers/0'}
            ]"},
        }));
        assert_eq!(untested.unwrap()["spec"]["containers"][0]["name"], "a");
        let whole = mutated(json!({
            "patchType": "ApplyConfiguration",
            "applyConfiguration": {"expression":
                "Object{spec: Object.spec{containers: [Object.spec.containers{name: 'a', \
                 command: ['x']}]}}"},
        }));
        assert!(whole.unwrap_err().contains("may not mutate atomic"));
    }
}
