//! The three kinds of patch that edit an object: JSON patch, merge patch and strategic merge
//! patch. Server-side apply, the fourth, is a module of its own.
//!
//! What comes out is not checked against the type; the caller does that next
//! ([`super::codec::check_patched`]).

mod json;
mod merge;
mod strategic;
mod strict;

use serde_json::Value;

use super::schema::TypeRef;
use super::status::ApiError;

/// The media type of server-side apply.
pub const APPLY: &str = "application/apply-patch+yaml";

/// How a patch edits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902: a list of operations.
    Json,
    /// RFC 7386: fields replace fields, `null` removes.
    Merge,
    /// A merge that knows which lists have keys.
    Strategic,
}

impl PatchType {
    /// From a `Content-Type`, parameters ignored. `None` also for [`APPLY`].
    pub fn of(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(PatchType::Json),
            "application/merge-patch+json" => Some(PatchType::Merge),
            "application/strategic-merge-patch+json" => Some(PatchType::Strategic),
            _ => None,
        }
    }
}

/// Edits `current`, which is of the type `schema`.
pub fn apply(
    kind: PatchType,
    current: Value,
    patch: &[u8],
    schema: TypeRef<'_>,
) -> Result<Value, ApiError> {
    match kind {
        PatchType::Json => json::apply(current, patch),
        PatchType::Merge => merge::apply(current, patch),
        PatchType::Strategic => strategic::apply(current, patch, schema),
    }
}

/// One text for each field that the patch names twice.
pub fn duplicates(patch: &[u8]) -> Vec<String> {
    strict::duplicates(patch)
}

/// A patch as error messages show it: a strategic one as Go prints a map, else what it makes of
/// the object.
pub fn shown(kind: PatchType, patch: &[u8], patched: &Value) -> String {
    match kind {
        PatchType::Strategic => serde_json::from_slice(patch)
            .map(|patch| strategic::go_print(&patch))
            .unwrap_or_default(),
        PatchType::Json | PatchType::Merge => patched.to_string(),
    }
}

/// 422 for a patch that is well formed and cannot be done. Upstream does not tell clients why.
fn cannot_do(why: &str) -> ApiError {
    tracing::debug!(why, "patch cannot be done");
    ApiError {
        details: Some(serde_json::json!({})),
        ..ApiError::plain(
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        )
    }
}

#[cfg(test)]
mod tests;
