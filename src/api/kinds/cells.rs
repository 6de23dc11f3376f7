//! What the cells of several kinds are made of.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::object::Object;
use crate::api::time;

/// Name and age.
pub(super) fn name_age(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

/// Name and when it was made.
pub(super) fn name_created(object: &Object, _now: Timestamp) -> Vec<Value> {
    vec![name(object), object.meta("creationTimestamp").into()]
}

/// `metadata.name`
pub(super) fn name(object: &Object) -> Value {
    object.name().into()
}

/// Time since `metadata.creationTimestamp`.
pub(super) fn age(object: &Object, now: Timestamp) -> Value {
    let created = object.at(&["metadata", "creationTimestamp"]);
    time::age(created.unwrap_or(&Value::Null), now).into()
}

/// `text`, or `<none>` where it is empty.
pub(super) fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>" } else { text }.into()
}

/// `text`, or `<unknown>` where it is empty.
pub(super) fn or_unknown(text: &str) -> Value {
    if text.is_empty() { "<unknown>" } else { text }.into()
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(labels: &Value) -> Value {
    let pairs = labels.as_object().into_iter().flatten();
    let texts: Vec<_> = pairs
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    or_none(&texts.join(","))
}

/// How many entries an array or object has.
pub(super) fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.len(),
        Value::Object(map) => map.len(),
        _ => 0,
    }
}

/// A number, 0 where absent.
pub(super) fn number(value: &Value) -> Value {
    json!(value.as_i64().unwrap_or(0))
}

/// At most three of `items`: `a,b,c + 2 more...`, or `none` where there are none.
pub(super) fn at_most_three(items: &[String], none: &str) -> Value {
    const MOST: usize = 3;
    if items.is_empty() {
        return none.into();
    }
    if items.len() <= MOST {
        return items.join(",").into();
    }
    format!(
        "{} + {} more...",
        items[..MOST].join(","),
        items.len() - MOST
    )
    .into()
}

/// Names and images of a pod template's containers.
pub(super) fn containers(pod_spec: &Value) -> [Value; 2] {
    let column = |field: &str| -> Value {
        let containers = pod_spec["containers"].as_array().into_iter().flatten();
        let texts: Vec<_> = containers.filter_map(|c| c[field].as_str()).collect();
        texts.join(",").into()
    };
    [column("name"), column("image")]
}
