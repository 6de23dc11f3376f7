//! Services and the endpoints behind them.

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use orch::client::{DeleteParams, ListParams};
use serde_json::json;

use crate::world::{World, deployment};

async fn slices(world: &World) -> Vec<EndpointSlice> {
    let api = world.client.namespaced::<EndpointSlice>("default");
    let of_web = ListParams::labels("kubernetes.io/service-name=web");
    api.list(&of_web).await.unwrap().items
}

/// Waits until both forms of endpoints have these numbers of ready addresses.
async fn until_ready(world: &World, count: usize) {
    world
        .until("endpoints", || async {
            let slices = slices(world).await;
            let endpoints = slices.iter().flat_map(|s| s.endpoints.iter().flatten());
            let ready = endpoints
                .filter(|e| e.conditions.as_ref().is_some_and(|c| c.ready == Some(true)))
                .count();
            let api = world.client.namespaced::<Endpoints>("default");
            let old = api.get_opt("web").await.unwrap();
            let subsets = old.and_then(|e| e.subsets).unwrap_or_default();
            let addresses = subsets.iter().flat_map(|s| s.addresses.iter().flatten());
            let addresses = addresses.count();
            if ready == count && addresses == count && slices.len() == 1 {
                return Ok(());
            }
            Err(format!(
                "{} slices: {ready} ready; {addresses} addresses",
                slices.len()
            ))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_follow_pods_and_go_with_the_service() {
    let world = World::start(2).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}});
    world.create::<Service>("default", service).await;
    until_ready(&world, 0).await;
    world
        .create::<Deployment>("default", deployment("web", 3))
        .await;
    until_ready(&world, 3).await;
    let pods = world.list::<Pod>().await;
    let name = pods[0].metadata.name.clone().unwrap();
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let api = world.client.namespaced::<Pod>("default");
    let patch = orch::client::Patch::Strategic(unready);
    api.patch_status(&name, &patch).await.unwrap();
    until_ready(&world, 2).await;
    world
        .patch::<Deployment>("web", json!({"spec": {"replicas": 0}}))
        .await;
    until_ready(&world, 0).await;
    let services = world.client.namespaced::<Service>("default");
    services
        .delete("web", &DeleteParams::default())
        .await
        .unwrap();
    world
        .until("endpoints gone", || async {
            let left = slices(&world).await.len();
            let api = world.client.namespaced::<Endpoints>("default");
            let old = api.get_opt("web").await.unwrap();
            if left == 0 && old.is_none() {
                Ok(())
            } else {
                Err(format!("{left}, {old:?}"))
            }
        })
        .await;
}
