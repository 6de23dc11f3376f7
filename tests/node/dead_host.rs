//! A host that dies: its node is NotReady and tainted, its Pods run elsewhere when their
//! tolerations end, and when it returns nothing stale is left. While the control plane waits for
//! the dead, the features of Pods are looked at on the living.

use serde_json::Value;

use super::features;
use super::support::hosts::{Host, Network};
use super::support::program::tail;
use super::support::wait::{ensure, eventually, secs};

const SPREAD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: spread}
spec:
  replicas: 4
  selector: {matchLabels: {app: spread}}
  template:
    metadata: {labels: {app: spread}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      containers:
      - {name: web, image: "nginx:1.22"}
"#;

/// Of every Pod of the Deployment: its node, whether it is Ready, whether it is being deleted.
fn pods(master: &Host) -> Vec<(String, bool, bool)> {
    let seen = master.kubectl(&["get", "pods", "-l", "app=spread", "-o", "json"]);
    let list: Value = serde_json::from_str(&seen.stdout).unwrap_or_default();
    let one = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array();
        let is_ready = conditions.is_some_and(|all| {
            all.iter()
                .any(|c| c["type"] == "Ready" && c["status"] == "True")
        });
        (
            pod["spec"]["nodeName"].as_str().unwrap_or("").to_owned(),
            is_ready,
            !pod["metadata"]["deletionTimestamp"].is_null(),
        )
    };
    let items = list["items"].as_array();
    items
        .map(|all| all.iter().map(one).collect())
        .unwrap_or_default()
}

fn ready_on(all: &[(String, bool, bool)], node: &str) -> usize {
    all.iter()
        .filter(|(at, is_ready, is_ending)| at == node && *is_ready && !is_ending)
        .count()
}

#[test]
fn pods_of_a_dead_host_run_elsewhere_and_it_returns_clean() {
    let mut network = Network::new();
    let master = network.host("master", "192.168.1.5");
    let worker = network.host("worker1", "192.168.1.6");
    let server = master.start_server(&[]);
    master.wait_ready();
    let agent = worker.start_agent(&master, &master.token(), &[]);
    master.wait_nodes(2);
    master.apply(SPREAD);
    eventually("two Pods Ready on each host", secs(60), || {
        let all = pods(&master);
        let is_even = ready_on(&all, "master") == 2 && ready_on(&all, "worker1") == 2;
        ensure(is_even, format!("{all:?}\n{}", tail(&worker.log())))
    });
    worker.power_off();
    drop(agent);
    features::on_one_host(&master);
    let taints = "jsonpath={.spec.taints[*].key}:{.spec.taints[*].effect}";
    eventually("the dead node is NotReady and tainted", secs(90), || {
        let node = master
            .kubectl(&["get", "node", "worker1", "--no-headers"])
            .stdout;
        let seen = master
            .kubectl(&["get", "node", "worker1", "-o", taints])
            .stdout;
        let is_tainted =
            seen.contains("node.kubernetes.io/unreachable") && seen.contains("NoExecute");
        ensure(
            node.contains("NotReady") && is_tainted,
            format!("{node} {seen}"),
        )
    });
    eventually("all four Pods run on the living host", secs(60), || {
        let all = pods(&master);
        ensure(ready_on(&all, "master") == 4, format!("{all:?}"))
    });
    let agent = worker.start_agent(&master, &master.token(), &[]);
    master.wait_nodes(2);
    eventually("nothing stale is left", secs(60), || {
        let all = pods(&master);
        let taints = master
            .kubectl(&["get", "node", "worker1", "-o", taints])
            .stdout;
        let left = std::fs::read_dir(worker.data().join("agent/pods")).map_or(0, Iterator::count);
        let is_clean = all.len() == 4 && ready_on(&all, "master") == 4;
        ensure(
            is_clean && taints == ":" && left == 0,
            format!("{all:?} {taints} {left}\n{}", tail(&worker.log())),
        )
    });
    master
        .kubectl(&["scale", "deployment/spread", "--replicas=6"])
        .expect_ok();
    eventually("the host takes Pods again", secs(60), || {
        let all = pods(&master);
        ensure(ready_on(&all, "worker1") == 2, format!("{all:?}"))
    });
    drop((agent, server));
}
