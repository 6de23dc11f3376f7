//! Plans as tables, and rollouts played against a model of nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use crate::api::{meta, pod};

use super::placement::{self, Placement, node_of};
use super::plan::{End, Plan, View, plan};

fn set(strategy: Value, pod: Value) -> DaemonSet {
    let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
    for (field, value) in pod.as_object().unwrap() {
        spec[field] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "log", "namespace": "d", "uid": "set", "generation": 1,
            "annotations": {"deprecated.daemonset.template.generation": "1"}},
        "spec": {"selector": {"matchLabels": {"app": "log"}}, "updateStrategy": strategy,
            "template": {"metadata": {"labels": {"app": "log"}}, "spec": spec}},
    }))
    .unwrap()
}

fn rolling(surge: Value, unavailable: Value) -> Value {
    json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
}

fn node(name: &str, taints: Value) -> Arc<Node> {
    let node = json!({"metadata": {"name": name, "labels": {"disk": "ssd"}},
        "spec": {"taints": taints}});
    Arc::new(serde_json::from_value(node).unwrap())
}

fn taint(key: &str, effect: &str) -> Value {
    json!([{"key": key, "effect": effect}])
}

struct World {
    set: DaemonSet,
    nodes: Vec<Arc<Node>>,
    pods: BTreeMap<String, Arc<Pod>>,
    hash: &'static str,
    made: usize,
    hold: Option<Duration>,
}

impl World {
    fn new(nodes: usize, strategy: Value) -> Self {
        Self {
            set: set(strategy, json!({})),
            nodes: (1..=nodes)
                .map(|n| node(&format!("n{n}"), json!([])))
                .collect(),
            pods: BTreeMap::new(),
            hash: "one",
            made: 0,
            hold: None,
        }
    }

    fn plan(&self) -> Plan {
        let pods: Vec<_> = self.pods.values().cloned().collect();
        plan(&View {
            set: &self.set,
            nodes: &self.nodes,
            pods: &pods,
            hash: self.hash,
            collisions: 0,
            is_settled: true,
            hold: &|_| self.hold,
            now: Timestamp::from_second(1_800_000_000).unwrap(),
        })
    }

    fn step(&mut self) -> Plan {
        let plan = self.plan();
        for node in &plan.create {
            self.made += 1;
            let mut pod = placement::tie(placement::pod(&self.set, self.hash), node);
            let name = format!("p{:03}", self.made);
            pod.metadata.name = Some(name.clone());
            self.pods.insert(name, Arc::new(pod));
        }
        for pod in &plan.delete {
            self.pods.remove(meta::name(&pod.metadata)).unwrap();
        }
        plan
    }

    /// Binds every pod and makes it ready where `runs` says so.
    fn run(&mut self, runs: impl Fn(&Pod) -> bool) {
        for pod in self.pods.values_mut().filter(|pod| runs(pod)) {
            set_phase(Arc::make_mut(pod), "Running");
        }
    }

    fn roll_out(&mut self) {
        self.hash = "two";
        let annotations = self.set.metadata.annotations.as_mut().unwrap();
        for value in annotations.values_mut() {
            "2".clone_into(value);
        }
    }

    fn settle(&mut self) {
        for _ in 0..50 {
            if self.step() == self.plan() {
                return;
            }
            self.run(|_| true);
        }
        panic!("never settles");
    }

    fn ready_nodes(&self) -> usize {
        let ready = self.pods.values().filter(|pod| pod::is_ready(pod));
        let nodes: std::collections::BTreeSet<_> = ready.map(|pod| node_of(pod)).collect();
        nodes.len()
    }
}

fn set_phase(pod: &mut Pod, phase: &str) {
    let node = node_of(pod).to_owned();
    pod.spec.as_mut().unwrap().node_name = Some(node);
    let ready = if phase == "Running" { "True" } else { "False" };
    let status = json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready,
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    pod.status = serde_json::from_value(status).unwrap();
}

#[test]
fn nodes_are_chosen_by_labels_names_and_taints() {
    let of = |pod: Value, node: &Node| {
        let verdict = Placement::of(&set(json!({}), pod)).judge(node);
        (verdict.should_run, verdict.may_stay)
    };
    let bare = || json!({});
    let affinity = |name: &str| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchFields": [
                {"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}})
    };
    let tolerates = json!({"tolerations": [{"key": "gpu", "operator": "Exists"}]});
    let host = json!({"hostNetwork": true});
    let network = "node.kubernetes.io/network-unavailable";
    let cordon = "node.kubernetes.io/unschedulable";
    for (pod, taints, expected) in [
        (bare(), json!([]), (true, true)),
        (
            json!({"nodeSelector": {"disk": "ssd"}}),
            json!([]),
            (true, true),
        ),
        (
            json!({"nodeSelector": {"disk": "hdd"}}),
            json!([]),
            (false, false),
        ),
        (json!({"nodeName": "n1"}), json!([]), (true, true)),
        (json!({"nodeName": "n2"}), json!([]), (false, false)),
        (affinity("n1"), json!([]), (true, true)),
        (affinity("n2"), json!([]), (false, false)),
        (bare(), taint("gpu", "NoSchedule"), (false, true)),
        (bare(), taint("gpu", "NoExecute"), (false, false)),
        (bare(), taint("gpu", "PreferNoSchedule"), (true, true)),
        (tolerates, taint("gpu", "NoExecute"), (true, true)),
        (bare(), taint(cordon, "NoSchedule"), (true, true)),
        (
            bare(),
            taint("node.kubernetes.io/not-ready", "NoExecute"),
            (true, true),
        ),
        (bare(), taint(network, "NoSchedule"), (false, true)),
        (host, taint(network, "NoSchedule"), (true, true)),
    ] {
        let node = node("n1", taints.clone());
        assert_eq!(of(pod.clone(), &node), expected, "{pod} {taints}");
    }
}

#[test]
fn a_pod_is_tied_to_its_node_and_labelled() {
    let set = set(rolling(json!(0), json!(1)), json!({}));
    let pod = placement::tie(placement::pod(&set, "abc"), "n7");
    assert_eq!(node_of(&pod), "n7");
    assert_eq!(
        meta::label(&pod.metadata, "controller-revision-hash"),
        Some("abc")
    );
    assert_eq!(
        meta::label(&pod.metadata, "pod-template-generation"),
        Some("1")
    );
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("log-"));
    let tolerations = pod.spec.unwrap().tolerations.unwrap();
    assert_eq!(tolerations.len(), 6);
}

#[test]
fn every_node_has_one_pod_and_nodes_come_and_go() {
    let mut world = World::new(3, rolling(json!(0), json!(1)));
    assert_eq!(world.step().create, ["n1", "n2", "n3"]);
    assert!(world.step().create.is_empty());
    world.run(|_| true);
    let status = world.plan().status;
    assert_eq!(status.desired_number_scheduled, 3);
    assert_eq!(
        (status.current_number_scheduled, status.number_ready),
        (3, 3)
    );
    assert_eq!(
        (status.number_available, status.number_unavailable),
        (Some(3), None)
    );
    assert_eq!(status.updated_number_scheduled, Some(3));
    world.nodes.push(node("n4", json!([])));
    assert_eq!(world.step().create, ["n4"]);
    // The pod that waits for a node which is gone has no use; one that was bound is the pod GC's.
    world.nodes.pop();
    assert_eq!(world.step().delete.len(), 1);
    world.nodes.pop();
    assert!(world.step().delete.is_empty());
    world.nodes[0] = node("n1", taint("gpu", "NoSchedule"));
    let plan = world.step();
    assert!(plan.delete.is_empty());
    assert_eq!(plan.status.number_misscheduled, 1);
    world.nodes[0] = node("n1", taint("gpu", "NoExecute"));
    assert_eq!(world.step().delete.len(), 1);
}

#[test]
fn failed_pods_are_replaced_after_a_while_and_succeeded_ones_at_once() {
    let mut world = World::new(2, rolling(json!(0), json!(1)));
    world.settle();
    let phases = ["Failed", "Succeeded"];
    for (pod, phase) in world.pods.values_mut().zip(phases) {
        set_phase(Arc::make_mut(pod), phase);
    }
    world.hold = Some(Duration::from_secs(4));
    let plan = world.plan();
    assert_eq!(plan.look_in, world.hold);
    assert_eq!(plan.ended.len(), 1);
    assert_eq!(plan.ended[0].0, End::Succeeded);
    world.hold = None;
    assert_eq!(world.step().ended.len(), 2);
    assert_eq!(world.step().create, ["n1", "n2"]);
}

#[test]
fn the_oldest_of_several_pods_on_a_node_stays() {
    let mut world = World::new(1, rolling(json!(0), json!(1)));
    world.settle();
    let mut second = (*world.pods["p001"]).clone();
    second.metadata.name = Some("p000-waiting".to_owned());
    second.spec.as_mut().unwrap().node_name = None;
    world
        .pods
        .insert("p000-waiting".to_owned(), Arc::new(second));
    let plan = world.step();
    assert_eq!(meta::name(&plan.delete[0].metadata), "p000-waiting");
    assert_eq!(plan.delete.len(), 1);
}

#[test]
fn a_rollout_leaves_as_many_available_as_asked() {
    for (surge, unavailable, missing, extra) in [
        (json!(0), json!(1), 1, 0),
        (json!(0), json!("40%"), 2, 0),
        (json!(1), json!(0), 0, 1),
        (json!("40%"), json!(0), 0, 2),
        (json!(0), json!(0), 1, 0),
    ] {
        let mut world = World::new(5, rolling(surge.clone(), unavailable.clone()));
        world.settle();
        world.roll_out();
        for _ in 0..60 {
            world.step();
            assert!(world.pods.len() <= 5 + extra, "{surge} {unavailable}");
            assert!(world.ready_nodes() >= 5 - missing, "{surge} {unavailable}");
            let waiting = world.pods.values().find(|pod| !pod::is_ready(pod));
            let name = waiting.and_then(|pod| pod.metadata.name.clone());
            world.run(|pod| pod.metadata.name == name);
        }
        let hashes = world.pods.values().map(|pod| {
            let label = meta::label(&pod.metadata, "controller-revision-hash");
            label.unwrap().to_owned()
        });
        assert_eq!(
            hashes.collect::<Vec<_>>(),
            ["two"; 5],
            "{surge} {unavailable}"
        );
    }
}

#[test]
fn old_pods_that_are_not_available_are_replaced_beyond_the_limit() {
    let mut world = World::new(3, rolling(json!(0), json!(1)));
    world.settle();
    for pod in world.pods.values_mut().take(2) {
        set_phase(Arc::make_mut(pod), "Pending");
    }
    world.roll_out();
    assert_eq!(world.step().delete.len(), 3);
}

#[test]
fn on_delete_replaces_nothing_by_itself() {
    let mut world = World::new(2, json!({"type": "OnDelete"}));
    world.settle();
    world.roll_out();
    assert!(world.step().delete.is_empty());
    world.pods.pop_first();
    assert_eq!(world.step().create.len(), 1);
    world.run(|_| true);
    assert_eq!(world.plan().status.updated_number_scheduled, Some(1));
}
