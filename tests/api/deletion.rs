//! What goes with what is deleted.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use orch::client::{DeleteParams, Propagation};
use serde_json::json;

use crate::world::{World, deployment};

async fn delete(world: &World, propagation: Propagation) {
    let params = DeleteParams {
        propagation: Some(propagation),
        ..DeleteParams::default()
    };
    let api = world.client.namespaced::<Deployment>("default");
    api.delete("web", &params).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deployment_owns_follows_it() {
    let world = World::start(1).await;
    for propagation in [Propagation::Background, Propagation::Foreground] {
        world
            .create::<Deployment>("default", deployment("web", 3))
            .await;
        world.ready_pods(3).await;
        delete(&world, propagation).await;
        world.gone::<Deployment>().await;
        world.gone::<ReplicaSet>().await;
        world.gone::<Pod>().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_stay_and_are_adopted_by_the_next_deployment() {
    let world = World::start(1).await;
    world
        .create::<Deployment>("default", deployment("web", 2))
        .await;
    let before = world.ready_pods(2).await;
    delete(&world, Propagation::Orphan).await;
    world.gone::<Deployment>().await;
    world
        .until("released", || async {
            let sets = world.list::<ReplicaSet>().await;
            let owners = sets[0]
                .metadata
                .owner_references
                .clone()
                .unwrap_or_default();
            if owners.is_empty() {
                Ok(())
            } else {
                Err(format!("{owners:?}"))
            }
        })
        .await;
    let made = world
        .create::<Deployment>("default", deployment("web", 2))
        .await;
    world
        .until("adopted", || async {
            let sets = world.list::<ReplicaSet>().await;
            let owner = orch::api::meta::controller_of(&sets[0].metadata).cloned();
            let uid = made.metadata.uid.clone().unwrap();
            match owner {
                Some(owner) if owner.uid == uid && sets.len() == 1 => Ok(()),
                other => Err(format!("{} sets, {other:?}", sets.len())),
            }
        })
        .await;
    let names =
        |pods: &[Pod]| -> Vec<_> { pods.iter().map(|pod| pod.metadata.name.clone()).collect() };
    assert_eq!(names(&before), names(&world.ready_pods(2).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_with_everything_in_it() {
    let world = World::start(1).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    let namespace: Namespace = serde_json::from_value(namespace).unwrap();
    let namespaces = world.client.all::<Namespace>();
    namespaces.create(&namespace).await.unwrap();
    world
        .until("default objects", || async {
            let maps = world.list_in::<ConfigMap>("team").await;
            let accounts = world
                .list_in::<k8s_openapi::api::core::v1::ServiceAccount>("team")
                .await;
            if maps.len() == 1 && accounts.len() == 1 {
                return Ok(());
            }
            Err(format!("{} maps, {} accounts", maps.len(), accounts.len()))
        })
        .await;
    world
        .create::<Deployment>("team", deployment("web", 3))
        .await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata":
        {"name": "held", "finalizers": ["example.com/hold"]}});
    world.create::<ConfigMap>("team", map).await;
    namespaces
        .delete("team", &DeleteParams::default())
        .await
        .unwrap();
    world
        .until("says what is left", || async {
            let namespace = namespaces.get("team").await.unwrap();
            let status = namespace.status.unwrap_or_default();
            let conditions = status.conditions.unwrap_or_default();
            let left = conditions
                .iter()
                .find(|c| c.type_ == "NamespaceFinalizersRemaining");
            let text = left.and_then(|c| c.message.clone()).unwrap_or_default();
            if text.contains("example.com/hold in 1 resource instances") {
                return Ok(());
            }
            Err(format!("{conditions:?}"))
        })
        .await;
    let maps = world.client.namespaced::<ConfigMap>("team");
    let release = json!({"metadata": {"finalizers": null}});
    maps.patch("held", &orch::client::Patch::Merge(release))
        .await
        .unwrap();
    world
        .until("namespace gone", || async {
            match namespaces.get_opt("team").await.unwrap() {
                None => Ok(()),
                Some(left) => Err(format!("{:?}", left.status)),
            }
        })
        .await;
}
