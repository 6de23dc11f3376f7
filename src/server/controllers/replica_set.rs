//! Keeps as many pods running for each ReplicaSet as its spec asks; and for each
//! ReplicationController, which is looked at as the ReplicaSet it would be (upstream does the same
//! with an adapter).
//!
//! Writes: pods it controls; `status` of the set. Never writes a `spec` it did not create.
//! Two sets selecting the same orphan race for it; the loser sees a conflict and tries again.
//!
//! The cache lags behind what was written. What was asked for and not seen yet is noted in
//! [`Expectations`]; until it is seen, only the status is brought up to date.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus,
};
use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};

use crate::api::{meta, object::ObjectKey, pod};
use crate::client::{
    self, Cache, Client, Error, Kind, Queue, Result,
    controller::{Action, Reconcile},
};
use crate::util::{clock::Clock, errors::chain};

use super::Setup;
use super::shared::{
    adopt,
    expectations::{Expectations, UNANSWERED_MOST},
    pod_control::PodControl,
    pods, status, wire,
};

const WORKERS: usize = 5;

/// What can be looked at as a ReplicaSet.
trait Replicated: Kind {
    const CONTROLLER: &'static str;
    /// Who tells its events.
    const COMPONENT: &'static str;
    /// Whether its status counts pods that end.
    const COUNTS_TERMINATING: bool;

    fn as_set(self: &Arc<Self>) -> Arc<ReplicaSet>;

    fn selector(&self) -> LabelSelector;
}

struct Replicas<K> {
    owners: Cache<K>,
    pods: Cache<Pod>,
    expectations: Arc<Expectations>,
    client: Client,
    control: PodControl,
    clock: Clock,
}

/// What to change so that a set has the pods it asks for.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    create: usize,
    delete: Vec<Arc<Pod>>,
}

/// Starts both.
pub(super) fn start(setup: &Setup) {
    start_for::<ReplicaSet>(setup);
    start_for::<ReplicationController>(setup);
}

fn start_for<K: Replicated>(setup: &Setup) {
    let (owners, pods) = (setup.informers.cache::<K>(), setup.informers.cache::<Pod>());
    let queue = Queue::new();
    let expectations = Arc::new(Expectations::default());
    adopt::index_orphans(&pods);
    wire::on_own(&owners, &queue);
    pods::observe(&pods, &expectations);
    wire::on_owned(&pods, K::KIND, &queue);
    wire::on_orphan(
        &pods,
        &owners,
        |owner: &K, pod| adopt::selector_of(&owner.selector()).matches(&pod.labels),
        &queue,
    );
    let controller = Replicas {
        owners: owners.clone(),
        pods: pods.clone(),
        client: setup.client.clone(),
        control: PodControl {
            client: setup.client.clone(),
            recorder: setup.recorder(K::COMPONENT),
            expectations: expectations.clone(),
        },
        expectations,
        clock: setup.clock.clone(),
    };
    setup.run(controller, queue, WORKERS, async move {
        owners.synced().await;
        pods.synced().await;
    });
}

impl Replicated for ReplicaSet {
    const CONTROLLER: &'static str = "replica_set";
    const COMPONENT: &'static str = "replicaset-controller";
    const COUNTS_TERMINATING: bool = true;

    fn as_set(self: &Arc<Self>) -> Arc<ReplicaSet> {
        self.clone()
    }

    fn selector(&self) -> LabelSelector {
        self.spec.selector.clone()
    }
}

impl Replicated for ReplicationController {
    const CONTROLLER: &'static str = "replication_controller";
    const COMPONENT: &'static str = "replication-controller";
    const COUNTS_TERMINATING: bool = false;

    fn as_set(self: &Arc<Self>) -> Arc<ReplicaSet> {
        let spec = self.spec.clone().unwrap_or_default();
        Arc::new(ReplicaSet {
            metadata: self.metadata.clone(),
            spec: ReplicaSetSpec {
                min_ready_seconds: spec.min_ready_seconds,
                replicas: spec.replicas,
                selector: self.selector(),
                template: spec.template,
            },
            status: self.status.clone().map(set_status),
        })
    }

    fn selector(&self) -> LabelSelector {
        LabelSelector {
            match_labels: self.spec.as_ref().and_then(|spec| spec.selector.clone()),
            match_expressions: None,
        }
    }
}

fn set_status(status: ReplicationControllerStatus) -> ReplicaSetStatus {
    let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
        type_: Some(c.type_),
        status: Some(c.status),
        reason: c.reason,
        message: c.message,
        last_transition_time: c.last_transition_time,
    };
    let conditions = status.conditions;
    ReplicaSetStatus {
        available_replicas: status.available_replicas,
        conditions: conditions.map(|all| all.into_iter().map(condition).collect()),
        fully_labeled_replicas: status.fully_labeled_replicas,
        observed_generation: status.observed_generation,
        ready_replicas: status.ready_replicas,
        replicas: status.replicas,
        terminating_replicas: None,
    }
}

impl<K: Replicated> Reconcile for Replicas<K> {
    type Key = ObjectKey;

    fn name(&self) -> &'static str {
        K::CONTROLLER
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action> {
        let Some(owner) = self.owners.get(key) else {
            return Ok(Action::Done);
        };
        let set = owner.as_set();
        let uid = meta::uid(&set.metadata);
        if set.metadata.deletion_timestamp.is_some() {
            self.expectations.forget(uid);
        }
        let selector = adopt::selector_of(&set.spec.selector);
        let claim = adopt::claim(&set.metadata, &selector, &self.pods);
        adopt::settle(&self.client, &*owner, &claim).await?;
        let now = self.clock.now();
        let mut result = Ok(());
        if self.expectations.are_met(uid) && !meta::is_terminating(&set.metadata) {
            let plan = plan(&set, &claim.mine, || self.related(&set), now);
            result = self.carry_out(&*owner, &set, plan).await;
        }
        self.write_status(&set, &claim.mine, &result).await?;
        result?;
        let look = next_look(&set, &claim.mine, now);
        if self.expectations.are_met(uid) {
            return Ok(look);
        }
        Ok(look.sooner(Action::After(UNANSWERED_MOST)))
    }
}

impl<K: Replicated> Replicas<K> {
    /// All pods of the workload the set is part of.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let Some(owner) = meta::controller_of(&set.metadata) else {
            return self.pods.controlled_by(meta::uid(&set.metadata));
        };
        let sets = self.owners.controlled_by(&owner.uid);
        sets.iter()
            .flat_map(|set| self.pods.controlled_by(meta::uid(set.metadata())))
            .collect()
    }

    async fn carry_out(&self, owner: &K, set: &ReplicaSet, plan: Plan) -> Result<()> {
        let about = client::reference(owner);
        if plan.create == 0 {
            return self.control.delete(&about, &plan.delete).await;
        }
        let reference = meta::controller_ref(K::API_VERSION, K::KIND, &set.metadata);
        let template = set.spec.template.clone().unwrap_or_default();
        let pod = pods::from_template(&template, &set.metadata, reference);
        self.control
            .create(&about, plan.create, |_| pod.clone())
            .await
    }

    async fn write_status(
        &self,
        set: &ReplicaSet,
        pods: &[Arc<Pod>],
        result: &Result<()>,
    ) -> Result<()> {
        let mut new = status_of(set, pods, result.as_ref().err(), self.clock.now());
        if !K::COUNTS_TERMINATING {
            new.terminating_replicas = None;
        }
        let Some(patch) = status::patch(&set.metadata, set.status.as_ref(), &new) else {
            return Ok(());
        };
        let api = self.client.namespaced::<K>(meta::namespace(&set.metadata));
        match api.patch_status(meta::name(&set.metadata), &patch).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// How many pods to create, or which to delete. `related` is only asked for where pods go.
fn plan(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    related: impl FnOnce() -> Vec<Arc<Pod>>,
    now: Timestamp,
) -> Plan {
    let active: Vec<_> = pods.iter().filter(|p| pod::is_active(p)).cloned().collect();
    let wanted = usize::try_from(set.spec.replicas.unwrap_or(1)).unwrap_or(0);
    if active.len() < wanted {
        return Plan {
            create: (wanted - active.len()).min(pods::BURST),
            ..Plan::default()
        };
    }
    let surplus = (active.len() - wanted).min(pods::BURST);
    if surplus == 0 {
        return Plan::default();
    }
    Plan {
        delete: pods::to_delete(&active, &related(), surplus, now),
        ..Plan::default()
    }
}

fn status_of(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<&Error>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let template = set.spec.template.as_ref().and_then(|t| t.metadata.as_ref());
    let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
    let active = pods.iter().filter(|pod| pod::is_active(pod));
    let count = |test: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.clone().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
    };
    let some = |count: i32| (count > 0).then_some(count);
    let old = set.status.clone().unwrap_or_default();
    let replicas = count(&|_| true);
    let terminating = pods
        .iter()
        .filter(|pod| pod::is_terminating(pod) && !pod::is_terminal(pod));
    ReplicaSetStatus {
        replicas,
        fully_labeled_replicas: some(count(&|pod| has_labels(&pod.metadata, template))),
        ready_replicas: some(count(&pod::is_ready)),
        available_replicas: some(count(&|pod| pod::is_available(pod, min_ready, now))),
        terminating_replicas: i32::try_from(terminating.count()).ok(),
        observed_generation: set.metadata.generation,
        conditions: conditions(set, old.conditions, replicas, failure, now),
    }
}

fn has_labels(pod: &ObjectMeta, template: Option<&ObjectMeta>) -> bool {
    let labels = template.and_then(|t| t.labels.as_ref());
    labels
        .into_iter()
        .flatten()
        .all(|(key, value)| meta::label(pod, key) == Some(value))
}

/// `ReplicaFailure` where pods could not be created or deleted.
fn conditions(
    set: &ReplicaSet,
    old: Option<Vec<ReplicaSetCondition>>,
    replicas: i32,
    failure: Option<&Error>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let is_failure = |c: &ReplicaSetCondition| c.type_.as_deref() == Some("ReplicaFailure");
    let mut conditions = old.unwrap_or_default();
    let known = conditions.iter().any(is_failure);
    match failure {
        None => conditions.retain(|c| !is_failure(c)),
        Some(_) if known => {}
        Some(error) => {
            let few = replicas < set.spec.replicas.unwrap_or(1);
            let reason = if few { "FailedCreate" } else { "FailedDelete" };
            conditions.push(ReplicaSetCondition {
                type_: Some("ReplicaFailure".to_owned()),
                status: Some("True".to_owned()),
                reason: Some(reason.to_owned()),
                message: Some(chain(error)),
                last_transition_time: Some(Time(now)),
            });
        }
    }
    (!conditions.is_empty()).then_some(conditions)
}

/// When the next pod becomes available by time alone, and when unmet expectations are given up.
fn next_look(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> Action {
    let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
    if min_ready == 0 {
        return Action::Done;
    }
    let active = pods.iter().filter(|pod| pod::is_active(pod));
    let next = active
        .filter_map(|pod| pod::available_at(pod, min_ready))
        .filter(|at| *at > now)
        .min();
    match next {
        None => Action::Done,
        Some(at) => {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            Action::After(wait)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::ApiError;
    use serde_json::json;

    fn now() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({
            "metadata": {"name": "s", "uid": "s", "generation": 3},
            "spec": {"replicas": replicas, "minReadySeconds": 10,
                "selector": {"matchLabels": {"app": "w"}},
                "template": {"metadata": {"labels": {"app": "w"}}}},
        }))
        .unwrap()
    }

    fn pod(name: &str, phase: &str, ready_seconds_ago: Option<i64>) -> Arc<Pod> {
        let since = ready_seconds_ago.unwrap_or(0);
        let since = Timestamp::from_second(now().as_second() - since).unwrap();
        let ready = if ready_seconds_ago.is_some() {
            "True"
        } else {
            "False"
        };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "uid": name, "labels": {"app": "w"}},
                "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready,
                    "lastTransitionTime": since.to_string()}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn missing_pods_are_created_and_surplus_ones_deleted_worst_first() {
        let pods = [
            pod("good", "Running", Some(60)),
            pod("new", "Pending", None),
            pod("failed", "Failed", None),
        ];
        let plan_for = |replicas| plan(&set(replicas), &pods, || pods.to_vec(), now());
        assert_eq!(plan_for(5).create, 3);
        assert_eq!(plan_for(2), Plan::default());
        let one = plan_for(1);
        assert_eq!(one.create, 0);
        assert_eq!(meta::name(&one.delete[0].metadata), "new");
        assert_eq!(plan_for(2000).create, pods::BURST);
    }

    #[test]
    fn the_status_counts_pods_by_readiness_and_time() {
        let pods = [
            pod("old", "Running", Some(60)),
            pod("fresh", "Running", Some(3)),
            pod("starting", "Pending", None),
            pod("done", "Succeeded", None),
        ];
        let status = status_of(&set(3), &pods, None, now());
        assert_eq!(status.replicas, 3);
        assert_eq!(status.fully_labeled_replicas, Some(3));
        assert_eq!(status.ready_replicas, Some(2));
        assert_eq!(status.available_replicas, Some(1));
        assert_eq!(status.observed_generation, Some(3));
        assert_eq!(status.conditions, None);
        let look = next_look(&set(3), &pods, now());
        assert_eq!(look, Action::After(Duration::from_secs(7)));
    }

    #[test]
    fn a_refusal_is_a_condition_until_it_is_over() {
        let refused: Error = ApiError::forbidden("", "pods", "s-x", "exceeded quota").into();
        let mut set = set(3);
        let status = status_of(&set, &[], Some(&refused), now());
        let condition = &status.conditions.as_ref().unwrap()[0];
        assert_eq!(condition.reason.as_deref(), Some("FailedCreate"));
        assert_eq!(
            condition.message.as_deref(),
            Some("pods \"s-x\" is forbidden: exceeded quota")
        );
        set.status = Some(status);
        assert_eq!(status_of(&set, &[], None, now()).conditions, None);
    }

    #[test]
    fn a_replication_controller_is_looked_at_as_a_set() {
        let controller: ReplicationController = serde_json::from_value(json!({
            "metadata": {"name": "r", "uid": "r", "generation": 1},
            "spec": {"replicas": 3, "selector": {"app": "w"},
                "template": {"metadata": {"labels": {"app": "w"}}}},
            "status": {"replicas": 2, "readyReplicas": 1},
        }))
        .unwrap();
        let set = Arc::new(controller).as_set();
        let selector = adopt::selector_of(&set.spec.selector);
        assert!(selector.matches(&json!({"app": "w"})) && !selector.matches(&json!({"app": "x"})));
        assert_eq!(plan(&set, &[], Vec::new, now()).create, 3);
        let status = set.status.clone().unwrap();
        assert_eq!((status.replicas, status.ready_replicas), (2, Some(1)));
    }
}
