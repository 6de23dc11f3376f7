//! Builders for tests: `node("n1").cpu("4").build()`, `pod("a").cpu("1").info()`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::pod::PodInfo;

pub(crate) struct NodeBuilder(Value);

/// A node with 4 cores, 8 GiB and room for 110 pods.
pub(crate) fn node(name: &str) -> NodeBuilder {
    NodeBuilder(json!({
        "metadata": {"name": name, "uid": name,
            "labels": {"kubernetes.io/hostname": name}},
        "spec": {"taints": []},
        "status": {"images": [], "allocatable":
            {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "10Gi", "pods": "110"}},
    }))
}

impl NodeBuilder {
    pub(crate) fn cpu(self, amount: &str) -> Self {
        self.has("cpu", amount)
    }

    pub(crate) fn has(mut self, resource: &str, amount: &str) -> Self {
        self.0["status"]["allocatable"][resource] = amount.into();
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = value.into();
        self
    }

    pub(crate) fn taint(mut self, key: &str, effect: &str) -> Self {
        let taints = self.0["spec"]["taints"].as_array_mut().unwrap();
        taints.push(json!({"key": key, "effect": effect}));
        self
    }

    pub(crate) fn cordoned(mut self) -> Self {
        self.0["spec"]["unschedulable"] = true.into();
        self
    }

    pub(crate) fn image(mut self, name: &str, megabytes: i64) -> Self {
        let images = self.0["status"]["images"].as_array_mut().unwrap();
        images.push(json!({"names": [name], "sizeBytes": megabytes << 20}));
        self
    }

    pub(crate) fn build(self) -> Arc<Node> {
        Arc::new(serde_json::from_value(self.0).unwrap())
    }
}

pub(crate) struct PodBuilder(Value);

/// A pod with one container that asks for nothing.
pub(crate) fn pod(name: &str) -> PodBuilder {
    PodBuilder(json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {}},
        "spec": {"schedulerName": "default-scheduler",
            "containers": [{"name": "c", "image": "nginx"}]},
    }))
}

impl PodBuilder {
    pub(crate) fn cpu(self, amount: &str) -> Self {
        self.asks("cpu", amount)
    }

    pub(crate) fn asks(mut self, resource: &str, amount: &str) -> Self {
        self.0["spec"]["containers"][0]["resources"]["requests"][resource] = amount.into();
        self
    }

    pub(crate) fn host_port(mut self, port: i32) -> Self {
        self.0["spec"]["containers"][0]["ports"] =
            json!([{"containerPort": port, "hostPort": port}]);
        self
    }

    pub(crate) fn owner(mut self, uid: &str) -> Self {
        self.0["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1",
            "kind": "ReplicaSet", "name": "r", "uid": uid, "controller": true}]);
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = value.into();
        self
    }

    pub(crate) fn priority(self, priority: i32) -> Self {
        self.spec("priority", priority.into())
    }

    pub(crate) fn on(self, node: &str) -> Self {
        self.spec("nodeName", node.into())
    }

    /// Sets any field of the spec.
    pub(crate) fn spec(mut self, field: &str, value: Value) -> Self {
        self.0["spec"][field] = value;
        self
    }

    pub(crate) fn json(self) -> Value {
        self.0
    }

    pub(crate) fn build(self) -> Arc<Pod> {
        Arc::new(serde_json::from_value(self.0).unwrap())
    }

    pub(crate) fn info(self) -> Arc<PodInfo> {
        Arc::new(PodInfo::new(self.build()))
    }
}
