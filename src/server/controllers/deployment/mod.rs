//! Brings the ReplicaSets of each Deployment to what it asks for, in the steps its strategy allows.
//!
//! Writes: ReplicaSets it controls (spec.replicas, annotations, whole ones when a template is
//! new); of the Deployment its `status` and its revision annotation.
//!
//! Terms. The *new* set is the one with the Deployment's template; all others are *old*. A set is
//! *active* where it asks for pods. *Revisions* count rollouts; `kubectl rollout undo` puts an old
//! template back, which makes that old set the new one with the next revision.
//!
//! One reconcile takes one step of a rollout; what it changed brings the next reconcile. Writes
//! carry the revision they are based on, so a cache that lags leads to a conflict and another try,
//! never to a step taken twice. A new set's name is made of its template, so it cannot be created
//! twice either.

mod plan;
mod rollout;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::api::{meta, object::ObjectKey, pod, workload};
use crate::client::{
    self, Api, Cache, Client, DeleteParams, Patch, Queue, Recorder, Result,
    controller::{Action, Reconcile},
};
use crate::util::{clock::Clock, errors::chain};

use super::Setup;
use super::shared::{adopt, status as status_patch, wire};

use plan::{Plan, Step, View};

const WORKERS: usize = 5;

struct Deployments {
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    pods: Cache<Pod>,
    client: Client,
    recorder: Recorder,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let (deployments, sets, pods) = (
        setup.informers.cache::<Deployment>(),
        setup.informers.cache::<ReplicaSet>(),
        setup.informers.cache::<Pod>(),
    );
    let queue = Queue::new();
    adopt::index_orphans(&sets);
    wire::on_own(&deployments, &queue);
    wire::on_owned(&sets, Deployment::KIND, &queue);
    wire::on_orphan(
        &sets,
        &deployments,
        |d: &Deployment, set| adopt::selector_of(&d.spec.selector).matches(&set.labels),
        &queue,
    );
    on_pod_gone(&pods, &sets, &queue);
    let controller = Deployments {
        deployments: deployments.clone(),
        sets: sets.clone(),
        pods: pods.clone(),
        client: setup.client.clone(),
        recorder: setup.recorder("deployment-controller"),
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, WORKERS, async move {
        deployments.synced().await;
        sets.synced().await;
        pods.synced().await;
    });
}

/// A deployment that recreates waits for its old pods to be gone.
fn on_pod_gone(pods: &Cache<Pod>, sets: &Cache<ReplicaSet>, queue: &Queue<ObjectKey>) {
    let (sets, queue) = (sets.clone(), queue.clone());
    pods.on_change(move |change| {
        let Some(old) = &change.old else { return };
        if change
            .new
            .as_ref()
            .is_some_and(|pod| !pod::is_terminal(pod))
        {
            return;
        }
        let set = wire::controller_key(&old.metadata, ReplicaSet::KIND);
        let set = set.and_then(|key| sets.get(&key));
        let key = set.and_then(|set| wire::controller_key(&set.metadata, Deployment::KIND));
        if let Some(key) = key {
            queue.add(key);
        }
    });
}

impl Reconcile for Deployments {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "deployment"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(deployment) = self.deployments.get(key) else {
            return Ok(Action::Done);
        };
        let selector = adopt::selector_of(&deployment.spec.selector);
        if selector.is_empty() {
            let text = "This deployment is selecting all pods. A non-empty selector is required.";
            let about = client::reference(&*deployment);
            self.recorder.warning(&about, "SelectingAll", text);
            return Ok(Action::Done);
        }
        let claim = adopt::claim(&deployment.metadata, &selector, &self.sets);
        adopt::settle(&self.client, &*deployment, &claim).await?;
        let plan = plan::plan(&View {
            deployment: &deployment,
            sets: &claim.mine,
            has_running_pods: &|set| self.has_running_pods(set),
            now: self.clock.now(),
        });
        self.carry_out(&deployment, plan).await
    }
}

impl Deployments {
    fn has_running_pods(&self, set: &ReplicaSet) -> bool {
        let pods = self.pods.controlled_by(meta::uid(&set.metadata));
        pods.iter().any(|pod| !pod::is_terminal(pod))
    }

    /// Steps in order; the first that fails ends it, but the status is written in any case.
    async fn carry_out(&self, deployment: &Deployment, plan: Plan) -> Result<Action> {
        let mut result = Ok(());
        for step in &plan.steps {
            result = self.take(deployment, step).await;
            if result.is_err() {
                break;
            }
        }
        let change = status_patch::patch(
            &deployment.metadata,
            deployment.status.as_ref(),
            &plan.status,
        );
        if let (Some(patch), Ok(())) = (change, &result) {
            let api = self.api::<Deployment>(deployment);
            api.patch_status(meta::name(&deployment.metadata), &patch)
                .await?;
        }
        result?;
        Ok(match plan.look_again {
            Some(delay) => Action::After(delay.max(Duration::from_secs(1))),
            None => Action::Done,
        })
    }

    async fn take(&self, deployment: &Deployment, step: &Step) -> Result<()> {
        match step {
            Step::Annotate { annotations } => {
                let patch = Patch::Merge(json!({"metadata":
                    {"uid": deployment.metadata.uid, "annotations": annotations}}));
                let name = meta::name(&deployment.metadata);
                self.api::<Deployment>(deployment)
                    .patch(name, &patch)
                    .await?;
                Ok(())
            }
            Step::Create(set) => self.create(deployment, set).await,
            Step::Update {
                set,
                change,
                scaled,
            } => {
                let mut change = change.clone();
                change["metadata"]["resourceVersion"] =
                    set.metadata.resource_version.clone().into();
                let name = meta::name(&set.metadata);
                self.api::<ReplicaSet>(deployment)
                    .patch(name, &Patch::Merge(change))
                    .await?;
                if let Some((from, to)) = scaled {
                    self.tell_scaled(deployment, name, *from, *to);
                }
                Ok(())
            }
            Step::Delete(set) => {
                let params = DeleteParams::uid(meta::uid(&set.metadata));
                let name = meta::name(&set.metadata);
                let sets = self.api::<ReplicaSet>(deployment);
                match sets.delete(name, &params).await {
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => Ok(()),
                }
            }
        }
    }

    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<()> {
        let api = self.api::<ReplicaSet>(deployment);
        let name = meta::name(&set.metadata);
        match api.create(set).await {
            Ok(_) => {
                let wanted = set.spec.replicas.unwrap_or(0);
                if wanted > 0 {
                    self.tell_scaled(deployment, name, 0, wanted);
                }
                Ok(())
            }
            Err(error) if error.is_already_exists() => self.resolve(deployment, set, error).await,
            Err(error) => {
                let why = chain(&error);
                let text = format!("Failed to create new replica set \"{name}\": {why}");
                let about = client::reference(deployment);
                self.recorder.warning(&about, "ReplicaSetCreateError", text);
                let failed = status::create_failed(deployment, &why, self.clock.now());
                self.write_status(deployment, &failed).await?;
                Err(error)
            }
        }
    }

    /// The name of the new set is taken: by the same set, which the cache does not show yet, or by
    /// a stranger, and then the next try has another name.
    async fn resolve(
        &self,
        deployment: &Deployment,
        set: &ReplicaSet,
        error: client::Error,
    ) -> Result<()> {
        let name = meta::name(&set.metadata);
        let taken = self.api::<ReplicaSet>(deployment).get(name).await?;
        let ours = meta::is_controlled_by(&taken.metadata, meta::uid(&deployment.metadata));
        if ours && plan::has_template(&taken, &deployment.spec.template) {
            return Ok(());
        }
        let mut status = deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.write_status(deployment, &status).await?;
        Err(error)
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        status: &k8s_openapi::api::apps::v1::DeploymentStatus,
    ) -> Result<()> {
        let old = deployment.status.as_ref();
        if let Some(patch) = status_patch::patch(&deployment.metadata, old, status) {
            let name = meta::name(&deployment.metadata);
            self.api::<Deployment>(deployment)
                .patch_status(name, &patch)
                .await?;
        }
        Ok(())
    }

    fn tell_scaled(&self, deployment: &Deployment, set: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let text = format!("Scaled {direction} replica set {set} from {from} to {to}");
        self.recorder
            .normal(&client::reference(deployment), "ScalingReplicaSet", text);
    }

    fn api<K: client::Kind>(&self, deployment: &Deployment) -> Api<K> {
        self.client
            .namespaced(meta::namespace(&deployment.metadata))
    }
}

/// How many pods a set asks for.
fn wanted(set: &ReplicaSet) -> i64 {
    i64::from(set.spec.replicas.unwrap_or(1))
}

/// How many pods all of `sets` ask for.
fn wanted_of<'a>(sets: impl IntoIterator<Item = &'a Arc<ReplicaSet>>) -> i64 {
    sets.into_iter().map(|set| wanted(set)).sum()
}

/// How many pods a deployment may have at most during a rollout.
fn most_replicas(deployment: &Deployment) -> i64 {
    workload::wanted_replicas(deployment) + workload::max_surge(deployment)
}
