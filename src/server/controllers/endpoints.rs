//! Keeps the core/v1 Endpoints of each Service that selects pods.
//!
//! Writes: the Endpoints with the Service's name, as a whole. They end with the Service.
//!
//! This is the older form of EndpointSlices, kept for those who still read it: one object whatever
//! its size (at most [`ADDRESSES_MAX`] addresses), addresses of the Service's first family only.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::api::{meta, object::ObjectKey, pod};
use crate::client::{
    Cache, Client, DeleteParams, Queue, Result,
    controller::{Action, Reconcile},
};

use super::Setup;
use super::shared::{
    services::{self, Port},
    wire,
};

const WORKERS: usize = 5;
/// Upstream's `maxCapacity`.
const ADDRESSES_MAX: usize = 1000;
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
/// Says that there are more addresses than the object holds.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";

struct EndpointsOf {
    services: Cache<Service>,
    pods: Cache<Pod>,
    endpoints: Cache<Endpoints>,
    client: Client,
}

pub(super) fn start(setup: &Setup) {
    let (services, pods, endpoints) = (
        setup.informers.cache::<Service>(),
        setup.informers.cache::<Pod>(),
        setup.informers.cache::<Endpoints>(),
    );
    let queue = Queue::new();
    wire::on_own(&services, &queue);
    wire::on_own(&endpoints, &queue);
    services::on_pods(&pods, &services, &queue);
    let controller = EndpointsOf {
        services: services.clone(),
        pods: pods.clone(),
        endpoints: endpoints.clone(),
        client: setup.client.clone(),
    };
    setup.run(controller, queue, WORKERS, async move {
        services.synced().await;
        pods.synced().await;
        endpoints.synced().await;
    });
}

impl Reconcile for EndpointsOf {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "endpoints"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let old = self.endpoints.get(key);
        let api = self.client.namespaced::<Endpoints>(&key.namespace);
        let Some(service) = self.services.get(key) else {
            if let Some(old) = old.filter(|old| is_ours(old)) {
                let params = DeleteParams::uid(meta::uid(&old.metadata));
                return settled(api.delete(&key.name, &params).await);
            }
            return Ok(Action::Done);
        };
        let Some(spec) = services::selecting(&service) else {
            return Ok(Action::Done);
        };
        let pods = services::pods(spec, &key.namespace, &self.pods);
        match plan(&service, &pods, old.as_deref()) {
            None => Ok(Action::Done),
            Some(new) if old.is_none() => settled(api.create(&new).await.map(drop)),
            Some(new) => settled(api.replace(&key.name, &new).await.map(drop)),
        }
    }
}

fn settled(result: Result<()>) -> Result<Action> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Action::Done),
    }
}

/// Whether the object is one of this controller's: users make Endpoints of their own too.
fn is_ours(endpoints: &Endpoints) -> bool {
    meta::label(&endpoints.metadata, MANAGED_BY) == Some(MANAGER)
}

/// The Endpoints a Service is to have; `None` where it has them.
fn plan(service: &Service, pods: &[Arc<Pod>], old: Option<&Endpoints>) -> Option<Endpoints> {
    let (subsets, truncated) = subsets(service, pods);
    let subsets = (!subsets.is_empty()).then_some(subsets);
    let mut labels = services::labels(service);
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let old_meta = old.map(|old| old.metadata.clone()).unwrap_or_default();
    let mut annotations = old_meta.annotations.clone().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    let annotations = (!annotations.is_empty()).then_some(annotations);
    let is_same = old.is_some_and(|old| {
        old.subsets == subsets
            && old.metadata.labels.as_ref() == Some(&labels)
            && old.metadata.annotations == annotations
    });
    if is_same {
        return None;
    }
    Some(Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            annotations,
            ..old_meta
        },
        subsets,
    })
}

#[derive(Default)]
struct Addresses {
    ready: Vec<EndpointAddress>,
    not_ready: Vec<EndpointAddress>,
}

/// One subset for each set of ports, in their order, and whether addresses were left out.
fn subsets(service: &Service, pods: &[Arc<Pod>]) -> (Vec<EndpointSubset>, bool) {
    let Some(spec) = &service.spec else {
        return (Vec::new(), false);
    };
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let family = families.first().map_or("IPv4", String::as_str);
    let all_ready = spec.publish_not_ready_addresses == Some(true);
    let mut by_ports: BTreeMap<Vec<Port>, Addresses> = BTreeMap::new();
    let mut count = 0;
    for pod in pods {
        if pod::is_terminal(pod) || (pod::is_terminating(pod) && !all_ready) {
            continue;
        }
        let Some(ip) = services::address(pod, family) else {
            continue;
        };
        let ports = services::ports(spec, pod);
        if ports.is_empty() && !services::is_headless(spec) {
            continue;
        }
        count += 1;
        if count > ADDRESSES_MAX {
            break;
        }
        let node = pod::node_name(pod);
        let address = EndpointAddress {
            ip: ip.to_string(),
            hostname: services::hostname(service, pod),
            node_name: (!node.is_empty()).then(|| node.to_owned()),
            target_ref: Some(services::reference(pod)),
        };
        let addresses = by_ports.entry(ports).or_default();
        if all_ready || pod::is_ready(pod) {
            addresses.ready.push(address);
        } else {
            addresses.not_ready.push(address);
        }
    }
    let subsets = by_ports
        .into_iter()
        .map(|(ports, addresses)| subset(ports, addresses));
    (subsets.collect(), count > ADDRESSES_MAX)
}

fn subset(ports: Vec<Port>, addresses: Addresses) -> EndpointSubset {
    let some = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|a, b| a.ip.cmp(&b.ip));
        (!addresses.is_empty()).then_some(addresses)
    };
    let ports: Vec<_> = ports
        .into_iter()
        .map(|port| EndpointPort {
            name: port.name.filter(|name| !name.is_empty()),
            port: port.port,
            protocol: Some(port.protocol),
            app_protocol: port.app_protocol,
        })
        .collect();
    EndpointSubset {
        addresses: some(addresses.ready),
        not_ready_addresses: some(addresses.not_ready),
        ports: (!ports.is_empty()).then_some(ports),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "d", "labels": {"app": "web"}},
            "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1",
                "ports": [{"name": "http", "port": 80, "targetPort": "web"}]},
        }))
        .unwrap()
    }

    fn pod(name: &str, ip: &str, ready: &str, port: i32) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "ports": [{"name": "web", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": ip,
                "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    fn pods(values: Vec<Value>) -> Vec<Arc<Pod>> {
        let pods = values
            .into_iter()
            .map(|v| serde_json::from_value(v).unwrap());
        pods.map(Arc::new).collect()
    }

    #[test]
    fn pods_are_grouped_by_their_ports_and_by_readiness() {
        let mut ended = pod("e", "10.1.0.5", "True", 8080);
        ended["status"]["phase"] = "Failed".into();
        let mut ending = pod("f", "10.1.0.6", "True", 8080);
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let all = pods(vec![
            pod("b", "10.1.0.2", "True", 8080),
            pod("a", "10.1.0.1", "True", 8080),
            pod("c", "10.1.0.3", "False", 8080),
            pod("d", "10.1.0.4", "True", 9090),
            ended,
            ending,
            pod("g", "", "True", 8080),
        ]);
        let made = plan(&service(), &all, None).unwrap();
        assert_eq!(made.metadata.labels.as_ref().unwrap()[MANAGED_BY], MANAGER);
        let subsets = made.subsets.as_ref().unwrap();
        let ips = |addresses: &Option<Vec<EndpointAddress>>| -> Vec<String> {
            addresses.iter().flatten().map(|a| a.ip.clone()).collect()
        };
        assert_eq!(subsets.len(), 2);
        assert_eq!(ips(&subsets[0].addresses), ["10.1.0.1", "10.1.0.2"]);
        assert_eq!(ips(&subsets[0].not_ready_addresses), ["10.1.0.3"]);
        assert_eq!(ips(&subsets[1].addresses), ["10.1.0.4"]);
        assert_eq!(subsets[1].ports.as_ref().unwrap()[0].port, 9090);
        assert_eq!(plan(&service(), &all, Some(&made)), None);
    }

    #[test]
    fn unready_pods_count_where_the_service_says_so() {
        let mut service = service();
        let spec = service.spec.as_mut().unwrap();
        spec.publish_not_ready_addresses = Some(true);
        let one = pods(vec![pod("a", "10.1.0.1", "False", 8080)]);
        let made = plan(&service, &one, None).unwrap();
        assert!(made.subsets.unwrap()[0].not_ready_addresses.is_none());
    }
}
