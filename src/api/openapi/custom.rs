//! Definitions of custom resources: their schemas as they are written, with what every object has
//! (`apiextensions-apiserver/pkg/controller/openapi/builder`).

use serde_json::{Value, json};

use super::Form;
use super::schemas::{definition_name, kind_extension, pointer};
use crate::api::custom::{self, Custom};
use crate::api::schema::builtin;

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an \
    object. Servers should convert recognized schemas to the latest internal value, and may reject \
    unrecognized values. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. \
    Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In \
    CamelCase. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
const OBJECT_META: &str = "Standard object's metadata. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// What OpenAPI v2 has no words for.
const NOT_IN_V2: [&str; 6] = ["allOf", "anyOf", "oneOf", "not", "nullable", "default"];

/// The definitions of a kind and its list.
pub(super) fn definitions(custom: &Custom, form: Form) -> [(String, Value); 2] {
    let name = custom::definition_name(&custom.kind);
    let list_name = format!("{name}List");
    let mut list_kind = custom.kind.clone();
    list_kind.kind.push_str("List");
    let items = json!({"$ref": pointer(&name, form)});
    let list = json!({
        "description": format!("{} is a list of {}", list_kind.kind, custom.kind.kind),
        "type": "object", "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "kind": {"type": "string", "description": KIND},
            "metadata": meta("meta.v1.ListMeta", "Standard list metadata.", form),
            "items": {"type": "array", "items": items,
                "description": format!("List of {}.", custom.kind.kind.to_lowercase())},
        },
        "x-kubernetes-group-version-kind": [kind_extension(&list_kind)],
    });
    [(name, object(custom, form)), (list_name, list)]
}

fn object(custom: &Custom, form: Form) -> Value {
    let mut schema = custom.published.clone();
    if form == Form::V2 {
        strip(&mut schema);
    }
    let keeps_all = form == Form::V2 && custom.schema.preserve;
    if !schema.is_object() || keeps_all {
        schema = json!({"type": "object"});
    }
    let gone = [("apiVersion", API_VERSION), ("kind", KIND)];
    for (field, description) in gone {
        schema["properties"][field] = json!({"type": "string", "description": description});
    }
    schema["properties"]["metadata"] = meta("meta.v1.ObjectMeta", OBJECT_META, form);
    schema["x-kubernetes-group-version-kind"] = json!([kind_extension(&custom.kind)]);
    schema
}

fn meta(ty: &str, description: &str, form: Form) -> Value {
    let target = builtin()
        .get(ty)
        .map(|ty| json!({"$ref": pointer(&definition_name(ty), form)}));
    let target = target.unwrap_or_else(|| json!({"type": "object"}));
    match form {
        Form::V2 => {
            let mut made = target;
            made["description"] = description.into();
            made
        }
        Form::V3 => json!({"allOf": [target], "description": description}),
    }
}

/// Takes out what OpenAPI v2 cannot say; what then would say too little says nothing.
fn strip(schema: &mut Value) {
    let Value::Object(map) = schema else {
        return;
    };
    let is_loose = map.get("nullable") == Some(&true.into())
        || map.get("x-kubernetes-int-or-string") == Some(&true.into());
    let keeps = map.get("x-kubernetes-preserve-unknown-fields") == Some(&true.into());
    for word in NOT_IN_V2 {
        map.remove(word);
    }
    if is_loose {
        map.remove("type");
        map.remove("items");
        map.remove("properties");
        map.remove("additionalProperties");
    } else if keeps {
        map.remove("items");
        map.remove("properties");
    }
    map.remove("x-kubernetes-validations");
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(strip);
    }
    for word in ["items", "additionalProperties"] {
        if let Some(below) = map.get_mut(word) {
            strip(below);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_are_published_with_what_every_object_has() {
        let definition = json!({"spec": {"group": "example.com", "names": {"kind": "Foo"},
            "versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object",
                "description": "A foo.", "properties": {"spec": {"type": "object", "properties": {
                    "x": {"type": "string", "nullable": true}}}}}}}]}});
        let foo = Custom::compile(&definition, "v1").unwrap();
        let [(name, v3), (list, _)] = definitions(&foo, Form::V3);
        assert_eq!(
            (name.as_str(), list.as_str()),
            ("com.example.v1.Foo", "com.example.v1.FooList")
        );
        assert_eq!(v3["description"], "A foo.");
        assert_eq!(
            v3["properties"]["spec"]["properties"]["x"]["nullable"],
            true
        );
        assert_eq!(v3["x-kubernetes-group-version-kind"][0]["kind"], "Foo");
        let [(_, v2), _] = definitions(&foo, Form::V2);
        assert_eq!(v2["properties"]["spec"]["properties"]["x"], json!({}));
    }
}
