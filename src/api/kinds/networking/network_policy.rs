//! NetworkPolicy: who may talk to a set of pods, and whom they may talk to.

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::GROUP;
use crate::api::ip;
use crate::api::kinds::defaults::{child, items, set};
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;
use crate::api::selector::label::format_label_selector;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, list, text};

pub(crate) const DEF: KindDef = KindDef {
    group: GROUP,
    kind: "NetworkPolicy",
    plural: "networkpolicies",
    singular: "networkpolicy",
    short_names: &["netpol"],
    schema: "networking.v1.NetworkPolicy",
    storage: "networkpolicies.networking.k8s.io",
    columns: COLUMNS,
    cells: row,
    has_generation: true,
    default,
    validate,
    validate_update: |new, _| validate(new),
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Pod-Selector",
        "Selects the pods to which this NetworkPolicy object applies.  The array of ingress rules \
         is applied to any pods selected by this field. Multiple network policies can select the \
         same set of pods.  In this case, the ingress rules for each are combined additively. \
         This field is NOT optional and follows standard label selector semantics. An empty \
         podSelector matches all pods in this namespace.",
    ),
    rows::AGE,
];

const SPEC: Path<'static> = Path::root("spec");
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
const TYPES: [&str; 2] = ["Ingress", "Egress"];

fn row(policy: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        cells::name(policy),
        format_label_selector(&policy.field("spec")["podSelector"]).into(),
        cells::age(policy, now),
    ]
}

fn default(policy: &mut Object) {
    let Some(spec) = child(&mut policy.0, "spec") else {
        return;
    };
    set(spec, "podSelector", json!({}));
    for direction in ["ingress", "egress"] {
        for rule in items(spec, direction) {
            for port in items(rule, "ports") {
                set(port, "protocol", "TCP");
            }
        }
    }
    if list(spec.get("policyTypes").unwrap_or(&Value::Null)).is_empty() {
        let has_egress = !list(spec.get("egress").unwrap_or(&Value::Null)).is_empty();
        let types = if has_egress { &TYPES[..] } else { &TYPES[..1] };
        spec.insert("policyTypes".to_owned(), json!(types));
    }
}

fn validate(policy: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = policy.field("spec");
    let path = SPEC.field("podSelector");
    common::label_selector(&mut errors, &spec["podSelector"], &path);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let path = SPEC.field(direction);
        for (index, rule) in list(&spec[direction]).iter().enumerate() {
            let here = path.index(index);
            for (index, one) in list(&rule["ports"]).iter().enumerate() {
                port(&mut errors, one, &here.field("ports").index(index));
            }
            for (index, one) in list(&rule[peers]).iter().enumerate() {
                peer(&mut errors, one, &here.field(peers).index(index));
            }
        }
    }
    let path = SPEC.field("policyTypes");
    let types = list(&spec["policyTypes"]);
    if types.len() > TYPES.len() {
        let why = "may not specify more than two policyTypes";
        errors.invalid(&path, spec["policyTypes"].clone(), why);
        return errors.into_vec();
    }
    for (index, one) in types.iter().map(text).enumerate() {
        if !TYPES.contains(&one) {
            errors.not_supported(&path.index(index), one, &TYPES);
        }
    }
    errors.into_vec()
}

fn port(errors: &mut Errors, entry: &Value, path: &Path<'_>) {
    if !entry["protocol"].is_null() && !PROTOCOLS.contains(&text(&entry["protocol"])) {
        let here = path.field("protocol");
        errors.not_supported(&here, text(&entry["protocol"]), &PROTOCOLS);
    }
    let (port, end) = (&entry["port"], &entry["endPort"]);
    let end_path = path.field("endPort");
    if port.is_null() {
        if !end.is_null() {
            let why = "may not be specified when `port` is not specified";
            errors.invalid(&end_path, end.clone(), why);
        }
        return;
    }
    if port.is_string() {
        if !end.is_null() {
            let why = "may not be specified when `port` is non-numeric";
            errors.invalid(&end_path, end.clone(), why);
        }
    } else if let Some(last) = end.as_i64() {
        if last < port.as_i64().unwrap_or(0) {
            let why = "must be greater than or equal to `port`";
            errors.invalid(&end_path, last, why);
        }
        common::port(errors, last, &end_path);
    }
    common::port_or_name(errors, port, &path.field("port"));
}

fn peer(errors: &mut Errors, peer: &Value, path: &Path<'_>) {
    let mut peers = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if !peer[field].is_null() {
            peers += 1;
            common::label_selector(errors, &peer[field], &path.field(field));
        }
    }
    let block = &peer["ipBlock"];
    if !block.is_null() {
        ip_block(errors, block, &path.field("ipBlock"));
        if peers > 0 {
            errors.forbidden(path, "may not specify both ipBlock and another peer");
        }
    } else if peers == 0 {
        errors.required(path, "must specify a peer");
    }
}

fn ip_block(errors: &mut Errors, block: &Value, path: &Path<'_>) {
    let network = |errors: &mut Errors, text: &str, path: &Path<'_>| -> Option<IpNet> {
        if let Some(why) = ip::wrong_network(text) {
            errors.invalid(path, text, why);
        }
        text.parse().ok()
    };
    let cidr = text(&block["cidr"]);
    if cidr.is_empty() {
        return errors.required(&path.field("cidr"), "");
    }
    let Some(whole) = network(errors, cidr, &path.field("cidr")) else {
        return;
    };
    for (index, except) in list(&block["except"]).iter().map(text).enumerate() {
        let here = path.field("except");
        let here = here.index(index);
        let Some(part) = network(errors, except, &here) else {
            continue;
        };
        if !whole.contains(&part.addr()) || whole.prefix_len() >= part.prefix_len() {
            errors.invalid(&here, except, "must be a strict subset of `cidr`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: Value) -> Object {
        let mut policy = Object::from_value(json!({"spec": spec})).unwrap();
        default(&mut policy);
        policy
    }

    fn wrong(spec: Value) -> Vec<String> {
        let errors = validate(&policy(spec));
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_direction_follows_from_the_rules() {
        let types = |spec: Value| policy(spec).field("spec")["policyTypes"].clone();
        assert_eq!(types(json!({})), json!(["Ingress"]));
        assert_eq!(types(json!({"egress": [{}]})), json!(["Ingress", "Egress"]));
        let ports = policy(json!({"ingress": [{"ports": [{"port": 80}]}]}));
        let port = &ports.field("spec")["ingress"][0]["ports"][0];
        assert_eq!(port["protocol"], "TCP");
        assert_eq!(row(&ports, Timestamp::UNIX_EPOCH)[1], "<none>");
    }

    #[test]
    fn ports_and_peers_are_checked() {
        assert_eq!(
            wrong(json!({"ingress": [{"ports": [{"port": 80, "endPort": 79}], "from": [{}]}]})),
            [
                "spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or \
                 equal to `port`",
                "spec.ingress[0].from[0]: Required value: must specify a peer",
            ]
        );
        let block = json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "11.0.0.0/16"]});
        assert_eq!(
            wrong(json!({"egress": [{"to": [{"ipBlock": block, "podSelector": {}}]}]})),
            [
                "spec.egress[0].to[0].ipBlock.except[1]: Invalid value: \"11.0.0.0/16\": must be \
                 a strict subset of `cidr`",
                "spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer",
            ]
        );
    }
}
