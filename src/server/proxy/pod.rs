//! Finding a pod, its node and the container meant.

use serde_json::Value;

use super::NodeProxy;
use crate::api::object::Object;
use crate::api::status::ApiError;
use crate::server::request::RequestInfo;

/// A pod as stored, with what is asked of it here.
pub(super) struct Found {
    pub pod: Object,
    pub namespace: String,
    pub name: String,
}

fn names(list: Option<&Value>) -> Vec<&str> {
    let items = list
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default();
    items
        .iter()
        .filter_map(|item| item["name"].as_str())
        .collect()
}

impl Found {
    fn spec(&self, field: &str) -> Option<&Value> {
        self.pod.spec()?.get(field)
    }

    /// Empty where it is on none yet.
    pub(super) fn node(&self) -> &str {
        self.spec("nodeName")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    pub(super) fn node_required(&self) -> Result<&str, ApiError> {
        match self.node() {
            "" => Err(ApiError::bad_request(format!(
                "pod {} does not have a host assigned",
                self.name
            ))),
            node => Ok(node),
        }
    }

    /// Empty where it has none yet.
    pub(super) fn address(&self) -> &str {
        self.pod
            .0
            .get("status")
            .and_then(|status| status["podIP"].as_str())
            .unwrap_or_default()
    }

    /// The first port of the first container that has one (`pod.ResourceLocation`).
    pub(super) fn first_port(&self) -> Option<u16> {
        let containers = self.spec("containers")?.as_array()?;
        let port = containers
            .iter()
            .find_map(|container| container["ports"][0]["containerPort"].as_u64())?;
        u16::try_from(port).ok()
    }

    /// The container meant: the one named, or the only one (`validateContainer`).
    pub(super) fn container(&self, wanted: Option<String>) -> Result<String, ApiError> {
        let containers = names(self.spec("containers"));
        let init = names(self.spec("initContainers"));
        let ephemeral = names(self.spec("ephemeralContainers"));
        if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
            let known = [&containers, &init, &ephemeral];
            if known.iter().any(|names| names.contains(&wanted.as_str())) {
                return Ok(wanted);
            }
            return Err(ApiError::bad_request(format!(
                "container {wanted} is not valid for pod {}",
                self.name
            )));
        }
        match containers.as_slice() {
            [only] => Ok((*only).to_owned()),
            [] => Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {}",
                self.name
            ))),
            many => {
                let mut message = format!(
                    "a container name must be specified for pod {}, choose one of: [{}]",
                    self.name,
                    many.join(" ")
                );
                if !init.is_empty() {
                    message.push_str(&format!(
                        " or one of the init containers: [{}]",
                        init.join(" ")
                    ));
                }
                Err(ApiError::bad_request(message))
            }
        }
    }
}

impl NodeProxy {
    pub(super) fn pod(&self, info: &RequestInfo) -> Result<Found, ApiError> {
        self.pod_named(&info.namespace, &info.name)
    }

    pub(super) fn pod_named(&self, namespace: &str, name: &str) -> Result<Found, ApiError> {
        let missing = || ApiError::not_found("", "pods", name);
        let item = self
            .cacher
            .get("pods", &format!("{namespace}/{name}"))
            .ok_or_else(missing)?;
        let pod = item.object().map_err(ApiError::internal)?;
        Ok(Found {
            pod,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(spec: Value) -> Found {
        Found {
            pod: Object::from_value(json!({"spec": spec})).unwrap(),
            namespace: "default".to_owned(),
            name: "p".to_owned(),
        }
    }

    #[test]
    fn the_container_meant_is_found_or_the_choice_told() {
        let one = found(json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}));
        assert_eq!(one.container(None).unwrap(), "a");
        assert_eq!(one.container(Some("i".to_owned())).unwrap(), "i");
        let error = one.container(Some("x".to_owned())).unwrap_err();
        assert_eq!(error.message, "container x is not valid for pod p");
        let two = found(json!({
            "containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}],
        }));
        assert_eq!(
            two.container(None).unwrap_err().message,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init \
             containers: [i]"
        );
    }

    #[test]
    fn the_first_port_is_that_of_the_first_container_with_one() {
        let pod = found(
            json!({"containers": [{"name": "a"}, {"name": "b", "ports": [{"containerPort": 80}]}]}),
        );
        assert_eq!(pod.first_port(), Some(80));
        assert_eq!(pod.node(), "");
        assert!(
            pod.node_required()
                .unwrap_err()
                .message
                .contains("does not have a host assigned")
        );
    }
}
