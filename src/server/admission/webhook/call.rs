//! Asking one webhook about one write.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::admission::Attributes;
use crate::server::admission::cel::Scope;
use crate::server::admission::review::{self, Seen};
use crate::server::authz::Authz;
use crate::server::request::RequestInfo;
use crate::server::webhook::Webhooks;
use crate::util::rng::Rng;

use super::answer::{self, Answer};
use super::config::Hook;

/// Calls webhooks; set once their connections can be made.
#[derive(Clone)]
pub(in crate::server::admission) struct Caller {
    webhooks: Arc<OnceLock<Webhooks>>,
    authz: Arc<Authz>,
    rng: Rng,
}

/// Why a webhook does not let a write pass.
#[derive(Debug)]
pub(super) enum Failure {
    /// It could not be asked, or its answer makes no sense: the failure policy decides.
    Call(String),
    /// It refuses, or what it wants cannot be done.
    Refused(ApiError),
}

impl Failure {
    /// What becomes of the write; `key` annotates a failure that lets it pass.
    pub(super) fn settle(
        self,
        hook: &Hook,
        attributes: &Attributes<'_>,
        key: String,
    ) -> Result<(), ApiError> {
        let why = match self {
            Failure::Refused(error) => return Err(error),
            Failure::Call(why) => why,
        };
        let (name, configuration) = (&hook.name, &hook.configuration);
        let text = format!("failed calling webhook \"{name}\": {why}");
        if !hook.fails_open {
            tracing::warn!(%name, %configuration, %why, "webhook failed, request refused");
            return Err(ApiError::internal(text));
        }
        tracing::warn!(%name, %configuration, %why, "webhook failed and is ignored");
        attributes.notes.annotate(key, name.as_str());
        Ok(())
    }
}

impl Caller {
    pub(in crate::server::admission) fn new(
        webhooks: Arc<OnceLock<Webhooks>>,
        authz: Arc<Authz>,
        rng: Rng,
    ) -> Self {
        Self {
            webhooks,
            authz,
            rng,
        }
    }

    /// Whether the hook's match conditions let it be asked.
    pub(super) fn conditions_hold(
        &self,
        hook: &Hook,
        attributes: &Attributes<'_>,
        seen: &Seen,
        object: Option<&Object>,
    ) -> Result<bool, ApiError> {
        if hook.conditions.is_empty() {
            return Ok(true);
        }
        let shown = |object: Option<&Object>| shown(attributes, seen, object);
        let request = review::request(attributes, seen);
        let mut scope = Scope::new(&shown(object), &shown(attributes.old), &request);
        scope.set_authorizer(&self.authz, attributes.user, resource_of(attributes));
        let held = hook.conditions.hold(&scope, hook.fails_open);
        held.map_err(|why| attributes.forbidden(&why))
    }

    /// Asks; an answer that is returned allows the write.
    pub(super) async fn call(
        &self,
        hook: &Hook,
        attributes: &Attributes<'_>,
        (seen, is_mutating): (&Seen, bool),
        object: Option<&Object>,
    ) -> Result<Answer, Failure> {
        if attributes.dry_run && !hook.is_harmless {
            return Err(Failure::Refused(ApiError::bad_request(format!(
                "admission webhook \"{}\" does not support dry run",
                hook.name
            ))));
        }
        let Some(api_version) = hook.version else {
            let why = "could not create admission objects: webhook does not accept known \
                       AdmissionReview versions (v1, v1beta1)";
            return Err(Failure::Call(why.to_owned()));
        };
        let place = hook
            .place
            .as_ref()
            .map_err(|why| Failure::Call(format!("could not get REST client: {why}")))?;
        let uid = self.rng.uid();
        let mut request = review::request(attributes, seen);
        request["uid"] = uid.as_str().into();
        request["object"] = shown(attributes, seen, object);
        request["oldObject"] = shown(attributes, seen, attributes.old);
        let review = json!({
            "kind": "AdmissionReview", "apiVersion": api_version, "request": request,
        });
        let failed = |why: String| Failure::Call(format!("failed to call webhook: {why}"));
        let Some(webhooks) = self.webhooks.get() else {
            return Err(failed("the server is starting".to_owned()));
        };
        let body = review.to_string().into();
        let answered = webhooks.post(place, body, hook.timeout).await;
        let answered = answered.map_err(|error| failed(error.to_string()))?;
        let answer = answer::read(&answered, (&uid, api_version), is_mutating);
        let answer = answer.map_err(|why| {
            let is_patch =
                why.starts_with("received undecodable") || why.starts_with("unsupported");
            Failure::Call(match is_patch {
                true => why,
                false => format!("received invalid webhook response: {why}"),
            })
        })?;
        let notes = attributes.notes;
        notes.warn(answer.warnings.iter().cloned());
        for (key, value) in &answer.annotations {
            notes.annotate(format!("{}/{key}", hook.name), value.as_str());
        }
        if !answer.allowed {
            return Err(Failure::Refused(answer::refusal(
                &hook.name,
                &answer.status,
            )));
        }
        Ok(answer)
    }
}

fn shown(attributes: &Attributes<'_>, seen: &Seen, object: Option<&Object>) -> Value {
    object.map_or(Value::Null, |object| {
        seen.show(attributes, object).into_owned().into_value()
    })
}

/// What `authorizer.requestResource` asks about.
pub(in crate::server::admission) fn resource_of(attributes: &Attributes<'_>) -> RequestInfo {
    let gvr = &attributes.def.gvr;
    RequestInfo {
        is_resource: true,
        group: gvr.group.clone(),
        version: gvr.version.clone(),
        resource: gvr.resource.clone(),
        subresource: attributes.subresource.to_owned(),
        namespace: review::namespace(attributes).to_owned(),
        name: attributes.name.to_owned(),
        ..RequestInfo::default()
    }
}
