//! Gives each StatefulSet its pods, every one with a name and claims that stay its own.
//!
//! Writes: pods it controls; the claims of their templates (creates, owner references);
//! ControllerRevisions; `status` of the set.
//!
//! Terms. A pod's *ordinal* is the number its name ends in; the ordinals from `ordinals.start` are
//! the set's *slots*. The *update revision* is the template the set has now; the *current revision*
//! the one of the last rollout that was completed, by which slots below a partition are filled.
//!
//! Names are given, so nothing can be created twice. In order (`OrderedReady`), one look does one
//! thing, and its event brings the next; a crash anywhere leaves a state the next look goes on from.

mod identity;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::Resource as _;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::api::{meta, object::ObjectKey};
use crate::client::{
    self, Cache, Client, DeleteParams, Kind, Patch, Queue, Recorder, Result,
    controller::{Action, Reconcile},
};
use crate::util::{clock::Clock, errors::chain};

use super::Setup;
use super::shared::{
    adopt,
    expectations::{Expectations, UNANSWERED_MOST},
    history, pods, status, wire,
};

use plan::{Plan, Step, Version, View};

const WORKERS: usize = 5;
/// On revisions: their hash.
const HASH: &str = "controller.kubernetes.io/hash";

struct StatefulSets {
    sets: Cache<StatefulSet>,
    pods: Cache<Pod>,
    claims: Cache<PersistentVolumeClaim>,
    revisions: Cache<ControllerRevision>,
    expectations: Arc<Expectations>,
    client: Client,
    recorder: Recorder,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let (sets, pods) = (
        setup.informers.cache::<StatefulSet>(),
        setup.informers.cache::<Pod>(),
    );
    let claims = setup.informers.cache::<PersistentVolumeClaim>();
    let revisions = setup.informers.cache::<ControllerRevision>();
    let queue = Queue::new();
    let expectations = Arc::new(Expectations::default());
    adopt::index_orphans(&pods);
    adopt::index_orphans(&revisions);
    wire::on_own(&sets, &queue);
    pods::observe(&pods, &expectations);
    wire::on_owned(&pods, StatefulSet::KIND, &queue);
    wire::on_owned(&revisions, StatefulSet::KIND, &queue);
    wire::on_orphan(
        &pods,
        &sets,
        |set: &StatefulSet, pod| {
            let is_member = identity::ordinal(&set.metadata, meta::name(pod)).is_some();
            is_member && selector(set).matches(&pod.labels)
        },
        &queue,
    );
    on_claim_gone(&claims, &sets, &queue);
    let controller = StatefulSets {
        sets: sets.clone(),
        pods: pods.clone(),
        claims: claims.clone(),
        revisions: revisions.clone(),
        expectations,
        client: setup.client.clone(),
        recorder: setup.recorder("statefulset-controller"),
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, WORKERS, async move {
        sets.synced().await;
        pods.synced().await;
        claims.synced().await;
        revisions.synced().await;
    });
}

/// A pod waits for a claim of its name that goes before it gets a new one.
fn on_claim_gone(
    claims: &Cache<PersistentVolumeClaim>,
    sets: &Cache<StatefulSet>,
    queue: &Queue<ObjectKey>,
) {
    let (sets, queue) = (sets.clone(), queue.clone());
    claims.on_change(move |change| {
        let (Some(old), None) = (&change.old, &change.new) else {
            return;
        };
        let name = meta::name(&old.metadata);
        for set in sets.in_namespace(meta::namespace(&old.metadata)) {
            if identity::is_claim_of(&set, name) {
                queue.add(client::key_of(&set.metadata));
            }
        }
    });
}

fn selector(set: &StatefulSet) -> crate::api::selector::label::Selector {
    adopt::selector_of(&set.spec.selector)
}

impl Reconcile for StatefulSets {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "stateful_set"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(set) = self.sets.get(key) else {
            return Ok(Action::Done);
        };
        let uid = meta::uid(&set.metadata);
        if meta::is_terminating(&set.metadata) {
            self.expectations.forget(uid);
            return Ok(Action::Done);
        }
        let selector = selector(&set);
        let mut claim = adopt::claim(&set.metadata, &selector, &self.pods);
        let is_member =
            |pod: &Arc<Pod>| identity::ordinal(&set.metadata, meta::name(&pod.metadata)).is_some();
        claim.adopt.retain(is_member);
        adopt::settle(&self.client, &*set, &claim).await?;
        let mut revisions = adopt::claim(&set.metadata, &selector, &self.revisions);
        adopt::settle(&self.client, &*set, &revisions).await?;
        history::sort(&mut revisions.mine);
        self.look(&set, &claim.mine, &revisions.mine).await
    }
}

impl StatefulSets {
    /// `revisions`: oldest first.
    async fn look(
        &self,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        revisions: &[Arc<ControllerRevision>],
    ) -> Result<Action> {
        let spec = &set.spec;
        let known = set.status.as_ref();
        let owner = history::Owner {
            meta: &set.metadata,
            reference: reference_of(set),
            template: &spec.template,
            hash_label: HASH,
            collisions: known.and_then(|s| s.collision_count).unwrap_or(0),
        };
        let choice = history::choose(revisions, &spec.template);
        let (update, collisions) = history::settle(&self.client, &owner, choice).await?;
        let current = known.and_then(|status| status.current_revision.as_deref());
        let current = revisions
            .iter()
            .find(|r| r.metadata.name.as_deref() == current);
        let current = current.unwrap_or(&update);
        // What somebody wrote into a revision that is no template leaves only the set's own.
        let old = history::template(current).unwrap_or_else(|| spec.template.clone());
        let namespace = meta::namespace(&set.metadata);
        let now = self.clock.now();
        let plan = plan::plan(&View {
            set,
            current: Version {
                name: meta::name(&current.metadata),
                template: &old,
            },
            update: Version {
                name: meta::name(&update.metadata),
                template: &spec.template,
            },
            pods,
            claim: &|name| self.claims.get(&ObjectKey::new(namespace, name)),
            collisions,
            now,
        });
        let wake = plan.wake_at.map_or(Action::Done, |at| {
            Action::After(Duration::try_from(at.duration_since(now)).unwrap_or_default())
        });
        self.carry_out(set, plan).await?;
        let mut used = history::of_pods(pods.iter().map(|pod| &pod.metadata));
        used.extend([meta::name(&current.metadata), meta::name(&update.metadata)]);
        let limit = spec.revision_history_limit.unwrap_or(10);
        let in_use = |r: &ControllerRevision| used.contains(meta::name(&r.metadata));
        history::delete(&self.client, &history::surplus(revisions, in_use, limit)).await?;
        if self.expectations.are_met(meta::uid(&set.metadata)) {
            return Ok(wake);
        }
        Ok(wake.sooner(Action::After(UNANSWERED_MOST)))
    }

    /// The status is written whatever becomes of the steps.
    async fn carry_out(&self, set: &StatefulSet, plan: Plan) -> Result<()> {
        let mut result = Ok(());
        if self.expectations.are_met(meta::uid(&set.metadata)) {
            for steps in &plan.phases {
                result = self.take_all(set, steps, plan.in_order).await;
                if result.is_err() {
                    break;
                }
            }
        }
        self.write_status(set, &plan.status).await?;
        result
    }

    async fn take_all(&self, set: &StatefulSet, steps: &[Step], in_order: bool) -> Result<()> {
        if in_order {
            for step in steps {
                self.take(set, step).await?;
            }
            return Ok(());
        }
        let next = &AtomicUsize::new(0);
        let (_, result) = pods::in_growing_batches(steps.len(), || {
            let step = steps.get(next.fetch_add(1, Ordering::Relaxed));
            async move {
                match step {
                    Some(step) => self.take(set, step).await,
                    None => Ok(()),
                }
            }
        })
        .await;
        result
    }

    async fn take(&self, set: &StatefulSet, step: &Step) -> Result<()> {
        match step {
            Step::Create { pod, claims } => {
                let name = meta::name(&pod.metadata);
                if let Err(error) = self.add_claims(set, name, claims).await {
                    self.tell(set, "create", name, Some(&chain(&error)));
                    return Err(error);
                }
                self.create(set, pod).await
            }
            Step::Refuse { pod, why } => {
                self.tell(set, "create", pod, Some(why));
                Ok(())
            }
            Step::AddClaims { pod, claims } => {
                let name = meta::name(&pod.metadata);
                self.add_claims(set, name, claims).await
            }
            Step::Label { pod, labels } => {
                let known = &pod.metadata;
                let patch = Patch::Merge(json!({"metadata":
                    {"uid": known.uid, "labels": labels}}));
                let result = self.patch::<Pod>(set, meta::name(known), &patch).await;
                let failure = result.as_ref().err().map(|error| chain(error));
                self.tell(set, "update", meta::name(known), failure.as_deref());
                result
            }
            Step::Own { claim, owners } => {
                let known = &claim.metadata;
                let patch = Patch::Merge(json!({"metadata": {"uid": known.uid,
                    "resourceVersion": known.resource_version, "ownerReferences": owners}}));
                self.patch::<PersistentVolumeClaim>(set, meta::name(known), &patch)
                    .await
            }
            Step::Delete(pod) => self.delete(set, pod).await,
        }
    }

    async fn patch<K: Kind>(&self, set: &StatefulSet, name: &str, patch: &Patch) -> Result<()> {
        let api = self.client.namespaced::<K>(meta::namespace(&set.metadata));
        match api.patch(name, patch).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn add_claims(
        &self,
        set: &StatefulSet,
        pod: &str,
        claims: &[PersistentVolumeClaim],
    ) -> Result<()> {
        let api = self
            .client
            .namespaced::<PersistentVolumeClaim>(meta::namespace(&set.metadata));
        let about = client::reference(set);
        let (kind, set_name) = (StatefulSet::KIND, meta::name(&set.metadata));
        for claim in claims {
            let name = meta::name(&claim.metadata);
            match api.create(claim).await {
                Ok(_) => {
                    let text =
                        format!("create Claim {name} Pod {pod} in {kind} {set_name} success");
                    self.recorder.normal(&about, "SuccessfulCreate", text);
                }
                // The cache does not show it yet.
                Err(error) if error.is_already_exists() => {}
                Err(error) => {
                    let why = chain(&error);
                    let text = format!(
                        "create Claim {name} for Pod {pod} in {kind} {set_name} failed error: {why}"
                    );
                    self.recorder.warning(&about, "FailedCreate", text);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn create(&self, set: &StatefulSet, pod: &Pod) -> Result<()> {
        let (uid, name) = (meta::uid(&set.metadata), meta::name(&pod.metadata));
        let api = self
            .client
            .namespaced::<Pod>(meta::namespace(&set.metadata));
        self.expectations.expect_creations(uid, 1);
        match api.create(pod).await {
            Ok(_) => {
                self.tell(set, "create", name, None);
                Ok(())
            }
            Err(error) => {
                self.expectations.created(uid);
                if !error.is_already_exists() {
                    self.tell(set, "create", name, Some(&chain(&error)));
                }
                Err(error)
            }
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod) -> Result<()> {
        let uid = meta::uid(&set.metadata);
        let (name, pod_uid) = (meta::name(&pod.metadata), meta::uid(&pod.metadata));
        let api = self
            .client
            .namespaced::<Pod>(meta::namespace(&set.metadata));
        self.expectations
            .expect_deletions(uid, [pod_uid.to_owned()]);
        match api.delete(name, &DeleteParams::uid(pod_uid)).await {
            Ok(()) => {
                self.tell(set, "delete", name, None);
                Ok(())
            }
            Err(error) => {
                self.expectations.deleted(uid, pod_uid);
                // Gone, or another pod has the name: it is not this one any more.
                if error.is_not_found() || error.is_conflict() {
                    return Ok(());
                }
                self.tell(set, "delete", name, Some(&chain(&error)));
                Err(error)
            }
        }
    }

    async fn write_status(&self, set: &StatefulSet, new: &StatefulSetStatus) -> Result<()> {
        let patch = status::patch(&set.metadata, set.status.as_ref(), new);
        let Some(Patch::Merge(mut patch)) = patch else {
            return Ok(());
        };
        // Counts and revisions of an older state must not replace those of a newer one.
        patch["metadata"]["resourceVersion"] = json!(set.metadata.resource_version);
        let api = self
            .client
            .namespaced::<StatefulSet>(meta::namespace(&set.metadata));
        let name = meta::name(&set.metadata);
        match api.patch_status(name, &Patch::Merge(patch)).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// An event about what was done with a pod, or why not.
    fn tell(&self, set: &StatefulSet, verb: &str, pod: &str, failure: Option<&str>) {
        let about = client::reference(set);
        let title = match verb {
            "create" => "Create",
            "delete" => "Delete",
            _ => "Update",
        };
        let text = format!(
            "{verb} Pod {pod} in StatefulSet {}",
            meta::name(&set.metadata)
        );
        match failure {
            None => {
                let text = format!("{text} successful");
                self.recorder
                    .normal(&about, &format!("Successful{title}"), text);
            }
            Some(why) => {
                let text = format!("{text} failed error: {why}");
                self.recorder
                    .warning(&about, &format!("Failed{title}"), text);
            }
        }
    }
}

fn reference_of(set: &StatefulSet) -> OwnerReference {
    meta::controller_ref(StatefulSet::API_VERSION, StatefulSet::KIND, &set.metadata)
}
