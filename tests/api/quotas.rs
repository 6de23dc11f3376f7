//! A quota holds from its first count on, and gives back what goes.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, ResourceQuota};
use orch::client::DeleteParams;
use serde_json::{Value, json};

use crate::world::World;

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// Waits until the quota says that this much is used.
async fn until_used(world: &World, what: &str, amount: &str) {
    let api = world.client.namespaced::<ResourceQuota>("default");
    world
        .until(&format!("{what} is {amount}"), || async {
            let status = api.get("q").await.unwrap().status.unwrap_or_default();
            let used = status.used.unwrap_or_default();
            let seen = used.get(what).map(|quantity| quantity.0.clone());
            (seen.as_deref() == Some(amount))
                .then_some(())
                .ok_or(format!("{seen:?}"))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_counted_enforced_and_given_back() {
    let world = World::start(1).await;
    world.create::<Pod>("default", pod("before")).await;
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "2", "count/configmaps": "10"}}});
    world.create::<ResourceQuota>("default", quota).await;
    until_used(&world, "pods", "1").await;
    world.create::<Pod>("default", pod("fits")).await;
    until_used(&world, "pods", "2").await;
    let pods = world.client.namespaced::<Pod>("default");
    let third: Pod = serde_json::from_value(pod("third")).unwrap();
    let refused = pods.create(&third).await.unwrap_err();
    let text = refused.api().unwrap().message.clone();
    assert!(
        text.contains("exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2"),
        "{text}"
    );
    pods.delete("before", &DeleteParams::now()).await.unwrap();
    until_used(&world, "pods", "1").await;
    pods.create(&third).await.unwrap();
    // kube-root-ca.crt is one already.
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    world.create::<ConfigMap>("default", map).await;
    until_used(&world, "count/configmaps", "2").await;
}
