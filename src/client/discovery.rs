//! What the server serves: from kinds to resources and back, fetched once and kept until a kind
//! is missed.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::api::{
    gvk::{GroupVersionKind, GroupVersionResource, Scope, api_version},
    object::Object,
    status::ApiError,
};

use super::{Call, Client, Error, Result, decode};

/// One served resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// Where it is served.
    pub resource: GroupVersionResource,
    /// The kind of its objects.
    pub kind: String,
    /// Whether its objects live in a namespace.
    pub scope: Scope,
    /// For instance `list`, `delete`.
    pub verbs: Vec<String>,
    /// Whether this is the version its group prefers.
    pub preferred: bool,
}

impl Served {
    /// Whether all of `verbs` are served.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs
            .iter()
            .all(|verb| self.verbs.iter().any(|v| v == verb))
    }
}

/// All that is served, subresources left out.
#[derive(Debug, Default)]
pub struct Resources {
    /// In the order the server lists them.
    pub served: Vec<Served>,
    /// Group versions that could not be read, with the reason.
    pub failed: Vec<(String, String)>,
    by_kind: HashMap<GroupVersionKind, usize>,
}

impl Resources {
    /// The resource of a kind.
    pub fn of_kind(&self, kind: &GroupVersionKind) -> Option<&Served> {
        self.by_kind.get(kind).map(|at| &self.served[*at])
    }

    /// Each resource once, in the version its group prefers (or the only one it has).
    pub fn preferred(&self) -> impl Iterator<Item = &Served> {
        self.served.iter().filter(|served| {
            served.preferred || !self.served.iter().any(|other| other.replaces(served))
        })
    }

    fn add(&mut self, served: Served) {
        let gvr = &served.resource;
        let kind = GroupVersionKind::new(&gvr.group, &gvr.version, &served.kind);
        self.by_kind.entry(kind).or_insert(self.served.len());
        self.served.push(served);
    }
}

impl Served {
    fn replaces(&self, other: &Served) -> bool {
        self.resource.group == other.resource.group
            && self.resource.resource == other.resource.resource
            && self.preferred
    }
}

/// The kept answer.
#[derive(Debug, Default)]
pub(super) struct Mapper(Mutex<Option<Arc<Resources>>>);

/// Reads discovery for one client; see [`Client::discover`].
#[derive(Debug)]
pub struct Discovery<'a> {
    client: &'a Client,
    kept: &'a Mapper,
}

#[derive(Deserialize)]
struct GroupList {
    #[serde(default)]
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    versions: Vec<GroupVersion>,
    preferred_version: Option<GroupVersion>,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
}

#[derive(Deserialize)]
struct ResourceList {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resource {
    name: String,
    namespaced: bool,
    kind: String,
    #[serde(default)]
    verbs: Vec<String>,
}

impl<'a> Discovery<'a> {
    pub(super) fn new(client: &'a Client, kept: &'a Mapper) -> Self {
        Self { client, kept }
    }

    /// What is served, as last read.
    pub async fn resources(&self) -> Result<Arc<Resources>> {
        let kept = self.kept.0.lock().clone();
        match kept {
            Some(resources) => Ok(resources),
            None => self.refresh().await,
        }
    }

    /// Reads it anew.
    ///
    /// Errors: the list of groups cannot be read. A group version that cannot is named in
    /// [`Resources::failed`].
    pub async fn refresh(&self) -> Result<Arc<Resources>> {
        let groups: GroupList = self.read("/apis").await?;
        let mut resources = Resources::default();
        self.read_version("v1", true, &mut resources).await?;
        for group in &groups.groups {
            let preferred = group.preferred_version.as_ref().or(group.versions.first());
            for version in &group.versions {
                let is_preferred = preferred == Some(version);
                let name = &version.group_version;
                let read = self.read_version(name, is_preferred, &mut resources).await;
                if let Err(error) = read {
                    let why = crate::util::errors::chain(&error);
                    resources.failed.push((name.clone(), why));
                }
            }
        }
        let resources = Arc::new(resources);
        *self.kept.0.lock() = Some(resources.clone());
        Ok(resources)
    }

    /// The resource of a kind; reads discovery anew where the kind is not known.
    ///
    /// Errors: the server knows no such kind (404, with kubectl's text).
    pub async fn mapping(&self, kind: &GroupVersionKind) -> Result<Served> {
        let known = self.kept.0.lock().clone();
        if let Some(served) = known.as_ref().and_then(|known| known.of_kind(kind)) {
            return Ok(served.clone());
        }
        let fresh = self.refresh().await?;
        fresh.of_kind(kind).cloned().ok_or_else(|| no_match(kind))
    }

    /// The resource of an object, by its `apiVersion` and `kind`.
    pub async fn mapping_of(&self, object: &Object) -> Result<Served> {
        let kind = GroupVersionKind::from_api_version(object.api_version(), object.kind());
        self.mapping(&kind).await
    }

    async fn read_version(
        &self,
        group_version: &str,
        preferred: bool,
        into: &mut Resources,
    ) -> Result<()> {
        let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
        let root = if group.is_empty() { "/api" } else { "/apis" };
        let path = format!("{root}/{}", api_version(group, version));
        let list: ResourceList = self.read(&path).await?;
        let whole = list.resources.into_iter().filter(|r| !r.name.contains('/'));
        for resource in whole {
            into.add(Served {
                resource: GroupVersionResource::new(group, version, &resource.name),
                kind: resource.kind,
                scope: if resource.namespaced {
                    Scope::Namespaced
                } else {
                    Scope::Cluster
                },
                verbs: resource.verbs,
                preferred,
            });
        }
        Ok(())
    }

    async fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        decode(path, &self.client.call(Call::new(Method::GET, path)).await?)
    }
}

fn no_match(kind: &GroupVersionKind) -> Error {
    let text = format!(
        "no matches for kind \"{}\" in version \"{}\"",
        kind.kind,
        kind.api_version()
    );
    ApiError::plain(404, "NotFound", text).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::fake::Fake;
    use serde_json::json;

    fn server() -> Arc<Fake> {
        let fake = Fake::new();
        fake.answer(
            "GET /apis",
            json!({"groups": [{"name": "apps",
            "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
            "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"}}]}),
        );
        fake.answer(
            "GET /api/v1",
            json!({"resources": [
                {"name": "nodes", "namespaced": false, "kind": "Node", "verbs": ["list"]},
                {"name": "nodes/status", "namespaced": false, "kind": "Node", "verbs": ["get"]}]}),
        );
        fake.answer(
            "GET /apis/apps/v1",
            json!({"resources": [{"name": "deployments",
            "namespaced": true, "kind": "Deployment", "verbs": ["list", "watch"]}]}),
        );
        fake
    }

    #[tokio::test]
    async fn kinds_map_to_resources_and_a_miss_reads_again() {
        let fake = server();
        let client = fake.client();
        let kind = GroupVersionKind::new("apps", "v1", "Deployment");
        let served = client.discover().mapping(&kind).await.unwrap();
        assert_eq!(served.resource.resource, "deployments");
        assert!(served.can(&["list", "watch"]) && !served.can(&["delete"]));
        client.discover().mapping(&kind).await.unwrap();
        assert_eq!(fake.seen().len(), 3);
        let unknown = GroupVersionKind::new("x.io", "v1", "Thing");
        let error = client.discover().mapping(&unknown).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "no matches for kind \"Thing\" in version \"x.io/v1\""
        );
        assert_eq!(fake.seen().len(), 6);
    }

    #[tokio::test]
    async fn a_version_that_cannot_be_read_is_named_and_the_rest_is_kept() {
        let fake = server();
        fake.fail("GET /apis/apps/v1", ApiError::unavailable("down"));
        let resources = fake.client().discover().refresh().await.unwrap();
        assert_eq!(resources.failed[0].0, "apps/v1");
        assert_eq!(resources.preferred().count(), 1);
    }
}
