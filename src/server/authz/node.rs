//! What a node's identity may do: what it needs to run the pods that are bound to it, and no more
//! (`k8s.io/kubernetes/plugin/pkg/auth/authorizer/node`).
//!
//! DEVIATION: a node reads all nodes and network policies, because our agent makes routes and
//! filters itself; upstream's (with selectors) reads its own node only.
//!
//! The graph says which secrets, config maps, claims and service accounts the pods of a node
//! name. A mirror pod adds nothing: a node makes those itself.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::api::object::{Object, ObjectKey};
use crate::server::authz::Attributes;

const LEASE_NAMESPACE: &str = "kube-node-lease";
const MIRROR: &str = "kubernetes.io/config.mirror";
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "update", "patch", "delete"];

/// Read by every node: group, resource, verbs.
const FREE: &[(&str, &str, &[&str])] = &[
    ("", "services", READ),
    ("", "endpoints", READ),
    ("", "nodes", READ),
    ("", "namespaces", READ),
    ("discovery.k8s.io", "endpointslices", READ),
    ("networking.k8s.io", "networkpolicies", READ),
    ("node.k8s.io", "runtimeclasses", READ),
    ("storage.k8s.io", "csidrivers", READ),
    ("storage.k8s.io", "storageclasses", READ),
    ("", "persistentvolumes", &["get"]),
    ("storage.k8s.io", "volumeattachments", &["get"]),
    ("", "events", &["create", "update", "patch"]),
    ("events.k8s.io", "events", &["create", "update", "patch"]),
    ("authentication.k8s.io", "tokenreviews", &["create"]),
    ("authorization.k8s.io", "subjectaccessreviews", &["create"]),
    (
        "authorization.k8s.io",
        "localsubjectaccessreviews",
        &["create"],
    ),
    (
        "authorization.k8s.io",
        "selfsubjectaccessreviews",
        &["create"],
    ),
    (
        "authorization.k8s.io",
        "selfsubjectrulesreviews",
        &["create"],
    ),
    ("authentication.k8s.io", "selfsubjectreviews", &["create"]),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        &["create", "get", "list", "watch"],
    ),
    ("certificates.k8s.io", "clustertrustbundles", READ),
];

/// What every node may call beside resources: verb, path.
const PATHS: &[(&str, &str)] = &[("post", "/orch/v1/renew"), ("get", "/orch/v1/tunnel")];

/// What a pod names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reference {
    resource: &'static str,
    key: ObjectKey,
}

#[derive(Debug)]
struct PodEntry {
    node: String,
    references: HashSet<Reference>,
}

/// Pods by node, and what they name.
#[derive(Debug, Default)]
pub struct Graph {
    pods: HashMap<ObjectKey, PodEntry>,
    /// node → what its pods name → by how many of them.
    nodes: HashMap<String, HashMap<Reference, usize>>,
}

impl Graph {
    /// Adds a pod, or takes notice of its change.
    pub fn put(&mut self, pod: &Object) {
        let key = pod.key();
        let node = pod.text_at(&["spec", "nodeName"]);
        let is_mirror = pod.at(&["metadata", "annotations", MIRROR]).is_some();
        // What a pod names cannot change, except by ephemeral containers, and where it runs
        // cannot change at all.
        let references = if is_mirror {
            HashSet::new()
        } else {
            references(pod)
        };
        if let Some(known) = self.pods.get(&key)
            && known.node == node
            && known.references == references
        {
            return;
        }
        self.remove(&key);
        if node.is_empty() {
            return;
        }
        let counts = self.nodes.entry(node.to_owned()).or_default();
        for reference in &references {
            *counts.entry(reference.clone()).or_default() += 1;
        }
        let node = node.to_owned();
        self.pods.insert(key, PodEntry { node, references });
    }

    /// Forgets a pod.
    pub fn remove(&mut self, key: &ObjectKey) {
        let Some(entry) = self.pods.remove(key) else {
            return;
        };
        let Some(counts) = self.nodes.get_mut(&entry.node) else {
            return;
        };
        for reference in &entry.references {
            if let Some(count) = counts.get_mut(reference) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(reference);
                }
            }
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn names(&self, node: &str, resource: &'static str, key: ObjectKey) -> bool {
        let reference = Reference { resource, key };
        self.nodes
            .get(node)
            .is_some_and(|counts| counts.contains_key(&reference))
    }

    fn runs(&self, node: &str, pod: &ObjectKey) -> bool {
        self.pods.get(pod).is_some_and(|entry| entry.node == node)
    }

    /// `Ok`: allowed. `Err`: why not, in upstream's words; other authorizers may still allow it.
    pub fn authorize(&self, node: &str, asked: &Attributes<'_>) -> Result<(), String> {
        let info = asked.info;
        if !info.is_resource {
            return allow_if(PATHS.contains(&(info.verb.as_str(), info.path.as_str())));
        }
        let (verb, subresource) = (info.verb.as_str(), info.subresource.as_str());
        let group_and_resource = (info.group.as_str(), info.resource.as_str());
        match group_and_resource {
            ("", "secrets") => self.read_named(node, "secrets", asked),
            ("", "configmaps") => self.read_named(node, "configmaps", asked),
            ("", "persistentvolumeclaims") if subresource == "status" => {
                allow_if(matches!(verb, "get" | "update" | "patch"))
            }
            ("", "persistentvolumeclaims") => {
                self.read_named(node, "persistentvolumeclaims", asked)
            }
            ("", "serviceaccounts") => self.service_account(node, asked),
            ("", "pods") => self.pod(node, asked),
            ("", "nodes") if verb != "list" && verb != "watch" && verb != "get" => {
                own_node(node, asked)
            }
            ("coordination.k8s.io", "leases") => lease(node, asked),
            ("storage.k8s.io", "csinodes") => {
                let own = info.name == node || (verb == "create" && info.name.is_empty());
                allow_if(own && (verb == "get" || WRITE.contains(&verb)))
            }
            _ => allow_if(subresource.is_empty() && is_free(group_and_resource, verb)),
        }
    }

    /// `get`, and `list` and `watch` of one name, of what a pod of the node names.
    fn read_named(
        &self,
        node: &str,
        resource: &'static str,
        asked: &Attributes<'_>,
    ) -> Result<(), String> {
        let info = asked.info;
        if !READ.contains(&info.verb.as_str()) || !info.subresource.is_empty() {
            return Err(format!("can only read resources of this type: {resource}"));
        }
        if info.name.is_empty() || info.namespace.is_empty() {
            return Err("No Object name found".to_owned());
        }
        self.related(node, resource, asked)
    }

    fn related(
        &self,
        node: &str,
        resource: &'static str,
        asked: &Attributes<'_>,
    ) -> Result<(), String> {
        let key = ObjectKey::new(&asked.info.namespace, &asked.info.name);
        if self.names(node, resource, key) {
            return Ok(());
        }
        Err(format!(
            "no relationship found between node '{node}' and this object"
        ))
    }

    fn service_account(&self, node: &str, asked: &Attributes<'_>) -> Result<(), String> {
        match (asked.info.verb.as_str(), asked.info.subresource.as_str()) {
            ("create", "token") | ("get", "") => self.related(node, "serviceaccounts", asked),
            _ => Err("only create is allowed for service account tokens".to_owned()),
        }
    }

    fn pod(&self, node: &str, asked: &Attributes<'_>) -> Result<(), String> {
        let info = asked.info;
        let key = ObjectKey::new(&info.namespace, &info.name);
        match (info.verb.as_str(), info.subresource.as_str()) {
            ("list" | "watch", "") if asked.selects("spec.nodeName", node) => Ok(()),
            ("list" | "watch", "") if !info.name.is_empty() && self.runs(node, &key) => Ok(()),
            ("list" | "watch", "") => Err(format!(
                "can only list/watch pods with spec.nodeName field selector set to '{node}'"
            )),
            // Admission lets a node create mirror pods bound to itself only.
            ("create", "") => Ok(()),
            ("get" | "delete", "")
            | ("get" | "update" | "patch", "status")
            | ("create", "eviction") => {
                if self.runs(node, &key) {
                    return Ok(());
                }
                Err(format!(
                    "no relationship found between node '{node}' and this object"
                ))
            }
            _ => Err(String::new()),
        }
    }
}

/// The node a user is: `system:node:<name>` in `system:nodes`.
pub fn node_of<'a>(asked: &Attributes<'a>) -> Option<&'a str> {
    let name = asked.user.name.strip_prefix("system:node:")?;
    (!name.is_empty() && asked.user.is_in("system:nodes")).then_some(name)
}

fn own_node(node: &str, asked: &Attributes<'_>) -> Result<(), String> {
    let info = asked.info;
    let subresource_fits = matches!(info.subresource.as_str(), "" | "status");
    // A create names its object in the body; admission compares it.
    let own = info.name == node || (info.verb == "create" && info.name.is_empty());
    if own && subresource_fits && WRITE.contains(&info.verb.as_str()) && info.verb != "delete" {
        return Ok(());
    }
    Err(format!(
        "node '{node}' cannot {} node '{}', only itself",
        info.verb, info.name
    ))
}

fn lease(node: &str, asked: &Attributes<'_>) -> Result<(), String> {
    let info = asked.info;
    if info.namespace != LEASE_NAMESPACE {
        return Err(format!(
            "can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"
        ));
    }
    let verb = info.verb.as_str();
    if verb != "get" && !WRITE.contains(&verb) {
        return Err("can only get, create, update, patch, or delete a node lease".to_owned());
    }
    if info.name == node || (verb == "create" && info.name.is_empty()) {
        return Ok(());
    }
    Err("can only access node lease with the same name as the requesting node".to_owned())
}

fn is_free((group, resource): (&str, &str), verb: &str) -> bool {
    FREE.iter()
        .any(|(g, r, verbs)| *g == group && *r == resource && verbs.contains(&verb))
}

fn allow_if(allowed: bool) -> Result<(), String> {
    if allowed { Ok(()) } else { Err(String::new()) }
}

fn references(pod: &Object) -> HashSet<Reference> {
    let mut found = Found {
        namespace: pod.namespace().to_owned(),
        references: HashSet::new(),
    };
    let Some(spec) = pod.spec() else {
        return found.references;
    };
    match spec.get("serviceAccountName").and_then(Value::as_str) {
        Some(name) => found.add("serviceaccounts", Some(name)),
        None => found.add("serviceaccounts", Some("default")),
    }
    for secret in list(spec, "imagePullSecrets") {
        found.add("secrets", text(secret, "name"));
    }
    for field in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list(spec, field) {
            found.container(container);
        }
    }
    for volume in list(spec, "volumes") {
        found.volume(volume, pod.name());
    }
    found.references
}

struct Found {
    namespace: String,
    references: HashSet<Reference>,
}

impl Found {
    fn add(&mut self, resource: &'static str, name: Option<&str>) {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            let key = ObjectKey::new(&self.namespace, name);
            self.references.insert(Reference { resource, key });
        }
    }

    fn container(&mut self, container: &Value) {
        let Some(container) = container.as_object() else {
            return;
        };
        for variable in list(container, "env") {
            let from = variable.get("valueFrom");
            self.add(
                "secrets",
                from.and_then(|f| f.get("secretKeyRef")).and_then(name_of),
            );
            self.add(
                "configmaps",
                from.and_then(|f| f.get("configMapKeyRef"))
                    .and_then(name_of),
            );
        }
        for source in list(container, "envFrom") {
            self.add("secrets", source.get("secretRef").and_then(name_of));
            self.add("configmaps", source.get("configMapRef").and_then(name_of));
        }
    }

    fn volume(&mut self, volume: &Value, pod: &str) {
        let Some(volume) = volume.as_object() else {
            return;
        };
        for (source, body) in volume {
            match source.as_str() {
                "secret" => self.add("secrets", text(body, "secretName")),
                "configMap" => self.add("configmaps", text(body, "name")),
                "persistentVolumeClaim" => {
                    self.add("persistentvolumeclaims", text(body, "claimName"));
                }
                "ephemeral" => {
                    let claim = volume.get("name").and_then(Value::as_str);
                    let claim = claim.map(|name| format!("{pod}-{name}"));
                    self.add("persistentvolumeclaims", claim.as_deref());
                }
                "projected" => self.projected(body),
                "azureFile" => self.add("secrets", text(body, "secretName")),
                "csi" => self.add(
                    "secrets",
                    body.get("nodePublishSecretRef").and_then(name_of),
                ),
                _ => self.add("secrets", body.get("secretRef").and_then(name_of)),
            }
        }
    }

    fn projected(&mut self, body: &Value) {
        let sources = body.get("sources").and_then(Value::as_array);
        for source in sources.into_iter().flatten() {
            self.add("secrets", source.get("secret").and_then(name_of));
            self.add("configmaps", source.get("configMap").and_then(name_of));
        }
    }
}

fn name_of(reference: &Value) -> Option<&str> {
    text(reference, "name")
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value.get(field).and_then(Value::as_str)
}

fn list<'a>(map: &'a Map<String, Value>, field: &str) -> &'a [Value] {
    let list = map.get(field).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}
