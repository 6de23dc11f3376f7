//! What a node may write: its own Node, status and Lease, the Pods bound to it, tokens for them
//! (`plugin/pkg/admission/noderestriction`). Authorization says which resources; this says which
//! content.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::request::User;

use super::{Attributes, Lookup, Operation, Plugin};

const USER_PREFIX: &str = "system:node:";
const GROUP: &str = "system:nodes";
const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Labels below `kubernetes.io` and `k8s.io` that a kubelet may set on its Node.
const OWN_LABELS: &[&str] = &[
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
];

pub(super) struct NodeRestriction {
    lookup: Lookup,
}

impl NodeRestriction {
    pub(super) fn new(lookup: Lookup) -> Self {
        Self { lookup }
    }

    async fn check(
        &self,
        attributes: &Attributes<'_>,
        node: &str,
        object: Option<&Object>,
    ) -> Result<(), String> {
        let def = attributes.def;
        match (def.gvr.group.as_str(), def.gvr.resource.as_str()) {
            ("", "pods") => match attributes.subresource {
                "" => pod(attributes, node, object),
                "status" => pod_status(attributes, node, object),
                "eviction" => self.eviction(attributes, node).await,
                other => Err(format!(
                    "unexpected pod subresource \"{other}\", only 'status' and 'eviction' are \
                     allowed"
                )),
            },
            ("", "nodes") => own_node(attributes, node, object),
            ("", "serviceaccounts") => self.account(attributes, node, object).await,
            ("coordination.k8s.io", "leases") => lease(attributes, node),
            ("storage.k8s.io", "csinodes") if attributes.name != node => Err(format!(
                "can only access CSINode with the same name as the requesting node {node}"
            )),
            _ => Ok(()),
        }
    }

    async fn eviction(&self, attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
        let pod = self.pod(attributes.namespace, attributes.name).await?;
        if pod.text_at(&["spec", "nodeName"]) != node {
            return Err(format!(
                "node \"{node}\" can only evict pods with spec.nodeName set to itself"
            ));
        }
        Ok(())
    }

    /// Tokens only for Pods on the node.
    async fn account(
        &self,
        attributes: &Attributes<'_>,
        node: &str,
        object: Option<&Object>,
    ) -> Result<(), String> {
        let Some(request) = object.filter(|_| attributes.subresource == "token") else {
            return Ok(());
        };
        let bound = |field: &str| request.text_at(&["spec", "boundObjectRef", field]);
        if bound("kind") != "Pod" || bound("apiVersion") != "v1" || bound("name").is_empty() {
            return Err("node requested token not bound to a pod".to_owned());
        }
        if bound("uid").is_empty() {
            return Err("node requested token with a pod binding without a uid".to_owned());
        }
        let pod = self.pod(attributes.namespace, bound("name")).await?;
        if pod.uid() != bound("uid") {
            return Err(format!(
                "the UID in the bound object reference ({}) does not match the UID in record. \
                 The object might have been deleted and then recreated",
                bound("uid")
            ));
        }
        if pod.text_at(&["spec", "nodeName"]) != node {
            return Err("node requested token bound to a pod scheduled on a different node".into());
        }
        Ok(())
    }

    async fn pod(&self, namespace: &str, name: &str) -> Result<Object, String> {
        let found = self
            .lookup
            .find("pods", &format!("{namespace}/{name}"))
            .await;
        let found = found.map_err(|error| error.message)?;
        let found = found.ok_or_else(|| format!("pods \"{name}\" not found"))?;
        found.object().map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn concerns(&self, attributes: &Attributes<'_>) -> bool {
        node_of(attributes.user).is_some()
    }

    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
    ) -> Result<(), ApiError> {
        let Some(node) = node_of(attributes.user) else {
            return Ok(());
        };
        if node.is_empty() {
            let why = format!(
                "could not determine node from user \"{}\"",
                attributes.user.name
            );
            return Err(attributes.forbidden(&why));
        }
        let checked = self.check(attributes, node, object).await;
        checked.map_err(|why| attributes.forbidden(&why))
    }
}

/// The node a user is; `None` for users that are no nodes.
fn node_of(user: &User) -> Option<&str> {
    user.name
        .strip_prefix(USER_PREFIX)
        .filter(|_| user.is_in(GROUP))
}

fn pod(attributes: &Attributes<'_>, node: &str, object: Option<&Object>) -> Result<(), String> {
    match attributes.operation {
        Operation::Create => new_pod(node, object.ok_or("no pod")?),
        Operation::Delete => {
            let bound = attributes.old.map(|old| old.text_at(&["spec", "nodeName"]));
            if bound.is_some_and(|bound| bound != node) {
                return Err(format!(
                    "node \"{node}\" can only delete pods with spec.nodeName set to itself"
                ));
            }
            Ok(())
        }
        Operation::Update | Operation::Connect => Err(format!(
            "unexpected operation \"{}\", node \"{node}\" can only create and delete mirror pods",
            attributes.operation.name()
        )),
    }
}

/// A node makes mirrors of its static Pods and no others.
fn new_pod(node: &str, pod: &Object) -> Result<(), String> {
    if pod.at(&["metadata", "annotations", MIRROR]).is_none() {
        return Err(format!(
            "pod does not have \"{MIRROR}\" annotation, node \"{node}\" can only create mirror pods"
        ));
    }
    if pod.text_at(&["spec", "nodeName"]) != node {
        return Err(format!(
            "node \"{node}\" can only create pods with spec.nodeName set to itself"
        ));
    }
    let owners = pod
        .at(&["metadata", "ownerReferences"])
        .and_then(Value::as_array);
    for owner in owners.into_iter().flatten() {
        if owner["kind"] != "Node" || owner["apiVersion"] != "v1" || owner["name"] != node {
            return Err(format!(
                "node \"{node}\" can only create pods with an owner reference set to itself"
            ));
        }
    }
    if !pod.text_at(&["spec", "serviceAccountName"]).is_empty() {
        return Err(format!(
            "node \"{node}\" can not create pods that reference a service account"
        ));
    }
    let volumes = pod.at(&["spec", "volumes"]).and_then(Value::as_array);
    for volume in volumes.into_iter().flatten() {
        for (source, text) in [
            ("secret", "secrets"),
            ("configMap", "configmaps"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
        ] {
            if volume.get(source).is_some() {
                return Err(format!(
                    "node \"{node}\" can not create pods that reference {text}"
                ));
            }
        }
    }
    Ok(())
}

fn pod_status(
    attributes: &Attributes<'_>,
    node: &str,
    object: Option<&Object>,
) -> Result<(), String> {
    let old = attributes.old.ok_or("no stored pod")?;
    if old.text_at(&["spec", "nodeName"]) != node {
        return Err(format!(
            "node \"{node}\" can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    let labels = |pod: &Object| pod.at(&["metadata", "labels"]).cloned().unwrap_or_default();
    if object.is_some_and(|new| labels(new) != labels(old)) {
        return Err(format!(
            "node \"{node}\" cannot update labels through pod status"
        ));
    }
    Ok(())
}

fn own_node(
    attributes: &Attributes<'_>,
    node: &str,
    object: Option<&Object>,
) -> Result<(), String> {
    let name = match attributes.name {
        "" => object.map(Object::name).unwrap_or_default(),
        name => name,
    };
    if name != node {
        return Err(format!(
            "node \"{node}\" is not allowed to modify node \"{name}\""
        ));
    }
    let Some(new) = object else {
        return Ok(());
    };
    if new.at(&["spec", "configSource"]).is_some() && attributes.operation == Operation::Create {
        return Err(format!(
            "node \"{node}\" is not allowed to create pods with a non-nil configSource"
        ));
    }
    if let Some(old) = attributes.old
        && attributes.subresource.is_empty()
        && old.at(&["spec", "taints"]) != new.at(&["spec", "taints"])
    {
        return Err(format!("node \"{node}\" is not allowed to modify taints"));
    }
    let forbidden: Vec<String> = changed_labels(attributes.old, new)
        .into_iter()
        .filter(|label| is_restricted(label))
        .collect();
    if !forbidden.is_empty() {
        let verb = match attributes.operation {
            Operation::Create => "set",
            _ => "modify",
        };
        return Err(format!(
            "node \"{node}\" is not allowed to {verb} the following labels: {}",
            forbidden.join(", ")
        ));
    }
    Ok(())
}

/// Names of labels that were added, removed or changed.
fn changed_labels(old: Option<&Object>, new: &Object) -> BTreeSet<String> {
    let empty = Map::new();
    let of = |node: &Object| -> Map<String, Value> {
        let labels = node.at(&["metadata", "labels"]).and_then(Value::as_object);
        labels.unwrap_or(&empty).clone()
    };
    let (before, after) = (old.map(of).unwrap_or_default(), of(new));
    let names = before.keys().chain(after.keys());
    names
        .filter(|name| before.get(*name) != after.get(*name))
        .cloned()
        .collect()
}

/// Labels the cluster's owner trusts; a node must not give them to itself.
fn is_restricted(label: &str) -> bool {
    let Some((prefix, _)) = label.split_once('/') else {
        return false;
    };
    let below = |domain: &str| {
        prefix == domain
            || prefix
                .strip_suffix(domain)
                .is_some_and(|p| p.ends_with('.'))
    };
    if below("node-restriction.kubernetes.io") {
        return true;
    }
    (below("kubernetes.io") || below("k8s.io"))
        && !OWN_LABELS.contains(&label)
        && !below("kubelet.kubernetes.io")
        && !below("node.kubernetes.io")
}

fn lease(attributes: &Attributes<'_>, node: &str) -> Result<(), String> {
    if attributes.namespace != LEASE_NAMESPACE {
        return Err(format!(
            "can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"
        ));
    }
    // The name of a new lease is in the object; the attributes carry it too.
    if attributes.name != node {
        return Err("can only access node lease with the same name as the requesting node".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_sets_only_labels_that_describe_it() {
        for own in [
            "kubernetes.io/hostname",
            "a",
            "example.com/x",
            "node.kubernetes.io/x",
        ] {
            assert!(!is_restricted(own), "{own}");
        }
        for theirs in [
            "node-role.kubernetes.io/control-plane",
            "node-restriction.kubernetes.io/a",
            "x.node-restriction.kubernetes.io/a",
            "kubernetes.io/role",
        ] {
            assert!(is_restricted(theirs), "{theirs}");
        }
    }
}
