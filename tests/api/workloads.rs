//! Deployments and ReplicaSets from wish to pods.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Event, Pod};
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
    let expected = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
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
