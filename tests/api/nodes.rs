//! Nodes: their part of the network, and what happens when they fall silent or are deleted.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod};
use orch::api::pod;
use orch::client::{DeleteParams, ListParams, Patch};
use orch::server::controllers::{self, Setup};
use orch::util::{clock::Clock, rng::Rng};
use serde_json::json;

use crate::world::{World, by_node, deployment};

#[tokio::test(flavor = "multi_thread")]
async fn every_node_gets_a_network_of_its_own() {
    let world = World::start(4).await;
    world
        .until("networks", || async {
            let api = world.client.all::<Node>();
            let nodes = api.list(&ListParams::default()).await.unwrap().items;
            let cidrs: BTreeSet<_> = nodes
                .iter()
                .filter_map(|node| node.spec.as_ref()?.pod_cidr.clone())
                .collect();
            if cidrs.len() == 4 {
                Ok(())
            } else {
                Err(format!("{cidrs:?}"))
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_a_silent_node_run_elsewhere_when_their_tolerations_end() {
    let world = World::start(3).await;
    let mut web = deployment("web", 3);
    let key = "node.kubernetes.io/unreachable";
    web["spec"]["template"]["spec"]["tolerations"] = json!([
        {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 1}]);
    world.create::<Deployment>("default", web).await;
    let pods = world.ready_pods(3).await;
    assert_eq!(by_node(&pods).len(), 3);
    world.kubelets.kill("n1");
    // The others give signs of life from here on; the server's own grace is much longer.
    let client = world.client.clone();
    let cancelled = world.tasks.cancelled();
    world.tasks.service("heartbeats", async move {
        let beating = async {
            for beat in 0_i64.. {
                for node in ["n2", "n3"] {
                    let at = jiff::Timestamp::from_second(1_800_000_000 + beat).unwrap();
                    let ready = json!({"status": {"conditions": [
                        {"type": "Ready", "status": "True", "lastHeartbeatTime": at}]}});
                    let patch = Patch::Strategic(ready);
                    client
                        .all::<Node>()
                        .patch_status(node, &patch)
                        .await
                        .unwrap();
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        cancelled.run_until_cancelled(beating).await;
    });
    controllers::start(&Setup {
        client: world.client.clone(),
        informers: world.informers.clone(),
        tasks: world.tasks.clone(),
        clock: Clock::system(),
        rng: Rng::seeded(1),
        cluster_cidr: "10.244.0.0/16".parse().unwrap(),
        ca_pem: String::new(),
        authority: None,
        node_grace: Duration::from_secs(2),
        served: tokio::sync::watch::channel(0).1,
    });
    world
        .until("moved", || async {
            let pods = world.list::<Pod>().await;
            let alive = pods
                .iter()
                .filter(|p| pod::is_ready(p) && pod::is_active(p));
            let alive: Vec<_> = alive.cloned().collect();
            let counts = by_node(&alive);
            if alive.len() == 3 && !counts.contains_key("n1") {
                return Ok(());
            }
            Err(format!("{counts:?}"))
        })
        .await;
    let node = world.client.all::<Node>().get("n1").await.unwrap();
    let taints = node.spec.unwrap().taints.unwrap();
    assert!(
        taints
            .iter()
            .any(|t| t.key == key && t.effect == "NoExecute")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_node_gets_no_pods_and_a_deleted_one_is_forgotten_by_the_scheduler() {
    let world = World::start(3).await;
    let api = world.client.all::<Node>();
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    api.patch("n1", &cordon).await.unwrap();
    api.delete("n2", &DeleteParams::default()).await.unwrap();
    world
        .until("tainted", || async {
            let node = api.get("n1").await.unwrap();
            let taints = node.spec.and_then(|s| s.taints).unwrap_or_default();
            if taints
                .iter()
                .any(|t| t.key == "node.kubernetes.io/unschedulable")
            {
                return Ok(());
            }
            Err(format!("{taints:?}"))
        })
        .await;
    world
        .create::<Deployment>("default", deployment("web", 4))
        .await;
    let pods = world.ready_pods(4).await;
    assert_eq!(by_node(&pods).into_keys().collect::<Vec<_>>(), ["n3"]);
}
