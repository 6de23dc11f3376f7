//! Takes out of a custom object what its schema does not name
//! (`apiextensions-apiserver/pkg/apiserver/schema/pruning`), and `null` where that is not allowed.

use serde_json::{Map, Value};

use super::structural::{Additional, Structural};

/// What every object has, whatever its schema says.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Prunes a whole object; the answer names what was taken out, as strict decoding does.
pub fn prune(object: &mut Map<String, Value>, schema: &Structural) -> Vec<String> {
    let mut pruned = Vec::new();
    fields(object, Some(schema), true, ("", &mut pruned));
    pruned.sort();
    pruned
}

/// The same for a part of an object.
pub(super) fn prune_part(part: &mut Map<String, Value>, schema: &Structural) -> Vec<String> {
    let mut pruned = Vec::new();
    fields(part, Some(schema), schema.embedded, ("", &mut pruned));
    pruned
}

type At<'a> = (&'a str, &'a mut Vec<String>);

fn value(value: &mut Value, schema: Option<&Structural>, (path, pruned): At<'_>) {
    let is_embedded = schema.is_some_and(|schema| schema.embedded);
    match value {
        Value::Object(map) => fields(map, schema, is_embedded, (path, pruned)),
        Value::Array(list) => {
            let kept = schema.is_some_and(|schema| schema.preserve);
            let items = schema.and_then(|schema| schema.items.as_deref());
            if kept && items.is_none() {
                return;
            }
            for (at, item) in list.iter_mut().enumerate() {
                self::value(item, items, (&format!("{path}[{at}]"), pruned));
            }
        }
        _ => {}
    }
}

fn fields(
    map: &mut Map<String, Value>,
    schema: Option<&Structural>,
    is_resource: bool,
    (path, pruned): At<'_>,
) {
    map.retain(|name, field| {
        if is_resource && META.contains(&name.as_str()) {
            return true;
        }
        let below = match path {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        let known = schema.and_then(|schema| schema.field(name));
        if let Some(known) = known {
            value(field, Some(known), (&below, pruned));
            return true;
        }
        if schema.is_some_and(|schema| matches!(schema.additional, Additional::Any)) {
            value(field, None, (&below, pruned));
            return true;
        }
        if schema.is_some_and(|schema| schema.preserve) {
            return true;
        }
        pruned.push(below);
        false
    });
}

/// Takes out every `null` that is not allowed and has no default.
pub fn prune_nulls(object: &mut Map<String, Value>, schema: &Structural) {
    object.retain(|name, field| {
        let Some(known) = schema.field(name) else {
            return true;
        };
        if schema.properties.contains_key(name) && known.is_wrong_null(field) {
            return known.default.is_some();
        }
        nulls_below(field, known);
        true
    });
}

fn nulls_below(value: &mut Value, schema: &Structural) {
    match value {
        Value::Object(map) => prune_nulls(map, schema),
        Value::Array(list) => {
            let items = schema.items.as_deref();
            for (item, schema) in list.iter_mut().zip(items.into_iter().cycle()) {
                nulls_below(item, schema);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pruned(schema: Value, value: Value) -> (Value, Vec<String>) {
        let Value::Object(mut map) = value else {
            panic!("not an object")
        };
        let gone = prune(&mut map, &Structural::compile(&schema));
        (Value::Object(map), gone)
    }

    #[test]
    fn unknown_fields_go_and_are_named_by_path() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {
            "known": {"type": "string"},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"closed": {"type": "object"}}},
            "list": {"type": "array", "items": {"type": "object",
                "properties": {"a": {"type": "string"}}}},
            "map": {"type": "object", "additionalProperties": {"type": "object"}},
            "pod": {"type": "object", "x-kubernetes-embedded-resource": true},
        }}}});
        let (left, gone) = pruned(
            schema,
            json!({"kind": "X", "metadata": {"name": "a"}, "spec": {
                "known": "a", "unknown": 1, "open": {"free": {"x": 1}, "closed": {"y": 1}},
                "list": [{"a": "b", "c": 1}], "map": {"k": {"z": 1}},
                "pod": {"kind": "Pod", "spec": {}},
            }, "other": 1}),
        );
        assert_eq!(
            left,
            json!({"kind": "X", "metadata": {"name": "a"}, "spec": {
                "known": "a", "open": {"free": {"x": 1}, "closed": {}},
                "list": [{"a": "b"}], "map": {"k": {}}, "pod": {"kind": "Pod"},
            }})
        );
        let expected = [
            "other",
            "spec.list[0].c",
            "spec.map.k.z",
            "spec.open.closed.y",
            "spec.pod.spec",
            "spec.unknown",
        ];
        assert_eq!(gone, expected);
    }

    #[test]
    fn nulls_go_where_they_are_not_allowed() {
        let schema = Structural::compile(&json!({"type": "object", "properties": {
            "a": {"type": "string"}, "b": {"type": "string", "nullable": true}}}));
        let Value::Object(mut map) = json!({"a": null, "b": null, "c": null}) else {
            panic!("an object")
        };
        prune_nulls(&mut map, &schema);
        assert_eq!(Value::Object(map), json!({"b": null, "c": null}));
    }
}
