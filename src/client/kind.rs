//! What a typed kind is to the client, and the shapes of lists and metadata.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::api::{
    gvk::{GroupVersionResource, api_version},
    object::{Object, ObjectKey},
};

/// A struct of `k8s-openapi` that is served as a resource.
pub trait Kind:
    k8s_openapi::Resource
    + k8s_openapi::Metadata<Ty = ObjectMeta>
    + Serialize
    + DeserializeOwned
    + Clone
    + std::fmt::Debug
    + Send
    + Sync
    + 'static
{
    /// The resource's name for URLs.
    fn resource() -> GroupVersionResource {
        GroupVersionResource::new(Self::GROUP, Self::VERSION, Self::URL_PATH_SEGMENT)
    }
}

impl<K> Kind for K where
    K: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + std::fmt::Debug
        + Send
        + Sync
        + 'static
{
}

/// What a watch needs to know of the objects it carries.
pub trait HasMeta: DeserializeOwned + Send + 'static {
    /// Namespace and name.
    fn object_key(&self) -> ObjectKey;
    /// `metadata.resourceVersion`; empty where absent.
    fn revision(&self) -> &str;
}

impl<K: Kind> HasMeta for K {
    fn object_key(&self) -> ObjectKey {
        key_of(self.metadata())
    }

    fn revision(&self) -> &str {
        self.metadata().resource_version.as_deref().unwrap_or("")
    }
}

impl HasMeta for Object {
    fn object_key(&self) -> ObjectKey {
        self.key()
    }

    fn revision(&self) -> &str {
        self.resource_version()
    }
}

impl HasMeta for PartialObjectMetadata {
    fn object_key(&self) -> ObjectKey {
        key_of(&self.metadata)
    }

    fn revision(&self) -> &str {
        self.metadata.resource_version.as_deref().unwrap_or("")
    }
}

/// The metadata of an object of any kind (`meta.k8s.io/v1 PartialObjectMetadata`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PartialObjectMetadata {
    /// The object's, all of it.
    pub metadata: ObjectMeta,
}

/// A list as the API answers it.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
pub struct List<T> {
    /// Revision and continue token.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The objects.
    #[serde(default = "Vec::new", deserialize_with = "null_as_empty")]
    pub items: Vec<T>,
}

impl<T> List<T> {
    /// The revision the list was read at; empty where the server named none.
    pub fn revision(&self) -> &str {
        self.metadata.resource_version.as_deref().unwrap_or("")
    }

    /// The token of the next page, where there is one.
    pub fn next_page(&self) -> Option<&str> {
        self.metadata.continue_.as_deref().filter(|t| !t.is_empty())
    }
}

fn null_as_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: DeserializeOwned,
{
    Ok(Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default())
}

/// Namespace and name of an object; the namespace is empty for cluster-scoped objects.
pub fn key_of(meta: &ObjectMeta) -> ObjectKey {
    ObjectKey {
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

/// The path of a collection.
pub(super) fn path(group: &str, version: &str, namespace: &str, plural: &str) -> String {
    let root = if group.is_empty() { "/api/" } else { "/apis/" };
    let version = api_version(group, version);
    if namespace.is_empty() {
        format!("{root}{version}/{plural}")
    } else {
        format!("{root}{version}/namespaces/{}/{plural}", segment(namespace))
    }
}

/// The path of a collection of a resource.
pub(super) fn resource_path(resource: &GroupVersionResource, namespace: &str) -> String {
    path(
        &resource.group,
        &resource.version,
        namespace,
        &resource.resource,
    )
}

/// A name as part of a path: valid names need no escape, and others must not reach another path.
pub(super) fn segment(name: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
    const KEPT: AsciiSet = NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b':');
    utf8_percent_encode(name, &KEPT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_group_version_namespace_and_plural() {
        assert_eq!(path("", "v1", "", "pods"), "/api/v1/pods");
        assert_eq!(
            path("apps", "v1", "default", "deployments"),
            "/apis/apps/v1/namespaces/default/deployments"
        );
        assert_eq!(segment("system:node"), "system:node");
        assert_eq!(segment("a/../b?c"), "a%2F..%2Fb%3Fc");
    }

    #[test]
    fn a_list_without_items_is_empty() {
        let list: List<PartialObjectMetadata> =
            serde_json::from_str(r#"{"metadata":{"resourceVersion":"7"},"items":null}"#).unwrap();
        assert_eq!((list.revision(), list.items.len()), ("7", 0));
    }
}
