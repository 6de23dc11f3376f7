//! Validation of services (`ValidateService` in `pkg/apis/core/validation`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::prepare::is_external;
use crate::api::ip;
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, is_set, list, text};

const SPEC: Path<'static> = Path::root("spec");

/// The kubelet's port is not given to the outside.
const KUBELET_PORT: i64 = 10250;

/// All that is wrong with a service.
pub(super) fn validate(service: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = service.field("spec");
    let kind = text(&spec["type"]);
    if list(&spec["ports"]).is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.required(&SPEC.field("ports"), "");
    }
    of_type(&mut errors, spec);
    ports(&mut errors, spec);
    common::labels(&mut errors, &spec["selector"], &SPEC.field("selector"));
    affinity(&mut errors, spec);
    addresses(&mut errors, spec);
    let path = SPEC.field("externalIPs");
    for (index, address) in list(&spec["externalIPs"]).iter().enumerate() {
        for why in ip::wrong_endpoint(text(address)) {
            errors.invalid(&path.index(index), text(address), why);
        }
    }
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    errors.one_of(&SPEC.field("type"), &spec["type"], &kinds);
    balancing(&mut errors, spec);
    traffic(&mut errors, spec);
    errors.into_vec()
}

/// All that is wrong with a changed service.
pub(super) fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let (spec, was) = (new.field("spec"), old.field("spec"));
    let is_named = |spec: &Value| spec["type"] == "ExternalName";
    if !is_named(spec) && !is_named(was) {
        for field in ["clusterIPs", "ipFamilies"] {
            let path = SPEC.field(field);
            let pairs = list(&spec[field]).iter().zip(list(&was[field]));
            for (index, (new, old)) in pairs.enumerate() {
                if new != old {
                    let all = spec[field].clone();
                    errors.invalid(&path.index(index), all, "may not change once set");
                }
            }
        }
    }
    errors.extend(validate(new));
    errors.into_vec()
}

fn is_headless(spec: &Value) -> bool {
    spec["clusterIP"] == "None" || spec["clusterIPs"][0] == "None"
}

fn of_type(errors: &mut Errors, spec: &Value) {
    let kind = text(&spec["type"]);
    if matches!(kind, "LoadBalancer" | "NodePort") && is_headless(spec) {
        let why = format!("may not be set to 'None' for {kind} services");
        errors.invalid(&SPEC.field("clusterIPs").index(0), "None", &why);
    }
    if kind == "LoadBalancer" {
        for (index, port) in list(&spec["ports"]).iter().enumerate() {
            if port["port"] == KUBELET_PORT {
                let why = format!(
                    "may not expose port {KUBELET_PORT} externally since it is used by kubelet"
                );
                errors.invalid(&SPEC.field("ports").index(index), KUBELET_PORT, &why);
            }
        }
    }
    if kind != "ExternalName" {
        return;
    }
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let is_empty = list(&spec[field]).is_empty() && !spec[field].is_string();
        if !is_empty {
            let why = "may not be set for ExternalName services";
            errors.forbidden(&SPEC.field(field), why);
        }
    }
    let path = SPEC.field("externalName");
    let external = text(&spec["externalName"]);
    match external.strip_suffix('.').unwrap_or(external) {
        "" => errors.required(&path, ""),
        name => errors.invalid_each(&path, name, name::dns1123_subdomain(name)),
    }
}

fn ports(errors: &mut Errors, spec: &Value) {
    let ports = list(&spec["ports"]);
    let path = SPEC.field("ports");
    let mut names = BTreeSet::new();
    for (index, one) in ports.iter().enumerate() {
        port(errors, one, ports.len() > 1, &path.index(index));
        let name = text(&one["name"]);
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(&path.index(index).field("name"), name);
        }
    }
    let (mut node_ports, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (index, one) in ports.iter().enumerate() {
        let path = path.index(index);
        let protocol = text(&one["protocol"]);
        let node_port = one["nodePort"].as_i64().unwrap_or(0);
        if node_port != 0 && spec["type"] == "ClusterIP" {
            let why = "may not be used when `type` is 'ClusterIP'";
            errors.forbidden(&path.field("nodePort"), why);
        }
        if node_port != 0 && !node_ports.insert((protocol, node_port)) {
            errors.duplicate(&path.field("nodePort"), node_port);
        }
        let number = one["port"].as_i64().unwrap_or(0);
        if !numbers.insert((protocol, number)) {
            errors.duplicate(&path, json!({"protocol": protocol, "port": number}));
        }
    }
}

fn port(errors: &mut Errors, port: &Value, needs_name: bool, path: &Path<'_>) {
    match text(&port["name"]) {
        "" if needs_name => errors.required(&path.field("name"), ""),
        "" => {}
        name => errors.invalid_each(&path.field("name"), name, name::dns1123_label(name)),
    }
    let number = port["port"].as_i64().unwrap_or(0);
    common::port(errors, number, &path.field("port"));
    errors.one_of(
        &path.field("protocol"),
        &port["protocol"],
        &["SCTP", "TCP", "UDP"],
    );
    common::port_or_name(errors, &port["targetPort"], &path.field("targetPort"));
    let application = &port["appProtocol"];
    if is_set(application) {
        let wrong = name::qualified_name(text(application));
        errors.invalid_each(&path.field("appProtocol"), text(application), wrong);
    }
}

fn affinity(errors: &mut Errors, spec: &Value) {
    const SECONDS_MAX: i64 = 86_400;
    let affinity = &spec["sessionAffinity"];
    errors.one_of(
        &SPEC.field("sessionAffinity"),
        affinity,
        &["ClientIP", "None"],
    );
    let config = &spec["sessionAffinityConfig"];
    let path = SPEC.field("sessionAffinityConfig");
    if affinity == "None" && !config.is_null() {
        errors.forbidden(&path, "must not be set when session affinity is None");
    }
    if affinity == "ClientIP" {
        let seconds = config["clientIP"]["timeoutSeconds"].as_i64().unwrap_or(0);
        if !(1..=SECONDS_MAX).contains(&seconds) {
            let why = format!("must be greater than 0 and less than {SECONDS_MAX}");
            errors.invalid(
                &path.field("clientIP").field("timeoutSeconds"),
                seconds,
                &why,
            );
        }
    }
}

fn addresses(errors: &mut Errors, spec: &Value) {
    const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
    const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    if spec["type"] == "ExternalName" {
        return;
    }
    let path = SPEC.field("ipFamilies");
    let families = list(&spec["ipFamilies"]);
    for (index, family) in families.iter().enumerate() {
        errors.one_of(&path.index(index), family, &FAMILIES);
        if families[..index].contains(family) {
            errors.duplicate(&path.index(index), family.clone());
        }
    }
    if is_set(&spec["ipFamilyPolicy"]) {
        let path = SPEC.field("ipFamilyPolicy");
        errors.one_of(&path, &spec["ipFamilyPolicy"], &POLICIES);
    }
    let path = SPEC.field("clusterIPs");
    let all = list(&spec["clusterIPs"]);
    if is_set(&spec["clusterIP"]) && !all.is_empty() && spec["clusterIP"] != all[0] {
        let why = "first value must match `clusterIP`";
        errors.invalid(&path, spec["clusterIPs"].clone(), why);
    }
    if all.len() > 2 {
        errors.invalid(
            &path,
            spec["clusterIPs"].clone(),
            "may only hold up to 2 values",
        );
    }
    for (index, address) in all.iter().enumerate() {
        address_of_family(errors, text(address), (index, all.len()), families);
    }
}

fn address_of_family(
    errors: &mut Errors,
    address: &str,
    (index, count): (usize, usize),
    families: &[Value],
) {
    let path = SPEC.field("clusterIPs");
    let path = path.index(index);
    if address == "None" {
        if count > 1 {
            errors.invalid(&path, address, "'None' must be the first and only value");
        }
        return;
    }
    let Ok(parsed) = address.parse::<IpAddr>() else {
        let why = "must be empty, 'None', or a valid IP address";
        errors.invalid(&path, address, why);
        return;
    };
    let family = ip::Family::of(parsed).name();
    if let Some(wanted) = families
        .get(index)
        .map(text)
        .filter(|wanted| *wanted != family)
    {
        let why = format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`");
        errors.invalid(&path, address, &why);
    }
}

fn balancing(errors: &mut Errors, spec: &Value) {
    let is_balanced = spec["type"] == "LoadBalancer";
    let allocates = &spec["allocateLoadBalancerNodePorts"];
    let path = SPEC.field("allocateLoadBalancerNodePorts");
    if !is_balanced && !allocates.is_null() {
        errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    } else if is_balanced && allocates.is_null() {
        errors.required(&path, "");
    }
    let class = &spec["loadBalancerClass"];
    let path = SPEC.field("loadBalancerClass");
    if !is_balanced && !class.is_null() {
        errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    } else if !class.is_null() {
        errors.invalid_each(&path, text(class), name::qualified_name(text(class)));
    }
    let path = SPEC.field("loadBalancerSourceRanges");
    let ranges = list(&spec["loadBalancerSourceRanges"]);
    if !is_balanced && !ranges.is_empty() {
        errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
    }
    for (index, range) in ranges.iter().enumerate() {
        if let Some(why) = ip::wrong_network(text(range).trim()) {
            errors.invalid(&path.index(index), text(range), why);
        }
    }
}

fn traffic(errors: &mut Errors, spec: &Value) {
    const POLICIES: [&str; 2] = ["Cluster", "Local"];
    let empty = Map::new();
    let is_external = is_external(spec.as_object().unwrap_or(&empty));
    let policy = &spec["externalTrafficPolicy"];
    let path = SPEC.field("externalTrafficPolicy");
    if is_external {
        errors.one_of(&path, policy, &POLICIES);
    } else if is_set(policy) {
        let why = "may only be set for externally-accessible services";
        errors.invalid(&path, text(policy), why);
    }
    let health_port = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
    let path = SPEC.field("healthCheckNodePort");
    let needs_health = spec["type"] == "LoadBalancer" && policy == "Local";
    if !needs_health && health_port != 0 {
        let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is \
                   'Local'";
        errors.invalid(&path, health_port, why);
    } else if health_port != 0 {
        common::port(errors, health_port, &path);
    }
    let policy = &spec["internalTrafficPolicy"];
    if spec["type"] != "ExternalName" {
        errors.one_of(&SPEC.field("internalTrafficPolicy"), policy, &POLICIES);
    }
    let distribution = &spec["trafficDistribution"];
    if is_set(distribution) {
        let supported = ["PreferClose", "PreferSameNode", "PreferSameZone"];
        errors.one_of(&SPEC.field("trafficDistribution"), distribution, &supported);
    }
}

#[cfg(test)]
mod tests {
    use super::super::prepare;
    use super::*;

    fn service(spec: Value) -> Object {
        let mut service = Object::from_value(json!({"spec": spec})).unwrap();
        prepare::default(&mut service);
        service
    }

    fn wrong(spec: Value) -> Vec<String> {
        let errors = validate(&service(spec));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn services_of_all_types_pass() {
        let ports = json!([{"port": 80}]);
        for spec in [
            json!({"ports": ports, "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}),
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}),
            json!({"type": "LoadBalancer", "ports": ports}),
            json!({"type": "ExternalName", "externalName": "example.com."}),
            json!({"ports": ports, "externalIPs": ["192.168.1.1"]}),
        ] {
            assert_eq!(wrong(spec), [""; 0]);
        }
    }

    #[test]
    fn ports_are_there_named_and_unique() {
        assert_eq!(wrong(json!({})), ["spec.ports: Required value"]);
        assert_eq!(
            wrong(json!({"ports": [{"port": 80, "name": "a"}, {"port": 80},
                {"port": 0, "name": "a", "nodePort": 30000, "targetPort": "no_name"}]})),
            [
                "spec.ports[1].name: Required value",
                "spec.ports[2].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[2].targetPort: Invalid value: \"no_name\": must contain only \
                 alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "spec.ports[2].name: Duplicate value: \"a\"",
                "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
                "spec.ports[2].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ]
        );
    }

    #[test]
    fn fields_fit_the_type() {
        let ports = json!([{"port": 80}]);
        assert_eq!(
            wrong(json!({"type": "Door", "ports": ports, "sessionAffinity": "Always"})),
            [
                "spec.sessionAffinity: Unsupported value: \"Always\": supported values: \
                 \"ClientIP\", \"None\"",
                "spec.type: Unsupported value: \"Door\": supported values: \"ClusterIP\", \
                 \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ]
        );
        assert_eq!(
            wrong(json!({"ports": ports, "externalTrafficPolicy": "Local",
                "allocateLoadBalancerNodePorts": true, "healthCheckNodePort": 31000})),
            [
                "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is \
                 'LoadBalancer'",
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for \
                 externally-accessible services",
                "spec.healthCheckNodePort: Invalid value: 31000: may only be set when `type` is \
                 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
            ]
        );
        assert_eq!(
            wrong(json!({"type": "NodePort", "clusterIP": "None", "ports": ports})),
            [
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for \
                 NodePort services"
            ]
        );
    }

    #[test]
    fn addresses_are_addresses_of_their_family_and_stay() {
        let ports = json!([{"port": 80}]);
        assert_eq!(
            wrong(
                json!({"ports": ports, "clusterIP": "10.0.0.1", "clusterIPs": ["x", "10.0.0.1"],
                "ipFamilies": ["IPv4", "IPv6"]})
            ),
            [
                "spec.clusterIPs: Invalid value: [\"x\",\"10.0.0.1\"]: first value must match \
                 `clusterIP`",
                "spec.clusterIPs[0]: Invalid value: \"x\": must be empty, 'None', or a valid IP \
                 address",
                "spec.clusterIPs[1]: Invalid value: \"10.0.0.1\": expected an IPv6 value as \
                 indicated by `ipFamilies[1]`",
            ]
        );
        let at = |address: &str| {
            service(json!({"ports": ports, "clusterIP": address, "clusterIPs": [address]}))
        };
        let errors = validate_update(&at("10.0.0.2"), &at("10.0.0.1"));
        assert_eq!(
            errors[0].to_string(),
            "spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"
        );
    }
}
