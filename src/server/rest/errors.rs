//! Failures below the API, as clients are told them. The internal cause goes to the log.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use crate::api::status::ApiError;
use crate::client::{Body, body_from};
use crate::server::registry::ResourceDef;
use crate::server::storage;
use crate::store::{self, Revision};
use crate::util::errors::chain;

/// Why an update is refused whose revision is not the stored one
/// (`registry.OptimisticLockErrorMsg`).
pub(super) const MODIFIED: &str = "the object has been modified; please apply your changes to the \
    latest version and try again";

/// A failure as an answer, for headers to be added to.
pub(super) fn answer(error: &ApiError) -> Response<Body> {
    let mut response = Response::new(body_from(error.to_status().to_string()));
    *response.status_mut() =
        StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// A failure of the store while `name` was read or written; conflicts are the caller's to handle.
pub(super) fn storage(error: storage::Error, def: &ResourceDef, name: &str) -> ApiError {
    let (group, resource) = (&def.gvr.group, &def.gvr.resource);
    match error {
        storage::Error::Store(store::Error::Conflict { .. }) => {
            ApiError::conflict(group, resource, name, MODIFIED)
        }
        storage::Error::Store(store::Error::Compacted { wanted, oldest }) => {
            too_old(wanted, oldest)
        }
        storage::Error::Store(store::Error::Future { wanted, current }) => {
            too_large(wanted, current)
        }
        storage::Error::Store(store::Error::InvalidTxn(why)) => {
            ApiError::too_large(format!("the object cannot be stored: {why}"))
        }
        error => {
            tracing::error!(%resource, name, error = %chain(&error), "store failed");
            match error {
                storage::Error::Codec(_) => ApiError::internal("stored object is not readable"),
                // Such as a full disk: whoever reads it can help.
                storage::Error::Store(store::Error::Unavailable { why, .. }) => {
                    ApiError::unavailable(format!("the datastore is unavailable: {why}"))
                }
                storage::Error::Store(_) => ApiError::unavailable("the datastore is unavailable"),
            }
        }
    }
}

/// 410: the history does not reach back that far.
pub(super) fn too_old(wanted: Revision, oldest: Revision) -> ApiError {
    ApiError::expired(format!(
        "too old resource version: {} ({})",
        wanted.0, oldest.0
    ))
}

/// 504: the revision is not there yet (`storage.NewTooLargeResourceVersionError`).
pub(super) fn too_large(wanted: Revision, current: Revision) -> ApiError {
    let message = format!(
        "Too large resource version: {}, current: {}",
        wanted.0, current.0
    );
    let cause = json!({
        "reason": "ResourceVersionTooLarge", "message": "Too large resource version",
    });
    ApiError {
        details: Some(json!({"causes": [cause], "retryAfterSeconds": 1})),
        ..ApiError::timeout(message)
    }
}

/// 404 of an object of this resource.
pub(super) fn not_found(def: &ResourceDef, name: &str) -> ApiError {
    ApiError::not_found(&def.gvr.group, &def.gvr.resource, name)
}
