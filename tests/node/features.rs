//! What a Pod may have and what kubectl does with it, on one host with real containers.

use super::support::hosts::Host;
use super::support::program::{Background, Ran, tail};
use super::support::wait::{ensure, eventually, secs};

const OBJECTS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {A: alpha, file.txt: "hello\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {S: sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: shared}
spec:
  nodeName: master
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 1
  containers:
  - {name: web, image: "nginx:1.22"}
  - name: side
    image: busybox:1.35
    command: [sh, -c, "echo $A $S $P_A; touch /data/ready; while sleep 0.2; do echo tick; done"]
    env:
    - {name: A, valueFrom: {configMapKeyRef: {name: settings, key: A}}}
    - {name: S, valueFrom: {secretKeyRef: {name: keys, key: S}}}
    envFrom: [{configMapRef: {name: settings}, prefix: P_}]
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: settings, mountPath: /settings}
    - {name: keys, mountPath: /keys}
    - {name: host, mountPath: /host}
    startupProbe: {exec: {command: [cat, /data/ready]}, periodSeconds: 1}
    readinessProbe: {exec: {command: [cat, /data/ready]}, periodSeconds: 1}
    livenessProbe: {exec: {command: ["true"]}, periodSeconds: 1}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: settings, configMap: {name: settings}}
  - {name: keys, secret: {secretName: keys, defaultMode: 0400}}
  - {name: host, hostPath: {path: HOST_FOLDER, type: Directory}}
---
apiVersion: v1
kind: Pod
metadata: {name: on-host}
spec:
  nodeName: master
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: nginx:1.22
    ports: [{containerPort: 80}]
    startupProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
    readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
    livenessProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: sick}
spec:
  nodeName: master
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: busybox:1.35
    command: [sh, -c, "touch /tmp/ok; sleep 2; rm /tmp/ok; sleep 1000"]
    livenessProbe: {exec: {command: [cat, /tmp/ok]}, periodSeconds: 1, failureThreshold: 2}
"#;

const ROLLING: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: rolling}
spec:
  replicas: 2
  selector: {matchLabels: {app: rolling}}
  template:
    metadata: {labels: {app: rolling}}
    spec:
      nodeName: master
      terminationGracePeriodSeconds: 1
      containers: [{name: nginx, image: "nginx:1.22"}]
"#;

/// Runs the Pods above and looks at each feature.
pub fn on_one_host(host: &Host) {
    let folder = host.folder.join("from-host");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("marker"), "of the host").unwrap();
    host.apply(&OBJECTS.replace("HOST_FOLDER", &folder.display().to_string()));
    eventually("Pods with every kind of probe are Ready", secs(60), || {
        let seen = host.kubectl(&["get", "pods", "shared", "on-host", "--no-headers"]);
        let is_ready = seen.stdout.contains("2/2") && seen.stdout.contains("1/1");
        ensure(is_ready, format!("{}\n{}", seen.stdout, tail(&host.log())))
    });
    containers_share_what_they_should(host);
    logs_follow(host);
    terminals_have_a_size(host);
    files_are_copied(host);
    ports_are_forwarded(host);
    eventually(
        "a failing liveness probe restarts, then backs off",
        secs(60),
        || {
            let seen = host.kubectl(&["get", "pod", "sick", "--no-headers"]).stdout;
            ensure(seen.contains("CrashLoopBackOff"), seen)
        },
    );
    rolling_and_scaling(host);
    let pods = ["delete", "pod", "shared", "on-host", "sick", "--wait=true"];
    host.kubectl(&pods).expect_ok();
}

fn in_side(host: &Host, script: &str) -> Ran {
    host.kubectl(&["exec", "shared", "-c", "side", "--", "sh", "-c", script])
}

fn containers_share_what_they_should(host: &Host) {
    let processes = in_side(host, "ps").expect_ok();
    assert!(processes.contains("nginx: master"), "{processes}");
    let page = in_side(host, "wget -qO- http://127.0.0.1/").expect_ok();
    assert!(page.contains("Welcome to nginx!"), "{page}");
    let seen = in_side(
        host,
        "hostname; cat /settings/file.txt /keys/S /host/marker; stat -Lc ' %a' /keys/S",
    );
    assert_eq!(seen.expect_ok(), "shared\nhello\nsesameof the host 400\n");
    let address = ["get", "pod", "on-host", "-o", "jsonpath={.status.podIP}"];
    assert_eq!(host.kubectl(&address).expect_ok(), host.address);
    let page = host.get("http://127.0.0.1/").expect_ok();
    assert!(page.contains("Welcome to nginx!"), "{page}");
}

fn logs_follow(host: &Host) {
    let log = host.folder.join("follow.log");
    let mut command = host.command("kubectl");
    command.arg(format!("--kubeconfig={}", host.kubeconfig().display()));
    command.args(["logs", "-f", "shared", "-c", "side"]);
    let follower = Background::start(&mut command, &log);
    let lines = || {
        std::fs::read_to_string(&log)
            .unwrap_or_default()
            .lines()
            .count()
    };
    eventually("the log has begun", secs(20), || {
        ensure(lines() > 0, "nothing")
    });
    let before = lines();
    eventually("the log goes on", secs(20), || {
        ensure(lines() > before + 3, tail(&log))
    });
    follower.kill();
    let first = std::fs::read_to_string(&log).unwrap();
    assert!(first.starts_with("alpha sesame alpha\n"), "{first}");
}

fn terminals_have_a_size(host: &Host) {
    let inside =
        "tty; until [ \"$(stty size)\" = '33 101' ]; do sleep 0.1; done; echo sized; exit 7";
    let command = format!(
        "stty rows 33 cols 101; kubectl --kubeconfig={} exec -it shared -c side -- \
         timeout 20 sh -c '{}'; echo code $?",
        host.kubeconfig().display(),
        inside.replace('\'', "'\\''"),
    );
    let seen = host
        .run(&["script", "-qec", &command, "/dev/null"])
        .expect_ok();
    for text in ["/dev/pts/", "sized", "code 7"] {
        assert!(seen.contains(text), "`{text}` is not in: {seen}");
    }
}

fn files_are_copied(host: &Host) {
    let (sent, back) = (host.folder.join("sent"), host.folder.join("back"));
    let content: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(&sent, &content).unwrap();
    let there = "shared:/data/file";
    host.kubectl(&["cp", "-c", "side", &sent.display().to_string(), there])
        .expect_ok();
    host.kubectl(&["cp", "-c", "side", there, &back.display().to_string()])
        .expect_ok();
    assert!(
        std::fs::read(&back).unwrap() == content,
        "the file came back changed"
    );
}

fn ports_are_forwarded(host: &Host) {
    let mut command = host.command("kubectl");
    command.arg(format!("--kubeconfig={}", host.kubeconfig().display()));
    command.args(["port-forward", "pod/shared", "18080:80"]);
    let log = host.folder.join("forward.log");
    let forward = Background::start(&mut command, &log);
    for _ in 0..3 {
        eventually("nginx answers through the forwarded port", secs(20), || {
            let seen = host.get("http://127.0.0.1:18080/");
            ensure(seen.stdout.contains("Welcome to nginx!"), tail(&log))
        });
    }
    forward.kill();
}

fn rolling_and_scaling(host: &Host) {
    host.apply(ROLLING);
    let status = ["rollout", "status", "deployment/rolling", "--timeout=60s"];
    host.kubectl(&status).expect_ok();
    let image = "nginx=docker.io/library/nginx:1.22";
    host.kubectl(&["set", "image", "deployment/rolling", image])
        .expect_ok();
    host.kubectl(&status).expect_ok();
    let sets = [
        "get",
        "rs",
        "-l",
        "app=rolling",
        "-o",
        "jsonpath={.items[*].spec.replicas}",
    ];
    eventually("the new ReplicaSet has taken over", secs(30), || {
        let seen = host.kubectl(&sets).stdout;
        let mut counts: Vec<_> = seen.split(' ').collect();
        counts.sort_unstable();
        ensure(counts == ["0", "2"], seen.clone())
    });
    host.kubectl(&["scale", "deployment/rolling", "--replicas=3"])
        .expect_ok();
    host.kubectl(&status).expect_ok();
    host.kubectl(&["delete", "deployment", "rolling"])
        .expect_ok();
    eventually("its Pods are gone", secs(60), || {
        let seen = host.kubectl(&["get", "pods", "-l", "app=rolling", "--no-headers"]);
        ensure(seen.ok && seen.stdout.is_empty(), format!("{seen:?}"))
    });
}
