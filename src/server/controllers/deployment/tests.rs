//! Plans as tables, and whole rollouts played against a model of the ReplicaSet controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::api::{meta, workload};

use super::plan::{Plan, REVISION, Step, View, plan};
use super::wanted;

/// A deployment and its sets, as if stored; time passes by hand.
struct World {
    deployment: Deployment,
    sets: BTreeMap<String, ReplicaSet>,
    now: i64,
    old_pods_linger: bool,
}

impl World {
    fn new(replicas: i32, strategy: Value) -> Self {
        let deployment = json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "dep", "generation": 1},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2, "strategy": strategy,
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "v1"}]}}},
        });
        Self {
            deployment: serde_json::from_value(deployment).unwrap(),
            sets: BTreeMap::new(),
            now: 1_700_000_000,
            old_pods_linger: false,
        }
    }

    fn rolling(replicas: i32, surge: &str, unavailable: &str) -> Self {
        let posts = [surge, unavailable].map(|text| match text.parse::<i32>() {
            Ok(number) => Value::from(number),
            Err(_) => text.into(),
        });
        Self::new(
            replicas,
            json!({"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": posts[0], "maxUnavailable": posts[1]}}),
        )
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_second(self.now).unwrap()
    }

    fn image(&mut self, image: &str) {
        let spec = self.deployment.spec.template.spec.as_mut().unwrap();
        spec.containers[0].image = Some(image.to_owned());
        self.touch();
    }

    fn touch(&mut self) {
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn plan(&self) -> Plan {
        let sets: Vec<_> = self.sets.values().cloned().map(Arc::new).collect();
        plan(&View {
            deployment: &self.deployment,
            sets: &sets,
            has_running_pods: &|_| self.old_pods_linger,
            now: self.at(),
        })
    }

    /// One reconcile, carried out.
    fn step(&mut self) -> Plan {
        let plan = self.plan();
        for step in &plan.steps {
            self.carry_out(step);
        }
        self.deployment.status = Some(plan.status.clone());
        plan
    }

    fn carry_out(&mut self, step: &Step) {
        match step {
            Step::Annotate { annotations } => {
                let mut value = serde_json::to_value(&self.deployment).unwrap();
                merge(
                    &mut value,
                    &json!({"metadata": {"annotations": annotations}}),
                );
                self.deployment = serde_json::from_value(value).unwrap();
            }
            Step::Create(set) => {
                let mut set = (**set).clone();
                self.now += 1;
                set.metadata.creation_timestamp = Some(Time(self.at()));
                set.metadata.uid.clone_from(&set.metadata.name);
                let name = meta::name(&set.metadata).to_owned();
                assert!(self.sets.insert(name, set).is_none(), "created twice");
            }
            Step::Update { set, change, .. } => {
                let set = self.sets.get_mut(meta::name(&set.metadata)).unwrap();
                let mut value = serde_json::to_value(&*set).unwrap();
                merge(&mut value, change);
                *set = serde_json::from_value(value).unwrap();
            }
            Step::Delete(set) => {
                self.sets.remove(meta::name(&set.metadata)).unwrap();
            }
        }
    }

    /// Every set gets the pods it asks for, all ready where `ready` says so of its image.
    fn pods(&mut self, ready: impl Fn(&str) -> bool) {
        for set in self.sets.values_mut() {
            let wanted = set.spec.replicas.unwrap_or(0);
            let available = if ready(&image(set)) { wanted } else { 0 };
            let status = set.status.get_or_insert_default();
            status.replicas = wanted;
            status.ready_replicas = Some(available);
            status.available_replicas = Some(available);
        }
    }

    /// Reconciles and lets pods follow until nothing changes; looks at each state.
    fn settle(&mut self, mut look: impl FnMut(&Self)) {
        for _ in 0..100 {
            let plan = self.step();
            look(self);
            self.pods(|_| true);
            if plan.steps.is_empty() && self.plan().status == plan.status {
                return;
            }
        }
        panic!("it does not settle: {:?}", self.sizes());
    }

    /// Image → replicas, of sets that ask for any.
    fn sizes(&self) -> BTreeMap<String, i64> {
        let sets = self.sets.values().filter(|set| wanted(set) > 0);
        sets.map(|set| (image(set), wanted(set))).collect()
    }

    fn condition(&self, kind: &str) -> (String, String) {
        let conditions = self.deployment.status.as_ref().unwrap().conditions.as_ref();
        let found = conditions
            .unwrap()
            .iter()
            .find(|c| c.type_.as_deref() == Some(kind));
        let found = found.unwrap();
        (found.status.clone().unwrap(), found.reason.clone().unwrap())
    }
}

fn image(set: &ReplicaSet) -> String {
    let spec = set.spec.template.as_ref().unwrap().spec.as_ref().unwrap();
    spec.containers[0].image.clone().unwrap()
}

fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (field, value) in change {
                merge(into.entry(field).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

fn sizes<const N: usize>(expected: [(&str, i64); N]) -> BTreeMap<String, i64> {
    expected
        .map(|(image, size)| (image.to_owned(), size))
        .into()
}

#[test]
fn a_first_rollout_creates_one_set_and_completes() {
    let mut world = World::rolling(3, "25%", "25%");
    let plan = world.step();
    let Step::Create(set) = &plan.steps[0] else {
        panic!("{:?}", plan.steps);
    };
    let hash = workload::template_hash(&world.deployment.spec.template, None);
    assert_eq!(meta::name(&set.metadata), format!("web-{hash}"));
    assert_eq!(set.spec.replicas, Some(3));
    assert_eq!(world.condition("Progressing").1, "NewReplicaSetCreated");
    assert_eq!(world.condition("Available").0, "False");
    world.settle(|_| {});
    assert_eq!(world.condition("Progressing").1, "NewReplicaSetAvailable");
    assert_eq!(world.condition("Available").0, "True");
    let status = world.deployment.status.as_ref().unwrap();
    assert_eq!(status.available_replicas, Some(3));
    assert_eq!(status.observed_generation, Some(1));
    assert_eq!(
        meta::annotation(&world.deployment.metadata, REVISION),
        Some("1")
    );
    assert_eq!(world.plan().steps, [], "it rests");
    assert_eq!(world.plan().look_again, None);
}

#[test]
fn a_rolling_update_keeps_within_surge_and_unavailability() {
    for (surge, unavailable, most, least) in
        [("25%", "25%", 5, 3), ("1", "0", 5, 4), ("0", "1", 4, 3)]
    {
        let mut world = World::rolling(4, surge, unavailable);
        world.settle(|_| {});
        world.image("v2");
        world.settle(|world| {
            let total: i64 = world.sets.values().map(wanted).sum();
            assert!(total <= most, "{surge} {unavailable}: {:?}", world.sizes());
            let available: i32 = world
                .sets
                .values()
                .filter_map(|set| {
                    Some(
                        set.status
                            .as_ref()?
                            .available_replicas?
                            .min(set.spec.replicas?),
                    )
                })
                .sum();
            assert!(
                available >= least,
                "{surge} {unavailable}: {:?}",
                world.sizes()
            );
        });
        assert_eq!(world.sizes(), sizes([("v2", 4)]));
        assert_eq!(
            meta::annotation(&world.deployment.metadata, REVISION),
            Some("2")
        );
    }
}

#[test]
fn a_broken_image_stops_the_rollout_and_the_deadline_tells() {
    let mut world = World::rolling(4, "1", "1");
    world.settle(|_| {});
    world.image("broken");
    for _ in 0..10 {
        world.step();
        world.pods(|image| image != "broken");
    }
    assert_eq!(world.sizes(), sizes([("broken", 2), ("v1", 3)]));
    let look = world.plan().look_again.unwrap();
    assert!(look <= Duration::from_secs(601), "{look:?}");
    world.now += 700;
    world.step();
    let timed_out = ("False".to_owned(), "ProgressDeadlineExceeded".to_owned());
    assert_eq!(world.condition("Progressing"), timed_out);
    assert_eq!(world.plan().look_again, None);
}

#[test]
fn undo_makes_the_old_set_new_again_with_the_next_revision() {
    let mut world = World::rolling(2, "1", "0");
    for image in ["v1", "v2", "v1"] {
        world.image(image);
        world.settle(|_| {});
    }
    assert_eq!(world.sets.len(), 2);
    assert_eq!(world.sizes(), sizes([("v1", 2)]));
    let set = world.sets.values().find(|set| image(set) == "v1").unwrap();
    assert_eq!(meta::annotation(&set.metadata, REVISION), Some("3"));
    let history = "deployment.kubernetes.io/revision-history";
    assert_eq!(meta::annotation(&set.metadata, history), Some("1"));
}

#[test]
fn history_beyond_the_limit_is_deleted_oldest_first() {
    let mut world = World::rolling(1, "1", "0");
    for version in 1..=5 {
        world.image(&format!("v{version}"));
        world.settle(|_| {});
    }
    let mut images: Vec<_> = world.sets.values().map(image).collect();
    images.sort();
    assert_eq!(images, ["v3", "v4", "v5"]);
}

#[test]
fn scaling_during_a_rollout_is_proportional() {
    let mut world = World::rolling(10, "3", "2");
    world.settle(|_| {});
    world.image("v2");
    for _ in 0..3 {
        world.step();
        world.pods(|image| image == "v1");
    }
    assert_eq!(world.sizes(), sizes([("v1", 8), ("v2", 5)]));
    world.deployment.spec.replicas = Some(15);
    world.touch();
    world.step();
    assert_eq!(world.sizes(), sizes([("v1", 11), ("v2", 7)]));
    world.pods(|_| true);
    world.settle(|_| {});
    assert_eq!(world.sizes(), sizes([("v2", 15)]));
}

#[test]
fn plain_scaling_follows_at_once_also_to_zero_and_back() {
    let mut world = World::rolling(3, "25%", "25%");
    world.settle(|_| {});
    for replicas in [7, 0, 2] {
        world.deployment.spec.replicas = Some(replicas);
        world.touch();
        world.settle(|_| {});
        let expected = i64::from(replicas);
        assert_eq!(world.sizes().get("v1").copied().unwrap_or(0), expected);
        assert_eq!(world.condition("Progressing").1, "NewReplicaSetAvailable");
    }
    assert_eq!(world.sets.len(), 1);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::rolling(2, "1", "0");
    world.settle(|_| {});
    world.deployment.spec.paused = Some(true);
    world.image("v2");
    world.deployment.spec.replicas = Some(4);
    world.settle(|_| {});
    assert_eq!(world.sizes(), sizes([("v1", 4)]));
    assert_eq!(world.condition("Progressing").1, "DeploymentPaused");
    world.deployment.spec.paused = None;
    world.touch();
    world.settle(|_| {});
    assert_eq!(world.sizes(), sizes([("v2", 4)]));
}

#[test]
fn recreate_waits_for_the_old_pods_to_be_gone() {
    let mut world = World::new(3, json!({"type": "Recreate"}));
    world.settle(|_| {});
    world.image("v2");
    world.old_pods_linger = true;
    for _ in 0..5 {
        world.step();
        world.pods(|_| true);
    }
    assert_eq!(world.sizes(), sizes([]));
    assert_eq!(world.sets.len(), 1);
    world.old_pods_linger = false;
    world.settle(|_| {});
    assert_eq!(world.sizes(), sizes([("v2", 3)]));
}

#[test]
fn a_stranger_with_the_same_name_leads_to_another_hash() {
    let mut world = World::rolling(1, "1", "0");
    let name = |plan: &Plan| match &plan.steps[0] {
        Step::Create(set) => meta::name(&set.metadata).to_owned(),
        other => panic!("{other:?}"),
    };
    let first = name(&world.plan());
    let status = world.deployment.status.get_or_insert_default();
    status.collision_count = Some(1);
    assert_ne!(first, name(&world.plan()));
}
