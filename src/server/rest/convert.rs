//! Custom objects in another version than they are stored in, where a webhook has to be asked
//! (`apiextensions-apiserver/pkg/apiserver/conversion`).
//!
//! Where only `apiVersion` differs, rendering does it; everything here then hands back what it
//! got.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::registry::ResourceDef;
use crate::server::storage::codec;
use crate::server::webhook::{Hook, Webhooks};
use crate::util::rng::Rng;

/// As upstream.
const TIMEOUT: Duration = Duration::from_secs(30);
const REVIEW: &str = "apiextensions.k8s.io/v1";

/// Asks conversion webhooks. Clones share the connections.
#[derive(Clone, Debug)]
pub(super) struct Converter(Arc<(OnceLock<Webhooks>, Rng)>);

impl Converter {
    pub(super) fn new(rng: Rng) -> Self {
        Self(Arc::new((OnceLock::new(), rng)))
    }

    /// Says how webhooks are called. Counts once.
    pub(super) fn set_webhooks(&self, webhooks: Webhooks) {
        // A second call would be a mistake of the wiring; the first stays.
        let _ = self.0.0.set(webhooks);
    }

    /// One stored object, ready to be rendered.
    pub(super) async fn served(&self, def: &ResourceDef, stored: Bytes) -> Result<Bytes, ApiError> {
        if hook(def).is_none() {
            return Ok(stored);
        }
        let mut all = self.all_served(def, vec![stored]).await?;
        all.pop()
            .ok_or_else(|| ApiError::internal("nothing was converted"))
    }

    /// Stored objects, ready to be rendered; those of another version in one question.
    pub(super) async fn all_served(
        &self,
        def: &ResourceDef,
        mut stored: Vec<Bytes>,
    ) -> Result<Vec<Bytes>, ApiError> {
        let Some(config) = hook(def) else {
            return Ok(stored);
        };
        let wanted = def.gvk.api_version();
        let (mut places, mut objects) = (Vec::new(), Vec::new());
        for (place, bytes) in stored.iter().enumerate() {
            let object = codec::parse(bytes);
            let object = object.map_err(|_| ApiError::internal("stored object is not readable"))?;
            if object.api_version() != wanted {
                places.push(place);
                objects.push(object);
            }
        }
        if objects.is_empty() {
            return Ok(stored);
        }
        let converted = self.ask(def, config, &wanted, objects).await?;
        for (place, object) in places.into_iter().zip(converted) {
            let bytes = serde_json::to_vec(&object.0);
            stored[place] = bytes.map_err(ApiError::internal)?.into();
        }
        Ok(stored)
    }

    /// A stored object in the version of the request.
    pub(super) async fn to_served(
        &self,
        def: &ResourceDef,
        object: Object,
    ) -> Result<Object, ApiError> {
        self.to(def, def.gvk.api_version(), object).await
    }

    /// An object in the version it is to be stored in.
    pub(super) async fn to_stored(
        &self,
        def: &ResourceDef,
        object: Object,
    ) -> Result<Object, ApiError> {
        self.to(def, def.stored.api_version(), object).await
    }

    async fn to(
        &self,
        def: &ResourceDef,
        wanted: String,
        object: Object,
    ) -> Result<Object, ApiError> {
        let Some(config) = hook(def).filter(|_| object.api_version() != wanted) else {
            return Ok(object);
        };
        let mut all = self.ask(def, config, &wanted, vec![object]).await?;
        all.pop()
            .ok_or_else(|| ApiError::internal("nothing was converted"))
    }

    async fn ask(
        &self,
        def: &ResourceDef,
        config: &Value,
        wanted: &str,
        objects: Vec<Object>,
    ) -> Result<Vec<Object>, ApiError> {
        let (webhooks, rng) = &*self.0;
        let from = objects
            .first()
            .map(|object| object.api_version().to_owned());
        let from = format!("{}, Kind={}", from.unwrap_or_default(), def.gvk.kind);
        let failed = |why: &dyn std::fmt::Display| {
            ApiError::plain(
                500,
                "",
                format!("conversion webhook for {from} failed: {why}"),
            )
        };
        let webhooks = webhooks
            .get()
            .ok_or_else(|| failed(&"no webhook can be called yet"))?;
        let hook = Hook::from_value(config).map_err(|error| failed(&error))?;
        let uid = rng.uid();
        let sent: Vec<&Map<String, Value>> = objects.iter().map(|object| &object.0).collect();
        let review = json!({
            "kind": "ConversionReview", "apiVersion": REVIEW,
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": sent},
        });
        let body = serde_json::to_vec(&review).map_err(ApiError::internal)?;
        let answer = webhooks.post(&hook, body.into(), TIMEOUT).await;
        let answer = answer.map_err(|error| failed(&error))?;
        let converted = read(&answer, &uid).map_err(|why| failed(&why))?;
        checked(&objects, converted, wanted)
            .map_err(|why| ApiError::plain(500, "", format!("conversion webhook for {from} {why}")))
    }
}

fn hook(def: &ResourceDef) -> Option<&Value> {
    def.rules.custom()?.webhook.as_ref()
}

/// The objects of an answer.
fn read(answer: &Value, uid: &str) -> Result<Vec<Value>, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if answer["apiVersion"] != REVIEW || answer["kind"] != "ConversionReview" {
        return Err(format!(
            "invalid response: expected webhook response of {REVIEW}, Kind=ConversionReview, got \
             {}, Kind={}",
            text(&answer["apiVersion"]),
            text(&answer["kind"])
        ));
    }
    let response = &answer["response"];
    if response.is_null() {
        return Err("invalid response: no response provided".to_owned());
    }
    if response["uid"] != uid {
        let got = text(&response["uid"]);
        return Err(format!(
            "invalid response: expected response.uid={uid:?}, got {got:?}"
        ));
    }
    let result = &response["result"];
    match result["status"].as_str().unwrap_or_default() {
        "Success" => {}
        "" => return Err("invalid response: response.result.status must be set".to_owned()),
        _ => {
            return Err(match text(&result["message"]) {
                message if message.is_empty() => text(&result["reason"]),
                message => message,
            });
        }
    }
    Ok(response["convertedObjects"]
        .as_array()
        .cloned()
        .unwrap_or_default())
}

/// What may have changed is taken, what may not is put back.
fn checked(asked: &[Object], converted: Vec<Value>, wanted: &str) -> Result<Vec<Object>, String> {
    if asked.len() != converted.len() {
        let (got, expected) = (converted.len(), asked.len());
        return Err(format!("returned {got} objects, expected {expected}"));
    }
    let pairs = asked.iter().zip(converted).enumerate();
    pairs
        .map(|(at, (asked, got))| {
            let wrong =
                |why: String| format!("returned invalid converted object at index {at}: {why}");
            let got = Object::from_value(got).ok_or_else(|| wrong("not an object".to_owned()))?;
            if got.api_version() != wanted {
                let version = got.api_version();
                return Err(wrong(format!(
                    "invalid groupVersion (expected {wanted}, received {version})"
                )));
            }
            if got.kind() != asked.kind() {
                let (expected, kind) = (asked.kind(), got.kind());
                return Err(wrong(format!(
                    "invalid kind (expected {expected}, received {kind})"
                )));
            }
            for field in ["name", "namespace", "uid"] {
                if got.meta(field) != asked.meta(field) {
                    return Err(wrong(format!(
                        "must have the same {field}: {:?} != {:?}",
                        got.meta(field),
                        asked.meta(field)
                    )));
                }
            }
            Ok(restored(got, asked))
        })
        .collect()
}

/// Of the metadata a webhook changes labels and annotations only.
fn restored(mut got: Object, asked: &Object) -> Object {
    let mut meta = asked.metadata().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        match got.metadata().and_then(|meta| meta.get(field)).cloned() {
            Some(value) => meta.insert(field.to_owned(), value),
            None => meta.remove(field),
        };
    }
    *got.metadata_mut() = meta;
    got
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str, name: &str) -> Object {
        Object::from_value(json!({"apiVersion": version, "kind": "Foo",
            "metadata": {"name": name, "uid": "u", "resourceVersion": "7"}}))
        .unwrap()
    }

    #[test]
    fn answers_are_read_and_their_failures_told() {
        let answer = |response: Value| json!({"apiVersion": REVIEW, "kind": "ConversionReview", "response": response});
        let success =
            json!({"uid": "1", "result": {"status": "Success"}, "convertedObjects": [{}]});
        assert_eq!(read(&answer(success.clone()), "1").unwrap().len(), 1);
        assert!(
            read(&answer(success), "2")
                .unwrap_err()
                .contains("response.uid=\"2\"")
        );
        let failure = json!({"uid": "1", "result": {"status": "Failed", "message": "no"}});
        assert_eq!(read(&answer(failure), "1").unwrap_err(), "no");
        assert!(read(&json!({}), "1").unwrap_err().contains("got , Kind="));
    }

    #[test]
    fn a_webhook_may_not_change_what_an_object_is() {
        let asked = [object("a/v1", "x")];
        let mut good = object("a/v2", "x").into_value();
        good["metadata"] = json!({"name": "x", "uid": "u", "labels": {"l": "m"}});
        let taken = checked(&asked, vec![good], "a/v2").unwrap();
        assert_eq!(taken[0].resource_version(), "7");
        assert_eq!(taken[0].text_at(&["metadata", "labels", "l"]), "m");
        let other = object("a/v2", "y").into_value();
        assert!(
            checked(&asked, vec![other], "a/v2")
                .unwrap_err()
                .contains("the same name")
        );
        let stale = object("a/v1", "x").into_value();
        assert!(
            checked(&asked, vec![stale], "a/v2")
                .unwrap_err()
                .contains("invalid groupVersion")
        );
        assert!(
            checked(&asked, vec![], "a/v2")
                .unwrap_err()
                .contains("expected 1")
        );
    }
}
