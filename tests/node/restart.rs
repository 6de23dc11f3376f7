//! What runs goes on running: the server, the agent in it and containerd are killed, and nothing
//! happens to containers, writes or watches.

use std::collections::BTreeSet;

use super::support::hosts::{Host, Network};
use super::support::program::{signal, tail};
use super::support::wait::{ensure, eventually, secs};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: "nginx:1.22"}
"#;

const COUNTER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: busybox:1.35
    command: [sh, -c, "i=0; while :; do echo $i; i=$((i+1)); sleep 0.1; done"]
"#;

/// A watch of ConfigMaps from a resourceVersion on: what it tells at once.
fn watched_since(host: &Host, version: &str) -> String {
    let path = format!(
        "/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=1&resourceVersion={version}"
    );
    host.kubectl(&["get", "--raw", &path]).expect_ok()
}

/// The counter's log has every number from 0 on.
fn log_has_no_hole(host: &Host) {
    let log = host.kubectl(&["logs", "counter"]).expect_ok();
    let numbers: Vec<usize> = log.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.iter().copied().eq(0..numbers.len()), "{log}");
}

fn wait_running(host: &Host) {
    eventually("two Pods Ready", secs(60), || {
        let seen = host.kubectl(&["get", "pods", "-l", "app=web", "--no-headers"]);
        let ready = seen
            .stdout
            .lines()
            .filter(|line| line.contains("1/1"))
            .count();
        ensure(
            ready == 2,
            format!("{}{}\n{}", seen.stdout, seen.stderr, tail(&host.log())),
        )
    });
}

fn restarts(host: &Host) -> String {
    let path = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    host.kubectl(&["get", "pods", "-l", "app=web", "-o", path])
        .expect_ok()
}

#[test]
fn killing_the_server_touches_nothing() {
    let mut network = Network::new();
    let host = network.host("master", "192.168.1.5");
    let server = host.start_server(&[]);
    host.wait_ready();
    host.wait_nodes(1);
    host.apply(&format!("{WEB}---{COUNTER}"));
    wait_running(&host);
    let before: BTreeSet<_> = network.processes_named("nginx").into_iter().collect();
    assert!(before.len() >= 2, "{before:?}");
    let containerd = host.processes_named("containerd");
    assert_eq!(containerd.len(), 1, "{containerd:?}");
    signal(containerd[0], libc::SIGKILL);
    eventually("containerd is started again", secs(30), || {
        let seen = host.processes_named("containerd");
        ensure(seen.len() == 1 && seen != containerd, format!("{seen:?}"))
    });
    let create = ["create", "configmap", "first", "-o"];
    let create = [&create[..], &["jsonpath={.metadata.resourceVersion}"]].concat();
    let version = host.kubectl(&create).expect_ok();
    host.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"])
        .expect_ok();
    server.kill();
    let server = host.start_server(&[]);
    host.wait_ready();
    let kept = host.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]);
    assert_eq!(kept.expect_ok(), "b", "a write that was answered is lost");
    let seen = watched_since(&host, &version);
    let added = seen.lines().filter(|line| line.contains("\"ADDED\""));
    assert_eq!(
        added.filter(|line| line.contains("kept")).count(),
        1,
        "{seen}"
    );
    host.wait_nodes(1);
    wait_running(&host);
    let after: BTreeSet<_> = network.processes_named("nginx").into_iter().collect();
    assert_eq!(before, after, "containers were touched");
    assert_eq!(restarts(&host), "0 0");
    let pod = host.kubectl(&["get", "pods", "-o", "name"]).expect_ok();
    let pod = pod.lines().next().unwrap().to_owned();
    eventually("exec works again", secs(20), || {
        let seen = host.kubectl(&["exec", &pod, "--", "echo", "alive"]);
        ensure(seen.stdout == "alive\n", format!("{seen:?}"))
    });
    log_has_no_hole(&host);
    assert_eq!(server.terminate(secs(30)), Some(0));
}

#[test]
fn a_killed_container_process_restarts_in_place_and_a_deleted_pod_is_replaced() {
    let mut network = Network::new();
    let host = network.host("master", "192.168.1.5");
    let server = host.start_server(&[]);
    host.wait_ready();
    host.wait_nodes(1);
    host.apply(WEB);
    wait_running(&host);
    let first = network.processes_named("nginx").into_iter().min().unwrap();
    signal(first, libc::SIGKILL);
    eventually("the container restarted in place", secs(30), || {
        let seen = restarts(&host);
        ensure(seen.contains('1'), seen)
    });
    wait_running(&host);
    let name = "jsonpath={.items[0].metadata.name}";
    let pod = host.kubectl(&["get", "pods", "-o", name]).expect_ok();
    host.kubectl(&["delete", "pod", &pod]).expect_ok();
    eventually("another Pod took its place", secs(30), || {
        let seen = host.kubectl(&["get", "pods", "-l", "app=web", "--no-headers"]);
        let ready = seen
            .stdout
            .lines()
            .filter(|line| line.contains("1/1"))
            .count();
        ensure(ready == 2 && !seen.stdout.contains(&pod), seen.stdout)
    });
    host.kubectl(&["delete", "deployment", "web"]).expect_ok();
    eventually("its Pods and processes are gone", secs(60), || {
        let seen = host.kubectl(&["get", "pods", "-l", "app=web", "--no-headers"]);
        let processes = network.processes_named("nginx");
        ensure(
            seen.stdout.is_empty() && processes.is_empty(),
            format!("{seen:?} {processes:?}"),
        )
    });
    drop(server);
}
