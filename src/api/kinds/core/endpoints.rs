//! Endpoints: the addresses behind a service, in the form before EndpointSlice.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::ip;
use crate::api::kinds::defaults::{items, text as set_text};
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, common, is_set, list, text};

pub(crate) const DEF: KindDef = KindDef {
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    schema: "core.v1.Endpoints",
    storage: "endpoints",
    columns: COLUMNS,
    cells: row,
    creates_on_update: true,
    default,
    validate,
    validate_update: |new, _| validate(new),
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "Endpoints",
        "The set of all endpoints is the union of all subsets. Addresses are placed into subsets \
         according to the IPs they share. A single address with multiple ports, some of which are \
         ready and some of which are not (because they come from different containers) will \
         result in the address being displayed in different subsets for the different ports. No \
         address will appear in both Addresses and NotReadyAddresses in the same subset. Sets of \
         addresses and ports that comprise a service.",
    ),
    rows::AGE,
];

fn row(endpoints: &Object, now: Timestamp) -> Vec<Value> {
    let mut texts = Vec::new();
    for subset in endpoints.field("subsets").as_array().into_iter().flatten() {
        let ips = || {
            let addresses = subset["addresses"].as_array().into_iter().flatten();
            addresses.filter_map(|a| a["ip"].as_str())
        };
        match subset["ports"].as_array() {
            Some(ports) if !ports.is_empty() => {
                for port in ports {
                    let port = port["port"].as_i64().unwrap_or(0);
                    texts.extend(ips().map(|ip| host_port(ip, port)));
                }
            }
            _ => texts.extend(ips().map(str::to_owned)),
        }
    }
    let shown = cells::at_most_three(&texts, "<none>");
    vec![cells::name(endpoints), shown, cells::age(endpoints, now)]
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

fn default(endpoints: &mut Object) {
    for subset in items(&mut endpoints.0, "subsets") {
        for port in items(subset, "ports") {
            set_text(port, "protocol", "TCP");
        }
    }
}

fn validate(endpoints: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let path = Path::root("subsets");
    for (index, subset) in list(endpoints.field("subsets")).iter().enumerate() {
        let path = path.index(index);
        let lists = ["addresses", "notReadyAddresses"];
        if lists.iter().all(|field| list(&subset[*field]).is_empty()) {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for field in lists {
            let path = path.field(field);
            for (index, one) in list(&subset[field]).iter().enumerate() {
                address(&mut errors, one, &path.index(index));
            }
        }
        let ports = list(&subset["ports"]);
        let path = path.field("ports");
        for (index, one) in ports.iter().enumerate() {
            port(&mut errors, one, ports.len() > 1, &path.index(index));
        }
    }
    errors.into_vec()
}

fn address(errors: &mut Errors, address: &Value, path: &Path<'_>) {
    for why in ip::wrong_endpoint(text(&address["ip"])) {
        errors.invalid(&path.field("ip"), text(&address["ip"]), why);
    }
    let hostname = text(&address["hostname"]);
    if !hostname.is_empty() {
        errors.invalid_each(
            &path.field("hostname"),
            hostname,
            name::dns1123_label(hostname),
        );
    }
    let node = text(&address["nodeName"]);
    if !address["nodeName"].is_null() {
        errors.invalid_each(&path.field("nodeName"), node, name::dns1123_subdomain(node));
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
    let protocol = &port["appProtocol"];
    if is_set(protocol) {
        let wrong = name::qualified_name(text(protocol));
        errors.invalid_each(&path.field("appProtocol"), text(protocol), wrong);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn subsets_are_defaulted_checked_and_shown() {
        let mut endpoints = Object::from_value(json!({"subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}, {"port": 81}]},
            {"ports": [{"port": 80}]},
            {"addresses": [{"ip": "127.0.0.1"}]},
        ]}))
        .unwrap();
        default(&mut endpoints);
        let errors = validate(&endpoints);
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "subsets[0].ports[0].name: Required value",
                "subsets[0].ports[1].name: Required value",
                "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
                "subsets[2].addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the \
                 loopback range (127.0.0.0/8, ::1/128)",
            ]
        );
        let cells = row(&endpoints, Timestamp::UNIX_EPOCH);
        assert_eq!(cells[1], "10.0.0.1:80,[fd00::1]:80,10.0.0.1:81 + 2 more...");
    }
}
