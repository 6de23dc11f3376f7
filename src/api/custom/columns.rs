//! Columns of `kubectl get` for custom objects, by JSONPath
//! (`apiextensions-apiserver/pkg/registry/customresource/tableconvertor`).

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::jsonpath::JsonPath;
use crate::api::time;

const NAME_TEXT: &str = "Name must be unique within a namespace. Is required when creating \
    resources, although some resources may allow a client to request the generation of an \
    appropriate name automatically. Name is primarily intended for creation idempotence and \
    configuration definition. Cannot be updated. More info: \
    https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";
const AGE_TEXT: &str = "CreationTimestamp is a timestamp representing the server time when this \
    object was created. It is not guaranteed to be set in happens-before order across separate \
    operations. Clients may not set this value. It is represented in RFC3339 form and is in \
    UTC.\n\nPopulated by the system. Read-only. Null for lists. More info: \
    https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata";

/// The columns of one version.
#[derive(Clone, Debug)]
pub struct Columns {
    /// As a Table has them.
    pub definitions: Value,
    columns: Vec<Column>,
}

#[derive(Clone, Debug)]
struct Column {
    kind: String,
    /// `None`: it could not be read, and shows nothing.
    path: Option<JsonPath>,
}

impl Columns {
    /// Of `additionalPrinterColumns`; without them the name is followed by the age.
    pub(super) fn compile(written: &Value) -> Self {
        let age = [json!({
            "name": "Age", "type": "date", "description": AGE_TEXT,
            "jsonPath": ".metadata.creationTimestamp",
        })];
        let written = match written.as_array() {
            Some(written) if !written.is_empty() => written.as_slice(),
            _ => &age,
        };
        let mut definitions = vec![json!({
            "name": "Name", "type": "string", "format": "name", "description": NAME_TEXT,
            "priority": 0,
        })];
        let mut columns = Vec::new();
        for column in written {
            let text = |field: &str| column[field].as_str().unwrap_or_default();
            let path = text("jsonPath");
            let description = match text("description") {
                "" => format!("Custom resource definition column (in JSONPath format): {path}"),
                description => description.to_owned(),
            };
            definitions.push(json!({
                "name": text("name"), "type": text("type"), "format": text("format"),
                "description": description,
                "priority": column["priority"].as_i64().unwrap_or(0),
            }));
            columns.push(Column {
                kind: text("type").to_owned(),
                path: JsonPath::parse(path).ok(),
            });
        }
        Self {
            definitions: definitions.into(),
            columns,
        }
    }

    /// The cells of one row.
    pub fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = object["metadata"]["name"].clone();
        let cells = self.columns.iter().map(|column| column.cell(object, now));
        std::iter::once(name).chain(cells).collect()
    }
}

impl Column {
    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.as_ref().map(|path| path.find(object));
        let found = found.unwrap_or_default();
        let Some(first) = found.first() else {
            return Value::Null;
        };
        match self.kind.as_str() {
            "integer" if first.is_i64() || first.is_u64() => (*first).clone(),
            "integer" => whole(first),
            "number" if first.is_number() => (*first).clone(),
            "boolean" if first.is_boolean() => (*first).clone(),
            "string" => {
                let texts: Vec<String> = found.iter().map(|value| printed(value)).collect();
                texts.join(" ").into()
            }
            "date" => match first.as_str() {
                Some(text) if time::parse(text).is_some() => time::age(first, now).into(),
                _ => "<invalid>".into(),
            },
            _ => Value::Null,
        }
    }
}

/// The whole part of a number.
fn whole(value: &Value) -> Value {
    let number = value.as_f64().filter(|n| n.abs() < 9e15);
    number.map_or(Value::Null, |n| (n as i64).into())
}

fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_of_the_type_of_their_column() {
        let columns = Columns::compile(&json!([
            {"name": "Replicas", "type": "integer", "jsonPath": ".spec.n"},
            {"name": "Ready", "type": "string",
                "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
            {"name": "All", "type": "string", "jsonPath": ".spec.list[*]", "priority": 1},
            {"name": "Since", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
            {"name": "None", "type": "boolean", "jsonPath": ".spec.missing"},
        ]));
        assert_eq!(columns.definitions[3]["priority"], 1);
        let object = json!({
            "metadata": {"name": "a", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"n": 3, "list": ["a", {"b": 1}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        let now = Timestamp::from_second(60).unwrap();
        assert_eq!(
            columns.cells(&object, now),
            [
                json!("a"),
                json!(3),
                json!("True"),
                json!("a {\"b\":1}"),
                json!("60s"),
                json!(null)
            ]
        );
        let plain = Columns::compile(&Value::Null);
        assert_eq!(plain.cells(&object, now), [json!("a"), json!("60s")]);
    }
}
