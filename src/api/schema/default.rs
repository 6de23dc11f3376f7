//! Fills in the defaults of a custom object's schema
//! (`apiextensions-apiserver/pkg/apiserver/schema/defaulting`).

use serde_json::{Map, Value};

use super::structural::Structural;

/// Fills in what is absent, and what is `null` where that is not allowed.
pub fn default(object: &mut Map<String, Value>, schema: &Structural) {
    for (name, property) in &schema.properties {
        let Some(default) = &property.default else {
            continue;
        };
        if object
            .get(name)
            .is_none_or(|value| property.is_wrong_null(value))
        {
            object.insert(name.clone(), default.clone());
        }
    }
    for (name, value) in object {
        if let Some(known) = schema.field(name) {
            replace_null(value, known);
            below(value, known);
        }
    }
}

fn below(value: &mut Value, schema: &Structural) {
    match value {
        Value::Object(map) => default(map, schema),
        Value::Array(list) => {
            let Some(items) = &schema.items else {
                return;
            };
            for item in list {
                replace_null(item, items);
                below(item, items);
            }
        }
        _ => {}
    }
}

fn replace_null(value: &mut Value, schema: &Structural) {
    if let Some(default) = &schema.default
        && schema.is_wrong_null(value)
    {
        *value = default.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_fill_what_is_absent_at_every_depth() {
        let schema = Structural::compile(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "default": {}, "properties": {
            "n": {"type": "integer", "default": 3},
            "list": {"type": "array", "items": {"type": "object", "properties": {
                "a": {"type": "string", "default": "x"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {
                "b": {"type": "boolean", "default": true}}}},
            "s": {"type": "string", "nullable": true, "default": "y"},
        }}}}));
        let filled = |value: Value| {
            let Value::Object(mut map) = value else {
                panic!("an object")
            };
            default(&mut map, &schema);
            Value::Object(map)
        };
        assert_eq!(filled(json!({})), json!({"spec": {"n": 3, "s": "y"}}));
        assert_eq!(
            filled(json!({"spec": {"n": null, "s": null, "list": [{}], "map": {"k": {}}}})),
            json!({"spec": {"n": 3, "s": null, "list": [{"a": "x"}], "map": {"k": {"b": true}}}})
        );
    }
}
