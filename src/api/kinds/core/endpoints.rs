//! Endpoints: the addresses behind a service, in the form before EndpointSlice.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, cells, rows};
use crate::api::object::Object;

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
