//! Plans as tables, and whole lives of a set played against a model of nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};

use crate::api::meta;

use super::identity;
use super::plan::{Plan, Step, Version, View, plan, revision};

/// A set, its pods and claims, as if stored.
struct World {
    set: StatefulSet,
    pods: BTreeMap<String, Pod>,
    claims: BTreeMap<String, PersistentVolumeClaim>,
    current: &'static str,
    update: &'static str,
    now: i64,
    uids: usize,
    /// What was done with pods, in order.
    log: Vec<String>,
}

impl World {
    fn new(replicas: i32, more: Value) -> Self {
        let mut spec = json!({"replicas": replicas, "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]}}});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let set = json!({"metadata": {"name": "db", "namespace": "d", "uid": "set",
            "generation": 1}, "spec": spec});
        Self {
            set: serde_json::from_value(set).unwrap(),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            current: "db-1",
            update: "db-1",
            now: 1_700_000_000,
            uids: 0,
            log: Vec::new(),
        }
    }

    fn resize(&mut self, replicas: i32) {
        self.set.spec.replicas = Some(replicas);
    }

    fn plan(&self) -> Plan {
        let pods: Vec<_> = self.pods.values().cloned().map(Arc::new).collect();
        let template = &self.set.spec.template;
        let version = |name| Version { name, template };
        plan(&View {
            set: &self.set,
            current: version(self.current),
            update: version(self.update),
            pods: &pods,
            claim: &|name| self.claims.get(name).cloned().map(Arc::new),
            collisions: 0,
            now: Timestamp::from_second(self.now).unwrap(),
        })
    }

    /// One look, carried out.
    fn step(&mut self) -> Plan {
        let plan = self.plan();
        for step in plan.phases.iter().flatten() {
            self.take(step);
        }
        if plan.status.current_revision.as_deref() == Some(self.update) {
            self.current = self.update;
        }
        self.set.status = Some(plan.status.clone());
        plan
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Create { pod, claims } => {
                let mut pod = (**pod).clone();
                self.uids += 1;
                pod.metadata.uid = Some(self.uids.to_string());
                pod.status.get_or_insert_default().phase = Some("Pending".to_owned());
                let name = meta::name(&pod.metadata).to_owned();
                self.log.push(format!("+{name}"));
                assert!(self.pods.insert(name, pod).is_none(), "created twice");
                self.add(claims);
            }
            Step::AddClaims { claims, .. } => self.add(claims),
            Step::Refuse { .. } => {}
            Step::Label { pod, labels } => {
                let pod = self.pods.get_mut(meta::name(&pod.metadata)).unwrap();
                let known = pod.metadata.labels.get_or_insert_default();
                known.extend(labels.clone());
            }
            Step::Own { claim, owners } => {
                let claim = self.claims.get_mut(meta::name(&claim.metadata)).unwrap();
                claim.metadata.owner_references = Some(owners.clone());
            }
            Step::Delete(pod) => {
                let name = meta::name(&pod.metadata);
                self.log.push(format!("-{name}"));
                self.pods.remove(name).unwrap();
            }
        }
    }

    fn add(&mut self, claims: &[PersistentVolumeClaim]) {
        for claim in claims {
            let name = meta::name(&claim.metadata).to_owned();
            assert!(self.claims.insert(name, claim.clone()).is_none());
        }
    }

    /// Every pod for which `runs` says so is ready since now, where it is not ready yet.
    fn nodes(&mut self, runs: impl Fn(&Pod) -> bool) {
        let now = Timestamp::from_second(self.now).unwrap().to_string();
        for pod in self.pods.values_mut() {
            let is_running = crate::api::pod::is_ready(pod);
            if is_running || !runs(pod) {
                continue;
            }
            let status = json!({"phase": "Running", "conditions": [{"type": "Ready",
                "status": "True", "lastTransitionTime": now}]});
            pod.status = serde_json::from_value(status).unwrap();
        }
    }

    /// Looks until nothing is to be done, with nodes that run everything; returns what was done.
    fn settle(&mut self) -> String {
        for _ in 0..100 {
            let plan = self.step();
            self.nodes(|_| true);
            if plan.phases.is_empty() && self.plan().status == plan.status {
                return std::mem::take(&mut self.log).join(" ");
            }
        }
        panic!("never settles: {:?}", self.log);
    }

    fn names(&self) -> Vec<&str> {
        self.pods.keys().map(String::as_str).collect()
    }
}

fn rolling(strategy: Value) -> Value {
    json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": strategy}})
}

#[test]
fn pods_come_in_order_and_go_in_reverse() {
    let mut world = World::new(3, json!({}));
    assert_eq!(world.settle(), "+db-0 +db-1 +db-2");
    let status = world.set.status.clone().unwrap();
    assert_eq!((status.replicas, status.ready_replicas), (3, Some(3)));
    assert_eq!(status.current_revision.as_deref(), Some("db-1"));
    world.resize(1);
    assert_eq!(world.settle(), "-db-2 -db-1");
    world.resize(0);
    assert_eq!(world.settle(), "-db-0");
}

#[test]
fn each_waits_until_those_before_it_are_available() {
    let mut world = World::new(2, json!({"minReadySeconds": 10}));
    world.step();
    assert!(world.step().phases.is_empty());
    world.nodes(|_| true);
    let plan = world.step();
    assert!(plan.phases.is_empty());
    assert_eq!(plan.status.ready_replicas, Some(1));
    assert_eq!(plan.status.available_replicas, Some(0));
    assert_eq!(plan.wake_at.map(|at| at.as_second()), Some(world.now + 10));
    world.now += 10;
    world.step();
    assert_eq!(world.names(), ["db-0", "db-1"]);
}

#[test]
fn parallel_pods_come_and_go_at_once() {
    let mut world = World::new(
        3,
        json!({"podManagementPolicy": "Parallel",
        "ordinals": {"start": 5}}),
    );
    let plan = world.step();
    assert!(!plan.in_order);
    assert_eq!(world.names(), ["db-5", "db-6", "db-7"]);
    world.resize(1);
    world.step();
    assert_eq!(world.names(), ["db-5"]);
}

#[test]
fn a_pod_has_its_name_labels_and_claims() {
    let mut world = World::new(
        1,
        json!({
        "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"a": "b"}}, "spec": {}}],
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}}}),
    );
    world.step();
    let pod = &world.pods["db-0"];
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!(spec.hostname.as_deref(), Some("db-0"));
    assert_eq!(spec.subdomain.as_deref(), Some("db"));
    let volumes = serde_json::to_value(&spec.volumes).unwrap();
    assert_eq!(
        volumes[0]["persistentVolumeClaim"]["claimName"],
        "data-db-0"
    );
    assert_eq!(volumes[1]["name"], "tmp");
    let labels = json!({"app": "db", "statefulset.kubernetes.io/pod-name": "db-0",
        "apps.kubernetes.io/pod-index": "0", "controller-revision-hash": "db-1"});
    assert_eq!(serde_json::to_value(&pod.metadata.labels).unwrap(), labels);
    let claim = &world.claims["data-db-0"];
    let labels = serde_json::to_value(&claim.metadata.labels).unwrap();
    assert_eq!(labels, json!({"a": "b", "app": "db"}));
    assert!(identity::is_claim_of(&world.set, "data-db-0"));
    assert!(!identity::is_claim_of(&world.set, "data-dba-0"));
}

#[test]
fn names_of_others_are_not_its_own() {
    let set = ObjectMeta {
        name: Some("db".to_owned()),
        ..ObjectMeta::default()
    };
    for (name, expected) in [
        ("db-0", Some(0)),
        ("db-12", Some(12)),
        ("db-01", None),
        ("db--1", None),
        ("db-x", None),
        ("dbx-1", None),
        ("db-a-1", None),
    ] {
        assert_eq!(identity::ordinal(&set, name), expected, "{name}");
    }
}

#[test]
fn a_rollout_goes_from_the_highest_down_to_the_partition() {
    let mut world = World::new(3, rolling(json!({"partition": 1})));
    world.settle();
    world.update = "db-2";
    assert_eq!(world.settle(), "-db-2 +db-2 -db-1 +db-1");
    let status = world.set.status.clone().unwrap();
    assert_eq!(status.current_revision.as_deref(), Some("db-1"));
    assert_eq!(status.update_revision.as_deref(), Some("db-2"));
    assert_eq!(
        (status.current_replicas, status.updated_replicas),
        (Some(1), Some(2))
    );
    // Below the partition a lost pod comes back as it was.
    world.pods.remove("db-0");
    assert_eq!(world.settle(), "+db-0");
    assert_eq!(revision(&world.pods["db-0"]), Some("db-1"));
    let strategy = world.set.spec.update_strategy.as_mut().unwrap();
    strategy.rolling_update.as_mut().unwrap().partition = Some(0);
    assert_eq!(world.settle(), "-db-0 +db-0");
    let status = world.set.status.clone().unwrap();
    assert_eq!(status.current_revision.as_deref(), Some("db-2"));
    assert_eq!(status.current_replicas, Some(3));
}

#[test]
fn no_more_are_unavailable_than_allowed() {
    for (most, policy, wanted) in [
        (json!(1), "OrderedReady", 1),
        (json!(2), "Parallel", 2),
        (json!("50%"), "Parallel", 2),
        (json!("10%"), "Parallel", 1),
    ] {
        let mut world = World::new(
            5,
            json!({"podManagementPolicy": policy, "updateStrategy":
            {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": most}}}),
        );
        world.settle();
        world.update = "db-2";
        for _ in 0..50 {
            world.step();
            let ready = world
                .pods
                .values()
                .filter(|p| crate::api::pod::is_ready(p))
                .count();
            assert!(5 - ready <= wanted, "{most}");
            // One of the waiting pods becomes ready at a time.
            let waiting = world.pods.values().find(|p| !crate::api::pod::is_ready(p));
            let name = waiting.and_then(|p| p.metadata.name.clone());
            world.nodes(|p| p.metadata.name == name);
        }
        assert!(world.pods.values().all(|p| revision(p) == Some("db-2")));
    }
}

#[test]
fn a_broken_rollout_stops_and_a_fix_takes_the_broken_pod_first() {
    let mut world = World::new(3, json!({"podManagementPolicy": "Parallel"}));
    world.settle();
    world.update = "db-bad";
    for _ in 0..5 {
        world.step();
        world.nodes(|p| revision(p) != Some("db-bad"));
    }
    assert_eq!(std::mem::take(&mut world.log).join(" "), "-db-2 +db-2");
    world.update = "db-good";
    assert_eq!(world.settle(), "-db-2 +db-2 -db-1 +db-1 -db-0 +db-0");
}

#[test]
fn on_delete_replaces_nothing_by_itself() {
    let mut world = World::new(2, json!({"updateStrategy": {"type": "OnDelete"}}));
    world.settle();
    world.update = "db-2";
    assert_eq!(world.settle(), "");
    world.pods.remove("db-1");
    world.settle();
    assert_eq!(revision(&world.pods["db-1"]), Some("db-2"));
    assert_eq!(revision(&world.pods["db-0"]), Some("db-1"));
}

#[test]
fn a_pod_that_ended_is_replaced() {
    let mut world = World::new(2, json!({}));
    world.settle();
    let pod = world.pods.get_mut("db-0").unwrap();
    pod.status.as_mut().unwrap().phase = Some("Failed".to_owned());
    assert_eq!(world.settle(), "-db-0 +db-0");
}

#[test]
fn claims_go_with_what_the_policy_says() {
    let owners = |world: &World, claim: &str| {
        let owners = world.claims[claim]
            .metadata
            .owner_references
            .iter()
            .flatten();
        owners.map(|o| o.kind.clone()).collect::<Vec<_>>()
    };
    for (deleted, scaled, while_wanted, while_condemned) in [
        ("Retain", "Retain", None, None),
        ("Delete", "Retain", Some("StatefulSet"), Some("StatefulSet")),
        ("Retain", "Delete", None, Some("Pod")),
        ("Delete", "Delete", Some("StatefulSet"), Some("Pod")),
    ] {
        let mut world = World::new(
            2,
            json!({
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}),
        );
        world.settle();
        let expected: Vec<_> = while_wanted.into_iter().collect();
        assert_eq!(owners(&world, "data-db-1"), expected, "{deleted} {scaled}");
        world.resize(1);
        world.settle();
        let expected: Vec<_> = while_condemned.into_iter().collect();
        assert_eq!(owners(&world, "data-db-1"), expected, "{deleted} {scaled}");
        // Back up: what goes with its old pod is waited for.
        world.resize(2);
        let waits = while_condemned == Some("Pod");
        assert_eq!(world.step().phases.is_empty(), waits, "{deleted} {scaled}");
    }
}

#[test]
fn a_claim_that_goes_holds_its_pod_back() {
    let mut world = World::new(
        1,
        json!({
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}),
    );
    let going = json!({"metadata": {"name": "data-db-0",
        "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let going = serde_json::from_value(going).unwrap();
    world.claims.insert("data-db-0".to_owned(), going);
    let plan = world.step();
    let why = "pvc data-db-0 is being deleted".to_owned();
    let pod = "db-0".to_owned();
    assert_eq!(plan.phases, [[Step::Refuse { pod, why }]]);
    world.claims.clear();
    world.step();
    assert_eq!(world.names(), ["db-0"]);
}
