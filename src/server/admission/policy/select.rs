//! Which policies, bindings and parameters have to do with a write
//! (`k8s.io/apiserver/pkg/admission/plugin/policy/generic`).

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::api::gvk::GroupVersionKind;
use crate::api::object::Object;
use crate::api::selector::label::Selector;
use crate::api::status::ApiError;
use crate::server::admission::cel::Scope;
use crate::server::admission::review::{self, Seen};
use crate::server::admission::webhook::resource_of;
use crate::server::admission::{Attributes, Lookup};
use crate::server::authz::Authz;
use crate::server::cacher::Item;
use crate::server::registry::ResourceDef;
use crate::server::storage::keys;

use super::config::{Binding, Policy};

/// Fields of `metadata` that `namespaceObject` shows.
const NAMESPACE_META: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "uid",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "resourceVersion",
    "finalizers",
];

/// A policy by one of its bindings with one parameter.
#[derive(Debug)]
pub(super) struct Invocation<'a> {
    pub(super) policy: &'a Policy,
    pub(super) binding: &'a Binding,
    pub(super) seen: Seen,
    /// Null where the policy has no parameters.
    pub(super) param: Value,
}

/// A policy that cannot be asked; the failure policy decides.
#[derive(Debug)]
pub(super) struct Misconfigured<'a> {
    pub(super) policy: &'a Policy,
    pub(super) binding: Option<&'a Binding>,
    pub(super) why: String,
}

/// Finds what is to be asked.
pub(super) struct Finder<'a> {
    pub(super) lookup: &'a Lookup,
    pub(super) authz: &'a Arc<Authz>,
}

impl Finder<'_> {
    /// Everything to ask about a write, in order.
    pub(super) async fn invocations<'p>(
        &self,
        policies: &'p [Policy],
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(Vec<Invocation<'p>>, Vec<Misconfigured<'p>>), ApiError> {
        let sent = Seen::sent(attributes);
        let (mut found, mut wrong) = (Vec::new(), Vec::new());
        for policy in policies {
            let Some(matching) = &policy.matching else {
                let why = "failed to configure policy: policy contained no match constraints, a \
                           required field";
                wrong.push(Misconfigured {
                    policy,
                    binding: None,
                    why: why.to_owned(),
                });
                continue;
            };
            let seen = matching
                .matches(self.lookup, attributes, &sent, object)
                .await?;
            let Some(seen) = seen else {
                continue;
            };
            for binding in &policy.bindings {
                if let Some(matching) = &binding.matching {
                    let matched = matching.matches(self.lookup, attributes, &sent, object);
                    if matched.await?.is_none() {
                        continue;
                    }
                }
                match self.params(policy, binding, attributes).await? {
                    Ok(params) => found.extend(params.into_iter().map(|param| Invocation {
                        policy,
                        binding,
                        seen: seen.clone(),
                        param,
                    })),
                    Err(why) => wrong.push(Misconfigured {
                        policy,
                        binding: Some(binding),
                        why: format!("failed to configure binding: {why}"),
                    }),
                }
            }
        }
        Ok((found, wrong))
    }

    /// The parameters of a binding; one null where it has none.
    async fn params(
        &self,
        policy: &Policy,
        binding: &Binding,
        attributes: &Attributes<'_>,
    ) -> Result<Result<Vec<Value>, String>, ApiError> {
        let reference = &binding.param_ref;
        let Some((api_version, kind)) =
            policy.param_kind.as_ref().filter(|_| reference.is_object())
        else {
            return Ok(Ok(vec![Value::Null]));
        };
        let wanted = GroupVersionKind::from_api_version(api_version, kind);
        let table = self.lookup.table();
        let Some(def) = table
            .find_kind(&wanted)
            .filter(|def| !def.storage.is_empty())
        else {
            return Ok(Err(format!(
                "paramKind kind `&ParamKind{{APIVersion:{api_version},Kind:{kind},}}` not known"
            )));
        };
        let namespace = match param_namespace(def, reference, attributes) {
            Ok(namespace) => namespace,
            Err(why) => return Ok(Err(why)),
        };
        let items = match self.param_items(def, reference, namespace).await? {
            Ok(items) => items,
            Err(why) => return Ok(Err(why)),
        };
        if items.is_empty() && reference["parameterNotFoundAction"] == "Deny" {
            let why = "no params found for policy binding with `Deny` parameterNotFoundAction";
            return Ok(Err(why.to_owned()));
        }
        let mut params = Vec::with_capacity(items.len());
        for item in items {
            let object = item.object().map_err(ApiError::internal)?;
            params.push(review::from_stored(&object, def).into_value());
        }
        Ok(Ok(params))
    }

    async fn param_items(
        &self,
        def: &ResourceDef,
        reference: &Value,
        namespace: &str,
    ) -> Result<Result<Vec<Arc<Item>>, String>, ApiError> {
        let name = reference["name"].as_str().unwrap_or_default();
        if !name.is_empty() {
            let found = self
                .lookup
                .find(&def.storage, &keys::local(namespace, name))
                .await?;
            return Ok(Ok(found.into_iter().collect()));
        }
        if !reference["selector"].is_object() {
            return Ok(Err("one of name or selector must be provided".to_owned()));
        }
        let selector = match Selector::from_label_selector(&reference["selector"]) {
            Ok(selector) => selector,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let mut items = self.lookup.all_in(&def.storage, namespace);
        items.retain(|item| selector.matches(&item.labels));
        Ok(Ok(items))
    }

    /// The variables of an invocation.
    pub(super) async fn scope(
        &self,
        invocation: &Invocation<'_>,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<Scope, ApiError> {
        let seen = &invocation.seen;
        let shown = |object: Option<&Object>| {
            object.map_or(Value::Null, |object| {
                seen.show(attributes, object).into_owned().into_value()
            })
        };
        let request = review::request(attributes, seen);
        let mut scope = Scope::new(&shown(object), &shown(attributes.old), &request);
        scope.set_authorizer(self.authz, attributes.user, resource_of(attributes));
        if invocation.policy.param_kind.is_some() {
            scope.set("params", &invocation.param);
        }
        let namespace = self.namespace(attributes.namespace).await?;
        scope.set("namespaceObject", &namespace);
        Ok(scope)
    }

    /// `namespaceObject`; null for cluster-scoped objects.
    async fn namespace(&self, name: &str) -> Result<Value, ApiError> {
        if name.is_empty() {
            return Ok(Value::Null);
        }
        let found = self.lookup.find("namespaces", name).await?;
        let found = found.ok_or_else(|| ApiError::not_found("", "namespaces", name))?;
        let namespace = found.object().map_err(ApiError::internal)?;
        let meta = namespace.metadata().into_iter().flatten();
        let meta: Map<String, Value> = meta
            .filter(|(field, _)| NAMESPACE_META.contains(&field.as_str()))
            .map(|(field, value)| (field.clone(), value.clone()))
            .collect();
        Ok(json!({
            "metadata": meta, "spec": namespace.field("spec"),
            "status": namespace.field("status"),
        }))
    }
}

/// Sets `variables`, in their order.
pub(super) fn set_variables(scope: &mut Scope, policy: &Policy) {
    scope.clear_variables();
    for (name, expression) in &policy.variables {
        scope.set_variable(name, expression);
    }
}

fn param_namespace<'a>(
    def: &ResourceDef,
    reference: &'a Value,
    attributes: &Attributes<'a>,
) -> Result<&'a str, String> {
    let said = reference["namespace"].as_str().unwrap_or_default();
    if !def.is_namespaced() {
        return match said {
            "" => Ok(""),
            _ => Err(
                "paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into(),
            ),
        };
    }
    match (said, review::namespace(attributes)) {
        ("", "") => Err(
            "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                .to_owned(),
        ),
        ("", own) => Ok(own),
        (said, _) => Ok(said),
    }
}
