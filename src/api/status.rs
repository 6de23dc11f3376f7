//! Failures as the API answers them: `ApiError` is made by constructors that mirror upstream's
//! `k8s.io/apimachinery/pkg/api/errors`, and prints itself as a `Status` object.

use std::fmt;

use serde_json::{Value, json};

/// What is wrong with one field (`metav1.StatusCause`, `field.Error`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Upstream's cause, for instance `FieldValueInvalid`.
    pub cause: Cause,
    /// Path as upstream prints it, for instance `spec.containers[0].name`.
    pub field: String,
    /// The whole text after the path, for instance `Required value: must have a name`.
    pub detail: String,
}

/// Kinds of field errors (`field.ErrorType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// `Required value`
    Required,
    /// `Invalid value`
    Invalid,
    /// `Unsupported value`
    NotSupported,
    /// `Forbidden`
    Forbidden,
    /// `Duplicate value`
    Duplicate,
    /// `Not found`
    NotFound,
    /// `Too long`
    TooLong,
    /// `Too many`
    TooMany,
    /// `Invalid value` of a wrong type
    TypeInvalid,
    /// `Internal error`
    Internal,
}

impl Cause {
    /// The `reason` of the `StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            Cause::Required => "FieldValueRequired",
            Cause::Invalid => "FieldValueInvalid",
            Cause::NotSupported => "FieldValueNotSupported",
            Cause::Forbidden => "FieldValueForbidden",
            Cause::Duplicate => "FieldValueDuplicate",
            Cause::NotFound => "FieldValueNotFound",
            Cause::TooLong => "FieldValueTooLong",
            Cause::TooMany => "FieldValueTooMany",
            Cause::TypeInvalid => "FieldValueTypeInvalid",
            Cause::Internal => "InternalError",
        }
    }
}

impl FieldError {
    /// `path: Required value[: detail]`
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        Self::made(
            Cause::Required,
            field,
            with_detail("Required value", detail),
        )
    }

    /// `path: Invalid value: <value as JSON>: detail`
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self::made(
            Cause::Invalid,
            field,
            with_detail(&format!("Invalid value: {value}"), detail),
        )
    }

    /// `path: Unsupported value: "x": supported values: "a", "b"`
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let quoted: Vec<_> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        let detail = format!(
            "Unsupported value: {value}: supported values: {}",
            quoted.join(", ")
        );
        Self::made(Cause::NotSupported, field, detail)
    }

    /// `path: Forbidden: detail`
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self::made(Cause::Forbidden, field, with_detail("Forbidden", detail))
    }

    /// `path: Duplicate value: "x"`
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self::made(Cause::Duplicate, field, format!("Duplicate value: {value}"))
    }

    /// `path: Not found: "x"`
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self::made(Cause::NotFound, field, format!("Not found: {value}"))
    }

    /// `path: Too long: may not be more than N bytes`
    pub fn too_long(field: impl Into<String>, most: usize) -> Self {
        Self::made(
            Cause::TooLong,
            field,
            format!("Too long: may not be more than {most} bytes"),
        )
    }

    /// `path: Too many: N: must have at most M items`
    pub fn too_many(field: impl Into<String>, count: usize, most: usize) -> Self {
        let detail = format!("Too many: {count}: must have at most {most} items");
        Self::made(Cause::TooMany, field, detail)
    }

    fn made(cause: Cause, field: impl Into<String>, detail: String) -> Self {
        Self {
            cause,
            field: field.into(),
            detail,
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.detail)
    }
}

fn with_detail(head: &str, detail: &str) -> String {
    if detail.is_empty() {
        head.to_owned()
    } else {
        format!("{head}: {detail}")
    }
}

/// A failure of an API request. `message` goes to the client; an internal cause never does.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// `StatusReason`, for instance `NotFound`; may be empty.
    pub reason: &'static str,
    /// What the client reads.
    pub message: String,
    /// `Status.details`, where there is some.
    pub details: Option<Value>,
    /// `Status.metadata.continue`: where an expired list may go on all the same; may be empty.
    pub continue_token: String,
}

impl ApiError {
    /// 404 for an object. `resource` is printed as `pods` or `deployments.apps`.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", qualified(group, resource));
        Self::about(404, "NotFound", message, (group, resource, name))
    }

    /// 404 for a path that nothing is served at.
    pub fn no_such_path() -> Self {
        Self {
            details: Some(json!({})),
            ..Self::plain(
                404,
                "NotFound",
                "the server could not find the requested resource",
            )
        }
    }

    /// 409 for a create of a name that is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", qualified(group, resource));
        Self::about(409, "AlreadyExists", message, (group, resource, name))
    }

    /// 409 for a write that was based on something else than what is stored.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            qualified(group, resource)
        );
        Self::about(409, "Conflict", message, (group, resource, name))
    }

    /// 422 with all that is wrong. `kind` is printed as `Pod` or `Deployment.apps`.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let message = format!(
            "{} \"{name}\" is invalid: {}",
            qualified(group, kind),
            join_errors(errors)
        );
        let causes: Vec<_> = errors
            .iter()
            .map(|e| json!({"reason": e.cause.reason(), "message": e.detail, "field": e.field}))
            .collect();
        let mut details = json!({"name": name, "kind": kind, "causes": causes});
        if !group.is_empty() {
            details["group"] = group.into();
        }
        Self {
            code: 422,
            reason: "Invalid",
            message,
            details: Some(details),
            continue_token: String::new(),
        }
    }

    /// 403 by authorization or admission. `why` is the whole text after `is forbidden: `.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(group, resource);
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} \"{name}\" is forbidden: {why}")
        };
        Self::about(403, "Forbidden", message, (group, resource, name))
    }

    /// 400
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::plain(400, "BadRequest", message)
    }

    /// 401
    pub fn unauthorized() -> Self {
        Self::plain(401, "Unauthorized", "Unauthorized")
    }

    /// 405
    pub fn method_not_allowed(group: &str, resource: &str, verb: &str) -> Self {
        let message = format!(
            "{verb} is not supported on resources of kind \"{}\"",
            qualified(group, resource)
        );
        Self::about(405, "MethodNotAllowed", message, (group, resource, ""))
    }

    /// 406
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        Self::plain(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {list}"),
        )
    }

    /// 410 `Expired`: a list or watch from a revision that is no longer kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::plain(410, "Expired", message)
    }

    /// 413
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::plain(413, "RequestEntityTooLarge", message)
    }

    /// 415
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        Self::plain(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {list}"
            ),
        )
    }

    /// 429: come back after `seconds`.
    pub fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        Self {
            details: Some(json!({"retryAfterSeconds": seconds})),
            ..Self::plain(429, "TooManyRequests", message)
        }
    }

    /// 500
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::plain(
            500,
            "InternalError",
            format!("Internal error occurred: {message}"),
        )
    }

    /// 503
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::plain(503, "ServiceUnavailable", message)
    }

    /// 504
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::plain(504, "Timeout", format!("Timeout: {}", message.into()))
    }

    /// Whether this is the 404 of an object or path.
    pub fn is_not_found(&self) -> bool {
        self.code == 404
    }

    /// Whether this is the 409 of a write based on an older revision.
    pub fn is_conflict(&self) -> bool {
        self.code == 409 && self.reason == "Conflict"
    }

    /// Whether this is the 409 of a create of a name that is taken.
    pub fn is_already_exists(&self) -> bool {
        self.code == 409 && self.reason == "AlreadyExists"
    }

    /// Whether the revision asked for is no longer kept.
    pub fn is_gone(&self) -> bool {
        self.code == 410
    }

    /// The `Status` object that is the body of the answer.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        if !self.continue_token.is_empty() {
            status["metadata"]["continue"] = self.continue_token.as_str().into();
        }
        status
    }

    /// From a `Status` object that a server answered; `code` is the HTTP status.
    pub fn from_status(code: u16, status: &Value) -> Self {
        let text = |field: &str| {
            status
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let message = match text("message") {
            "" => format!("the server answered with code {code}"),
            message => message.to_owned(),
        };
        let reason = KNOWN_REASONS
            .iter()
            .find(|r| **r == text("reason"))
            .copied();
        let details = status.get("details").cloned();
        let token = status.pointer("/metadata/continue").and_then(Value::as_str);
        Self {
            code,
            reason: reason.unwrap_or_default(),
            message,
            details,
            continue_token: token.unwrap_or_default().to_owned(),
        }
    }

    /// An error with a code and reason of its own, and no details.
    pub fn plain(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
            continue_token: String::new(),
        }
    }

    fn about(
        code: u16,
        reason: &'static str,
        message: String,
        (group, resource, name): (&str, &str, &str),
    ) -> Self {
        let mut details = json!({"kind": resource});
        for (field, value) in [("name", name), ("group", group)] {
            if !value.is_empty() {
                details[field] = value.into();
            }
        }
        Self {
            code,
            reason,
            message,
            details: Some(details),
            continue_token: String::new(),
        }
    }
}

/// Every `StatusReason` upstream defines.
const KNOWN_REASONS: &[&str] = &[
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "AlreadyExists",
    "Conflict",
    "Gone",
    "Invalid",
    "ServerTimeout",
    "StoreReadError",
    "Timeout",
    "TooManyRequests",
    "BadRequest",
    "MethodNotAllowed",
    "NotAcceptable",
    "RequestEntityTooLarge",
    "UnsupportedMediaType",
    "InternalError",
    "Expired",
    "ServiceUnavailable",
];

/// `resource` or `resource.group`, as error messages print it.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

/// One error alone; several in brackets, as upstream's `ErrorList.ToAggregate` prints them.
fn join_errors(errors: &[FieldError]) -> String {
    match errors {
        [one] => one.to_string(),
        many => {
            let texts: Vec<_> = many.iter().map(ToString::to_string).collect();
            format!("[{}]", texts.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_upstream_prints_them() {
        let missing = ApiError::not_found("apps", "deployments", "web");
        assert_eq!(missing.message, "deployments.apps \"web\" not found");
        let errors = [
            FieldError::required("spec.x", ""),
            FieldError::invalid("a", &json!("B"), "no"),
        ];
        let invalid = ApiError::invalid("", "Pod", "p", &errors);
        assert_eq!(
            invalid.message,
            "Pod \"p\" is invalid: [spec.x: Required value, a: Invalid value: \"B\": no]"
        );
        assert_eq!(ApiError::from_status(422, &invalid.to_status()), invalid);
    }
}
