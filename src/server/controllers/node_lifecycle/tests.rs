//! Plans as tables, and silence measured by the monotonic clock.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::server::controllers::testing::{list, requests, setup};

fn now() -> Timestamp {
    Timestamp::from_second(1_700_000_000).unwrap()
}

fn node_json(name: &str, ready: &str) -> Value {
    json!({
        "metadata": {"name": name, "uid": name, "resourceVersion": "5"},
        "spec": {},
        "status": {"conditions": [
            {"type": "Ready", "status": ready, "lastHeartbeatTime": now().to_string()},
            {"type": "MemoryPressure", "status": "False"},
            {"type": "DiskPressure", "status": "False"},
            {"type": "PIDPressure", "status": "False"}]},
    })
}

fn node(ready: &str, change: impl Fn(&mut Value)) -> Node {
    let mut value = node_json("n", ready);
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn view(node: &Node) -> View<'_> {
    View {
        node,
        is_silent: false,
        now: now(),
        disruption: Disruption::None,
        may_evict: true,
    }
}

fn taints(plan: &plan::Plan) -> Vec<String> {
    let taints = plan.taints.iter().flatten();
    taints.map(|t| format!("{}:{}", t.key, t.effect)).collect()
}

#[test]
fn a_silent_node_is_unknown_and_unreachable() {
    let node = node("True", |_| {});
    let plan = plan::plan(&View {
        is_silent: true,
        ..view(&node)
    });
    let conditions = plan.conditions.as_ref().unwrap();
    assert_eq!(conditions.len(), 4);
    assert!(
        conditions
            .iter()
            .all(|c| c.status == "Unknown" && c.reason.as_deref() == Some("NodeStatusUnknown"))
    );
    let both = [
        "node.kubernetes.io/unreachable:NoSchedule",
        "node.kubernetes.io/unreachable:NoExecute",
    ];
    assert_eq!(taints(&plan), both);
    assert!(plan.evicts && !plan.is_ready);
    assert!(plan.taints.unwrap()[1].time_added.is_some());
}

#[test]
fn a_node_that_returns_loses_our_taints_and_keeps_others() {
    let with = |taints: Value| move |n: &mut Value| n["spec"]["taints"] = taints.clone();
    let tainted = json!([
        {"key": "mine", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]);
    let back = node("True", with(tainted.clone()));
    assert_eq!(taints(&plan::plan(&view(&back))), ["mine:NoExecute"]);
    let unready = node("False", with(tainted));
    let plan = plan::plan(&View {
        may_evict: false,
        ..view(&unready)
    });
    let expected = [
        "mine:NoExecute",
        "node.kubernetes.io/not-ready:NoSchedule",
        "node.kubernetes.io/not-ready:NoExecute",
    ];
    assert_eq!(taints(&plan), expected, "it had no pods to lose any more");
    let fine = node("True", |_| {});
    assert_eq!(plan::plan(&view(&fine)).taints, None);
}

#[test]
fn pressure_and_cordon_keep_new_pods_away() {
    let pressed = node("True", |n| {
        n["status"]["conditions"][2]["status"] = "True".into();
        n["spec"]["unschedulable"] = true.into();
    });
    let expected = [
        "node.kubernetes.io/disk-pressure:NoSchedule",
        "node.kubernetes.io/unschedulable:NoSchedule",
    ];
    assert_eq!(taints(&plan::plan(&view(&pressed))), expected);
}

#[test]
fn pods_stay_where_too_many_nodes_fail_or_too_fast() {
    let gone = node("Unknown", |_| {});
    for (disruption, may_evict, waits) in [
        (Disruption::Full, true, false),
        (Disruption::Partial, true, false),
        (Disruption::None, false, true),
    ] {
        let plan = plan::plan(&View {
            disruption,
            may_evict,
            ..view(&gone)
        });
        assert_eq!(taints(&plan), ["node.kubernetes.io/unreachable:NoSchedule"]);
        assert_eq!((plan.evicts, plan.waits_to_evict), (false, waits));
    }
    let of = |states: &[bool]| Disruption::of(states.iter().map(|ready| ("z", *ready)), "z");
    assert_eq!(of(&[false, true, true]), Disruption::None);
    assert_eq!(of(&[false, false, true]), Disruption::None);
    assert_eq!(of(&[false, false, false, true, true]), Disruption::Partial);
    assert_eq!(of(&[false]), Disruption::Full);
    let two_zones = [("a", false), ("b", true)];
    assert_eq!(Disruption::of(two_zones.into_iter(), "a"), Disruption::None);
}

#[tokio::test(start_paused = true)]
async fn a_lease_renewed_in_time_keeps_a_node_and_silence_marks_node_and_pods() {
    let (fake, setup) = setup();
    fake.answer(
        "GET /api/v1/nodes",
        list(&[node_json("a", "True"), node_json("b", "True")]),
    );
    let pod = json!({"metadata": {"name": "p", "namespace": "d", "uid": "p"},
        "spec": {"nodeName": "a", "containers": []},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    fake.answer("GET /api/v1/pods", list(std::slice::from_ref(&pod)));
    fake.answer("GET /apis/coordination.k8s.io/v1/leases", list(&[]));
    fake.answer("PATCH /api/v1/nodes/a/status", node_json("a", "Unknown"));
    fake.answer("PATCH /api/v1/nodes/a", node_json("a", "Unknown"));
    fake.answer("PATCH /api/v1/namespaces/d/pods/p/status", pod);
    fake.answer(
        "POST /api/v1/namespaces/default/events",
        json!({"involvedObject": {}}),
    );
    fake.answer(
        "POST /api/v1/namespaces/d/events",
        json!({"involvedObject": {}}),
    );
    let mut leases = fake.stream("/apis/coordination.k8s.io/v1/leases");
    start(&setup);
    for second in 0..6 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let lease = json!({"type": "MODIFIED", "object": {"metadata":
            {"name": "b", "namespace": "kube-node-lease", "resourceVersion": "20"},
            "spec": {"renewTime": format!("2026-01-01T00:00:{second:02}.000000Z")}}});
        leases.send_data(format!("{lease}\n").into()).await.unwrap();
    }
    requests(&fake, "PATCH /api/v1/namespaces/d/pods/p/status", 1).await;
    let taints = requests(&fake, "PATCH /api/v1/nodes/a ", 0).await;
    assert!(taints.is_empty());
    let seen = fake.seen();
    assert!(seen.iter().any(|(line, _)| line == "PATCH /api/v1/nodes/a"));
    assert!(
        !seen
            .iter()
            .any(|(line, _)| line.starts_with("PATCH /api/v1/nodes/b"))
    );
    setup.tasks.shutdown(Duration::from_secs(5)).await;
}
