//! JSON patch (RFC 6902), with what `evanphx/json-patch` adds to it and clients rely on: negative
//! indexes count from the end, and a `test` for `null` holds where nothing is.

use json_patch::PatchOperation;
use json_patch::jsonptr::{Pointer, PointerBuf, Token};
use serde_json::Value;

use super::cannot_do;
use crate::api::status::ApiError;

/// As upstream (`maxJSONPatchOperations`).
const OPERATIONS_MAX: usize = 10_000;
/// What all `copy` operations of a patch may add together, as upstream.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;

pub(super) fn apply(mut current: Value, patch: &[u8]) -> Result<Value, ApiError> {
    let operations: Vec<Value> = serde_json::from_slice(patch)
        .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
    let count = operations.len();
    if count > OPERATIONS_MAX {
        return Err(ApiError::too_large(format!(
            "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {count}"
        )));
    }
    let mut copied_bytes = 0;
    for operation in operations {
        let operation = serde_json::from_value(operation);
        let mut operation = operation.map_err(|error| cannot_do(&error.to_string()))?;
        count_from_end(&mut operation, &current);
        if let PatchOperation::Test(test) = &operation
            && test.value.is_null()
            && test.path.resolve(&current).is_err()
        {
            continue;
        }
        if let PatchOperation::Copy(copy) = &operation {
            let source = copy.from.resolve(&current).ok();
            copied_bytes += source.map_or(0, |value| value.to_string().len());
            if copied_bytes > COPIED_BYTES_MAX {
                return Err(cannot_do(&format!(
                    "Unable to complete the copy, the accumulated size increase of copy is \
                     {copied_bytes}, exceeding the limit {COPIED_BYTES_MAX}"
                )));
            }
        }
        json_patch::patch_unsafe(&mut current, std::slice::from_ref(&operation))
            .map_err(|error| cannot_do(&error.to_string()))?;
    }
    Ok(current)
}

/// Puts indexes in place of negative ones.
fn count_from_end(operation: &mut PatchOperation, doc: &Value) {
    let (paths, grows): ([Option<&mut PointerBuf>; 2], bool) = match operation {
        PatchOperation::Add(op) => ([Some(&mut op.path), None], true),
        PatchOperation::Remove(op) => ([Some(&mut op.path), None], false),
        PatchOperation::Replace(op) => ([Some(&mut op.path), None], false),
        PatchOperation::Test(op) => ([Some(&mut op.path), None], false),
        PatchOperation::Move(op) => ([Some(&mut op.path), Some(&mut op.from)], true),
        PatchOperation::Copy(op) => ([Some(&mut op.path), Some(&mut op.from)], true),
    };
    for (path, grows) in paths.into_iter().zip([grows, false]) {
        if let Some(path) = path
            && path.as_str().contains("/-")
        {
            *path = from_start(path, doc, grows);
        }
    }
}

/// `grows`: the last index is a place between items, of which there is one more.
fn from_start(path: &Pointer, doc: &Value, grows: bool) -> PointerBuf {
    let last = path.tokens().count().saturating_sub(1);
    let mut at = Some(doc);
    let mut made = PointerBuf::new();
    for (number, token) in path.tokens().enumerate() {
        let name = token.decoded();
        let items = at.and_then(Value::as_array);
        let back = name.strip_prefix('-').and_then(|n| n.parse::<usize>().ok());
        let place = items.zip(back).and_then(|(items, back)| {
            let places = items.len() + usize::from(grows && number == last);
            places.checked_sub(back)
        });
        let index = place.or_else(|| name.parse().ok());
        at = match at {
            Some(Value::Array(items)) => index.and_then(|index| items.get(index)),
            Some(value) => value.get(&*name),
            None => None,
        };
        match place {
            Some(place) => made.push_back(Token::from(place)),
            None => made.push_back(token),
        }
    }
    made
}
