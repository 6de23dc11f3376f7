//! Whether the schema of a definition is one that custom resources can be held to: structural,
//! and free of what Kubernetes does not support, with upstream's words
//! (`apiextensions-apiserver/pkg/apiserver/schema/validation.go`,
//! `pkg/apis/apiextensions/validation`).

use regex::Regex;
use serde_json::Value;

use crate::api::status::FieldError;

use super::structural::{Kind, Structural};
use super::{prune, validate};

/// What JSON Schema has and Kubernetes does not.
const UNSUPPORTED: [&str; 6] = [
    "$ref",
    "definitions",
    "dependencies",
    "patternProperties",
    "additionalItems",
    "id",
];
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const LOGIC: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// Where in a schema a place is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

/// All that is wrong with a schema that lies at `path`.
pub fn check(props: &Value, path: &str) -> Vec<FieldError> {
    let mut found = Vec::new();
    place(props, Level::Root, path, &mut found);
    if found.is_empty() {
        defaults(props, path, true, &mut found);
    }
    found
}

/// Only whether it is structural: what the condition `NonStructuralSchema` says.
pub fn is_structural(props: &Value) -> bool {
    check(props, "").is_empty()
}

fn place(props: &Value, level: Level, path: &str, found: &mut Vec<FieldError>) {
    unsupported(props, path, found);
    kind(props, level, path, found);
    extensions(props, path, found);
    if level == Level::Root || props["x-kubernetes-embedded-resource"] == true {
        metadata(props, path, found);
    }
    for (name, of) in properties(props) {
        place(
            of,
            Level::Field,
            &format!("{path}.properties[{name}]"),
            found,
        );
    }
    match &props["additionalProperties"] {
        Value::Bool(false) => found.push(FieldError::forbidden(
            format!("{path}.additionalProperties"),
            "additionalProperties cannot be set to false",
        )),
        of @ Value::Object(_) => {
            if properties(props).next().is_some() {
                found.push(FieldError::forbidden(
                    format!("{path}.additionalProperties"),
                    "additionalProperties and properties are mutual exclusive",
                ));
            }
            place(
                of,
                Level::Field,
                &format!("{path}.additionalProperties"),
                found,
            );
        }
        _ => {}
    }
    match &props["items"] {
        Value::Array(_) => found.push(FieldError::forbidden(
            format!("{path}.items"),
            "items must be a schema object and not an array",
        )),
        of @ Value::Object(_) => place(of, Level::Item, &format!("{path}.items"), found),
        _ => {}
    }
    each_inner(props, path, &mut |inner, at| {
        nested(inner, props, (at, path), found)
    });
}

fn properties(props: &Value) -> impl Iterator<Item = (&String, &Value)> {
    props["properties"].as_object().into_iter().flatten()
}

/// What is inside of `allOf`, `anyOf`, `oneOf` and `not`.
fn each_inner(props: &Value, path: &str, visit: &mut dyn FnMut(&Value, &str)) {
    for logic in LOGIC {
        for (number, inner) in props[logic].as_array().into_iter().flatten().enumerate() {
            visit(inner, &format!("{path}.{logic}[{number}]"));
        }
    }
    if props["not"].is_object() {
        visit(&props["not"], &format!("{path}.not"));
    }
}

fn unsupported(props: &Value, path: &str, found: &mut Vec<FieldError>) {
    for field in UNSUPPORTED {
        if !props[field].is_null() {
            let why = format!("{field} is not supported");
            found.push(FieldError::forbidden(format!("{path}.{field}"), &why));
        }
    }
    if props["uniqueItems"] == true {
        found.push(FieldError::forbidden(
            format!("{path}.uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ));
    }
    pattern(props, path, found);
}

fn pattern(props: &Value, path: &str, found: &mut Vec<FieldError>) {
    if let Some(pattern) = props["pattern"].as_str()
        && let Err(error) = Regex::new(pattern)
    {
        let why = format!("must be a valid regular expression, but isn't: {error}");
        found.push(FieldError::invalid(
            format!("{path}.pattern"),
            &pattern.into(),
            &why,
        ));
    }
}

fn kind(props: &Value, level: Level, path: &str, found: &mut Vec<FieldError>) {
    let at = format!("{path}.type");
    let is_free = props["x-kubernetes-int-or-string"] == true
        || props["x-kubernetes-preserve-unknown-fields"] == true;
    match props["type"].as_str() {
        None | Some("") => match level {
            Level::Root => found.push(FieldError::required(at, "must not be empty at the root")),
            Level::Field if !is_free => found.push(FieldError::required(
                at,
                "must not be empty for specified object fields",
            )),
            Level::Item if !is_free => found.push(FieldError::required(
                at,
                "must not be empty for specified array items",
            )),
            _ => {}
        },
        Some("null") => found.push(FieldError::forbidden(
            at,
            "type cannot be set to null, use nullable as an alternative",
        )),
        Some(kind) if Kind::of(kind).is_none() => {
            found.push(FieldError::not_supported(at, &kind.into(), &TYPES));
        }
        Some(kind) => {
            if level == Level::Root && kind != "object" {
                found.push(FieldError::invalid(
                    at,
                    &kind.into(),
                    "must be object at the root",
                ));
            }
            if kind == "array" && !props["items"].is_object() && !props["items"].is_array() {
                found.push(FieldError::required(
                    format!("{path}.items"),
                    "must be specified",
                ));
            }
        }
    }
}

fn extensions(props: &Value, path: &str, found: &mut Vec<FieldError>) {
    let kind = props["type"].as_str().unwrap_or_default();
    let flag = |name: &str| props[name] == true;
    let field = |name: &str| format!("{path}.{name}");
    if flag("x-kubernetes-int-or-string") {
        if !kind.is_empty() {
            let why = "must be empty if x-kubernetes-int-or-string is true";
            found.push(FieldError::forbidden(field("type"), why));
        }
        for other in [
            "x-kubernetes-embedded-resource",
            "x-kubernetes-preserve-unknown-fields",
        ] {
            if flag(other) {
                let why = "must be false if x-kubernetes-int-or-string is true";
                found.push(FieldError::forbidden(field(other), why));
            }
        }
    }
    if flag("x-kubernetes-embedded-resource") {
        if kind != "object" {
            let why = "must be object if x-kubernetes-embedded-resource is true";
            found.push(FieldError::invalid(field("type"), &kind.into(), why));
        }
        if !flag("x-kubernetes-preserve-unknown-fields") && properties(props).next().is_none() {
            let why = "must not be empty if x-kubernetes-embedded-resource is true without \
                       x-kubernetes-preserve-unknown-fields";
            found.push(FieldError::required(field("properties"), why));
        }
    }
    if let Some(map_type) = props["x-kubernetes-map-type"].as_str() {
        if kind != "object" {
            let why = "must be object if x-kubernetes-map-type is specified";
            found.push(FieldError::invalid(field("type"), &kind.into(), why));
        }
        if !matches!(map_type, "atomic" | "granular") {
            let at = field("x-kubernetes-map-type");
            let supported = ["atomic", "granular"];
            found.push(FieldError::not_supported(at, &map_type.into(), &supported));
        }
    }
    list_type(props, path, found);
}

fn list_type(props: &Value, path: &str, found: &mut Vec<FieldError>) {
    let kind = props["type"].as_str().unwrap_or_default();
    let field = |name: &str| format!("{path}.{name}");
    let keys = props["x-kubernetes-list-map-keys"].as_array();
    let keys = keys.map_or(&[][..], Vec::as_slice);
    let list_type = props["x-kubernetes-list-type"].as_str();
    if list_type.is_some() && kind != "array" {
        let why = "must be array if x-kubernetes-list-type is specified";
        found.push(FieldError::invalid(field("type"), &kind.into(), why));
    }
    match list_type {
        None | Some("atomic" | "set" | "map") => {}
        Some(other) => {
            let at = field("x-kubernetes-list-type");
            let supported = ["atomic", "map", "set"];
            found.push(FieldError::not_supported(at, &other.into(), &supported));
        }
    }
    if list_type != Some("map") {
        if !keys.is_empty() {
            let why = "must be map if x-kubernetes-list-map-keys is non-empty";
            let at = field("x-kubernetes-list-type");
            let shown = list_type.map_or(Value::Null, Value::from);
            found.push(FieldError::invalid(at, &shown, why));
        }
        return;
    }
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        found.push(FieldError::required(
            field("x-kubernetes-list-map-keys"),
            why,
        ));
    }
    let items = &props["items"];
    if items["type"] != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        found.push(FieldError::invalid(
            field("items.type"),
            &items["type"],
            why,
        ));
    }
    for key in keys.iter().filter_map(Value::as_str) {
        let property = &items["properties"][key];
        if property.is_null() {
            let why = "entries must all be names of item properties";
            let at = field("x-kubernetes-list-map-keys");
            found.push(FieldError::invalid(at, &key.into(), why));
            continue;
        }
        let required = items["required"].as_array().into_iter().flatten();
        if property["default"].is_null() && !required.into_iter().any(|name| name == key) {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default \
                       or be a required property";
            let at = format!("{path}.items.properties[{key}].default");
            found.push(FieldError::required(at, why));
        }
    }
}

fn metadata(props: &Value, path: &str, found: &mut Vec<FieldError>) {
    let meta = &props["properties"]["metadata"];
    if meta.is_null() {
        return;
    }
    let at = format!("{path}.properties[metadata]");
    let known = |name: &str| matches!(name, "name" | "generateName");
    let has_more = properties(meta).any(|(name, _)| !known(name))
        || meta["additionalProperties"].is_object()
        || meta["x-kubernetes-preserve-unknown-fields"] == true;
    if has_more {
        let why = "must not specify anything other than name and generateName, but metadata is \
                   implicitly specified";
        found.push(FieldError::forbidden(at, why));
    } else if meta["type"] != "object" {
        let at = format!("{at}.type");
        found.push(FieldError::invalid(at, &meta["type"], "must be object"));
    }
}

/// What is inside of a logic only restricts: it says no types, and names only fields that the
/// place `outer` knows.
fn nested(inner: &Value, outer: &Value, (at, path): (&str, &str), found: &mut Vec<FieldError>) {
    let is_int_or_string = outer["x-kubernetes-int-or-string"] == true;
    for (field, why) in [
        ("type", "must be empty to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("default", "must be undefined to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("nullable", "must be false to be structural"),
        (
            "x-kubernetes-preserve-unknown-fields",
            "must be false to be structural",
        ),
        (
            "x-kubernetes-embedded-resource",
            "must be false to be structural",
        ),
        (
            "x-kubernetes-int-or-string",
            "must be false to be structural",
        ),
        (
            "x-kubernetes-list-type",
            "must be undefined to be structural",
        ),
        (
            "x-kubernetes-list-map-keys",
            "must be empty to be structural",
        ),
        (
            "x-kubernetes-map-type",
            "must be undefined to be structural",
        ),
    ] {
        let value = &inner[field];
        let is_absent = value.is_null() || *value == false || *value == "";
        let is_allowed = field == "type" && is_int_or_string;
        if !is_absent && !is_allowed {
            found.push(FieldError::forbidden(format!("{at}.{field}"), why));
        }
    }
    pattern(inner, at, found);
    for (name, below) in properties(inner) {
        let here = format!("{at}.properties[{name}]");
        let known = &outer["properties"][name];
        let values = &outer["additionalProperties"];
        let (known, path) = match known.is_null() && values.is_object() {
            true => (values, format!("{path}.additionalProperties")),
            false => (known, format!("{path}.properties[{name}]")),
        };
        if known.is_null() && outer["x-kubernetes-preserve-unknown-fields"] != true {
            let why = format!("because it is defined in {here}");
            found.push(FieldError::required(&path, &why));
        } else {
            nested(below, known, (&here, &path), found);
        }
    }
    if inner["items"].is_object() {
        let here = format!("{at}.items");
        let path = format!("{path}.items");
        if outer["items"].is_null() {
            let why = format!("because it is defined in {here}");
            found.push(FieldError::required(&path, &why));
        } else {
            nested(&inner["items"], &outer["items"], (&here, &path), found);
        }
    }
    each_inner(inner, at, &mut |below, here| {
        nested(below, outer, (here, path), found)
    });
}

/// Defaults are themselves values of their schema.
fn defaults(props: &Value, path: &str, is_root: bool, found: &mut Vec<FieldError>) {
    let at = format!("{path}.default");
    let default = &props["default"];
    if is_root && !default.is_null() {
        found.push(FieldError::forbidden(at, "must be undefined at the root"));
    } else if !default.is_null() {
        one_default(default, props, &at, found);
    }
    for (name, of) in properties(props) {
        defaults(of, &format!("{path}.properties[{name}]"), false, found);
    }
    for below in ["items", "additionalProperties"] {
        if props[below].is_object() {
            defaults(&props[below], &format!("{path}.{below}"), false, found);
        }
    }
}

fn one_default(default: &Value, props: &Value, at: &str, found: &mut Vec<FieldError>) {
    let schema = Structural::compile(props);
    let mut value = default.clone();
    if let Value::Object(map) = &mut value {
        let pruned = prune::prune_part(map, &schema);
        if !pruned.is_empty() {
            found.push(FieldError::invalid(
                at,
                default,
                "must not have unknown fields",
            ));
            return;
        }
        super::default::default(map, &schema);
    }
    for wrong in validate::validate(&value, None, &schema) {
        let field = match wrong.field.as_str() {
            "" | "<nil>" => at.to_owned(),
            field => format!("{at}.{field}"),
        };
        found.push(FieldError { field, ..wrong });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(props: Value) -> Vec<String> {
        let found = check(&props, "s");
        found.iter().map(ToString::to_string).collect()
    }

    fn object(x: Value) -> Value {
        json!({"type": "object", "properties": {"x": x}})
    }

    #[test]
    fn what_is_not_structural_is_refused_as_upstream_refuses_it() {
        for (props, expected) in [
            (
                json!({}),
                "s.type: Required value: must not be empty at the root",
            ),
            (
                json!({"type": "string"}),
                "s.type: Invalid value: \"string\": must be object at the root",
            ),
            (
                object(json!({})),
                "s.properties[x].type: Required value: must not be empty for specified object fields",
            ),
            (
                object(json!({"type": "array", "items": {}})),
                "s.properties[x].items.type: Required value: must not be empty for specified array items",
            ),
            (
                object(json!({"type": "array"})),
                "s.properties[x].items: Required value: must be specified",
            ),
            (
                object(json!({"type": "object", "$ref": "#/x"})),
                "s.properties[x].$ref: Forbidden: $ref is not supported",
            ),
            (
                object(json!({"type": "object", "additionalProperties": false})),
                "s.properties[x].additionalProperties: Forbidden: additionalProperties cannot be set to false",
            ),
            (
                object(json!({"type": "text"})),
                "s.properties[x].type: Unsupported value: \"text\": supported values: \
                \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ),
            (
                object(json!({"type": "object", "anyOf": [{"type": "object"}]})),
                "s.properties[x].anyOf[0].type: Forbidden: must be empty to be structural",
            ),
            (
                json!({"type": "object", "oneOf": [{"properties": {"y": {"minimum": 1}}}]}),
                "s.properties[y]: Required value: because it is defined in s.oneOf[0].properties[y]",
            ),
            (
                object(
                    json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}),
                ),
                "s.properties[x].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ),
            (
                object(json!({"type": "integer", "default": "a"})),
                "s.properties[x].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
            ),
            (
                object(json!({"type": "object", "default": {"b": 1}})),
                "s.properties[x].default: Invalid value: {\"b\":1}: must not have unknown fields",
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
                "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but \
                metadata is implicitly specified",
            ),
        ] {
            assert_eq!(said(props), [expected]);
        }
    }

    #[test]
    fn what_is_structural_is_taken() {
        for props in [
            object(json!({"x-kubernetes-int-or-string": true,
                "anyOf": [{"type": "integer"}, {"type": "string"}]})),
            object(json!({"x-kubernetes-preserve-unknown-fields": true})),
            object(
                json!({"type": "object", "additionalProperties": {"type": "string"}, "default": {"a": "b"}}),
            ),
            object(json!({"type": "array", "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object",
                "required": ["k"], "properties": {"k": {"type": "string"}}}})),
        ] {
            assert_eq!(said(props), Vec::<String>::new());
        }
    }
}
