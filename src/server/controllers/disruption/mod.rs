//! Says in the status of each PodDisruptionBudget how many of its pods may go: what evictions and
//! preemption go by.
//!
//! Writes: `status` of budgets, with the revision it was worked out from, because evictions write
//! it too; the condition `DisruptionTarget` of pods that were to go and did not.
//!
//! After a crash between an eviction's note in a budget and the delete of its pod the note is
//! dropped when its time is over, and the pod counts again.

mod plan;
mod scale;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use serde_json::json;

use crate::api::{meta, object::ObjectKey, pod, selector::label::Selector};
use crate::client::{
    self, Cache, Client, Patch, Queue, Recorder, Result,
    controller::{Action, Reconcile},
    key_of,
};
use crate::util::clock::Clock;

use super::Setup;
use super::shared::{adopt, status, wire};
use plan::Disrupted;
use scale::Scales;

const WORKERS: usize = 2;

struct Budgets {
    budgets: Cache<PodDisruptionBudget>,
    pods: Cache<Pod>,
    scales: Arc<Scales>,
    client: Client,
    recorder: Recorder,
    clock: Clock,
}

/// Takes back what is said of pods that were to be disrupted and were not.
struct Stale {
    pods: Cache<Pod>,
    client: Client,
    clock: Clock,
}

pub(super) fn start(setup: &Setup) {
    let budgets = setup.informers.cache::<PodDisruptionBudget>();
    let pods = setup.informers.cache::<Pod>();
    let scales = Arc::new(Scales::new(setup));
    let queue = Queue::new();
    wire::on_own(&budgets, &queue);
    on_pods(&pods, &budgets, &queue);
    let controller = Budgets {
        budgets: budgets.clone(),
        pods: pods.clone(),
        scales: scales.clone(),
        client: setup.client.clone(),
        recorder: setup.recorder("controllermanager"),
        clock: setup.clock.clone(),
    };
    let followed = pods.clone();
    setup.run(controller, queue, WORKERS, async move {
        budgets.synced().await;
        followed.synced().await;
        scales.synced().await;
    });
    start_stale(setup, pods);
}

fn start_stale(setup: &Setup, pods: Cache<Pod>) {
    let queue = Queue::new();
    let (clock, waiting) = (setup.clock.clone(), queue.clone());
    pods.on_change(move |change| {
        let stale = change
            .new
            .as_ref()
            .and_then(|pod| plan::stale_in(pod, clock.now()));
        if stale.is_some() {
            waiting.add(change.key());
        }
    });
    let controller = Stale {
        pods: pods.clone(),
        client: setup.client.clone(),
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, 1, async move { pods.synced().await });
}

/// Puts the budgets of a pod in the queue when something changes that they count.
fn on_pods(pods: &Cache<Pod>, budgets: &Cache<PodDisruptionBudget>, queue: &Queue<ObjectKey>) {
    let (budgets, queue) = (budgets.clone(), queue.clone());
    pods.on_change(move |change| {
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && is_same(old, new)
        {
            return;
        }
        for pod in change.both() {
            for budget in budgets.in_namespace(meta::namespace(&pod.metadata)) {
                if selector(&budget).matches(&pod.metadata.labels) {
                    queue.add(key_of(&budget.metadata));
                }
            }
        }
    });
}

/// Whether two states of a pod count the same for every budget.
fn is_same(a: &Pod, b: &Pod) -> bool {
    meta::uid(&a.metadata) == meta::uid(&b.metadata)
        && a.metadata.labels == b.metadata.labels
        && a.metadata.owner_references == b.metadata.owner_references
        && pod::is_ready(a) == pod::is_ready(b)
        && pod::is_terminating(a) == pod::is_terminating(b)
}

fn selector(budget: &PodDisruptionBudget) -> Selector {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    selector.map_or_else(Selector::nothing, adopt::selector_of)
}

impl Reconcile for Budgets {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "disruption"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(budget) = self.budgets.get(key) else {
            return Ok(Action::Done);
        };
        let mut pods = self.pods.in_namespace(&key.namespace);
        let selector = selector(&budget);
        pods.retain(|pod| selector.matches(&pod.metadata.labels));
        let now = self.clock.now();
        let disrupted = plan::disrupted(&pods, budget.status.as_ref(), now);
        match self.wish(&budget, &pods).await {
            Ok(wish) => {
                self.say_overdue(&budget, &disrupted);
                let new = plan::status(&budget, (&pods, &disrupted), wish, now);
                self.write(&budget, &new).await?;
                Ok(disrupted.look_in.map_or(Action::Done, look_after))
            }
            Err(why) => {
                let new = plan::failed(&budget, &why, now);
                self.write(&budget, &new).await?;
                Ok(Action::Done)
            }
        }
    }
}

/// A moment past the time, so that it is over then.
fn look_after(left: Duration) -> Action {
    Action::After(left + Duration::from_secs(1))
}

impl Budgets {
    /// Errors: why it cannot be worked out.
    async fn wish(
        &self,
        budget: &PodDisruptionBudget,
        pods: &[Arc<Pod>],
    ) -> Result<plan::Wish, String> {
        let spec = budget.spec.clone().unwrap_or_default();
        let about = client::reference(budget);
        if pods.is_empty() {
            let text = "No matching pods found";
            self.recorder.normal(&about, "NoPods", text);
        }
        let mut replicas = 0;
        if plan::is_relative(&spec) {
            match self.scales.of(pods).await {
                Ok(sum) => {
                    self.say_unmanaged(budget, &sum.unmanaged);
                    replicas = sum.replicas;
                }
                Err(why) => return Err(self.fails(budget, why)),
            }
        }
        plan::wish(&spec, pods.len(), replicas)
            .map_err(|error| self.fails(budget, error.to_string()))
    }

    fn fails(&self, budget: &PodDisruptionBudget, why: String) -> String {
        let text = format!("Failed to calculate the number of expected pods: {why}");
        let about = client::reference(budget);
        self.recorder
            .warning(&about, "CalculateExpectedPodCountFailed", text);
        why
    }

    fn say_unmanaged(&self, budget: &PodDisruptionBudget, unmanaged: &[String]) {
        if unmanaged.is_empty() {
            return;
        }
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let selector = serde_json::to_value(selector).unwrap_or_default();
        let text = format!(
            "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. \
             As a result, the status of the PDB cannot be calculated correctly, which may result \
             in undefined behavior. To account for these pods please set \".spec.minAvailable\" \
             field of the PDB to an integer value.",
            crate::api::selector::label::format_label_selector(&selector)
        );
        let about = client::reference(budget);
        self.recorder.warning(&about, "UnmanagedPods", text);
    }

    fn say_overdue(&self, budget: &PodDisruptionBudget, disrupted: &Disrupted) {
        let key = key_of(&budget.metadata);
        for pod in &disrupted.overdue {
            let text = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            let about = client::reference(&**pod);
            self.recorder.warning(&about, "NotDeleted", text);
        }
    }

    async fn write(
        &self,
        budget: &PodDisruptionBudget,
        new: &PodDisruptionBudgetStatus,
    ) -> Result<()> {
        let patch = status::patch(&budget.metadata, budget.status.as_ref(), new);
        let Some(Patch::Merge(mut patch)) = patch else {
            return Ok(());
        };
        patch["metadata"]["resourceVersion"] = json!(budget.metadata.resource_version);
        let namespace = meta::namespace(&budget.metadata);
        let api = self.client.namespaced::<PodDisruptionBudget>(namespace);
        let name = meta::name(&budget.metadata);
        match api.patch_status(name, &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl Reconcile for Stale {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        "stale_disruption"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let now = self.clock.now();
        let Some(pod) = self.pods.get(key) else {
            return Ok(Action::Done);
        };
        match plan::stale_in(&pod, now) {
            None => return Ok(Action::Done),
            Some(left) if !left.is_zero() => return Ok(look_after(left)),
            Some(_) => {}
        }
        let patch = Patch::Strategic(json!({
            "metadata": {"uid": pod.metadata.uid},
            "status": {"conditions": [{
                "type": "DisruptionTarget", "status": "False", "reason": null, "message": null,
                "lastTransitionTime": crate::api::time::seconds(now),
            }]},
        }));
        let api = self.client.namespaced::<Pod>(&key.namespace);
        match api.patch_status(&key.name, &patch).await {
            Ok(_) => Ok(Action::Done),
            // Gone, or another pod has the name by now.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(Action::Done),
            Err(error) => Err(error),
        }
    }
}
