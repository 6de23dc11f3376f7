//! The scheduler over HTTP: preemption, spreading, and saying why.

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use orch::api::pod;
use orch::client::Patch;
use orch::server::scheduler::explain::{Explanation, PATH};
use serde_json::{Value, json};

use crate::world::World;

fn bare(name: &str, spec: &Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "w"}},
        "spec": {"containers": [{"name": "c", "image": "nginx:1"}]}});
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn asking(name: &str, cpu: &str, class: &str) -> Value {
    let requests = json!({"requests": {"cpu": cpu}});
    let containers = json!([{"name": "c", "image": "nginx:1", "resources": requests}]);
    bare(
        name,
        &json!({"priorityClassName": class, "containers": containers}),
    )
}

async fn classes(world: &World) {
    for (name, value) in [("low", 1), ("high", 100)] {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name}, "value": value});
        let class: PriorityClass = serde_json::from_value(class).unwrap();
        let api = world.client.all::<PriorityClass>();
        api.create(&class).await.unwrap();
    }
}

async fn on(world: &World, name: &str) -> String {
    let what = format!("{name} bound");
    world
        .until(&what, || async {
            let api = world.client.namespaced::<Pod>("default");
            let found = api.get(name).await.unwrap();
            match pod::node_name(&found) {
                "" => Err(format!("{:?}", found.status)),
                node => Ok(node.to_owned()),
            }
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_urgent_pod_takes_the_place_of_the_least_important() {
    let world = World::start(2).await;
    classes(&world).await;
    for (name, cpu, class) in [("kept", "4", "high"), ("old", "4", "low")] {
        world
            .create::<Pod>("default", asking(name, cpu, class))
            .await;
        on(&world, name).await;
    }
    world.ready_pods(2).await;
    let pods = world.list::<Pod>().await;
    let old = pods
        .iter()
        .find(|p| p.metadata.name.as_deref() == Some("old"));
    let place = pod::node_name(old.unwrap()).to_owned();
    let urgent = asking("urgent", "3", "high");
    let urgent = world.create::<Pod>("default", urgent).await;
    assert_eq!(on(&world, "urgent").await, place);
    let pods = world.ready_pods(2).await;
    let names: Vec<_> = pods
        .iter()
        .filter_map(|p| p.metadata.name.clone())
        .collect();
    assert_eq!(names, ["kept", "urgent"]);
    let uid = urgent.metadata.uid.unwrap();
    let text = format!("Preempted by pod {uid} on node {place}");
    world
        .until("an event", || async {
            let events = world.list::<Event>().await;
            let told = events
                .iter()
                .filter(|e| e.reason.as_deref() == Some("Preempted"));
            let told: Vec<_> = told.filter_map(|e| e.message.clone()).collect();
            if told.contains(&text) {
                Ok(())
            } else {
                Err(format!("{told:?}"))
            }
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_spread_over_zones_and_the_rest_is_told_why() {
    let world = World::start(3).await;
    for (node, zone) in [("n1", "x"), ("n2", "x"), ("n3", "y")] {
        let labels = json!({"metadata": {"labels": {"zone": zone}}});
        let api = world.client.all::<Node>();
        api.patch(node, &Patch::Merge(labels)).await.unwrap();
    }
    let spread = json!({"topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "w"}}}]});
    let mut in_y = 0;
    for i in 0..6 {
        let name = format!("w{i}");
        world.create::<Pod>("default", bare(&name, &spread)).await;
        in_y += usize::from(on(&world, &name).await == "n3");
    }
    assert_eq!(in_y, 3);
    let cordon = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    world
        .client
        .all::<Node>()
        .patch("n3", &cordon)
        .await
        .unwrap();
    for name in ["w6", "w7"] {
        world.create::<Pod>("default", bare(name, &spread)).await;
    }
    let answer = world
        .until("one that waits", || async {
            for name in ["w6", "w7"] {
                let path = format!("{PATH}default/{name}");
                let answer = world
                    .client
                    .request_json(http::Method::GET, &path, None)
                    .await;
                let answer: Explanation = serde_json::from_value(answer.unwrap()).unwrap();
                if answer.summary == "none of 3 nodes takes it" {
                    return Ok(answer);
                }
            }
            Err("both fit".to_owned())
        })
        .await;
    let refusal = |node: &str| {
        let node = answer.nodes.iter().find(|n| n.name == node).unwrap();
        node.refusals.first().unwrap().clone()
    };
    assert_eq!(refusal("n1").rule, "PodTopologySpread");
    assert_eq!(
        refusal("n1").figures,
        ["zone=x would have 5 pods, the emptiest domain has 3: skew 2 of at most 1"]
    );
    assert_eq!(refusal("n3").reasons, ["node(s) were unschedulable"]);
    assert!(answer.change.unwrap().contains("uncordon n3"));
    let missing = world.client;
    let path = format!("{PATH}default/nobody");
    let gone = missing.request_json(http::Method::GET, &path, None).await;
    assert!(gone.unwrap_err().is_not_found());
}
