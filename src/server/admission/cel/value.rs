//! JSON as values of expressions, and back.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use kube_cel::cel::Value;
use kube_cel::cel::objects::{Key, Map, OptionalValue};
use serde_json::Value as Json;

/// Deeper results are refused: they come from a mistake.
const DEPTH_MAX: usize = 100;

pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (_, Some(number)) => Value::UInt(number),
            _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Arc::new(text.clone())),
        Json::Array(items) => Value::List(Arc::new(items.iter().map(from_json).collect())),
        Json::Object(fields) => map(fields
            .iter()
            .map(|(name, value)| (name.clone(), from_json(value)))),
    }
}

pub(super) fn map(fields: impl IntoIterator<Item = (String, Value)>) -> Value {
    let fields = fields.into_iter();
    let fields = fields.map(|(name, value)| (Key::String(Arc::new(name)), value));
    Value::Map(Map {
        map: Arc::new(fields.collect::<HashMap<Key, Value>>()),
    })
}

pub(super) fn text(text: impl Into<String>) -> Value {
    Value::String(Arc::new(text.into()))
}

pub(super) fn to_json(value: &Value) -> Result<Json, String> {
    to_json_at(value, DEPTH_MAX)
}

fn to_json_at(value: &Value, depth: usize) -> Result<Json, String> {
    let Some(below) = depth.checked_sub(1) else {
        return Err("the result is nested too deeply".to_owned());
    };
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(flag) => Json::Bool(*flag),
        Value::Int(number) => (*number).into(),
        Value::UInt(number) => (*number).into(),
        Value::Float(number) => (*number).into(),
        Value::String(text) => Json::String(text.to_string()),
        Value::Bytes(bytes) => base64::engine::general_purpose::STANDARD
            .encode(bytes.as_slice())
            .into(),
        Value::List(items) => {
            let items = items.iter().map(|item| to_json_at(item, below));
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Map(fields) => {
            let fields = fields.map.iter().map(|(key, value)| {
                let Key::String(name) = key else {
                    return Err("keys of an object must be strings".to_owned());
                };
                Ok((name.to_string(), to_json_at(value, below)?))
            });
            Json::Object(fields.collect::<Result<_, _>>()?)
        }
        Value::Opaque(opaque) => match opaque.downcast_ref::<OptionalValue>() {
            Some(optional) => match optional.value() {
                Some(value) => to_json_at(value, below)?,
                None => Json::Null,
            },
            None => {
                let kind = opaque.runtime_type_name();
                return Err(format!("{kind} is no JSON"));
            }
        },
        Value::Timestamp(time) => Json::String(time.to_rfc3339()),
        other => return Err(format!("{} is no JSON", other.type_of())),
    })
}

/// The name of a value's type, as upstream's messages have it.
pub(super) fn type_name(value: &Value) -> String {
    match value {
        Value::Float(_) => "double".to_owned(),
        Value::Null => "null_type".to_owned(),
        other => other.type_of().to_string(),
    }
}
