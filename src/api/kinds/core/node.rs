//! Node: a machine that runs pods.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use crate::api::gvk::Scope;
use crate::api::kinds::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::object::Object;

pub(crate) const DEF: KindDef = KindDef {
    kind: "Node",
    plural: "nodes",
    singular: "node",
    short_names: &["no"],
    scope: Scope::Cluster,
    subresources: SUBRESOURCES,
    schema: "core.v1.Node",
    storage: "nodes",
    columns: COLUMNS,
    cells: row,
    fields,
    // A kubelet creates its node with its first status: upstream keeps it too.
    prepare_update: prepare::keep_status,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[
    rows::proxy("NodeProxyOptions"),
    rows::item("status", ("", "v1", "Node")),
];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string("Status", "The status of the node"),
    rows::string("Roles", "The roles of the node"),
    rows::AGE,
    rows::string("Version", "Kubelet Version reported by the node."),
    rows::wide("Internal-IP", "List of addresses reachable to the node."),
    rows::wide("External-IP", "List of addresses reachable to the node."),
    rows::wide(
        "OS-Image",
        "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy)).",
    ),
    rows::wide(
        "Kernel-Version",
        "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64).",
    ),
    rows::wide(
        "Container-Runtime",
        "ContainerRuntime Version reported by the node through runtime remote API (e.g. \
         containerd://1.4.2).",
    ),
];

fn row(node: &Object, now: Timestamp) -> Vec<Value> {
    let info = |field| node.text_at(&["status", "nodeInfo", field]);
    vec![
        cells::name(node),
        status(node).into(),
        cells::or_none(&roles(node)),
        cells::age(node, now),
        info("kubeletVersion").into(),
        address(node, "InternalIP"),
        address(node, "ExternalIP"),
        cells::or_unknown(info("osImage")),
        cells::or_unknown(info("kernelVersion")),
        cells::or_unknown(info("containerRuntimeVersion")),
    ]
}

fn status(node: &Object) -> String {
    let conditions = node.field("status")["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .rfind(|c| c["type"] == "Ready");
    let mut text = match ready {
        Some(condition) if condition["status"] == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node.field("spec")["unschedulable"] == true {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(node: &Object) -> String {
    let labels = node.metadata().and_then(|meta| meta.get("labels"));
    let labels = labels.and_then(Value::as_object).into_iter().flatten();
    let roles =
        labels.filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            },
        );
    let roles: BTreeSet<_> = roles.filter(|role| !role.is_empty()).collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn address(node: &Object, kind: &str) -> Value {
    let addresses = node.field("status")["addresses"].as_array();
    let found = addresses.into_iter().flatten().find(|a| a["type"] == kind);
    cells::or_none(
        found
            .and_then(|a| a["address"].as_str())
            .unwrap_or_default(),
    )
}

fn fields(node: &Object) -> Vec<(&'static str, String)> {
    let unschedulable = node.field("spec")["unschedulable"] == true;
    vec![("spec.unschedulable", unschedulable.to_string())]
}
