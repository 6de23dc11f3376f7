//! What is served, as clients ask for it: `/api`, `/apis`, `/apis/<group>`, resource lists, and
//! the aggregated form that holds all in one. Pure: documents from a snapshot of the registry.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::api::gvk::{GroupVersionKind, api_version};
use crate::server::registry::{ResourceDef, Snapshot, SubresourceDef};

/// A document with its strong ETag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// JSON.
    pub body: Bytes,
    /// Quoted, as the header has it.
    pub etag: String,
}

/// Versions of the aggregated form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Aggregated {
    /// `apidiscovery.k8s.io/v2`
    V2,
    /// `apidiscovery.k8s.io/v2beta1`
    V2Beta1,
}

/// Every discovery document of one snapshot.
#[derive(Debug)]
pub struct Documents {
    /// `/apis`
    groups: Document,
    /// By path: `/apis/apps`, `/apis/apps/v1`, `/api/v1`.
    paths: BTreeMap<String, Document>,
    /// By prefix and version.
    aggregated: BTreeMap<(&'static str, Aggregated), Document>,
    /// `apps/v1`, `v1`, in the order they are listed.
    group_versions: Vec<String>,
}

impl Document {
    /// Of a JSON value.
    pub fn of(value: &Value) -> Self {
        let body = Bytes::from(value.to_string());
        let etag = format!("\"{}\"", hex::encode_upper(Sha256::digest(&body)));
        Self { body, etag }
    }
}

impl Documents {
    /// Of one snapshot.
    pub fn build(snapshot: &Snapshot) -> Self {
        let groups = Group::all(snapshot);
        let named: Vec<_> = groups.iter().filter(|g| !g.name.is_empty()).collect();
        let mut paths = BTreeMap::new();
        for group in &groups {
            for version in &group.versions {
                let path = version.path(group.name);
                paths.insert(path, Document::of(&version.resource_list(group.name)));
            }
        }
        for group in &named {
            let mut value = group.api_group();
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            paths.insert(format!("/apis/{}", group.name), Document::of(&value));
        }
        let listed: Vec<_> = named.iter().map(|group| group.api_group()).collect();
        let all = json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": listed});
        let mut aggregated = BTreeMap::new();
        for form in [Aggregated::V2, Aggregated::V2Beta1] {
            for (prefix, is_core) in [("/api", true), ("/apis", false)] {
                let of_prefix = groups.iter().filter(|g| g.name.is_empty() == is_core);
                let document = Document::of(&form.list(of_prefix.map(Group::aggregated)));
                aggregated.insert((prefix, form), document);
            }
        }
        let group_versions = groups.iter().flat_map(|group| {
            let of_version = |version: &Version<'_>| api_version(group.name, version.name);
            group.versions.iter().map(of_version).collect::<Vec<_>>()
        });
        Self {
            groups: Document::of(&all),
            paths,
            aggregated,
            group_versions: group_versions.collect(),
        }
    }

    /// `/apis`
    pub fn groups(&self) -> &Document {
        &self.groups
    }

    /// A group or a resource list by its path.
    pub fn at(&self, path: &str) -> Option<&Document> {
        self.paths.get(path)
    }

    /// `/api` (`is_core`) or `/apis` in the aggregated form.
    pub fn aggregated(&self, is_core: bool, form: Aggregated) -> Option<&Document> {
        let prefix = if is_core { "/api" } else { "/apis" };
        self.aggregated.get(&(prefix, form))
    }

    /// Every path that holds a document, for the list at `/`.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        ["/api", "/apis"]
            .into_iter()
            .chain(self.paths.keys().map(String::as_str))
    }

    /// `v1`, `apps/v1`, …
    pub fn group_versions(&self) -> &[String] {
        &self.group_versions
    }
}

impl Aggregated {
    /// As media types and `apiVersion` spell it.
    pub fn version(self) -> &'static str {
        match self {
            Aggregated::V2 => "v2",
            Aggregated::V2Beta1 => "v2beta1",
        }
    }

    fn list(self, items: impl Iterator<Item = Value>) -> Value {
        json!({
            "kind": "APIGroupDiscoveryList",
            "apiVersion": format!("apidiscovery.k8s.io/{}", self.version()),
            "metadata": {}, "items": items.collect::<Vec<_>>(),
        })
    }
}

struct Group<'a> {
    name: &'a str,
    /// Preferred first.
    versions: Vec<Version<'a>>,
}

struct Version<'a> {
    name: &'a str,
    resources: Vec<&'a Arc<ResourceDef>>,
}

impl<'a> Group<'a> {
    /// Groups in the order of the table, each with its versions, stable ones first.
    fn all(snapshot: &'a Snapshot) -> Vec<Self> {
        let mut groups: Vec<Self> = Vec::new();
        for def in snapshot.resources() {
            let name = def.gvr.group.as_str();
            let at = groups.iter().position(|group| group.name == name);
            let at = at.unwrap_or_else(|| {
                let versions = Vec::new();
                groups.push(Group { name, versions });
                groups.len() - 1
            });
            groups[at].add(def);
        }
        for group in &mut groups {
            group
                .versions
                .sort_by(|a, b| compare_versions(b.name, a.name));
            for version in &mut group.versions {
                version
                    .resources
                    .sort_by(|a, b| a.gvr.resource.cmp(&b.gvr.resource));
            }
        }
        groups
    }

    fn add(&mut self, def: &'a Arc<ResourceDef>) {
        let name = def.gvr.version.as_str();
        match self
            .versions
            .iter_mut()
            .find(|version| version.name == name)
        {
            Some(version) => version.resources.push(def),
            None => self.versions.push(Version {
                name,
                resources: vec![def],
            }),
        }
    }

    fn api_group(&self) -> Value {
        let version = |version: &Version<'_>| {
            let group_version = api_version(self.name, version.name);
            json!({"groupVersion": group_version, "version": version.name})
        };
        let versions: Vec<_> = self.versions.iter().map(version).collect();
        json!({
            "name": self.name, "preferredVersion": versions.first(), "versions": versions,
        })
    }

    fn aggregated(&self) -> Value {
        let version = |version: &Version<'_>| {
            let resources = version.resources.iter().map(|def| aggregated_resource(def));
            json!({
                "version": version.name, "freshness": "Current",
                "resources": resources.collect::<Vec<_>>(),
            })
        };
        let mut metadata = json!({"creationTimestamp": null});
        if !self.name.is_empty() {
            metadata["name"] = self.name.into();
        }
        json!({
            "metadata": metadata,
            "versions": self.versions.iter().map(version).collect::<Vec<_>>(),
        })
    }
}

impl Version<'_> {
    fn path(&self, group: &str) -> String {
        if group.is_empty() {
            format!("/api/{}", self.name)
        } else {
            format!("/apis/{group}/{}", self.name)
        }
    }

    fn resource_list(&self, group: &str) -> Value {
        let mut resources = Vec::new();
        for def in &self.resources {
            resources.push(legacy_resource(def));
            let subresources = def.subresources.iter();
            resources.extend(subresources.map(|sub| legacy_subresource(def, sub)));
        }
        let mut list = json!({
            "kind": "APIResourceList", "groupVersion": api_version(group, self.name),
            "resources": resources,
        });
        if !group.is_empty() {
            list["apiVersion"] = "v1".into();
        }
        list
    }
}

fn legacy_resource(def: &ResourceDef) -> Value {
    let mut resource = json!({
        "name": def.gvr.resource, "singularName": def.singular,
        "namespaced": def.is_namespaced(), "kind": def.gvk.kind, "verbs": sorted(&def.verbs),
    });
    add_lists(&mut resource, def);
    if def.serves("list") {
        resource["storageVersionHash"] = storage_hash(&def.stored).into();
    }
    resource
}

fn legacy_subresource(def: &ResourceDef, sub: &SubresourceDef) -> Value {
    let mut resource = json!({
        "name": format!("{}/{}", def.gvr.resource, sub.name), "singularName": "",
        "namespaced": def.is_namespaced(), "kind": sub.gvk.kind, "verbs": sorted(&sub.verbs),
    });
    if (&sub.gvk.group, &sub.gvk.version) != (&def.gvr.group, &def.gvr.version) {
        if !sub.gvk.group.is_empty() {
            resource["group"] = sub.gvk.group.as_str().into();
        }
        resource["version"] = sub.gvk.version.as_str().into();
    }
    resource
}

fn aggregated_resource(def: &ResourceDef) -> Value {
    let scope = if def.is_namespaced() {
        "Namespaced"
    } else {
        "Cluster"
    };
    let mut resource = json!({
        "resource": def.gvr.resource, "responseKind": response_kind(&def.gvk), "scope": scope,
        "singularResource": def.singular, "verbs": sorted(&def.verbs),
    });
    add_lists(&mut resource, def);
    if !def.subresources.is_empty() {
        let subresources = def.subresources.iter().map(|sub| {
            json!({
                "subresource": sub.name, "responseKind": response_kind(&sub.gvk),
                "verbs": sorted(&sub.verbs),
            })
        });
        resource["subresources"] = subresources.collect();
    }
    resource
}

fn response_kind(kind: &GroupVersionKind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn add_lists(resource: &mut Value, def: &ResourceDef) {
    for (field, list) in [
        ("shortNames", &def.short_names),
        ("categories", &def.categories),
    ] {
        if !list.is_empty() {
            resource[field] = json!(list);
        }
    }
}

fn sorted(verbs: &[String]) -> Vec<&str> {
    let mut verbs: Vec<&str> = verbs.iter().map(String::as_str).collect();
    verbs.sort_unstable();
    verbs
}

/// Opaque to clients; equal as long as objects are stored in the same form.
fn storage_hash(stored: &GroupVersionKind) -> String {
    use base64::Engine;
    let text = format!("{}/{}/{}", stored.group, stored.version, stored.kind);
    let digest = Sha256::digest(text);
    base64::engine::general_purpose::STANDARD.encode(&digest[..8])
}

/// Kubernetes' order of versions: `v2` > `v1` > `v1beta2` > `v1beta1` > `v1alpha1` > others
/// (`k8s.io/apimachinery/pkg/version.CompareKubeAwareVersionStrings`).
fn compare_versions(a: &str, b: &str) -> Ordering {
    match (stability(a), stability(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        (None, None) => Reverse(a).cmp(&Reverse(b)),
    }
}

/// Stability (2: stable), major, minor; `None` where the text has no such form.
fn stability(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    let (major, rest) = rest.split_at(digits);
    let major = major.parse().ok()?;
    if rest.is_empty() {
        return Some((2, major, 0));
    }
    let (level, minor) = match (rest.strip_prefix("beta"), rest.strip_prefix("alpha")) {
        (Some(minor), _) => (1, minor),
        (_, Some(minor)) => (0, minor),
        _ => return None,
    };
    Some((level, major, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds;
    use crate::server::registry::Registry;

    fn documents() -> Documents {
        Documents::build(&Registry::of(kinds::all()).snapshot())
    }

    fn value(document: &Document) -> Value {
        serde_json::from_slice(&document.body).unwrap()
    }

    fn find<'a>(list: &'a Value, field: &str, name: &str) -> &'a Value {
        let list = list.as_array().unwrap();
        list.iter()
            .find(|item| item[field] == name)
            .unwrap_or(&Value::Null)
    }

    #[test]
    fn versions_are_ordered_by_stability() {
        let mut versions = ["v1alpha1", "foo", "v1", "v2beta1", "v10", "v1beta2", "bar"];
        versions.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(
            versions,
            ["v10", "v1", "v2beta1", "v1beta2", "v1alpha1", "bar", "foo"]
        );
    }

    #[test]
    fn both_forms_list_the_same_resources() {
        let documents = documents();
        let core = value(documents.at("/api/v1").unwrap());
        let pods = find(&core["resources"], "name", "pods");
        assert_eq!(pods["shortNames"], json!(["po"]));
        assert_eq!(pods["namespaced"], true);
        let aggregated = value(documents.aggregated(true, Aggregated::V2).unwrap());
        assert_eq!(aggregated["apiVersion"], "apidiscovery.k8s.io/v2");
        let resources = &aggregated["items"][0]["versions"][0]["resources"];
        let same = find(resources, "resource", "pods");
        assert_eq!(same["verbs"], pods["verbs"]);
        assert_eq!(
            same["responseKind"],
            json!({"group": "", "version": "v1", "kind": "Pod"})
        );
        let groups = value(documents.groups());
        let apps = find(&groups["groups"], "name", "apps");
        assert_eq!(apps["preferredVersion"]["groupVersion"], "apps/v1");
        assert_eq!(
            value(documents.at("/apis/apps").unwrap())["kind"],
            "APIGroup"
        );
    }

    #[test]
    fn the_same_table_gives_the_same_etag() {
        assert_eq!(documents().groups(), documents().groups());
    }
}
