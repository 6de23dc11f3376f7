//! Merge patch (RFC 7386).

use serde_json::Value;

use crate::api::status::ApiError;

pub(super) fn apply(mut current: Value, patch: &[u8]) -> Result<Value, ApiError> {
    let patch: Value = serde_json::from_slice(patch)
        .ok()
        .filter(Value::is_object)
        .ok_or_else(|| ApiError::bad_request("Invalid JSON Patch"))?;
    json_patch::merge(&mut current, &patch);
    Ok(current)
}
