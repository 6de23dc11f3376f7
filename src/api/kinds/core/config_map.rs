//! ConfigMap: texts and bytes for pods to read.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, entries, text};

pub(crate) const DEF: KindDef = KindDef {
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    schema: "core.v1.ConfigMap",
    storage: "configmaps",
    columns: COLUMNS,
    cells: row,
    validate,
    validate_update,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Data",
        "Data contains the configuration data. Each key must consist of alphanumeric characters, \
         '-', '_' or '.'. Values with non-UTF-8 byte sequences must use the BinaryData field. The \
         keys stored in Data must not overlap with the keys in the BinaryData field, this is \
         enforced during validation process.",
    ),
    rows::AGE,
];

fn row(map: &Object, now: Timestamp) -> Vec<Value> {
    let count = cells::count(map.field("data")) + cells::count(map.field("binaryData"));
    vec![cells::name(map), count.into(), cells::age(map, now)]
}

fn validate(map: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let (data, binary) = (map.field("data"), map.field("binaryData"));
    let (data_path, binary_path) = (Path::root("data"), Path::root("binaryData"));
    common::data_keys(&mut errors, data, &data_path);
    common::data_keys(&mut errors, binary, &binary_path);
    let mut size_bytes = 0;
    for (key, value) in entries(data) {
        if binary.get(key).is_some() {
            let why = "duplicate of key present in binaryData";
            errors.invalid(&data_path.key(key), key, why);
        }
        size_bytes += text(value).len();
    }
    let decoded = entries(binary).map(|(_, value)| common::decoded_len(text(value)));
    size_bytes += decoded.sum::<usize>();
    if size_bytes > common::DATA_MAX {
        errors.too_long(&Path::root(""), common::DATA_MAX);
    }
    errors.into_vec()
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    common::immutable_data(&mut errors, new, old, &["data", "binaryData"]);
    errors.extend(validate(new));
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn keys_and_size_are_limited() {
        let errors = validate(&map(
            json!({"data": {"a b": "", "c": ""}, "binaryData": {"c": ""}}),
        ));
        assert!(
            errors[0]
                .to_string()
                .starts_with("data[a b]: Invalid value: \"a b\": a valid config key")
        );
        assert_eq!(
            errors[1].to_string(),
            "data[c]: Invalid value: \"c\": duplicate of key present in binaryData"
        );
        let big = validate(&map(json!({"data": {"a": "x".repeat(1024 * 1024 + 1)}})));
        assert_eq!(
            big[0].to_string(),
            "[]: Too long: may not be more than 1048576 bytes"
        );
        assert!(validate(&map(json!({"data": {"a": "x".repeat(1024 * 1024)}}))).is_empty());
    }

    #[test]
    fn what_is_immutable_stays() {
        let old = map(json!({"immutable": true, "data": {"a": "b"}}));
        let new = map(json!({"data": {"a": "c"}}));
        let errors = validate_update(&new, &old);
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
        assert!(validate_update(&old, &old).is_empty());
    }
}
