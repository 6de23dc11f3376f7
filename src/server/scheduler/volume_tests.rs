//! Claims, volumes and nodes: tables.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::object::ObjectKey;
use crate::util::rng::Rng;

use super::cycle::{Decision, cycle};
use super::pod::PodInfo;
use super::profile::Profile;
use super::snapshot::Snapshot;
use super::testing::{node, pod};
use super::volumes::Step;

const ZONE: &str = "topology.kubernetes.io/zone";

fn typed<T: DeserializeOwned>(value: Value) -> Option<Arc<T>> {
    Some(Arc::new(serde_json::from_value(value).unwrap()))
}

/// Nodes `a` in zone `x` and `b` in zone `y`.
fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.set_node(node("a").label(ZONE, "x").build());
    snapshot.set_node(node("b").label(ZONE, "y").build());
    snapshot
}

fn claim(name: &str, spec: Value, bound: bool) -> Value {
    let done = if bound {
        json!({"pv.kubernetes.io/bind-completed": "yes"})
    } else {
        json!({})
    };
    let mut claim = json!({"metadata": {"name": name, "namespace": "default", "uid": name,
        "annotations": done},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    for (key, value) in spec.as_object().unwrap() {
        claim["spec"][key] = value.clone();
    }
    claim
}

fn volume(name: &str, spec: Value) -> Value {
    let mut volume = json!({"metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}}});
    for (key, value) in spec.as_object().unwrap() {
        volume["spec"][key] = value.clone();
    }
    volume
}

fn in_zone(zone: &str) -> Value {
    json!({"required": {"nodeSelectorTerms": [{"matchExpressions":
        [{"key": ZONE, "operator": "In", "values": [zone]}]}]}})
}

fn set_claim(snapshot: &mut Snapshot, object: Value) {
    let key = ObjectKey::new("default", object["metadata"]["name"].as_str().unwrap());
    snapshot.volumes_mut().set_claim(&key, typed(object));
}

fn set_volume(snapshot: &mut Snapshot, object: Value) {
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    snapshot.volumes_mut().set_volume(&name, typed(object));
}

fn class(snapshot: &mut Snapshot, name: &str, mode: &str, provisioner: &str) {
    let object = json!({"metadata": {"name": name}, "provisioner": provisioner,
        "volumeBindingMode": mode});
    snapshot.volumes_mut().set_class(name, typed(object));
}

fn user(name: &str, claim: &str) -> Arc<PodInfo> {
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
    pod(name).spec("volumes", volumes).info()
}

fn decide(snapshot: &Snapshot, pod: &PodInfo) -> Result<String, String> {
    match cycle(snapshot, pod, &Profile::default(), &mut 0, &Rng::seeded(3)) {
        Decision::Bind(node) => Ok(node.to_string()),
        Decision::Unschedulable(why, outcome) => Err(why.message_after(&outcome)),
    }
}

#[test]
fn what_is_wrong_with_a_claim_stands_against_every_node() {
    let mut nodes = cluster();
    let after = "no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is \
                 not helpful for scheduling.";
    let told = |nodes: &Snapshot| decide(nodes, &user("p", "data")).unwrap_err();
    assert_eq!(
        told(&nodes),
        format!("0/2 nodes are available: persistentvolumeclaim \"data\" not found. {after}")
    );
    set_claim(
        &mut nodes,
        claim("data", json!({"storageClassName": "now"}), false),
    );
    class(&mut nodes, "now", "Immediate", "x.y/z");
    assert_eq!(
        told(&nodes),
        format!(
            "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. {after}"
        )
    );
}

#[test]
fn a_bound_volume_says_where_its_pod_can_be() {
    let mut nodes = cluster();
    set_claim(&mut nodes, claim("data", json!({"volumeName": "pv"}), true));
    let why = decide(&nodes, &user("p", "data")).unwrap_err();
    assert!(
        why.contains("2 node(s) unavailable due to one or more pvc(s)"),
        "{why}"
    );
    set_volume(
        &mut nodes,
        volume("pv", json!({"nodeAffinity": in_zone("y")})),
    );
    assert_eq!(decide(&nodes, &user("p", "data")).unwrap(), "b");
    nodes.remove_node("b");
    let why = decide(&nodes, &user("p", "data")).unwrap_err();
    assert!(
        why.contains("1 node(s) had volume node affinity conflict"),
        "{why}"
    );
    let mut zoned = volume("pv", json!({}));
    zoned["metadata"]["labels"][ZONE] = "y__z".into();
    set_volume(&mut nodes, zoned);
    let why = decide(&nodes, &user("p", "data")).unwrap_err();
    assert!(
        why.contains("1 node(s) had no available volume zone"),
        "{why}"
    );
}

#[test]
fn a_waiting_claim_takes_the_smallest_volume_in_reach_or_has_one_made() {
    let mut nodes = cluster();
    class(
        &mut nodes,
        "local",
        "WaitForFirstConsumer",
        "kubernetes.io/no-provisioner",
    );
    set_claim(
        &mut nodes,
        claim("data", json!({"storageClassName": "local"}), false),
    );
    let pod = user("p", "data");
    let why = decide(&nodes, &pod).unwrap_err();
    assert!(
        why.contains("2 node(s) didn't find available persistent volumes to bind"),
        "{why}"
    );
    for (name, size) in [("big", "9Gi"), ("fit", "1Gi"), ("tiny", "1Mi")] {
        let spec = json!({"storageClassName": "local", "nodeAffinity": in_zone("x"),
            "capacity": {"storage": size}});
        set_volume(&mut nodes, volume(name, spec));
    }
    assert_eq!(decide(&nodes, &pod).unwrap(), "a");
    let steps = nodes
        .volumes()
        .plan(&pod, nodes.node("a").unwrap())
        .unwrap();
    let [Step::Take(taken, _)] = steps.as_slice() else {
        panic!("{steps:?}");
    };
    assert_eq!(taken.metadata.name.as_deref(), Some("fit"));
    nodes
        .volumes_mut()
        .promise("fit", &ObjectKey::new("default", "data"));
    let steps = nodes.volumes().plan(&pod, nodes.node("a").unwrap());
    assert_eq!(steps, Some(vec![Step::Wait]), "it is promised already");
    class(&mut nodes, "made", "WaitForFirstConsumer", "x.y/z");
    let mut made = claim("made", json!({"storageClassName": "made"}), false);
    set_claim(&mut nodes, made.clone());
    let pod = user("q", "made");
    let steps = nodes
        .volumes()
        .plan(&pod, nodes.node("b").unwrap())
        .unwrap();
    assert!(
        matches!(steps.as_slice(), [Step::Provision(_)]),
        "{steps:?}"
    );
    made["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] = "b".into();
    set_claim(&mut nodes, made);
    assert_eq!(
        decide(&nodes, &pod).unwrap(),
        "b",
        "its volume is being made there"
    );
}

#[test]
fn one_pod_uses_a_claim_of_one_pod_and_a_more_important_one_gets_it() {
    let mut nodes = cluster();
    let modes = json!({"accessModes": ["ReadWriteOncePod"], "volumeName": "pv"});
    set_claim(&mut nodes, claim("data", modes, true));
    set_volume(&mut nodes, volume("pv", json!({})));
    nodes.place(user("first", "data"), "a");
    let why = decide(&nodes, &user("second", "data")).unwrap_err();
    assert!(
        why.contains(
            "2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod \
             access mode"
        ),
        "{why}"
    );
    nodes.unplace(&ObjectKey::new("default", "first"));
    assert!(decide(&nodes, &user("second", "data")).is_ok());
}

#[test]
fn a_node_holds_as_many_volumes_as_its_driver_says() {
    let mut nodes = cluster();
    nodes.remove_node("b");
    let limit = json!({"metadata": {"name": "a"}, "spec": {"drivers": [
        {"name": "d.csi", "nodeID": "a", "allocatable": {"count": 1}}]}});
    nodes.volumes_mut().set_csi_node("a", typed(limit));
    for name in ["one", "two"] {
        let spec = json!({"csi": {"driver": "d.csi", "volumeHandle": name}});
        set_volume(&mut nodes, volume(name, spec));
        set_claim(&mut nodes, claim(name, json!({"volumeName": name}), true));
    }
    nodes.place(user("p", "one"), "a");
    assert!(
        decide(&nodes, &user("same", "one")).is_ok(),
        "it is there already"
    );
    let why = decide(&nodes, &user("q", "two")).unwrap_err();
    assert!(why.contains("1 node(s) exceed max volume count"), "{why}");
}
