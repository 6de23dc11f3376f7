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
    host.apply(WEB);
    wait_running(&host);
    let before: BTreeSet<_> = network.processes_named("nginx").into_iter().collect();
    assert!(before.len() >= 2, "{before:?}");
    host.kubectl(&["create", "configmap", "kept", "--from-literal=a=b"])
        .expect_ok();
    server.kill();
    let server = host.start_server(&[]);
    host.wait_ready();
    let kept = host.kubectl(&["get", "configmap", "kept", "-o", "jsonpath={.data.a}"]);
    assert_eq!(kept.expect_ok(), "b", "a write that was answered is lost");
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
