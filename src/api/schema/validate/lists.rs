//! Items of sets and maps are there once (`apiextensions-apiserver/pkg/apiserver/schema/listtype`).

use serde_json::{Map, Value};

use crate::api::status::FieldError;

use super::child;
use crate::api::schema::structural::{Items, Structural};

/// Every item that is there twice.
pub fn lists(value: &Value, schema: &Structural) -> Vec<FieldError> {
    let mut found = Vec::new();
    walk(value, schema, ("", &mut found));
    found
}

fn walk(value: &Value, schema: &Structural, (path, found): (&str, &mut Vec<FieldError>)) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(known) = schema.field(name) {
                    walk(value, known, (&child(path, name), found));
                }
            }
        }
        Value::Array(list) => {
            found.extend(duplicates(list, schema, path));
            for (number, item) in list.iter().enumerate() {
                if let Some(items) = &schema.items {
                    walk(item, items, (&format!("{path}[{number}]"), found));
                }
            }
        }
        _ => {}
    }
}

fn duplicates(list: &[Value], schema: &Structural, path: &str) -> Vec<FieldError> {
    let identities: Vec<Value> = match &schema.list {
        Items::Atomic => return Vec::new(),
        Items::Set => list.to_vec(),
        Items::Map(keys) => list
            .iter()
            .map(|item| keys_of(item, keys, schema.items.as_deref()))
            .collect(),
    };
    let is_again = |n: &usize| identities[..*n].contains(&identities[*n]);
    let wrong = (0..list.len()).filter(is_again);
    wrong
        .map(|n| FieldError::duplicate(format!("{path}[{n}]"), &identities[n]))
        .collect()
}

/// The key fields of an item, with their defaults.
fn keys_of(item: &Value, keys: &[String], items: Option<&Structural>) -> Value {
    let mut of = Map::new();
    for key in keys {
        let default = || items?.properties.get(key)?.default.clone();
        if let Some(value) = item.get(key).cloned().or_else(default) {
            of.insert(key.clone(), value);
        }
    }
    Value::Object(of)
}
