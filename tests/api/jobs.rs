//! Jobs from wish to end: counted exactly, and nothing of them is left.

use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use orch::client::{DeleteParams, Propagation};
use serde_json::{Value, json};

use crate::world::{FAILS, SUCCEEDS, World};

fn job(name: &str, image: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": image}]}}},
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

/// Waits until the Job has this condition; gives its status.
async fn until_condition(world: &World, name: &str, kind: &str) -> JobStatus {
    let api = world.client.namespaced::<Job>("default");
    world
        .until(&format!("{name} is {kind}"), || async {
            let status = api.get(name).await.unwrap().status.unwrap_or_default();
            let conditions = status.conditions.iter().flatten();
            let mut fitting = conditions.filter(|c| c.type_ == kind && c.status == "True");
            match fitting.next() {
                Some(_) => Ok(status.clone()),
                None => Err(format!("{status:?}")),
            }
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_count_every_pod_once_and_let_go_of_it() {
    let world = World::start(2).await;
    let spec = json!({"completions": 40, "parallelism": 7});
    world
        .create::<Job>("default", job("many", SUCCEEDS, spec))
        .await;
    let spec = json!({"completions": 5, "parallelism": 5, "completionMode": "Indexed"});
    world
        .create::<Job>("default", job("indexed", SUCCEEDS, spec))
        .await;
    let status = until_condition(&world, "many", "Complete").await;
    assert_eq!((status.succeeded, status.failed), (Some(40), None));
    assert!(status.completion_time.is_some() && status.active.is_none());
    let status = until_condition(&world, "indexed", "Complete").await;
    assert_eq!(status.completed_indexes.as_deref(), Some("0-4"));
    let pods = world.list::<Pod>().await;
    assert_eq!(pods.len(), 45);
    assert!(pods.iter().all(|pod| pod.metadata.finalizers.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_fails_says_why_and_one_that_is_deleted_leaves_no_pods() {
    let world = World::start(1).await;
    let spec = json!({"backoffLimit": 0});
    world
        .create::<Job>("default", job("bad", FAILS, spec))
        .await;
    let status = until_condition(&world, "bad", "Failed").await;
    assert_eq!(status.failed, Some(1));
    let reason = status
        .conditions
        .unwrap()
        .into_iter()
        .find(|c| c.type_ == "Failed");
    assert_eq!(
        reason.unwrap().reason.as_deref(),
        Some("BackoffLimitExceeded")
    );
    // Its Pods run for ever and are held by the Job's finalizer.
    let spec = json!({"completions": 3, "parallelism": 3});
    world
        .create::<Job>("default", job("endless", "nginx:1", spec))
        .await;
    world
        .until("three Pods run", || async {
            let pods = world.list::<Pod>().await;
            let running = pods.iter().filter(|pod| orch::api::pod::is_ready(pod));
            (running.count() == 3)
                .then_some(())
                .ok_or_else(|| format!("{}", pods.len()))
        })
        .await;
    let api = world.client.namespaced::<Job>("default");
    let params = DeleteParams {
        propagation: Some(Propagation::Background),
        ..DeleteParams::default()
    };
    for name in ["endless", "bad"] {
        api.delete(name, &params).await.unwrap();
    }
    world.gone::<Pod>().await;
    world.gone::<Job>().await;
}
