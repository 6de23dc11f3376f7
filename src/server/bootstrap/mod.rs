//! The first objects of a cluster: system namespaces, the Service `kubernetes` and where it leads,
//! default roles and bindings, and what other programs read about the cluster.
//!
//! Run at every start: makes what is missing, brings up to date what is ours, and leaves what
//! somebody added alone.

mod controller_policy;
mod flow_control;
mod policy;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use ipnet::Ipv4Net;
use serde_json::{Map, Value, json};

use crate::api::gvk::GroupVersionResource;
use crate::api::object::Object;
use crate::client::{Client, DynamicApi, Error, ListParams, Result};

/// Writes at a time: they share a sync of the journal.
const WRITES_AT_A_TIME: usize = 32;
const NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];
const RBAC: &str = "rbac.authorization.k8s.io";

/// What the first objects say.
#[derive(Clone, Debug)]
pub struct First {
    /// Address of the Service `kubernetes`.
    pub service_address: Ipv4Addr,
    /// The network addresses of services come from.
    pub service_cidr: Ipv4Net,
    /// Where the API server is reached.
    pub advertise_address: IpAddr,
    /// Its port.
    pub port: u16,
    /// There are no other servers: the Service `kubernetes` leads to this one.
    pub is_alone: bool,
    /// The authority's certificate.
    pub ca_pem: String,
    /// The FlowSchemas and PriorityLevelConfigurations there are from the start.
    pub flow_control: Vec<Value>,
}

/// Makes or mends the first objects.
pub async fn run(client: &Client, first: &First) -> Result<()> {
    let namespaces = NAMESPACES.iter().map(|name| {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        Wanted::new("", "namespaces", "", namespace)
    });
    ensure_all(client, namespaces.collect()).await?;
    let objects = ensure_all(client, first.objects());
    let made = make_all(client, first.classes_and_ranges());
    let (objects, made, cluster_wide, namespaced, flow_control) = tokio::join!(
        objects,
        made,
        cluster_policy(client),
        namespaced_policy(client),
        flow_control::ensure(client, &first.flow_control),
    );
    objects
        .and(made)
        .and(cluster_wide)
        .and(namespaced)
        .and(flow_control)
}

async fn cluster_policy(client: &Client) -> Result<()> {
    let (roles, bindings) = (policy::cluster_roles(), policy::cluster_role_bindings());
    let (roles, bindings) = tokio::join!(
        reconcile(client, ("clusterroles", ""), "rules", roles),
        reconcile(client, ("clusterrolebindings", ""), "subjects", bindings),
    );
    roles.and(bindings)
}

async fn namespaced_policy(client: &Client) -> Result<()> {
    let of = |all: &[(&str, Value)], namespace: &str| -> Vec<Value> {
        let own = all.iter().filter(|(own, _)| *own == namespace);
        own.map(|(_, object)| object.clone()).collect()
    };
    let (roles, bindings) = (policy::roles(), policy::role_bindings());
    for namespace in ["kube-system", "kube-public"] {
        let (roles, bindings) = (of(&roles, namespace), of(&bindings, namespace));
        let (roles, bindings) = tokio::join!(
            reconcile(client, ("roles", namespace), "rules", roles),
            reconcile(client, ("rolebindings", namespace), "subjects", bindings),
        );
        roles.and(bindings)?;
    }
    Ok(())
}

/// An object that should be as it is here.
struct Wanted {
    resource: GroupVersionResource,
    namespace: String,
    object: Object,
}

impl Wanted {
    fn new(group: &str, resource: &str, namespace: &str, object: Value) -> Self {
        Self {
            resource: GroupVersionResource::new(group, "v1", resource),
            namespace: namespace.to_owned(),
            object: Object::from_value(object).unwrap_or_default(),
        }
    }
}

impl First {
    fn objects(&self) -> Vec<Wanted> {
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "spec": {
                "type": "ClusterIP", "clusterIP": self.service_address.to_string(),
                "clusterIPs": [self.service_address.to_string()],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP",
                    "targetPort": self.port}],
            },
        });
        let authentication = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
            "data": {"client-ca-file": self.ca_pem},
        });
        let cluster_info = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "cluster-info", "namespace": "kube-public"},
            "data": {"kubeconfig": self.cluster_info()},
        });
        let mut wanted = vec![
            Wanted::new("", "services", "default", service),
            Wanted::new("", "configmaps", "kube-system", authentication),
            Wanted::new("", "configmaps", "kube-public", cluster_info),
        ];
        if self.is_alone {
            wanted.extend(endpoints(&[self.advertise_address].into(), self.port));
        }
        wanted
    }

    /// The classes of the system's own pods, and the network of services.
    fn classes_and_ranges(&self) -> Vec<Wanted> {
        let class = |name: &str, value: i64, description: &str| {
            let class = json!({
                "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
                "metadata": {"name": name}, "value": value, "description": description,
            });
            Wanted::new("scheduling.k8s.io", "priorityclasses", "", class)
        };
        let range = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": "kubernetes"},
            "spec": {"cidrs": [self.service_cidr.to_string()]},
        });
        vec![
            class(
                "system-cluster-critical",
                2_000_000_000,
                "Used for system critical pods that must run in the cluster, but can be moved to \
                 another node if necessary.",
            ),
            class(
                "system-node-critical",
                2_000_001_000,
                "Used for system critical pods that must not be moved from their current node.",
            ),
            Wanted::new("networking.k8s.io", "servicecidrs", "", range),
        ]
    }

    /// A kubeconfig without credentials: where the cluster is and whom to trust.
    fn cluster_info(&self) -> String {
        use base64::Engine;
        let ca = base64::engine::general_purpose::STANDARD.encode(&self.ca_pem);
        let host = match self.advertise_address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    \
             certificate-authority-data: {ca}\n    server: https://{host}:{}\n",
            self.port
        )
    }
}

/// Makes the Service `kubernetes` lead to the servers at `addresses`.
pub async fn lead_to(client: &Client, addresses: &BTreeSet<IpAddr>, port: u16) -> Result<()> {
    ensure_all(client, endpoints(addresses, port)).await
}

/// Where the Service `kubernetes` leads, in the old form and the new.
fn endpoints(addresses: &BTreeSet<IpAddr>, port: u16) -> Vec<Wanted> {
    let port = json!({"name": "https", "port": port, "protocol": "TCP"});
    // A server that listens on loopback only leads pods nowhere, and the API does not take it.
    let usable = addresses.iter().filter(|address| !address.is_loopback());
    let texts: Vec<String> = usable.clone().map(IpAddr::to_string).collect();
    let subsets = match texts.is_empty() {
        true => json!([]),
        false => {
            let addresses = texts.iter().map(|ip| json!({"ip": ip}));
            json!([{"addresses": addresses.collect::<Vec<_>>(), "ports": [port]}])
        }
    };
    let old = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": subsets,
    });
    let is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let of_family = usable.filter(|address| address.is_ipv6() == is_v6);
    let members = of_family
        .map(|address| json!({"addresses": [address.to_string()], "conditions": {"ready": true}}));
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if is_v6 { "IPv6" } else { "IPv4" },
        "ports": [port],
        "endpoints": members.collect::<Vec<_>>(),
    });
    vec![
        Wanted::new("", "endpoints", "default", old),
        Wanted::new("discovery.k8s.io", "endpointslices", "default", slice),
    ]
}

async fn ensure_all(client: &Client, wanted: Vec<Wanted>) -> Result<()> {
    stream::iter(wanted)
        .map(|wanted| async move {
            let api = client.dynamic(&wanted.resource, &wanted.namespace);
            ensure(&api, wanted.object).await
        })
        .buffer_unordered(WRITES_AT_A_TIME)
        .try_collect::<Vec<()>>()
        .await
        .map(|_| ())
}

/// Creates those that are not there. What is there stays: these objects take no change (the network
/// of a `ServiceCIDR`, the value of a class).
async fn make_all(client: &Client, wanted: Vec<Wanted>) -> Result<()> {
    for wanted in wanted {
        let api = client.dynamic(&wanted.resource, &wanted.namespace);
        match api.create(&wanted.object).await {
            Err(error) if error.is_already_exists() => {}
            other => other.map(drop)?,
        }
    }
    Ok(())
}

/// Creates `wanted`, or sets what it says in the object that is there.
async fn ensure(api: &DynamicApi, wanted: Object) -> Result<()> {
    let Some(mut kept) = api.get_opt(wanted.name()).await? else {
        return match api.create(&wanted).await {
            Err(error) if error.is_already_exists() => Ok(()),
            other => other.map(|_| ()),
        };
    };
    let before = kept.clone();
    overlay(&mut kept.0, &wanted.0);
    if kept == before {
        return Ok(());
    }
    match api.replace(wanted.name(), &kept).await {
        // Somebody else wrote it at this moment; another server at its start, most likely.
        Err(error) if error.is_conflict() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Sets every field that `wanted` has; maps are gone into, lists are replaced where they differ in
/// what `wanted` says of them (defaulted fields of their members are left).
fn overlay(kept: &mut Map<String, Value>, wanted: &Map<String, Value>) {
    for (field, value) in wanted {
        match (kept.get_mut(field), value) {
            (Some(Value::Object(kept)), Value::Object(wanted)) => overlay(kept, wanted),
            (Some(kept), value) if covers(kept, value) => {}
            _ => {
                kept.insert(field.clone(), value.clone());
            }
        }
    }
}

/// Whether everything `wanted` says is so in `kept`.
fn covers(kept: &Value, wanted: &Value) -> bool {
    match (kept, wanted) {
        (Value::Object(kept), Value::Object(wanted)) => wanted
            .iter()
            .all(|(field, value)| kept.get(field).is_some_and(|kept| covers(kept, value))),
        (Value::Array(kept), Value::Array(wanted)) => {
            kept.len() == wanted.len() && kept.iter().zip(wanted).all(|(k, w)| covers(k, w))
        }
        _ => kept == wanted,
    }
}

/// Makes the defaults that are missing; adds to those that are there what they lack in `list`.
/// What somebody added stays; one who set the autoupdate annotation to `false` is left alone.
async fn reconcile(
    client: &Client,
    (resource, namespace): (&str, &str),
    list: &str,
    defaults: Vec<Value>,
) -> Result<()> {
    let api = client.dynamic(&GroupVersionResource::new(RBAC, "v1", resource), namespace);
    let kept = api.list(&ListParams::default()).await?.items;
    let plans = defaults
        .into_iter()
        .filter_map(Object::from_value)
        .filter_map(|wanted| {
            plan(
                kept.iter().find(|k| k.name() == wanted.name()),
                wanted,
                list,
            )
        });
    stream::iter(plans.collect::<Vec<_>>())
        .map(|plan| carry_out(&api, plan))
        .buffer_unordered(WRITES_AT_A_TIME)
        .try_collect::<Vec<()>>()
        .await
        .map(|_| ())
}

/// What has to be written.
#[derive(Debug, PartialEq)]
enum Plan {
    Create(Object),
    Replace(Object),
}

async fn carry_out(api: &DynamicApi, plan: Plan) -> Result<(), Error> {
    let (name, result) = match &plan {
        Plan::Create(object) => (object.name(), api.create(object).await),
        Plan::Replace(object) => (object.name(), api.replace(object.name(), object).await),
    };
    match result {
        Ok(_) => Ok(()),
        Err(error) if error.is_already_exists() || error.is_conflict() => {
            tracing::debug!(name, "written by another server at the same moment");
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn plan(kept: Option<&Object>, wanted: Object, list: &str) -> Option<Plan> {
    let Some(kept) = kept else {
        return Some(Plan::Create(wanted));
    };
    if kept.text_at(&["metadata", "annotations", policy::AUTOUPDATE]) == "false" {
        return None;
    }
    let mut new = kept.clone();
    let items = |object: &Object| -> Vec<Value> {
        let items = object.at(&[list]).and_then(Value::as_array);
        items.cloned().unwrap_or_default()
    };
    // The rules of an aggregating role belong to whoever aggregates.
    if !wanted.0.contains_key("aggregationRule") {
        let mut all = items(kept);
        let missing = items(&wanted)
            .into_iter()
            .filter(|item| !all.contains(item));
        let missing: Vec<_> = missing.collect();
        all.extend(missing);
        if !all.is_empty() {
            new.0.insert(list.to_owned(), all.into());
        }
    }
    for field in ["metadata", "aggregationRule"] {
        let wanted = wanted.0.get(field).cloned();
        if let Some(wanted) = wanted {
            overlay(&mut new.0, &Map::from_iter([(field.to_owned(), wanted)]));
        }
    }
    (new != *kept).then_some(Plan::Replace(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn what_somebody_added_to_a_default_stays() {
        let wanted = object(json!({"metadata": {"name": "r"}, "rules": [1, 2]}));
        let created = plan(None, wanted.clone(), "rules");
        assert_eq!(created, Some(Plan::Create(wanted.clone())));
        let kept = object(json!({"metadata": {"name": "r", "uid": "u"}, "rules": [3, 1]}));
        let merged = object(json!({"metadata": {"name": "r", "uid": "u"}, "rules": [3, 1, 2]}));
        let replaced = plan(Some(&kept), wanted.clone(), "rules");
        assert_eq!(replaced, Some(Plan::Replace(merged.clone())));
        assert_eq!(plan(Some(&merged), wanted.clone(), "rules"), None);
        let annotations = json!({policy::AUTOUPDATE: "false"});
        let left = object(json!({"metadata": {"name": "r", "annotations": annotations}}));
        assert_eq!(plan(Some(&left), wanted, "rules"), None);
    }

    #[test]
    fn an_object_is_rewritten_only_where_it_differs_from_what_is_wanted() {
        let wanted = object(json!({"spec": {"ports": [{"port": 443}], "type": "ClusterIP"}}));
        let mut kept = object(
            json!({"spec": {"ports": [{"port": 443, "protocol": "TCP"}], "type": "ClusterIP"}}),
        );
        let before = kept.clone();
        overlay(&mut kept.0, &wanted.0);
        assert_eq!(kept, before);
        let moved = object(json!({"spec": {"ports": [{"port": 6443}]}}));
        overlay(&mut kept.0, &moved.0);
        assert_eq!(kept.at(&["spec", "ports"]), Some(&json!([{"port": 6443}])));
        assert_eq!(kept.text_at(&["spec", "type"]), "ClusterIP");
    }
}
