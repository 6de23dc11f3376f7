//! Keeps the EndpointSlices of each Service that selects pods.
//!
//! Writes: slices labelled as this controller's and controlled by the Service, at most
//! [`ENDPOINTS_MAX`] endpoints each, one or more for each address family and set of ports.
//!
//! What stands in a slice stays there; what comes fills slices that are written anyway, then those
//! with room, then new ones. So a change of one pod is one small write, and readers get little.
//!
//! A new slice has a generated name, so one that the cache does not show yet could be made twice:
//! names of new slices are remembered, and until all are seen nothing more is made.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::Resource as _;
use k8s_openapi::api::core::v1::{Node, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use tokio::time::Instant;

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
const ENDPOINTS_MAX: usize = 100;
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE: &str = "topology.kubernetes.io/zone";
/// A created slice that was not seen for so long was deleted before the cache saw it.
const UNSEEN_MOST: Duration = Duration::from_secs(30);

struct EndpointSlices {
    services: Cache<Service>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    slices: Cache<EndpointSlice>,
    client: Client,
    /// Slices created and not seen yet, by Service.
    unseen: Mutex<HashMap<ObjectKey, (Instant, HashSet<ObjectKey>)>>,
}

pub(super) fn start(setup: &Setup) {
    let informers = &setup.informers;
    let (services, pods) = (informers.cache::<Service>(), informers.cache::<Pod>());
    let (nodes, slices) = (
        informers.cache::<Node>(),
        informers.cache::<EndpointSlice>(),
    );
    let queue = Queue::new();
    wire::on_own(&services, &queue);
    wire::on_owned(&slices, Service::KIND, &queue);
    services::on_pods(&pods, &services, &queue);
    on_zones(&nodes, &services, &queue);
    let controller = EndpointSlices {
        services: services.clone(),
        pods: pods.clone(),
        nodes: nodes.clone(),
        slices: slices.clone(),
        client: setup.client.clone(),
        unseen: Mutex::default(),
    };
    setup.run(controller, queue, WORKERS, async move {
        services.synced().await;
        pods.synced().await;
        nodes.synced().await;
        slices.synced().await;
    });
}

/// A node that changes its zone changes endpoints of any Service. It hardly ever happens.
fn on_zones(nodes: &Cache<Node>, services: &Cache<Service>, queue: &Queue<ObjectKey>) {
    let (services, queue) = (services.clone(), queue.clone());
    nodes.on_change(move |change| {
        let zone = |node: &Option<Arc<Node>>| {
            let node = node.as_ref()?;
            meta::label(&node.metadata, ZONE).map(str::to_owned)
        };
        if zone(&change.old) != zone(&change.new) {
            for service in services.list() {
                queue.add(crate::client::key_of(&service.metadata));
            }
        }
    });
}

/// What to write so that a Service has the slices it should.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<EndpointSlice>,
    delete: Vec<Arc<EndpointSlice>>,
}

impl Reconcile for EndpointSlices {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "endpoint_slice"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(service) = self.services.get(key) else {
            // The slices are owned by the Service and go with it.
            self.unseen.lock().remove(key);
            return Ok(Action::Done);
        };
        let Some(spec) = services::selecting(&service) else {
            return Ok(Action::Done);
        };
        if meta::is_terminating(&service.metadata) {
            return Ok(Action::Done);
        }
        if let Some(wait) = self.waits_for_unseen(key) {
            return Ok(Action::After(wait));
        }
        let owned = self.slices.controlled_by(meta::uid(&service.metadata));
        let owned: Vec<_> = owned.into_iter().filter(|slice| is_ours(slice)).collect();
        let pods = services::pods(spec, &key.namespace, &self.pods);
        let plan = plan(&service, &pods, &owned, |node| self.zone(node));
        self.carry_out(key, plan).await?;
        Ok(Action::Done)
    }
}

impl EndpointSlices {
    fn zone(&self, node: &str) -> Option<String> {
        let node = self.nodes.get(&ObjectKey::cluster(node))?;
        meta::label(&node.metadata, ZONE).map(str::to_owned)
    }

    /// How long to wait at most for slices that were created and are not seen yet.
    fn waits_for_unseen(&self, key: &ObjectKey) -> Option<Duration> {
        let mut unseen = self.unseen.lock();
        let (since, names) = unseen.get_mut(key)?;
        names.retain(|name| self.slices.get(name).is_none());
        let left = UNSEEN_MOST.saturating_sub(since.elapsed());
        if names.is_empty() || left.is_zero() {
            unseen.remove(key);
            return None;
        }
        Some(left)
    }

    async fn carry_out(&self, key: &ObjectKey, plan: Plan) -> Result<()> {
        let api = self.client.namespaced::<EndpointSlice>(&key.namespace);
        for slice in &plan.create {
            let made = api.create(slice).await?;
            let name = crate::client::key_of(&made.metadata);
            let mut unseen = self.unseen.lock();
            let (since, names) = unseen
                .entry(key.clone())
                .or_insert_with(|| (Instant::now(), HashSet::new()));
            *since = Instant::now();
            names.insert(name);
        }
        for slice in &plan.update {
            api.replace(meta::name(&slice.metadata), slice).await?;
        }
        for slice in &plan.delete {
            let params = DeleteParams::uid(meta::uid(&slice.metadata));
            match api.delete(meta::name(&slice.metadata), &params).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    meta::label(&slice.metadata, MANAGED_BY) == Some(MANAGER)
        && !meta::is_terminating(&slice.metadata)
}

fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    owned: &[Arc<EndpointSlice>],
    zone: impl Fn(&str) -> Option<String>,
) -> Plan {
    let Some(spec) = &service.spec else {
        return Plan::default();
    };
    let families = families(spec);
    let mut plan = Plan::default();
    for family in &families {
        let wanted = wanted(service, pods, family, &zone);
        let existing: Vec<_> = owned.iter().filter(|s| s.address_type == *family).collect();
        plan_family(service, family, wanted, &existing, &mut plan);
    }
    let foreign = owned.iter().filter(|s| !families.contains(&s.address_type));
    plan.delete.extend(foreign.cloned());
    plan
}

/// The families of a Service; one without any is an old one of IPv4.
fn families(spec: &ServiceSpec) -> Vec<String> {
    match spec.ip_families.as_deref() {
        None | Some([]) => vec!["IPv4".to_owned()],
        Some(families) => families.to_vec(),
    }
}

/// Endpoints by ports, and within them by the pod's uid.
type Wanted = BTreeMap<Vec<Port>, BTreeMap<String, Endpoint>>;

fn wanted(
    service: &Service,
    pods: &[Arc<Pod>],
    family: &str,
    zone: &impl Fn(&str) -> Option<String>,
) -> Wanted {
    let mut wanted = Wanted::new();
    let Some(spec) = &service.spec else {
        return wanted;
    };
    let all_ready = spec.publish_not_ready_addresses == Some(true);
    for pod in pods.iter().filter(|pod| !pod::is_terminal(pod)) {
        let Some(ip) = services::address(pod, family) else {
            continue;
        };
        let (serving, terminating) = (pod::is_ready(pod), pod::is_terminating(pod));
        let node = pod::node_name(pod);
        let endpoint = Endpoint {
            addresses: vec![ip.to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(all_ready || (serving && !terminating)),
                serving: Some(serving),
                terminating: Some(terminating),
            }),
            hostname: services::hostname(service, pod),
            node_name: (!node.is_empty()).then(|| node.to_owned()),
            target_ref: Some(services::reference(pod)),
            zone: zone(node),
            ..Endpoint::default()
        };
        let group = wanted.entry(services::ports(spec, pod)).or_default();
        group.insert(meta::uid(&pod.metadata).to_owned(), endpoint);
    }
    wanted
}

fn plan_family(
    service: &Service,
    family: &str,
    mut wanted: Wanted,
    existing: &[&Arc<EndpointSlice>],
    plan: &mut Plan,
) {
    if wanted.is_empty() {
        // One empty slice says that the Service was looked at and has nobody.
        wanted.insert(Vec::new(), BTreeMap::new());
    }
    for (ports, endpoints) in &wanted {
        let ports = slice_ports(ports);
        let slices = existing.iter().filter(|slice| same_ports(slice, &ports));
        let slices: Vec<_> = slices.copied().collect();
        let empty = new_slice(service, family, ports);
        distribute(&empty, endpoints.clone(), &slices, plan);
    }
    let stale = existing.iter().filter(|slice| {
        let mut groups = wanted.keys().map(|ports| slice_ports(ports));
        !groups.any(|ports| same_ports(slice, &ports))
    });
    plan.delete.extend(stale.map(|slice| (*slice).clone()));
}

/// Keeps endpoints where they are, and puts new ones where there is room.
fn distribute(
    empty: &EndpointSlice,
    mut wanted: BTreeMap<String, Endpoint>,
    slices: &[&Arc<EndpointSlice>],
    plan: &mut Plan,
) {
    let mut drafts: Vec<Draft> = slices
        .iter()
        .map(|slice| Draft::of(slice, empty, &mut wanted))
        .collect();
    // Slices that are written anyway first, then the fullest: few writes, few slices.
    drafts.sort_by_key(|draft| (!draft.changed, std::cmp::Reverse(draft.endpoints.len())));
    let mut new = wanted.into_values();
    for draft in &mut drafts {
        let room = ENDPOINTS_MAX - draft.endpoints.len();
        let more: Vec<_> = new.by_ref().take(room).collect();
        draft.changed |= !more.is_empty();
        draft.endpoints.extend(more);
    }
    let mut rest: Vec<_> = new.collect();
    let mut created = 0;
    while !rest.is_empty() || (drafts.is_empty() && created == 0) {
        let tail = rest.split_off(rest.len().min(ENDPOINTS_MAX));
        let slice = EndpointSlice {
            endpoints: Some(std::mem::replace(&mut rest, tail)),
            ..empty.clone()
        };
        plan.create.push(slice);
        created += 1;
    }
    let mut has_one = drafts.iter().any(|draft| !draft.endpoints.is_empty()) || created > 0;
    for draft in drafts {
        if draft.endpoints.is_empty() && has_one {
            plan.delete.push(draft.slice);
            continue;
        }
        has_one = true;
        if draft.changed {
            plan.update.push(draft.write(empty));
        }
    }
}

/// A slice that exists, as it is to be.
struct Draft {
    slice: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

impl Draft {
    /// Takes those of `wanted` that are in the slice already.
    fn of(
        slice: &Arc<EndpointSlice>,
        empty: &EndpointSlice,
        wanted: &mut BTreeMap<String, Endpoint>,
    ) -> Self {
        let old = slice.endpoints.as_deref().unwrap_or_default();
        let uid = |endpoint: &Endpoint| endpoint.target_ref.as_ref()?.uid.clone();
        let kept: Vec<_> = old
            .iter()
            .filter_map(|endpoint| wanted.remove(&uid(endpoint)?))
            .collect();
        let changed = kept != old || slice.metadata.labels != empty.metadata.labels;
        Self {
            slice: slice.clone(),
            endpoints: kept,
            changed,
        }
    }

    fn write(self, empty: &EndpointSlice) -> EndpointSlice {
        let mut slice = (*self.slice).clone();
        slice.metadata.labels.clone_from(&empty.metadata.labels);
        slice.endpoints = Some(self.endpoints);
        slice
    }
}

fn same_ports(slice: &EndpointSlice, ports: &[EndpointPort]) -> bool {
    slice.ports.as_deref().unwrap_or_default() == ports
}

fn slice_ports(ports: &[Port]) -> Vec<EndpointPort> {
    ports
        .iter()
        .map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone()),
            app_protocol: port.app_protocol.clone(),
        })
        .collect()
}

fn new_slice(service: &Service, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
    let name = meta::name(&service.metadata);
    let mut labels = services::labels(service);
    labels.insert(SERVICE_NAME.to_owned(), name.to_owned());
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    let owner = meta::controller_ref(Service::API_VERSION, Service::KIND, &service.metadata);
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: family.to_owned(),
        endpoints: Some(Vec::new()),
        ports: Some(ports),
    }
}

#[cfg(test)]
mod tests;
