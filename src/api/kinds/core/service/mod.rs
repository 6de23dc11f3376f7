//! Service: one address and name for a changing set of pods.
//!
//! Addresses and node ports are allocated by the REST layer, which may run before or after
//! validation: nothing here needs them to be there.

mod prepare;
mod validate;

use jiff::Timestamp;
use serde_json::Value;

use crate::api::kinds::{Column, KindDef, Subresource, cells, rows, service_name};
use crate::api::object::Object;

pub(crate) const DEF: KindDef = KindDef {
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    subresources: SUBRESOURCES,
    schema: "core.v1.Service",
    storage: "services",
    columns: COLUMNS,
    cells: row,
    fields,
    default: prepare::default,
    prepare_create: prepare::create,
    prepare_update: prepare::update,
    validate: validate::validate,
    validate_update: validate::validate_update,
    creates_on_update: true,
    validate_name: service_name,
    ..KindDef::BASE
};

const SUBRESOURCES: &[Subresource] = &[
    rows::proxy("ServiceProxyOptions"),
    rows::item("status", ("", "v1", "Service")),
];

const COLUMNS: &[Column] = &[
    rows::NAME,
    rows::string("Type", "type determines how the Service is exposed."),
    rows::string("Cluster-IP", "clusterIP is the IP address of the service."),
    rows::string(
        "External-IP",
        "externalIPs is a list of IP addresses for which nodes in the cluster will also accept \
         traffic for this service.",
    ),
    rows::string(
        "Port(s)",
        "The list of ports that are exposed by this service.",
    ),
    rows::AGE,
    rows::wide(
        "Selector",
        "Route service traffic to pods with label keys and values matching this selector.",
    ),
];

fn row(service: &Object, now: Timestamp) -> Vec<Value> {
    let spec = service.field("spec");
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    let cluster_ip = spec["clusterIPs"][0].as_str().unwrap_or(text("clusterIP"));
    vec![
        cells::name(service),
        text("type").into(),
        cells::or_none(cluster_ip),
        external_ip(service).into(),
        cells::or_none(&ports(spec)),
        cells::age(service, now),
        cells::labels(&spec["selector"]),
    ]
}

fn external_ip(service: &Object) -> String {
    let spec = service.field("spec");
    let external = spec["externalIPs"].as_array().into_iter().flatten();
    let external = external.filter_map(Value::as_str);
    let or = |text: String, none: &str| {
        if text.is_empty() {
            none.to_owned()
        } else {
            text
        }
    };
    match spec["type"].as_str() {
        Some("ClusterIP" | "NodePort") => or(external.collect::<Vec<_>>().join(","), "<none>"),
        Some("LoadBalancer") => {
            let ingress = service.field("status")["loadBalancer"]["ingress"].as_array();
            let ingress = ingress.into_iter().flatten();
            let given = ingress.filter_map(|i| i["ip"].as_str().or(i["hostname"].as_str()));
            or(
                given.chain(external).collect::<Vec<_>>().join(","),
                "<pending>",
            )
        }
        Some("ExternalName") => spec["externalName"].as_str().unwrap_or_default().to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

fn ports(spec: &Value) -> String {
    let ports = spec["ports"].as_array().into_iter().flatten();
    let texts = ports.map(|port| {
        let number = port["port"].as_i64().unwrap_or(0);
        let protocol = port["protocol"].as_str().unwrap_or_default();
        match port["nodePort"].as_i64() {
            Some(node_port) if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
            _ => format!("{number}/{protocol}"),
        }
    });
    texts.collect::<Vec<_>>().join(",")
}

fn fields(service: &Object) -> Vec<(&'static str, String)> {
    let text = |field| service.text_at(&["spec", field]).to_owned();
    vec![
        ("spec.clusterIP", text("clusterIP")),
        ("spec.type", text("type")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_shows_addresses_and_ports() {
        let shown = |value: Value| {
            let service = Object::from_value(value).unwrap();
            let cells = row(&service, Timestamp::UNIX_EPOCH);
            let texts = cells[1..5].iter().map(|c| c.as_str().unwrap().to_owned());
            texts.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            shown(
                json!({"spec": {"type": "NodePort", "clusterIPs": ["10.0.0.1"],
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"},
                          {"port": 53, "protocol": "UDP"}]}})
            ),
            "NodePort 10.0.0.1 <none> 80:30080/TCP,53/UDP"
        );
        assert_eq!(
            shown(json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1"}})),
            "LoadBalancer 10.0.0.1 <pending> <none>"
        );
        assert_eq!(
            shown(
                json!({"spec": {"type": "LoadBalancer", "externalIPs": ["1.2.3.4"]},
                "status": {"loadBalancer": {"ingress": [{"ip": "9.9.9.9"}, {"hostname": "h"}]}}})
            ),
            "LoadBalancer <none> 9.9.9.9,h,1.2.3.4 <none>"
        );
        assert_eq!(
            shown(json!({"spec": {"type": "ExternalName", "externalName": "a.b"}})),
            "ExternalName <none> a.b <none>"
        );
    }
}
