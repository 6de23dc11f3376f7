//! Objects inside of objects (`x-kubernetes-embedded-resource`) say what they are, and their
//! metadata is valid (`apiextensions-apiserver/pkg/apiserver/schema/objectmeta`).

use serde_json::Value;

use crate::api::name;
use crate::api::status::FieldError;

use super::child;
use crate::api::schema::structural::Structural;

/// All that is wrong with embedded objects.
pub fn embedded(value: &Value, schema: &Structural) -> Vec<FieldError> {
    let mut found = Vec::new();
    walk(value, schema, ("", &mut found));
    found
}

fn walk(value: &Value, schema: &Structural, (path, found): (&str, &mut Vec<FieldError>)) {
    if schema.embedded && value.is_object() {
        check(value, (path, found));
    }
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(known) = schema.field(name) {
                    walk(value, known, (&child(path, name), found));
                }
            }
        }
        Value::Array(list) => {
            for (number, item) in list.iter().enumerate() {
                if let Some(items) = &schema.items {
                    walk(item, items, (&format!("{path}[{number}]"), found));
                }
            }
        }
        _ => {}
    }
}

fn check(object: &Value, (path, found): (&str, &mut Vec<FieldError>)) {
    for field in ["apiVersion", "kind"] {
        let path = child(path, field);
        match object[field].as_str() {
            None | Some("") => found.push(FieldError::required(path, "must not be empty")),
            Some(kind) if field == "kind" => {
                let wrong = name::dns1035_label(&kind.to_lowercase());
                let made = |why: String| FieldError::invalid(&path, &kind.into(), &why);
                found.extend(wrong.into_iter().map(made));
            }
            Some(version) if version.split('/').count() > 2 => {
                let why = format!("unexpected GroupVersion string: {version}");
                found.push(FieldError::invalid(path, &version.into(), &why));
            }
            Some(_) => {}
        }
    }
    let meta = &object["metadata"];
    if let Some(own) = meta["name"].as_str() {
        let path = child(path, "metadata.name");
        let wrong = name::path_segment(own).into_iter();
        found.extend(wrong.map(|why| FieldError::invalid(&path, &own.into(), &why)));
    }
    for (key, value) in meta["labels"].as_object().into_iter().flatten() {
        let path = child(path, "metadata.labels");
        let wrong = name::qualified_name(key).into_iter();
        found.extend(wrong.map(|why| FieldError::invalid(&path, &key.as_str().into(), &why)));
        let text = value.as_str().unwrap_or_default();
        let wrong = name::label_value(text).into_iter();
        found.extend(wrong.map(|why| FieldError::invalid(&path, &text.into(), &why)));
    }
}
