//! Mutating and validating admission webhooks (`k8s.io/apiserver/pkg/admission/plugin/webhook`).
//!
//! Mutating webhooks are called one after the other, in the order of their configurations' names,
//! each with what the one before made of the object; validating ones all at once, with the object
//! as it is to be written. A webhook that cannot be called refuses the write or is skipped, as its
//! `failurePolicy` says; one that refuses always does.

mod answer;
mod call;
mod config;

use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::api::codec::{self, Mode};
use crate::api::object::Object;
use crate::api::schema;
use crate::api::status::ApiError;

use super::compiled::Compiled;
use super::notes::Sort;
use super::review::Seen;
use super::{Attributes, Lookup, Operation, Plugin, matching};

use call::Failure;
pub(super) use call::{Caller, resource_of};
use config::Hook;

const MUTATING: &str = "mutatingwebhookconfigurations.admissionregistration.k8s.io";
const VALIDATING: &str = "validatingwebhookconfigurations.admissionregistration.k8s.io";

pub(super) struct MutatingWebhooks {
    lookup: Lookup,
    hooks: Compiled<Vec<Hook>>,
    caller: Caller,
}

pub(super) struct ValidatingWebhooks {
    lookup: Lookup,
    hooks: Compiled<Vec<Hook>>,
    caller: Caller,
}

impl MutatingWebhooks {
    pub(super) fn new(lookup: &Lookup, caller: Caller) -> Self {
        Self {
            lookup: lookup.clone(),
            hooks: Compiled::new(lookup, &[MUTATING], config::compile),
            caller,
        }
    }

    /// Calls the hooks that want the write; says whether one changed the object.
    async fn dispatch(
        &self,
        attributes: &Attributes<'_>,
        mut object: Option<&mut Object>,
    ) -> Result<(), ApiError> {
        let hooks = self.hooks.get();
        let sent = Seen::sent(attributes);
        for (index, hook) in hooks.iter().enumerate() {
            let matched = hook
                .matching
                .matches(&self.lookup, attributes, &sent, object.as_deref())
                .await?;
            let Some(seen) = matched else {
                continue;
            };
            let notes = attributes.notes;
            let id = hook.id();
            if !notes.is_due(Sort::Webhook, &id)
                || !self
                    .caller
                    .conditions_hold(hook, attributes, &seen, object.as_deref())?
            {
                continue;
            }
            let place = format!("round_{}_index_{index}", notes.round());
            let called = self
                .caller
                .call(hook, attributes, (&seen, true), object.as_deref())
                .await;
            let changed = match called {
                Ok(answer) => patch(
                    hook,
                    attributes,
                    &seen,
                    (answer.patch, object.as_deref_mut()),
                ),
                Err(failure) => Err(failure),
            };
            let note = json!({
                "configuration": hook.configuration, "webhook": hook.name,
                "mutated": *changed.as_ref().unwrap_or(&false),
            });
            notes.annotate(
                format!("mutation.webhook.admission.k8s.io/{place}"),
                note.to_string(),
            );
            match changed {
                Ok(changed) => {
                    notes.invoked(Sort::Webhook, &id, (changed, hook.is_reinvoked));
                }
                Err(failure) => {
                    let key = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
                    failure.settle(hook, attributes, key)?;
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for MutatingWebhooks {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        !self.hooks.get().is_empty() && !matching::is_exempt(attributes)
    }

    async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut Object,
    ) -> Result<(), ApiError> {
        let notes = attributes.notes;
        notes.enter(Sort::Webhook, object);
        self.dispatch(attributes, Some(object)).await?;
        notes.leave(Sort::Webhook, object);
        Ok(())
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        _object: Option<&Object>,
    ) -> Result<(), ApiError> {
        // What is not written cannot be changed, but its webhooks may refuse.
        if attributes.operation == Operation::Delete {
            return self.dispatch(attributes, None).await;
        }
        Ok(())
    }
}

impl ValidatingWebhooks {
    pub(super) fn new(lookup: &Lookup, caller: Caller) -> Self {
        Self {
            lookup: lookup.clone(),
            hooks: Compiled::new(lookup, &[VALIDATING], config::compile),
            caller,
        }
    }
}

impl ValidatingWebhooks {
    async fn ask(
        &self,
        (index, hook, seen): (usize, &Hook, &Seen),
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let called = self.caller.call(hook, attributes, (seen, false), object);
        let Err(failure) = called.await else {
            return Ok(());
        };
        let key = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
        failure.settle(hook, attributes, key)
    }
}

#[async_trait]
impl Plugin for ValidatingWebhooks {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        !self.hooks.get().is_empty() && !matching::is_exempt(attributes)
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let hooks = self.hooks.get();
        let sent = Seen::sent(attributes);
        let mut due = Vec::new();
        for hook in hooks.iter() {
            let matched = hook
                .matching
                .matches(&self.lookup, attributes, &sent, object);
            let Some(seen) = matched.await? else {
                continue;
            };
            if self
                .caller
                .conditions_hold(hook, attributes, &seen, object)?
            {
                due.push((hook, seen));
            }
        }
        let mut calls = Vec::new();
        for (index, (hook, seen)) in due.iter().enumerate() {
            calls.push(self.ask((index, hook, seen), attributes, object));
        }
        join_all(calls).await.into_iter().collect()
    }
}

/// Applies a webhook's patch; says whether it changed anything.
fn patch(
    hook: &Hook,
    attributes: &Attributes<'_>,
    seen: &Seen,
    (patch, object): (Option<Value>, Option<&mut Object>),
) -> Result<bool, Failure> {
    let Some(patch) = patch.filter(|patch| patch.as_array().is_some_and(|ops| !ops.is_empty()))
    else {
        return Ok(false);
    };
    let refuse = |error: &dyn std::fmt::Display| Failure::Refused(ApiError::internal(error));
    let Some(object) = object else {
        return Err(refuse(&format!(
            "admission webhook \"{}\" attempted to modify the object, which is not supported for \
             this operation",
            hook.name
        )));
    };
    let before = seen.show(attributes, object).into_owned();
    let operations: json_patch::Patch = serde_json::from_value(patch).map_err(|error| {
        Failure::Call(format!(
            "received undecodable patch in webhook response: {error}"
        ))
    })?;
    let mut value = before.clone().into_value();
    json_patch::patch(&mut value, &operations).map_err(|error| refuse(&error))?;
    let after = settle(seen, value).map_err(Failure::Refused)?;
    let changed = after != before;
    if changed {
        *object = seen.unshow(attributes, after);
    }
    Ok(changed)
}

/// A patched object, as if it had come from a client: decoded and defaulted.
pub(super) fn settle(seen: &Seen, value: Value) -> Result<Object, ApiError> {
    let mut object = match schema::type_for(&seen.kind) {
        Some(ty) => codec::check_patched(value.into(), ty, Mode::Ignore)?.0,
        None => Object::from_value(value).unwrap_or_default(),
    };
    if seen.kind == seen.def.gvk {
        if let Some(custom) = seen.def.rules.custom() {
            custom.prune(&mut object);
        }
        seen.def.rules.default(&mut object);
    }
    Ok(object)
}
