//! The agent between a real server in this process and a runtime in memory.

#![allow(missing_docs, reason = "a test binary")]
#![allow(clippy::unwrap_used, reason = "a test binary")]

mod world;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use orch::client::Patch;
use orch::runtime::{Error, ExecOutput};
use serde_json::json;

use world::{NODE, World, condition, waiting};

#[tokio::test]
async fn a_pod_runs_is_ready_and_leaves_nothing_when_deleted() {
    let world = World::start().await;
    let spec = json!({"terminationGracePeriodSeconds": 5, "containers": [{"name": "c",
        "image": "image:1", "command": ["run", "$(WHO)"], "env": [
            {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]}]});
    world.create("p", spec).await;
    let status = world.until_ready_pod("p").await;
    assert_eq!(status["phase"], "Running");
    assert!(status["podIP"].as_str().unwrap().starts_with("10.244.0."));
    let (id, spec) = world.running("p", "c");
    assert_eq!(spec.args, ["run", "p"]);
    let ip = format!("IP={}", status["podIP"].as_str().unwrap());
    assert!(spec.env.contains(&ip), "{:?}", spec.env);
    assert!(spec.env.contains(&"KUBERNETES_SERVICE_PORT=443".to_owned()));
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mount = spec
        .mounts
        .iter()
        .find(|m| m.destination.ends_with(&token[1..]));
    let source = &mount.unwrap().source;
    assert!(
        std::fs::read_to_string(source.join("token"))
            .unwrap()
            .starts_with("ey")
    );
    assert!(source.join("ca.crt").exists());
    for reason in ["Pulled", "Created", "Started"] {
        world.until_event("p", reason).await;
    }
    world.delete("p", None).await;
    world.until_gone("p").await;
    assert_eq!(world.runtime.spec(&id).map(|s| s.id), None);
    assert_eq!(world.network.count(), 0);
    world.until_event("p", "Killing").await;
    let agent = world.folder.path().join("node/agent");
    for folder in ["pods", "memory"] {
        world
            .until("folders are removed", async || {
                let left = std::fs::read_dir(agent.join(folder)).unwrap().count();
                (left == 0).then_some(()).ok_or(left)
            })
            .await;
    }
    world.stop().await;
}

#[tokio::test]
async fn the_node_has_a_lease_and_its_facts() {
    let world = World::start().await;
    let leases = world.client.namespaced::<Lease>("kube-node-lease");
    let lease = world.until("lease", async || leases.get(NODE).await).await;
    let spec = lease.spec.unwrap();
    assert_eq!(spec.holder_identity.as_deref(), Some(NODE));
    let nodes = world.client.all::<k8s_openapi::api::core::v1::Node>();
    let status = nodes.get(NODE).await.unwrap().status.unwrap();
    assert!(status.capacity.unwrap().contains_key("cpu"));
    assert_eq!(
        status.node_info.unwrap().container_runtime_version,
        "fake://1.0.0"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_crashing_container_restarts_and_then_waits() {
    let world = World::start().await;
    let spec = json!({"containers": [{"name": "c", "image": "image:1", "command": ["x"]}]});
    world.create("p", spec).await;
    world.until_ready_pod("p").await;
    let (first, _) = world.running("p", "c");
    world.runtime.exit(&first, 3);
    let status = world
        .until_status("p", |s| s["containerStatuses"][0]["restartCount"] == 1)
        .await;
    let last = &status["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 3);
    world.until_ready_pod("p").await;
    let (second, _) = world.running("p", "c");
    assert_ne!(first, second);
    world.runtime.exit(&second, 4);
    let status = world
        .until_status("p", |s| waiting(s) == "CrashLoopBackOff")
        .await;
    assert_eq!(status["phase"], "Running");
    assert_eq!(condition(&status, "Ready"), "False");
    let text = world.until_event("p", "BackOff").await;
    assert!(text.starts_with("Back-off restarting failed container c in pod p_default("));
    world.stop().await;
}

#[tokio::test]
async fn an_agent_that_starts_anew_touches_no_container() {
    let mut world = World::start().await;
    let probe = json!({"exec": {"command": ["ok"]}, "periodSeconds": 60});
    let spec = json!({"containers": [{"name": "c", "image": "image:1", "command": ["x"],
        "readinessProbe": probe}]});
    world.create("p", spec.clone()).await;
    world.create("q", spec).await;
    let before = world.until_ready_pod("p").await;
    world.until_ready_pod("q").await;
    let (id, _) = world.running("p", "c");
    world.stop_agent().await;
    world.runtime.take_calls();
    world.runtime.on_exec(Box::new(|id, _| {
        Err(Error::NotFound {
            what: "container",
            id: id.to_owned(),
        })
    }));
    // Deleted by force while nobody looks.
    world.delete("q", Some(0)).await;
    world.start_agent();
    world
        .until("what is left of q is removed", async || {
            let calls = world.runtime.calls();
            let removed = calls.iter().any(|(call, _)| *call == "remove");
            removed.then_some(()).ok_or(format!("{calls:?}"))
        })
        .await;
    world
        .until("p is known again", async || {
            let ids = world.ids("p", "c");
            (ids == [id.clone()])
                .then_some(())
                .ok_or(format!("{ids:?}"))
        })
        .await;
    let calls = world.runtime.calls();
    assert!(
        !calls
            .iter()
            .any(|(call, of)| *of == id && *call != "exec_sync"),
        "{calls:?}"
    );
    let after = world.until_ready_pod("p").await;
    assert_eq!(before, after, "also its status is the same");
    assert_eq!(world.network.count(), 1);
    world.stop().await;
}

#[tokio::test]
async fn init_containers_and_sidecars_keep_their_order() {
    let world = World::start().await;
    let container = |name: &str| json!({"name": name, "image": "image:1", "command": ["x"]});
    let mut sidecar = container("s");
    sidecar["restartPolicy"] = json!("Always");
    let spec = json!({"restartPolicy": "Never", "initContainers": [container("i"), sidecar],
        "containers": [container("c")]});
    world.create("p", spec).await;
    let status = world
        .until_status("p", |s| {
            s["initContainerStatuses"][0]["state"]["running"].is_object()
        })
        .await;
    assert_eq!(waiting(&status), "PodInitializing");
    let (init, _) = world.running("p", "i");
    world.runtime.exit(&init, 0);
    let status = world.until_ready_pod("p").await;
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
    let (app, _) = world.running("p", "c");
    world.runtime.exit(&app, 0);
    let status = world.until_status("p", |s| s["phase"] == "Succeeded").await;
    assert_eq!(condition(&status, "Ready"), "False");
    let (side, _) = world.running("p", "s");
    assert_eq!(
        world.runtime.signals(&side),
        [15],
        "the sidecar was stopped after"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_failed_liveness_probe_restarts_the_container() {
    let world = World::start().await;
    world.runtime.on_exec(Box::new(|_, _| {
        Ok(ExecOutput {
            code: 1,
            output: b"not well".to_vec(),
        })
    }));
    let probe = json!({"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 1});
    let spec = json!({"containers": [{"name": "c", "image": "image:1", "command": ["x"],
        "livenessProbe": probe}]});
    world.create("p", spec).await;
    world
        .until_status("p", |s| {
            s["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)
        })
        .await;
    let text = world.until_event("p", "Unhealthy").await;
    assert_eq!(text, "Liveness probe failed: not well");
    let text = world.until_event("p", "Killing").await;
    assert_eq!(text, "Container c failed liveness probe, will be restarted");
    world.stop().await;
}

#[tokio::test]
async fn a_changed_object_reaches_its_volume() {
    let world = World::start().await;
    let maps = world.client.namespaced::<ConfigMap>("default");
    let spec = json!({"containers": [{"name": "c", "image": "image:1", "command": ["x"],
        "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "cm"}}]});
    world.create("p", spec).await;
    let text = world.until_event("p", "FailedMount").await;
    assert_eq!(
        text,
        "MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found"
    );
    let map = json!({"metadata": {"name": "cm"}, "data": {"k": "1"}});
    maps.create(&serde_json::from_value(map).unwrap())
        .await
        .unwrap();
    world.until_ready_pod("p").await;
    let (_, spec) = world.running("p", "c");
    let mount = spec
        .mounts
        .iter()
        .find(|m| m.destination.ends_with("v"))
        .unwrap();
    let read = || std::fs::read_to_string(mount.source.join("k")).unwrap();
    assert_eq!(read(), "1");
    let patch = Patch::Merge(json!({"data": {"k": "2"}}));
    maps.patch("cm", &patch).await.unwrap();
    world
        .until("the file changes", async || {
            let text = read();
            (text == "2").then_some(()).ok_or(text)
        })
        .await;
    world.stop().await;
}

#[tokio::test]
async fn images_and_starts_that_fail_say_why() {
    let world = World::start().await;
    let spec = |image: &str, policy: &str| {
        json!({"containers": [{"name": "c", "image": image, "imagePullPolicy": policy,
            "command": ["x"]}]})
    };
    world.create("never", spec("none:1", "Never")).await;
    world.create("pull", spec("none:1", "IfNotPresent")).await;
    world
        .until_status("never", |s| waiting(s) == "ErrImageNeverPull")
        .await;
    world
        .until_status("pull", |s| waiting(s) == "ImagePullBackOff")
        .await;
    world.until_event("pull", "BackOff").await;
    world.runtime.fail_next(
        "create",
        Error::Failed {
            doing: "failed to create containerd task",
            id: String::new(),
            why: "no such program".into(),
        },
    );
    let mut once = spec("image:1", "Never");
    once["restartPolicy"] = json!("Never");
    world.create("broken", once).await;
    let status = world
        .until_status("broken", |s| s["phase"] == "Failed")
        .await;
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(ended["reason"], "StartError");
    assert_eq!(ended["exitCode"], 128);
    assert_eq!(
        ended["message"],
        "failed to create containerd task: no such program"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_container_that_does_not_listen_is_killed_when_its_time_is_over() {
    let world = World::start().await;
    let spec = json!({"terminationGracePeriodSeconds": 60,
        "containers": [{"name": "c", "image": "image:1", "command": ["x"]}]});
    world.create("p", spec).await;
    world.until_ready_pod("p").await;
    let (id, _) = world.running("p", "c");
    world.runtime.ignore_signals(&id);
    world.delete("p", None).await;
    world
        .until("SIGTERM", async || {
            let signals = world.runtime.signals(&id);
            (signals == [15])
                .then_some(())
                .ok_or(format!("{signals:?}"))
        })
        .await;
    let began = tokio::time::Instant::now();
    world.delete("p", Some(1)).await;
    world.until_gone("p").await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "the shorter grace counts"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_pod_past_its_deadline_fails() {
    let world = World::start().await;
    let spec = json!({"activeDeadlineSeconds": 1,
        "containers": [{"name": "c", "image": "image:1", "command": ["x"]}]});
    world.create("p", spec).await;
    let status = world.until_status("p", |s| s["phase"] == "Failed").await;
    assert_eq!(status["reason"], "DeadlineExceeded");
    world.stop().await;
}
