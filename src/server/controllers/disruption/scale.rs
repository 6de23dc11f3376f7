//! How many pods the controllers of some pods ask for: what the percentages of a budget are of.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;
use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::api::gvk::GroupVersionKind;
use crate::api::status::qualified;
use crate::api::{meta, object::ObjectKey};
use crate::client::{Cache, Client, Result};
use crate::util::errors::chain;

use super::Setup;

/// The caches of the kinds most pods belong to.
pub(super) struct Scales {
    deployments: Cache<Deployment>,
    replica_sets: Cache<ReplicaSet>,
    stateful_sets: Cache<StatefulSet>,
    controllers: Cache<ReplicationController>,
    client: Client,
}

/// What the controllers of some pods ask for.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) replicas: i64,
    /// Pods that nothing controls.
    pub(super) unmanaged: Vec<String>,
}

/// A controller by its uid, and the pods it asks for.
type Scale = (String, i64);

impl Scales {
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            deployments: setup.informers.cache(),
            replica_sets: setup.informers.cache(),
            stateful_sets: setup.informers.cache(),
            controllers: setup.informers.cache(),
            client: setup.client.clone(),
        }
    }

    pub(super) async fn synced(&self) {
        self.deployments.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.controllers.synced().await;
    }

    /// The sum over the controllers of `pods`, each counted once.
    ///
    /// Errors: why it cannot be told, as upstream words it.
    pub(super) async fn of(&self, pods: &[Arc<Pod>]) -> Result<Sum, String> {
        let mut sum = Sum::default();
        let mut known: BTreeMap<String, i64> = BTreeMap::new();
        let mut seen = std::collections::BTreeSet::new();
        for pod in pods {
            let Some(owner) = meta::controller_of(&pod.metadata) else {
                sum.unmanaged.push(meta::name(&pod.metadata).to_owned());
                continue;
            };
            if !seen.insert(owner.uid.as_str()) {
                continue;
            }
            let namespace = meta::namespace(&pod.metadata);
            let scale = match self.cached(namespace, owner) {
                Some(scale) => Some(scale),
                None => self.asked(namespace, owner).await?,
            };
            let name = meta::name(&pod.metadata);
            let (uid, replicas) =
                scale.ok_or_else(|| format!("found no controllers for pod {name:?}"))?;
            known.insert(uid, replicas);
        }
        sum.replicas = known.values().sum();
        Ok(sum)
    }

    fn cached(&self, namespace: &str, owner: &OwnerReference) -> Option<Scale> {
        let key = ObjectKey::new(namespace, &owner.name);
        let same = |meta: &ObjectMeta| meta::uid(meta) == owner.uid;
        let scale =
            |replicas: Option<i32>| Some((owner.uid.clone(), i64::from(replicas.unwrap_or(1))));
        match (owner.api_version.as_str(), owner.kind.as_str()) {
            (ReplicaSet::API_VERSION, ReplicaSet::KIND) => {
                let set = self.replica_sets.get(&key).filter(|s| same(&s.metadata))?;
                match meta::controller_of(&set.metadata) {
                    Some(owner) if owner.kind == Deployment::KIND => {
                        let key = ObjectKey::new(namespace, &owner.name);
                        let deployment = self.deployments.get(&key)?;
                        if meta::uid(&deployment.metadata) != owner.uid {
                            return None;
                        }
                        let replicas = deployment.spec.replicas;
                        Some((owner.uid.clone(), i64::from(replicas.unwrap_or(1))))
                    }
                    _ => scale(set.spec.replicas),
                }
            }
            (StatefulSet::API_VERSION, StatefulSet::KIND) => {
                let set = self.stateful_sets.get(&key).filter(|s| same(&s.metadata))?;
                scale(set.spec.replicas)
            }
            (ReplicationController::API_VERSION, ReplicationController::KIND) => {
                let one = self.controllers.get(&key).filter(|c| same(&c.metadata))?;
                scale(one.spec.as_ref().and_then(|spec| spec.replicas))
            }
            _ => None,
        }
    }

    /// By the `scale` of any other kind; `None` where the controller is gone.
    async fn asked(
        &self,
        namespace: &str,
        owner: &OwnerReference,
    ) -> Result<Option<Scale>, String> {
        let kind = GroupVersionKind::from_api_version(&owner.api_version, &owner.kind);
        let served = self.client.discover().mapping(&kind).await;
        let served = served.map_err(|error| chain(&error))?.resource;
        let api = self.client.dynamic(&served, namespace);
        let path = format!("{}/{}/scale", api.path(), owner.name);
        let scale = match self.client.request_json(Method::GET, &path, None).await {
            Ok(scale) => scale,
            Err(error) if error.is_not_found() => {
                let there = api.get_opt(&owner.name).await;
                return match there.map_err(|error| chain(&error))? {
                    None => Ok(None),
                    Some(_) => Err(format!(
                        "{} does not implement the scale subresource",
                        qualified(&served.group, &served.resource)
                    )),
                };
            }
            Err(error) => return Err(chain(&error)),
        };
        let is_same = scale["metadata"]["uid"] == owner.uid.as_str();
        let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        Ok(is_same.then(|| (owner.uid.clone(), replicas)))
    }
}
