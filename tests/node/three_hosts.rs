//! The notes' practice: `master`, `worker1` and `worker2`, and an nginx that answers.

use std::collections::BTreeSet;

use super::support::hosts::{Host, Network};
use super::support::program::{Background, tail};
use super::support::wait::{ensure, eventually, secs};

struct Cluster {
    master: Host,
    workers: [Host; 2],
    programs: Vec<Background>,
    network: Network,
}

impl Cluster {
    fn start() -> Self {
        let mut network = Network::new();
        let master = network.host("master", "192.168.1.5");
        let workers = [
            network.host("worker1", "192.168.1.6"),
            network.host("worker2", "192.168.1.7"),
        ];
        let mut programs = vec![master.start_server(&[])];
        master.wait_ready();
        let token = master.token();
        programs.extend(
            workers
                .iter()
                .map(|worker| worker.start_agent(&master, &token, &[])),
        );
        master.wait_nodes(3);
        Self {
            master,
            workers,
            programs,
            network,
        }
    }

    fn hosts(&self) -> impl Iterator<Item = &Host> {
        std::iter::once(&self.master).chain(&self.workers)
    }
}

#[test]
fn nginx_runs_on_three_hosts() {
    let cluster = Cluster::start();
    let master = &cluster.master;
    let manifest = include_str!("../../manifests/nginx.yaml").replace("replicas: 3", "replicas: 6");
    std::fs::write(master.data().join("server/manifests/nginx.yaml"), manifest).unwrap();
    eventually("six nginx Pods Ready", secs(60), || {
        let seen = master.kubectl(&["get", "pods", "-o", "wide", "--no-headers"]);
        let ready = seen
            .stdout
            .lines()
            .filter(|line| line.contains("1/1"))
            .count();
        ensure(
            ready == 6,
            format!("{}{}\n{}", seen.stdout, seen.stderr, tail(&master.log())),
        )
    });
    let nodes = master
        .kubectl(&["get", "pods", "-o", "jsonpath={.items[*].spec.nodeName}"])
        .expect_ok();
    for node in ["master", "worker1", "worker2"] {
        assert_eq!(
            nodes.split(' ').filter(|name| *name == node).count(),
            2,
            "{nodes}"
        );
    }
    for host in cluster.hosts() {
        let page = host.get("http://192.168.1.6:30080/").expect_ok();
        assert!(page.contains("Welcome to nginx!"), "{page}");
    }
    let service = master.kubectl(&[
        "get",
        "service",
        "nginx",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ]);
    let service = service.expect_ok();
    let mut served = BTreeSet::new();
    for _ in 0..120 {
        let answer = master.run(&[
            "curl",
            "-sSI",
            "--max-time",
            "5",
            &format!("http://{service}/"),
        ]);
        let answer = answer.expect_ok();
        let pod = answer
            .lines()
            .find_map(|line| line.strip_prefix("X-Pod: "))
            .unwrap_or_default();
        served.insert(pod.trim().to_owned());
    }
    assert_eq!(served.len(), 6, "requests reach {served:?}");
    pods_reach_service_and_each_other(master);
    drop(cluster.programs);
    drop(cluster.network);
}

fn pods_reach_service_and_each_other(master: &Host) {
    let all = master.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=nginx",
        "-o",
        "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}",
    ]);
    let all = all.expect_ok();
    let pods: Vec<(&str, &str)> = all
        .lines()
        .filter_map(|line| line.split_once(' '))
        .collect();
    assert_eq!(pods.len(), 6, "{all}");
    for (name, _) in &pods {
        let by_name = master.kubectl(&[
            "exec",
            name,
            "--",
            "wget",
            "-q",
            "-O",
            "-",
            "http://nginx.default.svc.cluster.local/",
        ]);
        assert!(by_name.expect_ok().contains("Welcome to nginx!"));
    }
    let first = pods[0].0;
    for (_, address) in &pods {
        let page = master.kubectl(&[
            "exec",
            first,
            "--",
            "wget",
            "-q",
            "-O",
            "-",
            &format!("http://{address}/"),
        ]);
        assert!(page.expect_ok().contains("Welcome to nginx!"));
    }
}
