//! Two servers on one etcd: one identity, one leader, and no single one that the cluster needs.

use super::support::hosts::{Host, Network};
use super::support::program::{Background, tail};
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
      nodeSelector: {kubernetes.io/hostname: worker1}
      containers:
      - {name: web, image: "nginx:1.22"}
"#;

const ETCD: &str = "http://192.168.1.10:2379";

fn start_etcd(host: &Host) -> Background {
    let mut command = host.command("etcd");
    let data = host.folder.join("etcd");
    command
        .arg(format!("--data-dir={}", data.display()))
        .arg(format!("--listen-client-urls={ETCD}"))
        .arg(format!("--advertise-client-urls={ETCD}"))
        .arg("--listen-peer-urls=http://192.168.1.10:2380");
    Background::start(&mut command, &host.folder.join("etcd.log"))
}

fn servers_listed(host: &Host) -> String {
    let path = "jsonpath={.endpoints[*].addresses[*]}";
    host.kubectl(&["get", "endpointslice", "kubernetes", "-o", path])
        .stdout
}

fn until_listed(host: &Host, wanted: &str) {
    eventually("the list of servers", secs(60), || {
        let seen = servers_listed(host);
        ensure(seen == wanted, format!("{seen}\n{}", tail(&host.log())))
    });
}

fn until_running(host: &Host, count: usize) {
    eventually("Pods Ready", secs(60), || {
        let seen = host.kubectl(&["get", "pods", "-l", "app=web", "--no-headers"]);
        let ready = seen.stdout.matches("1/1").count();
        ensure(
            ready == count,
            format!("{}{}\n{}", seen.stdout, seen.stderr, tail(&host.log())),
        )
    });
}

/// Logs come back over the connection that the node keeps to this very server.
fn until_logs_are_read(host: &Host) {
    eventually("logs", secs(30), || {
        let seen = host.kubectl(&["logs", "deployment/web", "--tail=1"]);
        ensure(seen.ok, format!("{seen:?}"))
    });
}

#[test]
fn a_cluster_outlives_any_of_its_servers() {
    let mut network = Network::new();
    let store = network.host("store", "192.168.1.10");
    let first = network.host("master1", "192.168.1.5");
    let second = network.host("master2", "192.168.1.6");
    let worker = network.host("worker1", "192.168.1.7");
    let _etcd = start_etcd(&store);
    let endpoint = format!("--datastore-endpoint={ETCD}");

    let server = first.start_server(&[&endpoint]);
    first.wait_ready();
    let token = first.token();
    let wrong = second.start_server(&[&endpoint, "--token=wrong"]);
    eventually("a wrong token is refused", secs(20), || {
        let log = tail(&second.log());
        ensure(log.contains("the token does not fit the cluster"), log)
    });
    drop(wrong);
    let _second = second.start_server(&[&endpoint, "--token", &token]);
    second.wait_ready();
    assert_eq!(second.token(), token);
    let _worker = worker.start_agent(&first, &token, &[]);
    first.wait_nodes(3);
    until_listed(&second, "192.168.1.5 192.168.1.6");

    first.apply(WEB);
    until_running(&second, 2);
    until_logs_are_read(&first);
    until_logs_are_read(&second);

    server.kill();
    until_listed(&second, "192.168.1.6");
    second
        .kubectl(&["scale", "deployment", "web", "--replicas=4"])
        .expect_ok();
    until_running(&second, 4);
    until_logs_are_read(&second);

    let _again = first.start_server(&[&endpoint]);
    first.wait_ready();
    until_listed(&first, "192.168.1.5 192.168.1.6");
    first.wait_nodes(3);
    until_logs_are_read(&first);
}
