//! What the downward API says: a pod's own fields and the resources of its containers, for
//! variables and for files (kubernetes `pkg/fieldpath`, `pkg/api/v1/resource`). Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::api::quantity::Quantity as Amount;

/// What a pod's fields are read from, beside the pod.
#[derive(Clone, Debug, Default)]
pub(crate) struct Place {
    pub(crate) pod_addresses: Vec<IpAddr>,
    pub(crate) host_addresses: Vec<IpAddr>,
    /// Stands for a limit that is not set.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
}

fn joined(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(",")
}

fn first(addresses: &[IpAddr]) -> String {
    addresses.first().map(IpAddr::to_string).unwrap_or_default()
}

/// The value of a `fieldRef`. Maps are printed as files have them.
///
/// Errors: no such field.
pub(crate) fn field(pod: &Pod, place: &Place, path: &str) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    if let Some((field, key)) = subscript(path) {
        let map = match field {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(unsupported(path)),
        };
        let value = map.as_ref().and_then(|map| map.get(key));
        return Ok(value.cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => printed(meta.labels.as_ref()),
        "metadata.annotations" => printed(meta.annotations.as_ref()),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec
            .and_then(|s| s.service_account_name.clone())
            .unwrap_or_default(),
        "status.podIP" => first(&place.pod_addresses),
        "status.podIPs" => joined(&place.pod_addresses),
        "status.hostIP" => first(&place.host_addresses),
        "status.hostIPs" => joined(&place.host_addresses),
        _ => return Err(unsupported(path)),
    })
}

/// Whether the value of a `fieldRef` is known only once the pod has addresses.
pub(crate) fn needs_addresses(path: &str) -> bool {
    path.starts_with("status.podIP")
}

fn unsupported(path: &str) -> String {
    format!("unsupported fieldPath: {path}")
}

/// `metadata.labels['app']` gives the field and the key.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (field, rest) = path.split_once("['")?;
    Some((field, rest.strip_suffix("']")?))
}

/// `key="value"` a line, sorted, values quoted as Go does.
fn printed(map: Option<&BTreeMap<String, String>>) -> String {
    let lines: Vec<String> = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect();
    lines.join("\n")
}

/// Go's `%q`.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                quoted.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The value of a `resourceFieldRef` for a container of the pod; `own` is the container that asks.
///
/// Errors: no such container or resource.
pub(crate) fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    place: &Place,
) -> Result<String, String> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let container = if name.is_empty() {
        own
    } else {
        find(pod, name)
    };
    let container = container.ok_or_else(|| format!("container {name} not found"))?;
    let (side, resource) = selector
        .resource
        .split_once('.')
        .ok_or_else(|| format!("unsupported container resource : {}", selector.resource))?;
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|r| r.requests.as_ref()?.get(resource));
    let limits = resources.and_then(|r| r.limits.as_ref()?.get(resource));
    let amount = match side {
        "limits" => limits.or_else(|| place.allocatable.get(resource)),
        "requests" => requests.or(limits),
        _ => {
            return Err(format!(
                "unsupported container resource : {}",
                selector.resource
            ));
        }
    };
    let divisor = selector.divisor.as_ref().map_or("1", |q| q.0.as_str());
    Ok(divided(amount, divisor, resource == "cpu")?.to_string())
}

fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(init).find(|c| c.name == name)
}

/// `amount / divisor`, rounded up.
fn divided(amount: Option<&Quantity>, divisor: &str, is_cpu: bool) -> Result<i64, String> {
    let read = |text: &str| -> Result<i64, String> {
        let amount = text.parse::<Amount>().map_err(|error| error.to_string())?;
        Ok(if is_cpu {
            amount.milli_value()
        } else {
            amount.value()
        })
    };
    let amount = amount.map_or(Ok(0), |quantity| read(&quantity.0))?;
    let one = if is_cpu { 1000 } else { 1 };
    let divisor = match read(divisor)? {
        0 => one,
        divisor => divisor,
    };
    Ok(amount.div_euclid(divisor) + i64::from(amount.rem_euclid(divisor) != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u",
                "labels": {"b": "2", "a": "one \"1\""}},
            "spec": {"nodeName": "node", "serviceAccountName": "sa", "containers": [
                {"name": "c", "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"},
                    "requests": {"cpu": "250m"}}}]}}))
        .unwrap()
    }

    fn place() -> Place {
        Place {
            pod_addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            host_addresses: vec!["192.168.1.5".parse().unwrap()],
            allocatable: [("ephemeral-storage".to_owned(), Quantity("10Gi".into()))].into(),
        }
    }

    #[test]
    fn fields_are_read_as_upstream_names_them() {
        let table = [
            ("metadata.name", "p"),
            ("metadata.labels['b']", "2"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "a=\"one \\\"1\\\"\"\nb=\"2\""),
            ("spec.nodeName", "node"),
            ("spec.serviceAccountName", "sa"),
            ("status.podIP", "10.0.0.2"),
            ("status.podIPs", "10.0.0.2,fd00::2"),
            ("status.hostIP", "192.168.1.5"),
        ];
        for (path, value) in table {
            assert_eq!(
                field(&pod(), &place(), path).as_deref(),
                Ok(value),
                "{path}"
            );
        }
        assert_eq!(
            field(&pod(), &place(), "spec.x").unwrap_err(),
            "unsupported fieldPath: spec.x"
        );
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let table = [
            ("limits.cpu", "1", "2"),
            ("limits.cpu", "1m", "1500"),
            ("requests.cpu", "0", "1"),
            ("limits.memory", "1Mi", "64"),
            ("requests.memory", "1Mi", "64"),
            ("limits.ephemeral-storage", "1Gi", "10"),
        ];
        let pod = pod();
        let own = pod.spec.as_ref().unwrap().containers.first();
        for (name, divisor, value) in table {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": name, "divisor": divisor})).unwrap();
            let got = resource(&pod, own, &selector, &place());
            assert_eq!(got.as_deref(), Ok(value), "{name}");
        }
    }
}
