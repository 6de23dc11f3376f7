//! Node: a machine that runs pods.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use crate::api::gvk::Scope;
use crate::api::kinds::{Column, KindDef, Subresource, cells, prepare, rows};
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, list, text};

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
    default,
    prepare_update: prepare::keep_status,
    validate,
    validate_update,
    validate_status,
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

const SPEC: Path<'static> = Path::root("spec");

/// Both forms of the pod network say the same; all of the capacity can be used where nothing
/// else was said.
fn default(node: &mut Object) {
    if let Some(spec) = node.0.get_mut("spec").and_then(Value::as_object_mut) {
        let first = spec
            .get("podCIDRs")
            .and_then(|c| c[0].as_str())
            .map(str::to_owned);
        let single = spec
            .get("podCIDR")
            .and_then(Value::as_str)
            .map(str::to_owned);
        match (first, single) {
            (Some(first), _) => spec.insert("podCIDR".to_owned(), first.into()),
            (None, Some(single)) if !single.is_empty() => {
                spec.insert("podCIDRs".to_owned(), Value::from(vec![single]))
            }
            _ => None,
        };
    }
    if let Some(status) = node.0.get_mut("status").and_then(Value::as_object_mut)
        && let Some(capacity) = status.get("capacity").cloned()
    {
        crate::api::kinds::defaults::set(status, "allocatable", capacity);
    }
}

fn validate(node: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = node.field("spec");
    common::taints(&mut errors, &spec["taints"], &SPEC.field("taints"));
    let path = SPEC.field("podCIDRs");
    for (index, network) in list(&spec["podCIDRs"]).iter().enumerate() {
        if let Some(why) = crate::api::ip::wrong_network(text(network)) {
            errors.invalid(&path.index(index), text(network), why);
        }
    }
    errors.into_vec()
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    let (spec, was) = (new.field("spec"), old.field("spec"));
    if !list(&was["podCIDRs"]).is_empty() && spec["podCIDRs"] != was["podCIDRs"] {
        let why = "node updates may not change podCIDR except from \"\" to valid";
        errors.forbidden(&SPEC.field("podCIDRs"), why);
    }
    if !text(&was["providerID"]).is_empty() && spec["providerID"] != was["providerID"] {
        let why = "node updates may not change providerID except from \"\" to valid";
        errors.forbidden(&SPEC.field("providerID"), why);
    }
    errors.into_vec()
}

fn validate_status(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate_update(new, old));
    let path = Path::root("status.addresses");
    let mut seen = BTreeSet::new();
    for (index, address) in list(&new.field("status")["addresses"]).iter().enumerate() {
        if !seen.insert((text(&address["type"]), text(&address["address"]))) {
            errors.duplicate(&path.index(index), address.clone());
        }
    }
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(value: Value) -> Object {
        let mut node = Object::from_value(value).unwrap();
        default(&mut node);
        node
    }

    #[test]
    fn a_row_shows_state_roles_and_addresses() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let cells = row(
            &node(json!({
                "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z", "labels":
                    {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}},
                "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "Unknown"}],
                    "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                    "nodeInfo": {"kubeletVersion": "v1"}},
            })),
            now,
        );
        let expected = json!([
            "a",
            "NotReady,SchedulingDisabled",
            "edge,worker",
            "60s",
            "v1",
            "10.0.0.1",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>",
        ]);
        assert_eq!(Value::from(cells), expected);
    }

    #[test]
    fn networks_stay_and_taints_are_unique() {
        let old = node(json!({"spec": {"podCIDR": "10.0.0.0/24"}}));
        assert_eq!(old.field("spec")["podCIDRs"][0], "10.0.0.0/24");
        let taint = json!({"key": "a", "effect": "NoSchedule"});
        let new = node(json!({"spec": {"podCIDR": "10.0.1.0/24", "taints": [taint, taint]}}));
        let errors = validate_update(&new, &old);
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: \
                 taints must be unique by key and effect pair",
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to \
                 valid",
            ]
        );
    }
}
