//! Values, and what is said of them.

use serde_json::{Value, json};

use super::*;

fn said(schema: Value, value: Value) -> Vec<String> {
    said_of(schema, value, None)
}

fn said_of(schema: Value, value: Value, old: Option<Value>) -> Vec<String> {
    let found = validate(&value, old.as_ref(), &Structural::compile(&schema));
    found.iter().map(ToString::to_string).collect()
}

fn spec(of: Value) -> Value {
    json!({"type": "object", "properties": {"x": of}})
}

#[test]
fn what_is_wrong_is_said_as_upstream_says_it() {
    says(&[
        (
            json!({"type": "integer"}),
            json!("a"),
            "x: Invalid value: \"string\": x in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "string"}),
            json!(null),
            "x: Invalid value: \"null\": x in body must be of type string: \"null\"",
        ),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            "x: Invalid value: \"boolean\": x in body must be of type integer,string: \"boolean\"",
        ),
        (
            json!({"type": "object", "required": ["a"]}),
            json!({}),
            "x.a: Required value",
        ),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            "x: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            "x: Invalid value: 0: x in body should be greater than or equal to 1",
        ),
        (
            json!({"type": "integer", "maximum": 10, "exclusiveMaximum": true}),
            json!(10),
            "x: Invalid value: 10: x in body should be less than 10",
        ),
    ]);
}

#[test]
fn sizes_forms_and_choices_are_said_as_upstream_says_them() {
    says(&[
        (
            json!({"type": "string", "pattern": "^a$"}),
            json!("b"),
            "x: Invalid value: \"b\": x in body should match '^a$'",
        ),
        (
            json!({"type": "string", "minLength": 2}),
            json!("b"),
            "x: Invalid value: \"b\": x in body should be at least 2 chars long",
        ),
        (
            json!({"type": "string", "maxLength": 2}),
            json!("abc"),
            "x: Too long: may not be more than 2 bytes",
        ),
        (
            json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}}),
            json!([1, 2]),
            "x: Too many: 2: must have at most 1 item",
        ),
        (
            json!({"type": "string", "format": "date-time"}),
            json!("soon"),
            "x: Invalid value: \"soon\": x in body must be of type date-time: \"soon\"",
        ),
        (
            json!({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({}),
            "<nil>: Invalid value: \"\": \"x\" must validate one and only one schema (oneOf). \
             Found none valid",
        ),
    ]);
}

/// Each schema says of its value what is expected; plural or not is not looked at.
fn says(cases: &[(Value, Value, &str)]) {
    for (schema, value, expected) in cases {
        let found = said(spec(schema.clone()), json!({"x": value}));
        let shortened: Vec<_> = found
            .iter()
            .map(|text| text.trim_end_matches('s'))
            .collect();
        assert_eq!(shortened, [expected.trim_end_matches('s')]);
    }
}

#[test]
fn what_fits_is_not_spoken_of() {
    for (schema, value) in [
        (json!({"type": "integer"}), json!(1.0)),
        (json!({"type": "number"}), json!(1)),
        (json!({"type": "string", "nullable": true}), json!(null)),
        (json!({"x-kubernetes-int-or-string": true}), json!("a")),
        (
            json!({"type": "string", "format": "date-time"}),
            json!("2026-01-02T03:04:05Z"),
        ),
        (
            json!({"type": "string", "format": "duration"}),
            json!("10s"),
        ),
        (
            json!({"type": "string", "format": "unheard-of"}),
            json!("a"),
        ),
        (
            json!({"type": "object", "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({"b": 1}),
        ),
    ] {
        assert_eq!(
            said(spec(schema), json!({"x": value})),
            Vec::<String>::new()
        );
    }
}

#[test]
fn what_an_update_leaves_alone_is_tolerated() {
    let schema = json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1},
        "b": {"type": "string"},
        "list": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object",
            "properties": {"k": {"type": "string"}, "v": {"type": "integer", "maximum": 1}}}}}});
    let old = json!({"a": "long", "b": "x", "list": [{"k": "a", "v": 5}]});
    let new = json!({"a": "long", "b": "y", "list": [{"k": "b", "v": 1}, {"k": "a", "v": 5}]});
    assert!(said_of(schema.clone(), new, Some(old.clone())).is_empty());
    let worse = json!({"a": "longer", "b": "y", "list": [{"k": "a", "v": 6}]});
    assert_eq!(said_of(schema, worse, Some(old)).len(), 2);
}

#[test]
fn items_of_sets_and_maps_are_there_once() {
    let schema = Structural::compile(&json!({"type": "object", "properties": {
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "map": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k", "p"], "items": {"type": "object", "properties": {
                "k": {"type": "string"}, "p": {"type": "string", "default": "TCP"}}}}}}));
    let value = json!({"set": ["a", "b", "a"], "map": [{"k": "x"}, {"k": "x", "p": "TCP"}]});
    let found: Vec<_> = lists(&value, &schema)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        found,
        [
            "map[1]: Duplicate value: {\"k\":\"x\",\"p\":\"TCP\"}",
            "set[2]: Duplicate value: \"a\"",
        ]
    );
}
