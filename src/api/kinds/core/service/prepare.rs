//! Defaults of services, and what of an update is filled in from before
//! (`pkg/registry/core/service/{strategy,storage/storage}.go`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::api::kinds::defaults::{items, number, set, text as set_text};
use crate::api::kinds::prepare;
use crate::api::object::{Object, child_mut};
use crate::api::validation::{is_set, list, text};

/// How long a client stays with one endpoint.
const AFFINITY_SECONDS: i64 = 10_800;

/// Defaults (`SetDefaults_Service`).
pub(super) fn default(service: &mut Object) {
    let spec = child_mut(&mut service.0, "spec");
    set_text(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "None" {
        spec.remove("sessionAffinityConfig");
    } else if spec["sessionAffinity"] == "ClientIP" {
        let config = child_mut(spec, "sessionAffinityConfig");
        set(
            child_mut(config, "clientIP"),
            "timeoutSeconds",
            AFFINITY_SECONDS,
        );
    }
    set_text(spec, "type", "ClusterIP");
    for port in items(spec, "ports") {
        set_text(port, "protocol", "TCP");
        let target = port.get("targetPort").unwrap_or(&Value::Null);
        if !is_set(target) || *target == json!(0) {
            let number = port.get("port").cloned().unwrap_or(json!(0));
            port.insert("targetPort".to_owned(), number);
        }
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if is_external(spec) {
        set_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind != "ExternalName" {
        set(spec, "internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// Whether packets from outside the cluster reach the service.
pub(super) fn is_external(spec: &Map<String, Value>) -> bool {
    match spec.get("type").map_or("", text) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => !spec.get("externalIPs").map_or(&[][..], list).is_empty(),
        _ => false,
    }
}

/// A new service has no status, and both forms of its address agree.
pub(super) fn create(service: &mut Object) {
    prepare::drop_status(service);
    service
        .0
        .insert("status".to_owned(), json!({"loadBalancer": {}}));
    let spec = child_mut(&mut service.0, "spec");
    if is_set(field(spec, "clusterIP")) && list(field(spec, "clusterIPs")).is_empty() {
        let address = field(spec, "clusterIP").clone();
        spec.insert("clusterIPs".to_owned(), json!([address]));
    }
}

/// An update keeps the status and what was allocated and is still needed; what the new type has
/// no use for goes away where it was not changed.
pub(super) fn update(new: &mut Object, old: &Object) {
    prepare::keep_status(new, old);
    let empty = Map::new();
    let was = old.spec().unwrap_or(&empty);
    let spec = child_mut(&mut new.0, "spec");
    drop_unneeded(spec, was);
    keep_addresses(spec, was);
    keep_node_ports(spec, was);
    if needs_health_port(spec) && needs_health_port(was) {
        let port = field(was, "healthCheckNodePort").as_i64().unwrap_or(0);
        if port != 0 {
            number(spec, "healthCheckNodePort", port);
        }
    }
}

fn field<'a>(spec: &'a Map<String, Value>, name: &str) -> &'a Value {
    spec.get(name).unwrap_or(&Value::Null)
}

fn needs_address(spec: &Map<String, Value>) -> bool {
    matches!(
        text(field(spec, "type")),
        "ClusterIP" | "NodePort" | "LoadBalancer"
    )
}

fn needs_node_port(spec: &Map<String, Value>) -> bool {
    match text(field(spec, "type")) {
        "NodePort" => true,
        "LoadBalancer" => *field(spec, "allocateLoadBalancerNodePorts") != json!(false),
        _ => false,
    }
}

fn needs_health_port(spec: &Map<String, Value>) -> bool {
    text(field(spec, "type")) == "LoadBalancer"
        && text(field(spec, "externalTrafficPolicy")) == "Local"
}

fn drop_unneeded(spec: &mut Map<String, Value>, was: &Map<String, Value>) {
    let same = |spec: &Map<String, Value>, name: &str| field(spec, name) == field(was, name);
    let mut gone: Vec<&str> = Vec::new();
    if needs_address(was) && !needs_address(spec) {
        gone.extend(["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]);
        gone.push("internalTrafficPolicy");
    }
    if needs_health_port(was) && !needs_health_port(spec) {
        gone.push("healthCheckNodePort");
    }
    let is_balanced = |spec: &Map<String, Value>| text(field(spec, "type")) == "LoadBalancer";
    if is_balanced(was) && !is_balanced(spec) {
        gone.extend(["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    }
    if is_external(was) && !is_external(spec) {
        gone.push("externalTrafficPolicy");
    }
    for name in gone {
        if same(spec, name) {
            spec.remove(name);
        }
    }
    let ports = |spec: &Map<String, Value>| -> Vec<i64> {
        let ports = list(field(spec, "ports")).iter();
        ports
            .map(|port| port["nodePort"].as_i64().unwrap_or(0))
            .collect()
    };
    if needs_node_port(was) && !needs_node_port(spec) && ports(spec) == ports(was) {
        for port in items(spec, "ports") {
            port.remove("nodePort");
        }
    }
}

/// An address that is not said is the one there was; a new one in one form replaces the other
/// form too.
fn keep_addresses(spec: &mut Map<String, Value>, was: &Map<String, Value>) {
    if !needs_address(spec) || !needs_address(was) {
        return;
    }
    let (old_one, old_all) = (
        field(was, "clusterIP").clone(),
        field(was, "clusterIPs").clone(),
    );
    if is_set(field(spec, "clusterIP")) && *field(spec, "clusterIP") != old_one {
        if *field(spec, "clusterIPs") == old_all || list(field(spec, "clusterIPs")).is_empty() {
            let address = field(spec, "clusterIP").clone();
            spec.insert("clusterIPs".to_owned(), json!([address]));
        }
        return;
    }
    if !is_set(field(spec, "clusterIP")) && is_set(&old_one) {
        spec.insert("clusterIP".to_owned(), old_one);
    }
    if list(field(spec, "clusterIPs")).is_empty() && !list(&old_all).is_empty() {
        spec.insert("clusterIPs".to_owned(), old_all);
    }
    for name in ["ipFamilies", "ipFamilyPolicy"] {
        if !field(was, name).is_null() {
            set(spec, name, field(was, name).clone());
        }
    }
}

/// A port keeps its node port by its name, unless another port took it.
fn keep_node_ports(spec: &mut Map<String, Value>, was: &Map<String, Value>) {
    if !needs_node_port(spec) || !needs_node_port(was) {
        return;
    }
    let number_of = |port: &Value| port["nodePort"].as_i64().unwrap_or(0);
    let numbers = |spec: &Map<String, Value>| -> BTreeSet<i64> {
        list(field(spec, "ports")).iter().map(number_of).collect()
    };
    let mut used: BTreeSet<i64> = numbers(was).intersection(&numbers(spec)).copied().collect();
    let old: BTreeMap<_, _> = list(field(was, "ports"))
        .iter()
        .map(|port| (text(&port["name"]).to_owned(), number_of(port)))
        .collect();
    for port in items(spec, "ports") {
        if field(port, "nodePort").as_i64().unwrap_or(0) != 0 {
            continue;
        }
        let kept = old.get(text(field(port, "name"))).copied().unwrap_or(0);
        if kept != 0 && used.insert(kept) {
            port.insert("nodePort".to_owned(), kept.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Object {
        let mut service = Object::from_value(json!({"spec": spec})).unwrap();
        default(&mut service);
        service
    }

    fn updated(new: Value, old: Value) -> Value {
        let mut new = service(new);
        update(&mut new, &service(old));
        new.field("spec").clone()
    }

    #[test]
    fn the_smallest_service_is_filled_in() {
        let service = service(json!({"ports": [{"port": 80}]}));
        let expected = json!({
            "type": "ClusterIP", "sessionAffinity": "None", "internalTrafficPolicy": "Cluster",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        });
        assert_eq!(service.field("spec"), &expected);
    }

    #[test]
    fn affinity_and_outside_traffic_have_defaults() {
        let spec = service(json!({"type": "NodePort", "sessionAffinity": "ClientIP"}));
        let spec = spec.field("spec");
        assert_eq!(
            spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"],
            10800
        );
        assert_eq!(spec["externalTrafficPolicy"], "Cluster");
        let spec = service(json!({"type": "ExternalName", "externalName": "a.b"}));
        assert!(spec.field("spec")["internalTrafficPolicy"].is_null());
    }

    #[test]
    fn what_was_allocated_is_kept() {
        let old = json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ports": [{"name": "a", "port": 1, "nodePort": 30001},
                                              {"name": "b", "port": 2, "nodePort": 30002}]});
        let new = json!({"type": "NodePort", "ports": [{"name": "b", "port": 3},
            {"name": "a", "port": 1, "nodePort": 30002}, {"name": "c", "port": 4}]});
        let spec = updated(new, old);
        assert_eq!(spec["clusterIPs"], json!(["10.0.0.1"]));
        assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
        let ports: Vec<_> = list(&spec["ports"])
            .iter()
            .map(|p| p["nodePort"].as_i64())
            .collect();
        assert_eq!(ports, [None, Some(30002), None]);
    }

    #[test]
    fn what_a_type_has_no_use_for_goes() {
        let old = json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "externalTrafficPolicy": "Cluster", "ports": [{"port": 1, "nodePort": 30001}]});
        let mut new = old.clone();
        new["type"] = "ClusterIP".into();
        let spec = updated(new.clone(), old.clone());
        assert!(spec["ports"][0]["nodePort"].is_null());
        assert!(spec["externalTrafficPolicy"].is_null());
        assert_eq!(spec["clusterIP"], "10.0.0.1");
        new["type"] = "ExternalName".into();
        new["externalName"] = "a.b".into();
        let spec = updated(new, old);
        assert!(spec["clusterIP"].is_null() && spec["clusterIPs"].is_null());
    }

    #[test]
    fn a_new_address_in_one_form_is_new_in_both() {
        let old = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]});
        let new = json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.1"]});
        assert_eq!(updated(new, old)["clusterIPs"], json!(["10.0.0.2"]));
    }
}
