//! Runs Pods until enough of them have succeeded.
//!
//! Writes: Pods it controls (creates, deletes, takes its finalizer off); `status` of the Job.
//! Never writes a `spec`.
//!
//! One look plans everything ([`plan`], pure) and carries it out in an order that survives a crash
//! at any step: the status with its notes, then finalizers, then deletions, then creations. The
//! status is written with the revision it was worked out from, so that a look at an old state
//! never overwrites newer counts.
//!
//! Pods of a Job that is gone keep their finalizer until this controller takes it off: every
//! change of such a Pod puts the Job's name in the queue too.

mod facts;
mod failure;
mod indexes;
mod plan;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream::{self, StreamExt};
use k8s_openapi::Resource as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use serde_json::json;

use crate::api::{meta, object::ObjectKey, pod};
use crate::client::{
    self, Cache, Client, DeleteParams, Patch, Queue, Recorder, Result,
    controller::{Action, Reconcile},
};
use crate::util::{clock::Clock, errors::chain};

use super::Setup;
use super::shared::{
    adopt,
    expectations::{Expectations, UNANSWERED_MOST},
    namespaces, pods, status, wire,
};

use facts::Pods;
pub(super) use facts::is_finished;
use plan::{Kind, Plan};
use template::{FINALIZER, Wanted};

const WORKERS: usize = 5;
/// Writes to Pods at a time: enough to share syncs of the journal.
const WRITES_AT_A_TIME: usize = 32;
/// Index of Pods that a Job of this name holds on to.
const HELD: &str = "held-by-job";
/// The value of `spec.managedBy` that means this controller.
const MANAGER: &str = "kubernetes.io/job-controller";

struct Jobs {
    jobs: Cache<Job>,
    pods: Cache<Pod>,
    expectations: Arc<Expectations>,
    client: Client,
    recorder: Recorder,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let (jobs, pods) = (
        setup.informers.cache::<Job>(),
        setup.informers.cache::<Pod>(),
    );
    let queue = Queue::new();
    let expectations = Arc::new(Expectations::default());
    adopt::index_orphans(&pods);
    pods.index(HELD, |pod| {
        let held = meta::has_finalizer(&pod.metadata, FINALIZER);
        let key = wire::controller_key(&pod.metadata, Job::KIND).filter(|_| held);
        key.map(|key| key.to_string()).into_iter().collect()
    });
    wire::on_own(&jobs, &queue);
    pods::observe(&pods, &expectations);
    wire::on_owned(&pods, Job::KIND, &queue);
    wire::on_orphan(
        &pods,
        &jobs,
        |job: &Job, pod| selector(job).matches(&pod.labels),
        &queue,
    );
    let controller = Jobs {
        jobs: jobs.clone(),
        pods: pods.clone(),
        expectations,
        client: setup.client.clone(),
        recorder: setup.recorder("job-controller"),
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, WORKERS, async move {
        jobs.synced().await;
        pods.synced().await;
    });
}

fn selector(job: &Job) -> crate::api::selector::label::Selector {
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    adopt::selector_of(&selector.cloned().unwrap_or_default())
}

impl Reconcile for Jobs {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "job"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let job = self.jobs.get(key);
        self.release_strays(key, job.as_deref()).await?;
        let Some(job) = job else {
            return Ok(Action::Done);
        };
        let manager = job
            .spec
            .as_ref()
            .and_then(|spec| spec.managed_by.as_deref());
        if manager.is_some_and(|manager| manager != MANAGER) {
            return Ok(Action::Done);
        }
        let uid = meta::uid(&job.metadata);
        if meta::is_terminating(&job.metadata) {
            self.expectations.forget(uid);
        }
        let claim = adopt::claim(&job.metadata, &selector(&job), &self.pods);
        adopt::settle(&self.client, &*job, &claim).await?;
        if is_finished(&job) {
            let tracked: Vec<_> = Pods::of(&claim.mine).tracked().cloned().collect();
            let ended = tracked.into_iter().filter(|p| !pod::is_active(p));
            return self.release(ended.collect()).await.map(|()| Action::Done);
        }
        let is_met = self.expectations.are_met(uid);
        let Some(plan) = plan::plan(&job, &claim.mine, is_met, self.clock.now()) else {
            return Ok(Action::Done);
        };
        let wake = plan.wake_in.map_or(Action::Done, Action::After);
        self.carry_out(&job, plan).await?;
        if self.expectations.are_met(uid) {
            return Ok(wake);
        }
        Ok(wake.sooner(Action::After(UNANSWERED_MOST)))
    }
}

impl Jobs {
    /// Lets go of Pods that name a Job which is gone, or another one of the same name.
    async fn release_strays(&self, key: &ObjectKey, job: Option<&Job>) -> Result<()> {
        let uid = job.map(|job| meta::uid(&job.metadata));
        let held = self.pods.by_index(HELD, &key.to_string());
        let is_stray = |pod: &Arc<Pod>| {
            let owner = meta::controller_of(&pod.metadata);
            owner.is_some_and(|owner| Some(owner.uid.as_str()) != uid)
        };
        let strays: Vec<_> = held.into_iter().filter(is_stray).collect();
        if strays.is_empty() {
            return Ok(());
        }
        // The cache may not show the Job yet that these Pods belong to.
        let api = self.client.namespaced::<Job>(&key.namespace);
        let truth = api.get_opt(&key.name).await?;
        let truth = truth.as_ref().map(|job| meta::uid(&job.metadata));
        let strays = strays.into_iter().filter(|pod| {
            let owner = meta::controller_of(&pod.metadata);
            owner.is_some_and(|owner| Some(owner.uid.as_str()) != truth)
        });
        self.release(strays.collect()).await
    }

    async fn carry_out(&self, job: &Job, plan: Plan) -> Result<()> {
        let about = client::reference(job);
        self.write_status(job, &plan).await?;
        for (kind, reason, message) in &plan.events {
            match kind {
                Kind::Normal => self.recorder.normal(&about, reason, message.clone()),
                Kind::Warning => self.recorder.warning(&about, reason, message.clone()),
            }
        }
        self.release(plan.release).await?;
        self.release(plan.dismiss.clone()).await?;
        let doomed: Vec<_> = plan.delete.into_iter().chain(plan.dismiss).collect();
        self.delete(job, &doomed).await?;
        self.create(job, &plan.create).await
    }

    async fn write_status(&self, job: &Job, plan: &Plan) -> Result<()> {
        let patch = status::patch(&job.metadata, job.status.as_ref(), &plan.status);
        let Some(Patch::Merge(mut patch)) = patch else {
            return Ok(());
        };
        patch["metadata"]["resourceVersion"] = json!(job.metadata.resource_version);
        let namespace = meta::namespace(&job.metadata);
        let api = self.client.namespaced::<Job>(namespace);
        let name = meta::name(&job.metadata);
        api.patch_status(name, &Patch::Merge(patch))
            .await
            .map(|_| ())
    }

    /// Takes the finalizer off.
    async fn release(&self, held: Vec<Arc<Pod>>) -> Result<()> {
        let held = held
            .into_iter()
            .filter(|pod| meta::has_finalizer(&pod.metadata, FINALIZER));
        let results: Vec<Result<()>> = stream::iter(held.collect::<Vec<_>>())
            .map(|pod| async move {
                let meta = &pod.metadata;
                let patch = Patch::Strategic(json!({"metadata": {"uid": meta.uid,
                    "$deleteFromPrimitiveList/finalizers": [FINALIZER]}}));
                let api = self.client.namespaced::<Pod>(meta::namespace(meta));
                match api.patch(meta::name(meta), &patch).await {
                    Ok(_) => Ok(()),
                    // Gone, or another Pod has the name by now.
                    Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(WRITES_AT_A_TIME)
            .collect()
            .await;
        results.into_iter().collect()
    }

    async fn delete(&self, job: &Job, doomed: &[Arc<Pod>]) -> Result<()> {
        if doomed.is_empty() {
            return Ok(());
        }
        let uid = meta::uid(&job.metadata);
        let uids = doomed.iter().map(|pod| meta::uid(&pod.metadata).to_owned());
        self.expectations.expect_deletions(uid, uids);
        let about = client::reference(job);
        let about = &about;
        let results: Vec<Result<()>> = stream::iter(doomed.to_vec())
            .map(|pod| async move { self.delete_one(uid, about, &pod).await })
            .buffer_unordered(WRITES_AT_A_TIME)
            .collect()
            .await;
        results.into_iter().collect()
    }

    async fn delete_one(&self, uid: &str, about: &ObjectReference, pod: &Pod) -> Result<()> {
        let (name, pod_uid) = (meta::name(&pod.metadata), meta::uid(&pod.metadata));
        let api = self
            .client
            .namespaced::<Pod>(meta::namespace(&pod.metadata));
        match api.delete(name, &DeleteParams::uid(pod_uid)).await {
            Ok(()) => {
                let text = format!("Deleted pod: {name}");
                self.recorder.normal(about, "SuccessfulDelete", text);
                Ok(())
            }
            Err(error) => {
                self.expectations.deleted(uid, pod_uid);
                if error.is_not_found() || error.is_conflict() {
                    return Ok(());
                }
                let text = format!("Error deleting: {}", chain(&error));
                self.recorder.warning(about, "FailedDelete", text);
                Err(error)
            }
        }
    }

    async fn create(&self, job: &Job, wanted: &[Wanted]) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let uid = meta::uid(&job.metadata);
        let api = self
            .client
            .namespaced::<Pod>(meta::namespace(&job.metadata));
        self.expectations.expect_creations(uid, wanted.len());
        let about = client::reference(job);
        let tried = AtomicUsize::new(0);
        let (_, result) = pods::in_growing_batches(wanted.len(), || {
            let next = wanted.get(tried.fetch_add(1, Ordering::Relaxed)).copied();
            let (api, about) = (&api, &about);
            async move {
                let Some(next) = next else { return Ok(()) };
                match api.create(&template::pod(job, next)).await {
                    Ok(pod) => {
                        let text = format!("Created pod: {}", meta::name(&pod.metadata));
                        self.recorder.normal(about, "SuccessfulCreate", text);
                        Ok(())
                    }
                    Err(error) => {
                        self.expectations.created(uid);
                        if !namespaces::is_settled(&error) {
                            let text = format!("Error creating: {}", chain(&error));
                            self.recorder.warning(about, "FailedCreate", text);
                        }
                        Err(error)
                    }
                }
            }
        })
        .await;
        for _ in tried.load(Ordering::Relaxed)..wanted.len() {
            self.expectations.created(uid);
        }
        result
    }
}
