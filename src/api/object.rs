//! An object of any kind, as JSON, with its common parts at hand; and the key that names one.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Namespace and name. The namespace is empty for cluster-scoped objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Never empty.
    pub name: String,
}

impl ObjectKey {
    /// The key of a namespaced object.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The key of a cluster-scoped object.
    pub fn cluster(name: &str) -> Self {
        Self::new("", name)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return f.write_str(&self.name);
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A JSON object that is a Kubernetes object. Unknown fields are kept as they are: nothing here
/// goes through a typed struct.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Map<String, Value>);

impl Object {
    /// `None` where `value` is not a JSON object.
    pub fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self(map)),
            _ => None,
        }
    }

    /// The JSON it is made of.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// Empty where absent.
    pub fn api_version(&self) -> &str {
        text(self.0.get("apiVersion"))
    }

    /// Empty where absent.
    pub fn kind(&self) -> &str {
        text(self.0.get("kind"))
    }

    /// A text field of `metadata`; empty where absent.
    pub fn meta(&self, field: &str) -> &str {
        text(self.metadata().and_then(|meta| meta.get(field)))
    }

    /// `metadata.name`
    pub fn name(&self) -> &str {
        self.meta("name")
    }

    /// `metadata.namespace`
    pub fn namespace(&self) -> &str {
        self.meta("namespace")
    }

    /// `metadata.uid`
    pub fn uid(&self) -> &str {
        self.meta("uid")
    }

    /// `metadata.resourceVersion`
    pub fn resource_version(&self) -> &str {
        self.meta("resourceVersion")
    }

    /// Namespace and name.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.namespace(), self.name())
    }

    /// Whether `metadata.deletionTimestamp` is set.
    pub fn is_terminating(&self) -> bool {
        !self.meta("deletionTimestamp").is_empty()
    }

    /// `metadata`, where it is an object.
    pub fn metadata(&self) -> Option<&Map<String, Value>> {
        self.0.get("metadata").and_then(Value::as_object)
    }

    /// `metadata`, made empty where it is absent or not an object.
    pub fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        child_mut(&mut self.0, "metadata")
    }

    /// `spec`, where it is an object.
    pub fn spec(&self) -> Option<&Map<String, Value>> {
        self.0.get("spec").and_then(Value::as_object)
    }

    /// The value of a top-level field; null where absent.
    pub fn field(&self, field: &str) -> &Value {
        self.0.get(field).unwrap_or(&Value::Null)
    }

    /// The value at a path of fields, for instance `["spec", "nodeName"]`.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter()
            .try_fold(self.0.get(*first)?, |value, field| value.get(field))
    }

    /// The text at a path of fields; empty where absent or not a text.
    pub fn text_at(&self, path: &[&str]) -> &str {
        text(self.at(path))
    }
}

/// The object below `field`, made empty where it is absent or something else.
pub fn child_mut<'a>(map: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    let slot = map
        .entry(field)
        .or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut()
        .expect("the slot was just made an object")
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_common_parts_and_tolerates_rubbish() {
        let pod =
            Object::from_value(json!({"kind": "Pod", "metadata": {"name": "a", "namespace": "b"}}))
                .unwrap();
        assert_eq!(pod.key().to_string(), "b/a");
        let mut odd = Object::from_value(json!({"metadata": 7})).unwrap();
        assert_eq!(odd.name(), "");
        odd.metadata_mut().insert("name".into(), "x".into());
        assert_eq!(odd.text_at(&["metadata", "name"]), "x");
    }
}
