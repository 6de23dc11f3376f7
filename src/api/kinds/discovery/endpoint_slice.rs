//! EndpointSlice: some of the addresses behind a service.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::ip;
use crate::api::kinds::defaults::{items, set, text as set_text};
use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::name;
use crate::api::object::Object;
use crate::api::status::FieldError;
use crate::api::validation::path::Path;
use crate::api::validation::{Errors, is_set, list, text};

pub(crate) const DEF: KindDef = KindDef {
    group: "discovery.k8s.io",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    schema: "discovery.v1.EndpointSlice",
    storage: "endpointslices.discovery.k8s.io",
    columns: COLUMNS,
    cells: row,
    has_generation: true,
    default,
    validate,
    validate_update,
    ..KindDef::BASE
};

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string(
        "AddressType",
        "addressType specifies the type of address carried by this EndpointSlice. All addresses \
         in this slice must be the same type. This field is immutable after creation.",
    ),
    rows::string(
        "Ports",
        "ports specifies the list of network ports exposed by each endpoint in this slice. Each \
         port must have a unique name.",
    ),
    rows::string(
        "Endpoints",
        "endpoints is a list of unique endpoints in this slice. Each slice may include a maximum \
         of 1000 endpoints.",
    ),
    rows::AGE,
];

fn row(slice: &Object, now: Timestamp) -> Vec<Value> {
    let ports = slice.field("ports").as_array().into_iter().flatten();
    let ports: Vec<_> = ports.map(port_text).collect();
    let endpoints = slice.field("endpoints").as_array().into_iter().flatten();
    let addresses = endpoints.flat_map(|e| e["addresses"].as_array().into_iter().flatten());
    let addresses = addresses.filter_map(Value::as_str).map(str::to_owned);
    let addresses: Vec<_> = addresses.collect();
    vec![
        cells::name(slice),
        slice.text_at(&["addressType"]).into(),
        cells::at_most_three(&ports, "<unset>"),
        cells::at_most_three(&addresses, "<unset>"),
        cells::age(slice, now),
    ]
}

fn port_text(port: &Value) -> String {
    match (port["port"].as_i64(), port["name"].as_str()) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.to_owned(),
        (None, None) => "*".to_owned(),
    }
}

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const PORTS_MAX: usize = 20_000;

fn default(slice: &mut Object) {
    for port in items(&mut slice.0, "ports") {
        set(port, "name", "");
        set_text(port, "protocol", "TCP");
    }
}

fn validate(slice: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let kind = text(slice.field("addressType"));
    let supported = ["FQDN", "IPv4", "IPv6"];
    errors.one_of(
        &Path::root("addressType"),
        slice.field("addressType"),
        &supported,
    );
    let endpoints = list(slice.field("endpoints"));
    let path = Path::root("endpoints");
    if endpoints.len() > ENDPOINTS_MAX {
        errors.push(FieldError::too_many(&path, endpoints.len(), ENDPOINTS_MAX));
        return errors.into_vec();
    }
    for (index, one) in endpoints.iter().enumerate() {
        endpoint(&mut errors, one, kind, &path.index(index));
    }
    ports(&mut errors, list(slice.field("ports")));
    errors.into_vec()
}

fn endpoint(errors: &mut Errors, endpoint: &Value, kind: &str, path: &Path<'_>) {
    let addresses = list(&endpoint["addresses"]);
    let addresses_path = path.field("addresses");
    if addresses.is_empty() {
        errors.required(&addresses_path, "must contain at least 1 address");
    } else if addresses.len() > ADDRESSES_MAX {
        errors.push(FieldError::too_many(
            &addresses_path,
            addresses.len(),
            ADDRESSES_MAX,
        ));
    }
    for (index, one) in addresses.iter().enumerate() {
        address(errors, text(one), kind, &addresses_path.index(index));
    }
    let node = &endpoint["nodeName"];
    if !node.is_null() {
        let wrong = name::dns1123_subdomain(text(node));
        errors.invalid_each(&path.field("nodeName"), text(node), wrong);
    }
    let hostname = &endpoint["hostname"];
    if !hostname.is_null() {
        let wrong = name::dns1123_label(text(hostname));
        errors.invalid_each(&path.field("hostname"), text(hostname), wrong);
    }
}

fn address(errors: &mut Errors, address: &str, kind: &str, path: &Path<'_>) {
    let is_v4 = address.parse::<std::net::Ipv4Addr>().is_ok();
    let is_v6 = address.parse::<std::net::Ipv6Addr>().is_ok();
    match kind {
        "IPv4" if !is_v4 => errors.invalid(path, address, "must be a valid IPv4 address"),
        "IPv6" if !is_v6 => errors.invalid(path, address, "must be a valid IPv6 address"),
        "IPv4" | "IPv6" => {
            for why in ip::wrong_endpoint(address) {
                errors.invalid(path, address, why);
            }
        }
        "FQDN" => {
            let domain = address.trim_end_matches('.');
            errors.invalid_each(path, address, name::dns1123_subdomain(domain));
        }
        _ => {}
    }
}

fn ports(errors: &mut Errors, ports: &[Value]) {
    let path = Path::root("ports");
    if ports.len() > PORTS_MAX {
        errors.push(FieldError::too_many(&path, ports.len(), PORTS_MAX));
        return;
    }
    let mut names = std::collections::BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = text(&port["name"]);
        if !name.is_empty() {
            errors.invalid_each(&path.field("name"), name, name::dns1123_label(name));
        }
        if !names.insert(name) {
            errors.duplicate(&path.field("name"), name);
        }
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
}

fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    errors.extend(validate(new));
    let path = Path::root("addressType");
    errors.immutable(&path, new.field("addressType"), old.field("addressType"));
    errors.into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn slices_are_defaulted_and_checked() {
        let mut slice = Object::from_value(json!({
            "addressType": "IPv4", "ports": [{"port": 80}, {"port": 81}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}, {}],
        }))
        .unwrap();
        default(&mut slice);
        assert_eq!(
            slice.field("ports")[0],
            json!({"name": "", "port": 80, "protocol": "TCP"})
        );
        let texts = |errors: Vec<FieldError>| -> Vec<String> {
            errors.iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            texts(validate(&slice)),
            [
                "endpoints[1].addresses[0]: Invalid value: \"fd00::1\": must be a valid IPv4 address",
                "endpoints[2].addresses: Required value: must contain at least 1 address",
                "ports[1].name: Duplicate value: \"\"",
            ]
        );
        let mut other = slice.clone();
        other.0.insert("addressType".into(), "FQDN".into());
        let errors = texts(validate_update(&other, &slice));
        assert!(
            errors.contains(&"addressType: Invalid value: \"FQDN\": field is immutable".into())
        );
        assert_eq!(row(&slice, Timestamp::UNIX_EPOCH)[2], "80,81");
    }
}
