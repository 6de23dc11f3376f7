//! What an object uses of a quota, and which quotas it falls under (`pkg/quota/v1/evaluator`).

use k8s_openapi::api::core::v1::Pod as PodObject;
use serde_json::Value;

use crate::api::object::Object;
use crate::api::pod::{self, Qos, Resources};
use crate::api::quantity::Quantity;
use crate::server::admission::Attributes;
use crate::server::admission::Operation;
use crate::server::registry::ResourceDef;

const ONE: Quantity = Quantity::units(1);
const POD_RESOURCES: &[&str] = &[
    "count/pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
];
/// What every container must name where a quota counts it: a mistake that stays, says upstream.
const MUST_NAME: &[&str] = &[
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];
const SERVICE_RESOURCES: &[&str] = &[
    "count/services",
    "services",
    "services.nodeports",
    "services.loadbalancers",
];
const CLAIM_RESOURCES: &[&str] = &[
    "count/persistentvolumeclaims",
    "persistentvolumeclaims",
    "requests.storage",
];
const CLAIM_SUFFIXES: &[&str] = &[
    ".storageclass.storage.k8s.io/persistentvolumeclaims",
    ".storageclass.storage.k8s.io/requests.storage",
];
/// Kinds that are also counted under their old name.
const OLD_NAMES: &[&str] = &[
    "configmaps",
    "secrets",
    "resourcequotas",
    "replicationcontrollers",
];

/// Who counts an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evaluator {
    Pod,
    Service,
    Claim,
    /// One object is one object.
    Count,
}

impl Evaluator {
    /// `None`: objects of the resource are never counted.
    pub(super) fn of(def: &ResourceDef) -> Option<Self> {
        let gvr = &def.gvr;
        Some(match (gvr.group.as_str(), gvr.resource.as_str()) {
            ("" | "events.k8s.io", "events") => return None,
            ("", "pods") => Evaluator::Pod,
            ("", "services") => Evaluator::Service,
            ("", "persistentvolumeclaims") => Evaluator::Claim,
            _ => Evaluator::Count,
        })
    }

    /// Whether the write can change what is used.
    pub(super) fn handles(self, attributes: &Attributes<'_>) -> bool {
        let is_main = attributes.subresource.is_empty();
        match (self, attributes.operation) {
            (Evaluator::Pod, Operation::Update) => attributes.subresource == "resize",
            (Evaluator::Claim, Operation::Update) => is_main || attributes.subresource == "status",
            (Evaluator::Service, Operation::Update) => is_main,
            (_, Operation::Create) => is_main,
            _ => false,
        }
    }

    /// Whether the object's usage is counted under the name.
    pub(super) fn counts(self, def: &ResourceDef, resource: &str) -> bool {
        match self {
            Evaluator::Pod => {
                let is_hugepages = resource.starts_with("hugepages-")
                    || resource.starts_with("requests.hugepages-");
                let is_extended = !is_native(resource) && resource.starts_with("requests.");
                POD_RESOURCES.contains(&resource) || is_hugepages || is_extended
            }
            Evaluator::Service => SERVICE_RESOURCES.contains(&resource),
            Evaluator::Claim => {
                let mut suffixes = CLAIM_SUFFIXES.iter();
                CLAIM_RESOURCES.contains(&resource) || suffixes.any(|s| resource.ends_with(s))
            }
            Evaluator::Count => count_names(def).iter().any(|name| name == resource),
        }
    }

    pub(super) fn usage(self, def: &ResourceDef, object: &Object) -> Resources {
        match self {
            Evaluator::Pod => pod_usage(object),
            Evaluator::Service => service_usage(object),
            Evaluator::Claim => claim_usage(object),
            Evaluator::Count => count_names(def).into_iter().map(|n| (n, ONE)).collect(),
        }
    }

    /// Whether an object is in a scope: `scopeName`, `operator` and `values` of a selector.
    pub(super) fn is_in_scope(self, object: &Object, scope: &Value) -> bool {
        match self {
            Evaluator::Pod => is_pod_in_scope(object, scope),
            Evaluator::Claim if scope["scopeName"] == "VolumeAttributesClass" => selects(
                scope,
                object.text_at(&["spec", "volumeAttributesClassName"]),
            ),
            _ => false,
        }
    }

    /// What the object must name and does not, as upstream words it.
    pub(super) fn missing(self, object: &Object, restricted: &[&str]) -> Option<String> {
        if self != Evaluator::Pod {
            return None;
        }
        let mut required: Vec<&str> = restricted.to_vec();
        required.retain(|name| MUST_NAME.contains(name));
        required.sort_unstable();
        let texts = required.iter().filter_map(|resource| {
            let mut silent: Vec<&str> = containers(object)
                .filter(|container| !container_usage(container).contains_key(*resource))
                .map(|container| container["name"].as_str().unwrap_or_default())
                .collect();
            silent.sort_unstable();
            silent.dedup();
            (!silent.is_empty()).then(|| format!("{resource} for: {}", silent.join(",")))
        });
        let texts: Vec<String> = texts.collect();
        (!texts.is_empty()).then(|| format!("must specify {}", texts.join("; ")))
    }
}

/// `count/deployments.apps`, and the old name where there is one.
fn count_names(def: &ResourceDef) -> Vec<String> {
    let gvr = &def.gvr;
    if !gvr.group.is_empty() {
        return vec![format!("count/{}.{}", gvr.resource, gvr.group)];
    }
    let mut names = vec![format!("count/{}", gvr.resource)];
    if OLD_NAMES.contains(&gvr.resource.as_str()) {
        names.push(gvr.resource.clone());
    }
    names
}

fn is_native(resource: &str) -> bool {
    !resource.contains('/') || resource.contains("kubernetes.io/")
}

fn containers(pod: &Object) -> impl Iterator<Item = &Value> {
    ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| pod.at(&["spec", list]).and_then(Value::as_array))
        .flatten()
}

fn amounts(map: &Value) -> Resources {
    let map = map.as_object().into_iter().flatten();
    map.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount).ok()?)))
        .collect()
}

fn container_usage(container: &Value) -> Resources {
    let resources = &container["resources"];
    compute(
        &amounts(&resources["requests"]),
        &amounts(&resources["limits"]),
    )
}

/// Requests and limits under the names of quotas.
fn compute(requests: &Resources, limits: &Resources) -> Resources {
    let mut usage = Resources::from([("pods".to_owned(), ONE)]);
    for name in ["cpu", "memory", "ephemeral-storage"] {
        if let Some(request) = requests.get(name) {
            usage.insert(name.to_owned(), *request);
            usage.insert(format!("requests.{name}"), *request);
        }
        if let Some(limit) = limits.get(name) {
            usage.insert(format!("limits.{name}"), *limit);
        }
    }
    for (name, request) in requests {
        let is_hugepages = name.starts_with("hugepages-");
        if is_hugepages {
            usage.insert(name.clone(), *request);
        }
        if is_hugepages || !is_native(name) {
            usage.insert(format!("requests.{name}"), *request);
        }
    }
    usage
}

fn pod_usage(object: &Object) -> Resources {
    let mut usage = Resources::from([("count/pods".to_owned(), ONE)]);
    // What is no Pod was refused before.
    let Ok(pod) = serde_json::from_value::<PodObject>(object.clone().into_value()) else {
        return usage;
    };
    if !pod::is_terminal(&pod) {
        usage.extend(compute(&pod::requests(&pod), &pod::limits(&pod)));
    }
    usage
}

fn service_usage(object: &Object) -> Resources {
    let ports = object.at(&["spec", "ports"]).and_then(Value::as_array);
    let ports = ports.map_or(&[][..], Vec::as_slice);
    let all = ports.len();
    let chosen = ports.iter().filter(|port| {
        let number = port["nodePort"].as_i64();
        number.is_some_and(|number| number != 0)
    });
    let (balancers, node_ports) = match object.text_at(&["spec", "type"]) {
        "NodePort" => (0, all),
        "LoadBalancer" => {
            let allocates = object.at(&["spec", "allocateLoadBalancerNodePorts"]);
            let is_off = allocates == Some(&Value::Bool(false));
            (1, if is_off { chosen.count() } else { all })
        }
        _ => (0, 0),
    };
    let node_ports = Quantity::units(i64::try_from(node_ports).unwrap_or(i64::MAX));
    Resources::from([
        ("count/services".to_owned(), ONE),
        ("services".to_owned(), ONE),
        (
            "services.loadbalancers".to_owned(),
            Quantity::units(balancers),
        ),
        ("services.nodeports".to_owned(), node_ports),
    ])
}

fn claim_usage(object: &Object) -> Resources {
    let mut usage = Resources::from([
        ("count/persistentvolumeclaims".to_owned(), ONE),
        ("persistentvolumeclaims".to_owned(), ONE),
    ]);
    let annotation = "volume.beta.kubernetes.io/storage-class";
    let class = match object.text_at(&["metadata", "annotations", annotation]) {
        "" => object.text_at(&["spec", "storageClassName"]),
        class => class,
    };
    if !class.is_empty() {
        usage.insert(format!("{class}{}", CLAIM_SUFFIXES[0]), ONE);
    }
    let asked = object.at(&["spec", "resources", "requests", "storage"]);
    let given = object.at(&["status", "allocatedResources", "storage"]);
    let most = [asked, given].into_iter().flatten();
    let most = most
        .filter_map(|amount| Quantity::from_json(amount).ok())
        .max();
    if let Some(storage) = most {
        usage.insert("requests.storage".to_owned(), storage);
        if !class.is_empty() {
            usage.insert(format!("{class}{}", CLAIM_SUFFIXES[1]), storage);
        }
    }
    usage
}

fn is_pod_in_scope(object: &Object, scope: &Value) -> bool {
    let deadline = || {
        object
            .at(&["spec", "activeDeadlineSeconds"])
            .and_then(Value::as_i64)
    };
    let ends = || deadline().is_some_and(|seconds| seconds >= 0);
    let is_best_effort = || {
        let pod = serde_json::from_value::<PodObject>(object.clone().into_value());
        pod.is_ok_and(|pod| pod::qos(&pod) == Qos::BestEffort)
    };
    match scope["scopeName"].as_str().unwrap_or_default() {
        "Terminating" => ends(),
        "NotTerminating" => !ends(),
        "BestEffort" => is_best_effort(),
        "NotBestEffort" => !is_best_effort(),
        "PriorityClass" => selects(scope, object.text_at(&["spec", "priorityClassName"])),
        "CrossNamespacePodAffinity" => reaches_out(object),
        _ => false,
    }
}

/// A selector over one value, which is empty where there is none.
fn selects(scope: &Value, value: &str) -> bool {
    let mut values = scope["values"].as_array().into_iter().flatten();
    let is_listed = !value.is_empty() && values.any(|listed| listed == value);
    match scope["operator"].as_str().unwrap_or_default() {
        "Exists" => !value.is_empty(),
        "DoesNotExist" => value.is_empty(),
        "In" => is_listed,
        "NotIn" => !is_listed,
        _ => false,
    }
}

/// Whether a Pod's (anti-)affinity looks at Pods of other namespaces.
fn reaches_out(pod: &Object) -> bool {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let is_far = |term: &Value| {
        let named = term["namespaces"].as_array();
        named.is_some_and(|names| !names.is_empty()) || term["namespaceSelector"].is_object()
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = pod.at(&["spec", "affinity", kind]).unwrap_or(&Value::Null);
        let list = |field: &str| affinity[field].as_array().into_iter().flatten();
        list(REQUIRED).any(is_far) || list(PREFERRED).any(|term| is_far(&term["podAffinityTerm"]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn text(usage: &Resources) -> String {
        super::super::plan::print(usage)
    }

    #[test]
    fn pods_use_what_they_request_under_every_name() {
        let pod = object(json!({"spec": {"containers": [{
            "name": "a", "resources": {
                "requests": {"cpu": "100m", "example.com/gpu": "2", "hugepages-2Mi": "4Mi"},
                "limits": {"memory": "1Gi"},
            },
        }]}}));
        assert_eq!(
            text(&pod_usage(&pod)),
            "count/pods=1,cpu=100m,hugepages-2Mi=4Mi,limits.memory=1Gi,pods=1,requests.cpu=100m,\
             requests.example.com/gpu=2,requests.hugepages-2Mi=4Mi"
        );
        let done = object(json!({"spec": {"containers": []}, "status": {"phase": "Succeeded"}}));
        assert_eq!(text(&pod_usage(&done)), "count/pods=1");
    }

    #[test]
    fn services_use_node_ports_and_load_balancers() {
        let service = |spec: Value| text(&service_usage(&object(json!({"spec": spec}))));
        assert_eq!(
            service(json!({"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]})),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
        );
        assert_eq!(
            service(json!({
                "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
                "ports": [{"port": 1, "nodePort": 30000}, {"port": 2}],
            })),
            "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1"
        );
        assert_eq!(
            service(json!({"type": "ClusterIP", "ports": [{"port": 1}]})),
            "count/services=1,services=1,services.loadbalancers=0,services.nodeports=0"
        );
    }

    #[test]
    fn claims_use_storage_also_of_their_class() {
        let claim = object(json!({"spec": {
            "storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}},
        }}));
        assert_eq!(
            text(&claim_usage(&claim)),
            "count/persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/\
             persistentvolumeclaims=1,fast.storageclass.storage.k8s.io/requests.storage=1Gi,\
             persistentvolumeclaims=1,requests.storage=1Gi"
        );
    }

    #[test]
    fn scopes_tell_pods_apart() {
        let plain = object(json!({"spec": {"containers": [{"name": "a"}]}}));
        let ending = object(json!({"spec": {
            "activeDeadlineSeconds": 5, "priorityClassName": "high",
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}],
            "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"namespaceSelector": {}, "topologyKey": "x"},
            ]}},
        }}));
        let table = [
            (json!({"scopeName": "Terminating"}), false, true),
            (json!({"scopeName": "NotTerminating"}), true, false),
            (json!({"scopeName": "BestEffort"}), true, false),
            (json!({"scopeName": "NotBestEffort"}), false, true),
            (
                json!({"scopeName": "PriorityClass", "operator": "Exists"}),
                false,
                true,
            ),
            (
                json!({"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}),
                false,
                true,
            ),
            (
                json!({"scopeName": "PriorityClass", "operator": "NotIn", "values": ["high"]}),
                true,
                false,
            ),
            (
                json!({"scopeName": "CrossNamespacePodAffinity"}),
                false,
                true,
            ),
        ];
        for (scope, for_plain, for_ending) in table {
            assert_eq!(is_pod_in_scope(&plain, &scope), for_plain, "{scope}");
            assert_eq!(is_pod_in_scope(&ending, &scope), for_ending, "{scope}");
        }
    }

    #[test]
    fn containers_must_name_what_is_counted() {
        let pod = object(json!({"spec": {"containers": [
            {"name": "b"}, {"name": "a", "resources": {"requests": {"memory": "1"}}},
        ]}}));
        let missing = Evaluator::Pod.missing(&pod, &["pods", "requests.memory", "limits.cpu"]);
        assert_eq!(
            missing.as_deref(),
            Some("must specify limits.cpu for: a,b; requests.memory for: b")
        );
        assert_eq!(
            Evaluator::Pod.missing(&pod, &["pods", "requests.ephemeral-storage"]),
            None
        );
    }
}
