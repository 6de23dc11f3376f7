//! How defaults are put in: only where nothing was said. As in Go's structs, an empty text and a
//! zero that stand for "nothing said" are replaced too, by the functions that say so.

use serde_json::{Map, Value};

/// Puts `value` where `field` is absent.
pub(super) fn set(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), value.into());
    }
}

/// Puts `value` where `field` is absent or an empty text.
pub(super) fn text(map: &mut Map<String, Value>, field: &str, value: &str) {
    if map.get(field).is_none_or(|v| v.is_null() || v == "") {
        map.insert(field.to_owned(), value.into());
    }
}

/// Puts `value` where `field` is absent or 0.
pub(super) fn number(map: &mut Map<String, Value>, field: &str, value: i64) {
    if map.get(field).is_none_or(|v| v.is_null() || v == 0) {
        map.insert(field.to_owned(), value.into());
    }
}

/// The object below `field`, where there is one.
pub(super) fn child<'a>(
    map: &'a mut Map<String, Value>,
    field: &str,
) -> Option<&'a mut Map<String, Value>> {
    map.get_mut(field).and_then(Value::as_object_mut)
}

/// The objects of the list below `field`.
pub(super) fn items<'a>(
    map: &'a mut Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = &'a mut Map<String, Value>> {
    let list = map.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}
