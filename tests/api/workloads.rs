//! Workloads from wish to pods.

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet,
};
use k8s_openapi::api::core::v1::{Event, Node, Pod, ReplicationController};
use orch::api::meta;
use serde_json::json;

use crate::world::{World, by_node, deployment};

async fn until_complete(world: &World, name: &str, revision: &str) {
    world
        .until("rollout complete", || async {
            let api = world.client.namespaced::<Deployment>("default");
            let deployment = api.get(name).await.unwrap();
            let status = deployment.status.clone().unwrap_or_default();
            let wanted = deployment.spec.replicas.filter(|count| *count > 0);
            let is_current = status.observed_generation == deployment.metadata.generation;
            let at = meta::annotation(&deployment.metadata, "deployment.kubernetes.io/revision");
            if is_current
                && status.updated_replicas == wanted
                && status.replicas == wanted
                && status.available_replicas == wanted
                && at == Some(revision)
            {
                return Ok(());
            }
            Err(format!("revision {at:?}, {status:?}"))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_becomes_pods_spread_over_nodes_and_scales() {
    let world = World::start(3).await;
    world
        .create::<Deployment>("default", deployment("web", 6))
        .await;
    let pods = world.ready_pods(6).await;
    let counts: Vec<_> = by_node(&pods).into_values().collect();
    assert_eq!(counts, [2, 2, 2]);
    until_complete(&world, "web", "1").await;
    for replicas in [9, 2, 0, 4] {
        let change = json!({"spec": {"replicas": replicas}});
        world.patch::<Deployment>("web", change).await;
        world.ready_pods(replicas).await;
        until_complete(&world, "web", "1").await;
    }
    assert_eq!(world.list::<ReplicaSet>().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_image_rolls_out_and_back() {
    let world = World::start(2).await;
    world
        .create::<Deployment>("default", deployment("web", 4))
        .await;
    until_complete(&world, "web", "1").await;
    for (image, revision) in [("nginx:2", "2"), ("nginx:1", "3")] {
        let change = json!({"spec": {"template": {"spec": {
            "containers": [{"name": "c", "image": image}]}}}});
        world.patch::<Deployment>("web", change).await;
        until_complete(&world, "web", revision).await;
        let pods = world.ready_pods(4).await;
        for pod in pods {
            let image_of = pod.spec.unwrap().containers[0].image.clone();
            assert_eq!(image_of.as_deref(), Some(image));
        }
    }
    assert_eq!(world.list::<ReplicaSet>().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_pod_is_replaced_and_events_tell_the_story() {
    let world = World::start(1).await;
    world
        .create::<Deployment>("default", deployment("web", 2))
        .await;
    let pods = world.ready_pods(2).await;
    let victim = pods[0].metadata.name.clone().unwrap();
    let api = world.client.namespaced::<Pod>("default");
    api.delete(&victim, &Default::default()).await.unwrap();
    world
        .until("replaced", || async {
            let pods = world.list::<Pod>().await;
            let has_victim = pods
                .iter()
                .any(|p| p.metadata.name.as_deref() == Some(&victim));
            if pods.len() == 2 && !has_victim {
                Ok(())
            } else {
                Err(format!("{}", pods.len()))
            }
        })
        .await;
    world
        .until("events", || async {
            let events = world.list::<Event>().await;
            let reasons: Vec<_> = events.into_iter().filter_map(|e| e.reason).collect();
            let wanted = ["ScalingReplicaSet", "SuccessfulCreate", "Scheduled"];
            if wanted.iter().all(|w| reasons.iter().any(|r| r == w)) {
                return Ok(());
            }
            Err(format!("{reasons:?}"))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_replicas_are_made_and_bound() {
    let world = World::start(5).await;
    world
        .create::<Deployment>("default", deployment("many", 500))
        .await;
    let pods = world.ready_pods(500).await;
    assert!(by_node(&pods).values().all(|count| *count == 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_says_why_and_is_bound_when_room_comes() {
    let world = World::start(1).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "large"},
        "spec": {"nodeSelector": {"kubernetes.io/hostname": "n2"},
            "containers": [{"name": "c", "image": "i"}]}});
    world.create::<Pod>("default", pod).await;
    let expected = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. \
                    no new claims to deallocate, preemption: 0/1 nodes are available: \
                    1 Preemption is not helpful for scheduling.";
    world
        .until("told", || async {
            let pods = world.list::<Pod>().await;
            let condition = orch::api::pod::condition(&pods[0], "PodScheduled").cloned();
            match condition.as_ref().and_then(|c| c.message.as_deref()) {
                Some(text) if text == expected => Ok(()),
                _ => Err(format!("{condition:?}")),
            }
        })
        .await;
    world.add_node("n2").await;
    let pods = world.ready_pods(1).await;
    assert_eq!(by_node(&pods).keys().collect::<Vec<_>>(), [&"n2"]);
}

async fn stateful(world: &World, name: &str) -> StatefulSet {
    let api = world.client.namespaced::<StatefulSet>("default");
    api.get(name).await.unwrap()
}

/// Waits until the set has `replicas` ready pods, `updated` of which are of its newest template.
async fn until_stateful(world: &World, name: &str, replicas: i32, updated: i32) {
    world
        .until("stateful set", || async {
            let set = stateful(world, name).await;
            let status = set.status.clone().unwrap_or_default();
            if status.observed_generation == set.metadata.generation
                && status.replicas == replicas
                && status.ready_replicas.unwrap_or(0) == replicas
                && status.updated_replicas.unwrap_or(0) == updated
            {
                return Ok(());
            }
            Err(format!("{status:?}"))
        })
        .await;
}

/// What happened to pods, as `+name` and `-name`, in the order of their events.
async fn story(world: &World, reasons: [&str; 2]) -> Vec<String> {
    let mut events = world.list::<Event>().await;
    events.retain(|event| {
        let reason = event.reason.as_deref().unwrap_or_default();
        let is_pod = event
            .message
            .as_deref()
            .unwrap_or_default()
            .contains(" Pod ");
        reasons.contains(&reason) && is_pod
    });
    events.sort_by_key(|event| {
        let revision = event.metadata.resource_version.as_deref();
        revision.and_then(|r| r.parse::<u64>().ok())
    });
    let told = events.into_iter().map(|event| {
        let sign = if event.reason.as_deref() == Some(reasons[0]) {
            '+'
        } else {
            '-'
        };
        let message = event.message.unwrap();
        let pod = message.split(' ').nth(2).unwrap().to_owned();
        format!("{sign}{pod}")
    });
    told.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_comes_in_order_rolls_to_its_partition_and_goes_in_reverse() {
    let world = World::start(2).await;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {"replicas": 3, "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "c", "image": "db:1"}]}}},
    });
    world.create::<StatefulSet>("default", set).await;
    until_stateful(&world, "db", 3, 3).await;
    let done = ["SuccessfulCreate", "SuccessfulDelete"];
    world
        .until("three events", || async {
            let story = story(&world, done).await;
            let expected = ["+db-0", "+db-1", "+db-2"];
            if story == expected {
                Ok(())
            } else {
                Err(format!("{story:?}"))
            }
        })
        .await;
    let change = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 1}},
        "template": {"spec": {"containers": [{"name": "c", "image": "db:2"}]}}}});
    world.patch::<StatefulSet>("db", change).await;
    until_stateful(&world, "db", 3, 2).await;
    let images = || async {
        let mut pods = world.list::<Pod>().await;
        pods.sort_by_key(|pod| pod.metadata.name.clone());
        let image = |pod: &Pod| {
            pod.spec.as_ref().unwrap().containers[0]
                .image
                .clone()
                .unwrap()
        };
        pods.iter().map(image).collect::<Vec<_>>()
    };
    assert_eq!(images().await, ["db:1", "db:2", "db:2"]);
    let status = stateful(&world, "db").await.status.unwrap();
    assert_ne!(status.current_revision, status.update_revision);
    let change = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}});
    world.patch::<StatefulSet>("db", change).await;
    until_stateful(&world, "db", 3, 3).await;
    assert_eq!(images().await, ["db:2"; 3]);
    // What `kubectl rollout undo` sends: the data of the revision before.
    let mut revisions = world.list::<ControllerRevision>().await;
    revisions.sort_by_key(|revision| revision.revision);
    assert_eq!(revisions.len(), 2);
    let back = revisions[0].data.0.clone();
    world.patch::<StatefulSet>("db", back).await;
    until_stateful(&world, "db", 3, 3).await;
    assert_eq!(images().await, ["db:1"; 3]);
    let mut numbers: Vec<_> = world.list::<ControllerRevision>().await;
    numbers.sort_by_key(|revision| revision.revision);
    let numbers: Vec<_> = numbers.iter().map(|r| r.revision).collect();
    assert_eq!(numbers, [Some(2), Some(3)]);
    world
        .patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}}))
        .await;
    until_stateful(&world, "db", 1, 1).await;
    assert_eq!(
        world.list::<Pod>().await[0].metadata.name.as_deref(),
        Some("db-0")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_follows_nodes_and_rolls() {
    let world = World::start(2).await;
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "log"},
        "spec": {"selector": {"matchLabels": {"app": "log"}},
            "template": {"metadata": {"labels": {"app": "log"}},
                "spec": {"containers": [{"name": "c", "image": "log:1"}]}}},
    });
    world.create::<DaemonSet>("default", set).await;
    assert_eq!(by_node(&world.ready_pods(2).await).len(), 2);
    world.add_node("n3").await;
    let pods = world.ready_pods(3).await;
    assert!(by_node(&pods).contains_key("n3"));
    // A cordoned node keeps its daemon.
    let nodes = world.client.all::<Node>();
    let cordon = orch::client::Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes.patch("n3", &cordon).await.unwrap();
    let change = json!({"spec": {"template": {"spec": {
        "containers": [{"name": "c", "image": "log:2"}]}}}});
    world.patch::<DaemonSet>("log", change).await;
    world
        .until("rolled out", || async {
            let api = world.client.namespaced::<DaemonSet>("default");
            let set = api.get("log").await.unwrap();
            let status = set.status.clone().unwrap_or_default();
            if status.observed_generation == set.metadata.generation
                && status.updated_number_scheduled == Some(3)
                && status.number_available == Some(3)
            {
                return Ok(());
            }
            Err(format!("{status:?}"))
        })
        .await;
    let pods = world.ready_pods(3).await;
    assert_eq!(
        by_node(&pods).keys().collect::<Vec<_>>(),
        [&"n1", &"n2", &"n3"]
    );
    for pod in &pods {
        let image = pod.spec.as_ref().unwrap().containers[0].image.as_deref();
        assert_eq!(image, Some("log:2"));
    }
    let change = json!({"spec": {"template": {"spec": {"nodeSelector":
        {"kubernetes.io/hostname": "n1"}}}}});
    world.patch::<DaemonSet>("log", change).await;
    let pods = world.ready_pods(1).await;
    assert_eq!(by_node(&pods).keys().collect::<Vec<_>>(), [&"n1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_keeps_its_pods() {
    let world = World::start(1).await;
    let controller = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "old"},
        "spec": {"replicas": 2, "template": {"metadata": {"labels": {"app": "old"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    });
    world
        .create::<ReplicationController>("default", controller)
        .await;
    let pods = world.ready_pods(2).await;
    let owner = meta::controller_of(&pods[0].metadata).unwrap();
    assert_eq!(
        (owner.kind.as_str(), owner.api_version.as_str()),
        ("ReplicationController", "v1")
    );
    world
        .patch::<ReplicationController>("old", json!({"spec": {"replicas": 1}}))
        .await;
    world.ready_pods(1).await;
    world
        .until("status", || async {
            let sets = world.list::<ReplicationController>().await;
            let status = sets[0].status.clone().unwrap_or_default();
            let known = (
                status.replicas,
                status.ready_replicas,
                status.observed_generation,
            );
            if known == (1, Some(1), Some(2)) {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await;
}
