//! Writing what changed of a status and nothing else.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::client::Patch;

/// The patch that makes `old` into `new` in the status of the object with this metadata; `None`
/// where they are equal. It holds only for that very object.
pub(crate) fn patch<T: Serialize>(meta: &ObjectMeta, old: Option<&T>, new: &T) -> Option<Patch> {
    let old = old.and_then(|old| serde_json::to_value(old).ok());
    let new = serde_json::to_value(new).ok()?;
    let change = difference(&old.unwrap_or_else(|| json!({})), &new)?;
    Some(Patch::Merge(
        json!({"metadata": {"uid": meta.uid}, "status": change}),
    ))
}

/// The merge patch (RFC 7386) that makes `old` into `new`; `None` where they are equal.
pub(crate) fn difference(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return Some(new.clone());
    };
    let mut change = Map::new();
    for (field, value) in new {
        match old.get(field) {
            Some(known) => {
                if let Some(inner) = difference(known, value) {
                    change.insert(field.clone(), inner);
                }
            }
            None => {
                change.insert(field.clone(), value.clone());
            }
        }
    }
    let gone = old.keys().filter(|field| !new.contains_key(*field));
    change.extend(gone.map(|field| (field.clone(), Value::Null)));
    Some(Value::Object(change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_written_and_what_is_gone_is_null() {
        let old = json!({"a": 1, "b": {"x": 1, "y": 2}, "c": [1], "d": 4});
        let new = json!({"a": 1, "b": {"x": 1, "y": 3}, "c": [1, 2]});
        let change = difference(&old, &new).unwrap();
        assert_eq!(change, json!({"b": {"y": 3}, "c": [1, 2], "d": null}));
        assert_eq!(difference(&new, &new), None);
    }
}
