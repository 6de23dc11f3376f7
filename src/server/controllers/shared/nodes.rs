//! Readings of nodes, and pods by node.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod};

use crate::api::{meta, pod};
use crate::client::Cache;

const BY_NODE: &str = "node";

/// Makes the index that [`pods_on`] needs.
pub(crate) fn index_pods(pods: &Cache<Pod>) {
    pods.index(BY_NODE, |pod| vec![pod::node_name(pod).to_owned()]);
}

/// The pods bound to a node.
pub(crate) fn pods_on(pods: &Cache<Pod>, node: &str) -> Vec<Arc<Pod>> {
    pods.by_index(BY_NODE, node)
}

/// A condition of a node.
pub(crate) fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the node says that it is ready.
pub(crate) fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|condition| condition.status == "True")
}

/// The node's zone; empty where it is in none.
pub(crate) fn zone(node: &Node) -> &str {
    meta::label(&node.metadata, "topology.kubernetes.io/zone").unwrap_or_default()
}
