//! Who has to go, and where: tables over small clusters, and properties over random ones.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::api::object::ObjectKey;
use crate::util::rng::Rng;

use super::cycle::{Decision, cycle};
use super::pod::PodInfo;
use super::preempt::Outcome;
use super::profile::Profile;
use super::snapshot::Snapshot;
use super::testing::{NodeBuilder, PodBuilder, node, pod};

fn cluster(nodes: impl IntoIterator<Item = NodeBuilder>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for node in nodes {
        snapshot.set_node(node.build());
    }
    snapshot
}

fn outcome(snapshot: &Snapshot, pod: &PodInfo) -> Outcome {
    match cycle(snapshot, pod, &Profile::default(), &mut 0, &Rng::seeded(7)) {
        Decision::Bind(node) => panic!("bound to {node}"),
        Decision::Unschedulable(_, outcome) => outcome,
    }
}

/// The node and the names of the victims.
fn room(snapshot: &Snapshot, pod: &PodInfo) -> (String, Vec<String>) {
    match outcome(snapshot, pod) {
        Outcome::Room { node, victims } => {
            let names = victims.iter().map(|victim| victim.0.key.name.clone());
            (node.to_string(), names.collect())
        }
        other => panic!("{other:?}"),
    }
}

fn why(snapshot: &Snapshot, pod: &PodInfo) -> String {
    match outcome(snapshot, pod) {
        Outcome::Useless(why) | Outcome::Ineligible(why) => why,
        Outcome::Room { node, victims } => panic!("{node}: {victims:?}"),
    }
}

fn urgent(cpu: &str) -> PodBuilder {
    pod("urgent").priority(100).cpu(cpu)
}

fn place(snapshot: &mut Snapshot, node: &str, pods: &[(&str, i32, &str)]) {
    for (name, priority, cpu) in pods {
        snapshot.place(pod(name).priority(*priority).cpu(cpu).info(), node);
    }
}

#[test]
fn as_few_go_as_will_do_the_less_important_first() {
    let mut nodes = cluster([node("a")]);
    place(
        &mut nodes,
        "a",
        &[("x", 5, "1"), ("y", 1, "1"), ("z", 3, "2")],
    );
    assert_eq!(
        room(&nodes, &urgent("1").info()),
        ("a".into(), vec!["y".into()])
    );
    // `y` alone is not enough, and with `z` gone it may stay.
    assert_eq!(
        room(&nodes, &urgent("2").info()),
        ("a".into(), vec!["z".into()])
    );
    assert_eq!(
        room(&nodes, &urgent("4").info()),
        ("a".into(), vec!["x".into(), "z".into(), "y".into()])
    );
}

#[test]
fn the_node_where_least_is_lost_is_chosen() {
    // The highest priority lost decides first, then the sum, then the number.
    let mut nodes = cluster(["a", "b"].map(node));
    place(&mut nodes, "a", &[("high", 50, "4")]);
    place(&mut nodes, "b", &[("low1", 10, "2"), ("low2", 10, "2")]);
    assert_eq!(room(&nodes, &urgent("4").info()).0, "b");
    let mut nodes = cluster(["a", "b"].map(node));
    place(&mut nodes, "a", &[("one", 10, "4")]);
    place(&mut nodes, "b", &[("two", 10, "2"), ("three", 5, "2")]);
    assert_eq!(room(&nodes, &urgent("4").info()).0, "a");
}

fn budget(name: &str, app: &str, allowed: i32) -> (ObjectKey, Value) {
    let object = json!({"metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": app}}},
        "status": {"disruptionsAllowed": allowed, "currentHealthy": 1, "desiredHealthy": 1,
            "expectedPods": 1}});
    (ObjectKey::new("default", name), object)
}

#[test]
fn budgets_are_kept_as_far_as_possible() {
    let mut nodes = cluster(["a", "b"].map(node));
    let guarded = pod("guarded").label("app", "g").cpu("4").priority(1);
    nodes.place(guarded.info(), "a");
    place(&mut nodes, "b", &[("free", 50, "4")]);
    let (key, object) = budget("pdb", "g", 0);
    let object = Arc::new(serde_json::from_value(object).unwrap());
    nodes.budgets_mut().set(&key, Some(object));
    assert_eq!(room(&nodes, &urgent("4").info()).0, "b");
    // Where nothing else helps, the budget gives way.
    nodes.remove_node("b");
    assert_eq!(room(&nodes, &urgent("4").info()).0, "a");
    // With one disruption allowed, the lower priority decides.
    nodes.set_node(node("b").build());
    let (key, object) = budget("pdb", "g", 1);
    let object = Arc::new(serde_json::from_value(object).unwrap());
    nodes.budgets_mut().set(&key, Some(object));
    assert_eq!(room(&nodes, &urgent("4").info()).0, "a");
}

#[test]
fn nobody_goes_where_it_does_not_help() {
    let mut nodes = cluster([node("a"), node("b").cordoned(), node("c").cpu("1")]);
    place(&mut nodes, "a", &[("equal", 100, "4")]);
    place(&mut nodes, "c", &[("low", 1, "1")]);
    assert_eq!(
        why(&nodes, &urgent("3").info()),
        "0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is \
         not helpful for scheduling."
    );
    let never = urgent("3").spec("preemptionPolicy", json!("Never"));
    assert_eq!(
        why(&nodes, &never.info()),
        "not eligible due to preemptionPolicy=Never."
    );
}

#[test]
fn host_ports_and_anti_affinity_are_given_up_too() {
    let mut nodes = cluster([node("a")]);
    nodes.place(pod("web").host_port(80).info(), "a");
    nodes.place(pod("idle").info(), "a");
    let wants = pod("urgent").priority(1).host_port(80).info();
    assert_eq!(room(&nodes, &wants).1, ["web"]);

    let mut nodes = cluster([node("a")]);
    let apart = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [{"topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": "w"}}}]}});
    nodes.place(pod("old").label("app", "w").info(), "a");
    nodes.place(pod("idle").info(), "a");
    let new = pod("urgent").priority(1).label("app", "w");
    let new = new.spec("affinity", apart.clone()).info();
    assert_eq!(room(&nodes, &new).1, ["old"]);
    // The other way round: those that are there do not want it.
    let mut nodes = cluster([node("a")]);
    nodes.place(pod("old").spec("affinity", apart).info(), "a");
    let new = pod("urgent").priority(1).label("app", "w").info();
    assert_eq!(room(&nodes, &new).1, ["old"]);
}

#[test]
fn a_nominated_pod_keeps_its_room_from_those_less_important() {
    let mut nodes = cluster([node("a")]);
    let waiting = pod("waiting").priority(10).cpu("3").info();
    nodes.nominations_mut().set(waiting.clone(), "a");
    let decide = |nodes: &Snapshot, pod: &PodInfo| {
        cycle(nodes, pod, &Profile::default(), &mut 0, &Rng::seeded(7))
    };
    let bound = |decision| matches!(decision, Decision::Bind(_));
    assert!(!bound(decide(&nodes, &pod("low").cpu("2").info())));
    assert!(bound(decide(&nodes, &pod("small").cpu("1").info())));
    assert!(bound(decide(&nodes, &urgent("2").info())));
    assert!(
        bound(decide(&nodes, &waiting)),
        "it does not stand in its own way"
    );
    nodes.nominations_mut().withdraw(&waiting.key);
    assert!(bound(decide(&nodes, &pod("low").cpu("2").info())));
}

#[test]
fn a_second_round_of_victims_waits_for_the_first_to_end() {
    let mut nodes = cluster([node("a")]);
    let mut leaving = pod("leaving").priority(1).cpu("4").json();
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    leaving["status"] = json!({"conditions": [{"type": "DisruptionTarget", "status": "True",
        "reason": "PreemptionByScheduler"}]});
    let leaving = Arc::new(serde_json::from_value(leaving).unwrap());
    nodes.place(Arc::new(PodInfo::new(leaving)), "a");
    let urgent = urgent("4").info();
    nodes.nominations_mut().set(urgent.clone(), "a");
    assert_eq!(
        why(&nodes, &urgent),
        "not eligible due to a terminating pod on the nominated node."
    );
}

proptest! {
    #[test]
    fn victims_are_less_important_needed_and_enough(
        pods in prop::collection::vec((0..3_usize, 0..5_i32, 1..20_i64), 1..20),
        wanted in 1..40_i64,
        priority in 0..6_i32,
    ) {
        let names = ["a", "b", "c"];
        let mut nodes = cluster(names.map(node));
        for (i, (at, priority, cpu)) in pods.iter().enumerate() {
            let pod = pod(&format!("p{i}")).priority(*priority).cpu(&format!("{cpu}00m")).info();
            let room = nodes.node(names[*at]).unwrap();
            if room.requested.milli_cpu + cpu * 100 <= 4000 {
                nodes.place(pod, names[*at]);
            }
        }
        let urgent = pod("urgent").priority(priority).cpu(&format!("{wanted}00m")).info();
        let decide = |nodes: &Snapshot| {
            cycle(nodes, &urgent, &Profile::default(), &mut 0, &Rng::seeded(1))
        };
        let first = decide(&nodes);
        prop_assert_eq!(&first, &decide(&nodes));
        if let Decision::Unschedulable(_, Outcome::Room { node, victims }) = first {
            prop_assert!(!victims.is_empty());
            let free = |nodes: &Snapshot| 4000 - nodes.node(&node).unwrap().requested.milli_cpu;
            for victim in &victims {
                prop_assert!(victim.0.priority < priority);
                // Whoever of them stayed, there would be no room.
                let back: i64 = victim.0.requests.milli_cpu;
                let all: i64 = victims.iter().map(|v| v.0.requests.milli_cpu).sum();
                prop_assert!(free(&nodes) + all - back < wanted * 100);
            }
            for victim in &victims {
                nodes.unplace(&victim.0.key);
            }
            prop_assert!(free(&nodes) >= wanted * 100);
        }
    }
}
