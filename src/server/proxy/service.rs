//! `services/proxy`: one of the ready endpoints of a service.

use std::net::IpAddr;

use http::{Request, Response};
use serde_json::Value;

use super::NodeProxy;
use super::http_proxy::{Endpoint, Target};
use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::client::Body;
use crate::server::request::RequestInfo;

const SLICES: &str = "endpointslices.discovery.k8s.io";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

impl NodeProxy {
    pub(super) async fn service_proxy(
        &self,
        info: &RequestInfo,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let invalid =
            || ApiError::bad_request(format!("invalid service request \"{}\"", info.name));
        let target = Target::parse(&info.name).ok_or_else(invalid)?;
        let key = format!("{}/{}", info.namespace, target.name);
        let item = self.cacher.get("services", &key);
        let item = item.ok_or_else(|| ApiError::not_found("", "services", target.name))?;
        let service = item.object().map_err(ApiError::internal)?;
        let port = port_name(&service, target.port).ok_or_else(|| {
            ApiError::unavailable(format!(
                "no service port \"{}\" found for service \"{}\"",
                target.port, target.name
            ))
        })?;
        let mut slices = Vec::new();
        for item in self.cacher.list(SLICES, &info.namespace) {
            if item
                .labels
                .get(SERVICE_LABEL)
                .is_some_and(|name| name == target.name)
            {
                slices.push(item.object().map_err(ApiError::internal)?);
            }
        }
        let mut endpoints: Vec<Endpoint> = slices
            .iter()
            .flat_map(|slice| endpoints(slice, &port, target.https))
            .collect();
        if endpoints.is_empty() {
            return Err(ApiError::unavailable(format!(
                "no endpoints available for service \"{}\"",
                info.name
            )));
        }
        let chosen = endpoints.swap_remove(self.rng.below(endpoints.len()));
        self.proxy_to(info, request, &chosen).await
    }
}

/// The name of the port meant: by name, by number, or the only one.
fn port_name(service: &Object, wanted: &str) -> Option<String> {
    let ports = service.spec()?.get("ports")?.as_array()?;
    let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    if wanted.is_empty() {
        return match ports.as_slice() {
            [only] => Some(name(only)),
            many => many.iter().map(name).find(String::is_empty),
        };
    }
    let number: Option<u64> = wanted.parse().ok();
    ports
        .iter()
        .find(|port| {
            port["name"] == *wanted || (number.is_some() && port["port"].as_u64() == number)
        })
        .map(name)
}

/// The ready endpoints of a slice at the port of that name.
fn endpoints(slice: &Object, port: &str, https: bool) -> Vec<Endpoint> {
    let list = |name: &str| {
        slice
            .0
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let number = list("ports")
        .iter()
        .find(|entry| entry["name"].as_str().unwrap_or_default() == port)
        .and_then(|entry| u16::try_from(entry["port"].as_u64()?).ok());
    let Some(number) = number else {
        return Vec::new();
    };
    let made = |endpoint: &Value| -> Option<Endpoint> {
        let address: IpAddr = endpoint["addresses"][0].as_str()?.parse().ok()?;
        let is_ready = endpoint["conditions"]["ready"].as_bool().unwrap_or(true);
        is_ready.then(|| Endpoint {
            node: endpoint["nodeName"].as_str().unwrap_or_default().to_owned(),
            address,
            port: number,
            https,
        })
    };
    list("endpoints").iter().filter_map(made).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn a_port_is_meant_by_name_number_or_being_alone() {
        let one = object(json!({"spec": {"ports": [{"port": 80}]}}));
        assert_eq!(port_name(&one, ""), Some(String::new()));
        let two = object(
            json!({"spec": {"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]}}),
        );
        assert_eq!(port_name(&two, "b"), Some("b".to_owned()));
        assert_eq!(port_name(&two, "80"), Some("a".to_owned()));
        assert_eq!(port_name(&two, ""), None);
        assert_eq!(port_name(&two, "82"), None);
    }

    #[test]
    fn only_ready_endpoints_are_chosen_from() {
        let slice = object(json!({
            "ports": [{"name": "a", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true}, "nodeName": "n"},
                {"addresses": ["10.0.0.3"], "conditions": {}},
            ],
        }));
        let found = endpoints(&slice, "a", false);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].node.as_str(), found[0].port), ("n", 8080));
        assert!(endpoints(&slice, "b", false).is_empty());
    }
}
