//! What came from which file, kept in the cluster itself.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::ConfigMap;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::MANAGER;
use crate::api::object::Object;
use crate::client::{Client, Error};

/// Name of the ConfigMap.
pub const NAME: &str = "orch-manifests";
/// Its namespace.
pub const NAMESPACE: &str = "kube-system";
const OBJECTS: &str = "objects";
/// Key of the complaints, one a line.
const COMPLAINTS: &str = "complaints";

/// Which object: without version, so that a manifest that moves to a newer one stays the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Id {
    /// As applied last; not part of the identity but for its group.
    #[serde(rename = "apiVersion")]
    pub(super) api_version: String,
    /// Its kind.
    pub(super) kind: String,
    /// As the manifest says; may be empty.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
}

/// Where an object came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The file, below the folder.
    pub(super) file: String,
    /// Of what was applied.
    pub(super) hash: u64,
}

/// Everything that came from files, and what is wrong with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    objects: BTreeMap<Id, Entry>,
    /// One a line.
    pub(super) complaints: Vec<String>,
}

impl Id {
    /// Of a document.
    pub(super) fn of(object: &Object) -> Self {
        Self {
            api_version: object.api_version().to_owned(),
            kind: object.kind().to_owned(),
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
        }
    }

    /// Enough of the object to find its resource.
    pub(super) fn to_object(&self) -> Object {
        let value = json!({
            "apiVersion": self.api_version, "kind": self.kind,
            "metadata": {"name": self.name, "namespace": self.namespace},
        });
        Object::from_value(value).unwrap_or_default()
    }

    /// Whether both name the same object, whatever the version.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let group = |id: &Self| {
            id.api_version
                .rsplit_once('/')
                .map(|(group, _)| group.to_owned())
        };
        group(self) == group(other)
            && (&self.kind, &self.namespace, &self.name)
                == (&other.kind, &other.namespace, &other.name)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}",
            self.kind,
            crate::api::object::ObjectKey::new(&self.namespace, &self.name)
        )
    }
}

impl Record {
    pub(super) fn objects(&self) -> &BTreeMap<Id, Entry> {
        &self.objects
    }

    pub(super) fn set(&mut self, id: Id, entry: Entry) {
        self.objects.retain(|other, _| !other.is_same(&id));
        self.objects.insert(id, entry);
    }

    pub(super) fn remove(&mut self, id: &Id) {
        self.objects.remove(id);
    }
}

/// Reads the record; an absent one is empty.
pub(super) async fn load(client: &Client) -> Result<Record, Error> {
    let found = client
        .namespaced::<ConfigMap>(NAMESPACE)
        .get_opt(NAME)
        .await?;
    let data = found.and_then(|map| map.data).unwrap_or_default();
    let objects = data.get(OBJECTS).map(String::as_str).unwrap_or("[]");
    let objects: Vec<(Id, Entry)> = serde_json::from_str(objects).unwrap_or_else(|error| {
        tracing::warn!(%error, "the record of manifests is not readable; starting a new one");
        Vec::new()
    });
    let complaints = data.get(COMPLAINTS).map(String::as_str).unwrap_or_default();
    Ok(Record {
        objects: objects.into_iter().collect(),
        complaints: complaints.lines().map(str::to_owned).collect(),
    })
}

/// Writes the record.
pub(super) async fn save(client: &Client, record: &Record) -> Result<(), Error> {
    let objects: Vec<_> = record.objects.iter().collect();
    let body = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": {
            OBJECTS: json!(objects).to_string(),
            COMPLAINTS: record.complaints.join("\n"),
        },
    });
    client
        .namespaced::<ConfigMap>(NAMESPACE)
        .apply(NAME, MANAGER, &body)
        .await?;
    Ok(())
}

impl Record {
    #[cfg(test)]
    pub(super) fn from_objects(objects: impl IntoIterator<Item = (Id, Entry)>) -> Self {
        Self {
            objects: objects.into_iter().collect(),
            complaints: Vec::new(),
        }
    }
}
