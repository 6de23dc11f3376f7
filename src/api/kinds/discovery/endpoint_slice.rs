//! EndpointSlice: some of the addresses behind a service.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;

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
