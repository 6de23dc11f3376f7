//! Writes an OpenAPI v2 document as the protobuf message `openapi.v2.Document` of gnostic, the
//! only form that client-go before 1.27 asks for.
//!
//! The document comes as JSON and is written message by message; field numbers are those of
//! `openapiv2/OpenAPIv2.proto`. Fields that our documents never have are left out.

use bytes::Bytes;
use serde_json::{Map, Value};

/// Wire type of texts and messages.
const BYTES: u64 = 2;

pub(super) fn encode(document: &Value) -> Bytes {
    let none = Map::new();
    let map = |field: &str| document[field].as_object().unwrap_or(&none);
    let mut out = Message::default();
    out.text(1, &document["swagger"]);
    out.message(2, |out| {
        out.text(1, &document["info"]["title"]);
        out.text(2, &document["info"]["version"]);
    });
    out.message(8, |out| out.named(2, map("paths"), path_item));
    out.message(9, |out| out.named(1, map("definitions"), schema));
    out.message(10, |out| out.named(1, map("parameters"), parameter));
    for requirement in document["security"].as_array().into_iter().flatten() {
        let none = requirement.as_object().unwrap_or(&none);
        out.message(12, |out| {
            out.named(1, none, |out, scopes| out.texts(1, scopes));
        });
    }
    out.message(13, |out| {
        out.named(1, map("securityDefinitions"), |out, scheme| {
            // ApiKeySecurity
            out.message(2, |out| {
                out.text(1, &scheme["type"]);
                out.text(2, &scheme["name"]);
                out.text(3, &scheme["in"]);
                out.text(4, &scheme["description"]);
            });
        });
    });
    Bytes::from(out.0)
}

/// `PathItem`
fn path_item(out: &mut Message, item: &Value) {
    for (method, number) in [
        ("get", 2),
        ("put", 3),
        ("post", 4),
        ("delete", 5),
        ("patch", 8),
    ] {
        if let Some(operation) = item.get(method) {
            out.message(number, |out| operation_of(out, operation));
        }
    }
    for item in item["parameters"].as_array().into_iter().flatten() {
        out.message(9, |out| parameters_item(out, item));
    }
}

/// `Operation`
fn operation_of(out: &mut Message, operation: &Value) {
    out.texts(1, &operation["tags"]);
    out.text(3, &operation["description"]);
    out.text(5, &operation["operationId"]);
    out.texts(6, &operation["produces"]);
    out.texts(7, &operation["consumes"]);
    for item in operation["parameters"].as_array().into_iter().flatten() {
        out.message(8, |out| parameters_item(out, item));
    }
    if let Some(responses) = operation["responses"].as_object() {
        out.message(9, |out| {
            out.named(1, responses, |out, response| {
                // ResponseValue.response
                out.message(1, |out| {
                    out.text(1, &response["description"]);
                    if let Some(of) = response.get("schema") {
                        // SchemaItem.schema
                        out.message(2, |out| out.message(1, |out| schema(out, of)));
                    }
                });
            });
        });
    }
    out.extensions(13, operation);
}

/// `ParametersItem`
fn parameters_item(out: &mut Message, item: &Value) {
    match item.get("$ref") {
        Some(target) => out.message(2, |out| out.text(1, target)),
        None => out.message(1, |out| parameter(out, item)),
    }
}

/// `Parameter`
fn parameter(out: &mut Message, of: &Value) {
    if of["in"] == "body" {
        out.message(1, |out| {
            out.text(1, &of["description"]);
            out.text(2, &of["name"]);
            out.text(3, &of["in"]);
            out.flag(4, &of["required"]);
            out.message(5, |out| schema(out, &of["schema"]));
        });
        return;
    }
    let in_path = of["in"] == "path";
    // NonBodyParameter: PathParameterSubSchema, QueryParameterSubSchema
    let number = if in_path { 4 } else { 3 };
    out.message(2, |out| {
        out.message(number, |out| {
            out.flag(1, &of["required"]);
            out.text(2, &of["in"]);
            out.text(3, &of["description"]);
            out.text(4, &of["name"]);
            let (kind, unique) = if in_path { (5, 19) } else { (6, 20) };
            out.text(kind, &of["type"]);
            out.flag(unique, &of["uniqueItems"]);
        });
    });
}

/// `Schema`
fn schema(out: &mut Message, of: &Value) {
    out.text(1, &of["$ref"]);
    out.text(2, &of["format"]);
    out.text(4, &of["description"]);
    if let Some(default) = of.get("default") {
        out.message(5, |out| yaml(out, default));
    }
    out.texts(19, &of["required"]);
    if let Some(values) = of.get("additionalProperties") {
        out.message(21, |out| out.message(1, |out| schema(out, values)));
    }
    if let Some(kind) = of.get("type") {
        out.message(22, |out| out.text(1, kind));
    }
    if let Some(items) = of.get("items") {
        out.message(23, |out| out.message(1, |out| schema(out, items)));
    }
    if let Some(properties) = of["properties"].as_object() {
        out.message(25, |out| out.named(1, properties, schema));
    }
    out.extensions(31, of);
}

/// `Any`: the value as YAML, which JSON is.
fn yaml(out: &mut Message, value: &Value) {
    out.string(2, &format!("{value}\n"));
}

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            // The low seven bits, with a mark that more follow.
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, number: u64, bytes: &[u8]) {
        self.varint(number << 3 | BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn string(&mut self, number: u64, text: &str) {
        self.bytes(number, text.as_bytes());
    }

    /// A text field; nothing where the value is no text.
    fn text(&mut self, number: u64, value: &Value) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            self.string(number, text);
        }
    }

    fn texts(&mut self, number: u64, values: &Value) {
        for value in values.as_array().into_iter().flatten() {
            self.string(number, value.as_str().unwrap_or_default());
        }
    }

    fn flag(&mut self, number: u64, value: &Value) {
        if value == &Value::Bool(true) {
            self.varint(number << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, number: u64, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(number, &inner.0);
    }

    /// A map: messages of a name and a value.
    fn named(
        &mut self,
        number: u64,
        map: &Map<String, Value>,
        write: impl Fn(&mut Message, &Value),
    ) {
        for (name, value) in map {
            self.message(number, |out| {
                out.string(1, name);
                out.message(2, |out| write(out, value));
            });
        }
    }

    /// The `x-…` fields of an object.
    fn extensions(&mut self, number: u64, of: &Value) {
        let fields = of.as_object().into_iter().flatten();
        for (name, value) in fields.filter(|(name, _)| name.starts_with("x-")) {
            self.message(number, |out| {
                out.string(1, name);
                out.message(2, |out| yaml(out, value));
            });
        }
    }
}
