//! What a webhook answered, checked (`k8s.io/apiserver/pkg/admission/plugin/webhook/request`).

use base64::Engine;
use serde_json::Value;

use crate::api::status::ApiError;

/// A valid `AdmissionResponse`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    /// `status` of the response.
    pub(super) status: Value,
    /// JSON patch.
    pub(super) patch: Option<Value>,
    pub(super) warnings: Vec<String>,
    pub(super) annotations: Vec<(String, String)>,
}

/// Reads the answer to the request `uid`, sent in `api_version`.
///
/// Errors: what is wrong with it, in upstream's words.
pub(super) fn read(
    review: &Value,
    (uid, api_version): (&str, &str),
    is_mutating: bool,
) -> Result<Answer, String> {
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let is_v1 = api_version.ends_with("/v1");
    if is_v1 {
        check_v1(review, uid, api_version)?;
    }
    let patch = response["patch"].as_str().filter(|patch| !patch.is_empty());
    let patch_type = response["patchType"].as_str();
    if is_v1 && is_mutating {
        match (patch, patch_type) {
            (Some(_), None) => {
                return Err("webhook returned response.patch but not response.patchType".to_owned());
            }
            (None, Some(_)) => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            (Some(_), Some("")) => {
                return Err("webhook returned invalid response.patchType of \"\"".to_owned());
            }
            _ => {}
        }
    } else if is_v1 {
        if patch.is_some() {
            return Err("validating webhook may not return response.patch".to_owned());
        }
        if patch_type.is_some() {
            return Err("validating webhook may not return response.patchType".to_owned());
        }
    }
    let patch = match patch.filter(|_| is_mutating) {
        Some(_) if is_v1 && patch_type != Some("JSONPatch") => {
            let kind = patch_type.unwrap_or_default();
            return Err(format!("unsupported patch type \"{kind}\""));
        }
        Some(patch) => Some(decode(patch)?),
        None => None,
    };
    let texts = response["warnings"].as_array().into_iter().flatten();
    let annotations = response["auditAnnotations"]
        .as_object()
        .into_iter()
        .flatten();
    Ok(Answer {
        allowed: response["allowed"].as_bool().unwrap_or(false),
        status: response["status"].clone(),
        patch,
        warnings: texts.filter_map(Value::as_str).map(str::to_owned).collect(),
        annotations: annotations
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect(),
    })
}

fn check_v1(review: &Value, uid: &str, api_version: &str) -> Result<(), String> {
    let said = review["response"]["uid"].as_str().unwrap_or_default();
    if said != uid {
        return Err(format!("expected response.uid=\"{uid}\", got \"{said}\""));
    }
    let text = |field: &str| review[field].as_str().unwrap_or_default();
    if text("apiVersion") != api_version || text("kind") != "AdmissionReview" {
        return Err(format!(
            "expected webhook response of {api_version}, Kind=AdmissionReview, got {}, Kind={}",
            text("apiVersion"),
            text("kind")
        ));
    }
    Ok(())
}

fn decode(patch: &str) -> Result<Value, String> {
    let undecodable =
        |error: String| format!("received undecodable patch in webhook response: {error}");
    let bytes = base64::engine::general_purpose::STANDARD.decode(patch);
    let bytes = bytes.map_err(|error| undecodable(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| undecodable(error.to_string()))
}

/// The refusal of a webhook as the client reads it.
pub(super) fn refusal(hook: &str, status: &Value) -> ApiError {
    let denied = format!("admission webhook \"{hook}\" denied the request");
    let text = |field: &str| status[field].as_str().unwrap_or_default();
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", why) | (why, _) => format!("{denied}: {why}"),
    };
    let code = status["code"]
        .as_u64()
        .and_then(|code| u16::try_from(code).ok());
    let code = code.filter(|code| *code >= 400).unwrap_or(400);
    let mut error = ApiError::from_status(code, status);
    error.message = message;
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const V1: &str = "admission.k8s.io/v1";

    fn review(response: Value) -> Value {
        json!({"apiVersion": V1, "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn answers_are_checked_as_upstream_does() {
        let table = [
            (json!({"uid": "u", "allowed": true}), true, None),
            (
                json!({"uid": "x", "allowed": true}),
                true,
                Some("expected response.uid=\"u\", got \"x\""),
            ),
            (
                json!({"uid": "u", "allowed": true, "patch": "W10="}),
                true,
                Some("webhook returned response.patch but not response.patchType"),
            ),
            (
                json!({"uid": "u", "allowed": true, "patch": "W10=", "patchType": "JSONPatch"}),
                false,
                Some("validating webhook may not return response.patch"),
            ),
            (Value::Null, true, Some("webhook response was absent")),
        ];
        for (response, is_mutating, wrong) in table {
            let read = read(&review(response), ("u", V1), is_mutating);
            assert_eq!(read.err().as_deref(), wrong);
        }
        let other = json!({"apiVersion": "v1", "kind": "Pod", "response": {"uid": "u"}});
        assert_eq!(
            read(&other, ("u", V1), true).unwrap_err(),
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got v1, \
             Kind=Pod"
        );
        let patched = review(json!({
            "uid": "u", "allowed": true, "patchType": "JSONPatch",
            "patch": "W3sib3AiOiJyZW1vdmUiLCJwYXRoIjoiL2EifV0=",
            "warnings": ["w"], "auditAnnotations": {"k": "v"},
        }));
        let answer = read(&patched, ("u", V1), true).unwrap();
        assert_eq!(answer.patch, Some(json!([{"op": "remove", "path": "/a"}])));
        assert_eq!(answer.warnings, ["w"]);
        assert_eq!(answer.annotations, [("k".to_owned(), "v".to_owned())]);
    }

    #[test]
    fn refusals_say_who_and_why() {
        let table = [
            (json!({"message": "no", "code": 418}), 418, ": no"),
            (
                json!({"reason": "Forbidden", "code": 403}),
                403,
                ": Forbidden",
            ),
            (json!({"code": 200}), 400, " without explanation"),
            (Value::Null, 400, " without explanation"),
        ];
        for (status, code, end) in table {
            let error = refusal("x.y", &status);
            let text = format!("admission webhook \"x.y\" denied the request{end}");
            assert_eq!((error.code, error.message), (code, text));
        }
    }
}
