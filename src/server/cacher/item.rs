//! One object in the cache: its bytes, and beside them what selectors and indexes ask for, parsed
//! once.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use crate::api::object::Object;
use crate::server::registry::FieldsOf;
use crate::server::storage::{self, Served, codec, keys};
use crate::store::{KeyValue, Revision};

/// An object as it was written at `revision`. Never changed; a write makes another.
#[derive(Clone, Debug)]
pub struct Item {
    /// `namespace/name`, or the name of a cluster-scoped object.
    pub key: Arc<str>,
    /// When it was written.
    pub revision: Revision,
    /// When the key was made.
    pub created: Revision,
    /// What selectors match.
    pub labels: BTreeMap<String, String>,
    /// Label and value of the selectable fields beyond name and namespace.
    pub fields: Vec<(&'static str, String)>,
    served: Served,
}

impl Item {
    /// Reads what is stored under the local key `key`.
    pub fn read(
        key: &str,
        stored: &KeyValue,
        fields_of: Option<FieldsOf>,
    ) -> Result<Self, storage::Error> {
        let served = codec::serve(&stored.value, stored.modified)?;
        let (labels, fields) = match fields_of {
            Some(fields_of) => {
                let object = codec::parse(&served.bytes)?;
                (labels_of(&object), fields_of(&object))
            }
            None => (head_labels(&served.bytes)?, Vec::new()),
        };
        Ok(Self {
            key: key.into(),
            revision: stored.modified,
            created: stored.created,
            labels,
            fields,
            served,
        })
    }

    /// The JSON clients get.
    pub fn bytes(&self) -> &Bytes {
        &self.served.bytes
    }

    /// The JSON with another revision: what a DELETED event carries.
    pub fn bytes_at(&self, revision: Revision) -> Bytes {
        self.served.with_revision(revision)
    }

    /// The object, parsed anew.
    pub fn object(&self) -> Result<Object, storage::Error> {
        codec::parse(self.bytes())
    }

    /// Empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        keys::split_local(&self.key).0
    }

    /// `metadata.name`
    pub fn name(&self) -> &str {
        keys::split_local(&self.key).1
    }

    /// The value of a selectable field.
    pub fn field(&self, label: &str) -> Option<&str> {
        match label {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => {
                let field = self.fields.iter().find(|(name, _)| *name == label);
                field.map(|(_, value)| value.as_str())
            }
        }
    }

    /// How much memory it is about.
    pub(super) fn size_bytes(&self) -> usize {
        self.served.bytes.len() + 256
    }
}

fn labels_of(object: &Object) -> BTreeMap<String, String> {
    let labels = object.at(&["metadata", "labels"]);
    let labels = labels.and_then(serde_json::Value::as_object);
    labels
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect()
}

/// The labels alone: most kinds need nothing else, and the rest of the JSON is then only skipped.
fn head_labels(json: &[u8]) -> Result<BTreeMap<String, String>, storage::Error> {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow, default)]
        metadata: Meta<'a>,
    }
    #[derive(Deserialize, Default)]
    struct Meta<'a> {
        #[serde(borrow, default)]
        labels: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
    }
    let head: Head<'_> =
        serde_json::from_slice(json).map_err(|e| storage::Error::Codec(e.to_string()))?;
    let labels = head.metadata.labels.unwrap_or_default();
    Ok(labels
        .into_iter()
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stored(value: serde_json::Value) -> KeyValue {
        KeyValue {
            key: Bytes::new(),
            value: codec::encode(&Object::from_value(value).unwrap()),
            created: Revision(1),
            modified: Revision(2),
        }
    }

    #[test]
    fn both_ways_of_reading_find_the_same_labels() {
        let stored = stored(json!({"metadata": {"name": "b", "labels": {"a\"": "ü", "c": ""}}}));
        let light = Item::read("a/b", &stored, None).unwrap();
        let full = Item::read("a/b", &stored, Some(|_| vec![("x", "y".to_owned())])).unwrap();
        assert_eq!(light.labels, full.labels);
        assert_eq!(light.labels.len(), 2);
        assert_eq!((full.field("x"), light.field("x")), (Some("y"), None));
        assert_eq!(light.field("metadata.namespace"), Some("a"));
    }
}
