//! Which pods stand behind a Service: what both forms of endpoints are made of.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::api::{meta, object::ObjectKey, pod};
use crate::client::{Cache, Queue, key_of};

/// Marks endpoints of a Service without an address.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// Index of Services by namespace and the first pair of their selectors.
const BY_SELECTOR: &str = "selector";

/// A port of a Service as it is at a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: Option<String>,
    pub(crate) protocol: String,
    pub(crate) port: i32,
    pub(crate) app_protocol: Option<String>,
}

/// The spec of a Service whose endpoints are its pods; `None` for those that have no selector or
/// are another name of something outside.
pub(crate) fn selecting(service: &Service) -> Option<&ServiceSpec> {
    let spec = service.spec.as_ref()?;
    let has_selector = spec.selector.as_ref().is_some_and(|s| !s.is_empty());
    (has_selector && spec.type_.as_deref() != Some("ExternalName")).then_some(spec)
}

/// The pods a Service selects, ordered by name.
pub(crate) fn pods(spec: &ServiceSpec, namespace: &str, pods: &Cache<Pod>) -> Vec<Arc<Pod>> {
    let selector = spec.selector.as_ref();
    let mut pods = pods.in_namespace(namespace);
    pods.retain(|pod| selector.is_some_and(|selector| selects(selector, pod)));
    pods
}

fn selects(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    let has =
        |(key, value): (&String, &String)| meta::label(&pod.metadata, key) == Some(value.as_str());
    selector.iter().all(has)
}

/// Whether a Service has no address of its own.
pub(crate) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// The pod's address of a family, `IPv4` or `IPv6`.
pub(crate) fn address(pod: &Pod, family: &str) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let many = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str());
    let one = status.pod_ip.as_deref();
    many.chain(one)
        .filter_map(|text| text.parse::<IpAddr>().ok())
        .find(|ip| ip.is_ipv4() == (family == "IPv4"))
}

/// The ports of a Service as they are at `pod`; a named port the pod does not have is left out.
pub(crate) fn ports(spec: &ServiceSpec, pod: &Pod) -> Vec<Port> {
    let ports = spec.ports.iter().flatten();
    ports
        .filter_map(|port| {
            Some(Port {
                name: port.name.clone(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: target(port, pod)?,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect()
}

fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match port.target_port.as_ref() {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            pod::named_port(pod, name, protocol)
        }
    }
}

/// The host name the pod has within the Service's domain, where it asks for one.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let subdomain = spec.subdomain.as_deref()?;
    let hostname = spec.hostname.as_ref().filter(|name| !name.is_empty())?;
    (subdomain == meta::name(&service.metadata)).then(|| hostname.clone())
}

/// What an endpoint says it leads to.
pub(crate) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// Puts the key of each Service whose endpoints a change of a pod may change in the queue. Only
/// Services of which the first selector fits are looked at, so that a pod costs the same among
/// thousands of Services.
pub(crate) fn on_pods(pods: &Cache<Pod>, services: &Cache<Service>, queue: &Queue<ObjectKey>) {
    services.index(BY_SELECTOR, |service| {
        let selector = selecting(service).and_then(|spec| spec.selector.as_ref());
        let first = selector.and_then(|selector| selector.iter().next());
        let namespace = meta::namespace(&service.metadata);
        first
            .map(|pair| pair_key(namespace, pair))
            .into_iter()
            .collect()
    });
    let (services, queue) = (services.clone(), queue.clone());
    pods.on_change(move |change| {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && is_same_endpoint(old, new)
        {
            return;
        }
        for pod in change.both() {
            let namespace = meta::namespace(&pod.metadata);
            for label in pod.metadata.labels.iter().flatten() {
                let candidates = services.by_index(BY_SELECTOR, &pair_key(namespace, label));
                for service in candidates {
                    let spec = selecting(&service);
                    let selector = spec.and_then(|spec| spec.selector.as_ref());
                    if selector.is_some_and(|selector| selects(selector, pod)) {
                        queue.add(key_of(&service.metadata));
                    }
                }
            }
        }
    });
}

fn pair_key(namespace: &str, (key, value): (&String, &String)) -> String {
    format!("{namespace}/{key}={value}")
}

/// Whether two states of a pod lead to the same endpoint.
fn is_same_endpoint(a: &Pod, b: &Pod) -> bool {
    let addresses = |pod: &Pod| {
        let status = pod.status.as_ref();
        let status = status.map(|s| (s.pod_ip.clone(), s.pod_ips.clone()));
        status.unwrap_or_default()
    };
    meta::uid(&a.metadata) == meta::uid(&b.metadata)
        && a.metadata.labels == b.metadata.labels
        && pod::is_ready(a) == pod::is_ready(b)
        && pod::is_terminating(a) == pod::is_terminating(b)
        && pod::is_terminal(a) == pod::is_terminal(b)
        && pod::node_name(a) == pod::node_name(b)
        && addresses(a) == addresses(b)
}

/// The labels of a Service that its endpoints carry too, and whether it has no address.
pub(crate) fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.spec.as_ref().is_some_and(is_headless) {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels
}
