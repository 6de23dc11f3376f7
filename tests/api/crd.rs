//! Custom resources from definition to deletion.

use futures_util::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use orch::api::gvk::GroupVersionResource;
use orch::api::object::Object;
use orch::client::{Call, DeleteParams, DynamicApi, ListParams, Patch};
use serde_json::{Value, json};

use crate::world::World;

fn definition() -> Value {
    let schema = json!({"openAPIV3Schema": {"type": "object", "description": "A timetable.",
        "properties": {
            "spec": {"type": "object", "required": ["image"], "properties": {
                "cron": {"type": "string", "pattern": "^(\\d+|\\*)( (\\d+|\\*)){4}$"},
                "image": {"type": "string"},
                "replicas": {"type": "integer", "default": 1, "minimum": 0},
                "ports": {"type": "array", "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"], "items": {"type": "object",
                    "required": ["name"], "properties": {
                        "name": {"type": "string"}, "port": {"type": "integer"}}}}}},
            "status": {"type": "object", "properties": {
                "replicas": {"type": "integer"}, "selector": {"type": "string"}}}}}});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"],
                "categories": ["all"]},
            "versions": [
                {"name": "v1", "served": true, "storage": true, "schema": schema,
                    "selectableFields": [{"jsonPath": ".spec.image"}],
                    "additionalPrinterColumns": [{"name": "Image", "type": "string",
                        "jsonPath": ".spec.image"}],
                    "subresources": {"status": {}, "scale": {
                        "specReplicasPath": ".spec.replicas",
                        "statusReplicasPath": ".status.replicas",
                        "labelSelectorPath": ".status.selector"}}},
                {"name": "v1beta1", "served": true, "storage": false, "schema": schema},
            ],
        },
    })
}

fn tab(name: &str, spec: Value) -> Object {
    Object::from_value(
        json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab",
        "metadata": {"name": name}, "spec": spec}),
    )
    .unwrap()
}

fn tabs_in(world: &World, version: &str) -> DynamicApi {
    let resource = GroupVersionResource::new("stable.example.com", version, "crontabs");
    world.client.dynamic(&resource, "default")
}

async fn defined() -> World {
    let world = World::start(0).await;
    let made: CustomResourceDefinition = serde_json::from_value(definition()).unwrap();
    let definitions = world.client.all::<CustomResourceDefinition>();
    definitions.create(&made).await.unwrap();
    established(&world).await;
    world
}

async fn established(world: &World) {
    world
        .until("the definition is established", || async {
            let definitions = world.client.all::<CustomResourceDefinition>();
            let now = definitions
                .get("crontabs.stable.example.com")
                .await
                .unwrap();
            let conditions = now
                .status
                .and_then(|status| status.conditions)
                .unwrap_or_default();
            match conditions
                .iter()
                .any(|c| c.type_ == "Established" && c.status == "True")
            {
                true => Ok(()),
                false => Err(format!("{conditions:?}")),
            }
        })
        .await;
}

async fn get(world: &World, path: &str, accept: &str) -> Value {
    let call = Call {
        accept,
        ..Call::new(http::Method::GET, path)
    };
    let answer = world.client.call(call).await.unwrap();
    serde_json::from_slice(&answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_defaulted_pruned_validated_and_shown() {
    let world = defined().await;
    let tabs = tabs_in(&world, "v1");
    let made = tabs
        .create(&tab("a", json!({"image": "i", "odd": 1})))
        .await
        .unwrap();
    assert_eq!(made.field("spec"), &json!({"image": "i", "replicas": 1}));
    assert_eq!(made.at(&["metadata", "generation"]), Some(&json!(1)));
    let wrong = tabs
        .create(&tab("b", json!({"cron": "x", "replicas": "two"})))
        .await;
    let wrong = wrong.unwrap_err().to_string();
    assert!(wrong.contains("spec.cron in body should match"), "{wrong}");
    assert!(wrong.contains("spec.image: Required value"), "{wrong}");
    assert!(
        wrong.contains("must be of type integer: \"string\""),
        "{wrong}"
    );

    let beta = tabs_in(&world, "v1beta1").get("a").await.unwrap();
    assert_eq!(beta.api_version(), "stable.example.com/v1beta1");
    let path = "/apis/stable.example.com/v1/namespaces/default/crontabs";
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = get(&world, path, table).await;
    assert_eq!(table["columnDefinitions"][1]["name"], "Image");
    assert_eq!(table["rows"][0]["cells"], json!(["a", "i"]));
    let by = |image: &str| ListParams::fields(&format!("spec.image={image}"));
    assert_eq!(tabs.list(&by("i")).await.unwrap().items.len(), 1);
    assert_eq!(tabs.list(&by("j")).await.unwrap().items.len(), 0);
    let refused = tabs
        .patch("a", &Patch::Strategic(json!({"spec": {"replicas": 2}})))
        .await;
    assert_eq!(refused.unwrap_err().api().unwrap().code, 415);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_scale_and_apply_go_by_the_schema() {
    let world = defined().await;
    let tabs = tabs_in(&world, "v1");
    let ports = |port: i64| {
        json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab",
        "metadata": {"name": "a"},
        "spec": {"image": "i", "ports": [{"name": format!("p{port}"), "port": port}]}})
    };
    tabs.apply("a", "one", &ports(1)).await.unwrap();
    let merged = tabs.apply("a", "two", &ports(2)).await.unwrap();
    assert_eq!(merged.field("spec")["ports"].as_array().unwrap().len(), 2);

    let status = json!({"spec": {"image": "j"}, "status": {"replicas": 3, "selector": "a=b"}});
    let after = tabs.patch_status("a", &Patch::Merge(status)).await.unwrap();
    assert_eq!(after.field("spec")["image"], "i");
    assert_eq!(
        after.at(&["metadata", "generation"]),
        merged.at(&["metadata", "generation"])
    );
    let path = "/apis/stable.example.com/v1/namespaces/default/crontabs/a/scale";
    let scale = get(&world, path, "application/json").await;
    assert_eq!(scale["status"], json!({"replicas": 3, "selector": "a=b"}));
    let body = json!({"spec": {"replicas": 5}}).to_string();
    let call = Call {
        content_type: "application/merge-patch+json",
        ..Call::json(http::Method::PATCH, path, body)
    };
    world.client.call(call).await.unwrap();
    assert_eq!(tabs.get("a").await.unwrap().field("spec")["replicas"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_openapi_know_what_is_defined() {
    let world = defined().await;
    let list = get(&world, "/apis/stable.example.com/v1", "application/json").await;
    let names: Vec<_> = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["name"])
        .collect();
    assert_eq!(names, ["crontabs", "crontabs/status", "crontabs/scale"]);
    assert_eq!(list["resources"][0]["shortNames"], json!(["ct"]));
    let open = get(
        &world,
        "/openapi/v3/apis/stable.example.com/v1",
        "application/json",
    )
    .await;
    let schema = &open["components"]["schemas"]["com.example.stable.v1.CronTab"];
    assert_eq!(schema["description"], "A timetable.");
    let path = "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}";
    let patches = &open["paths"][path]["patch"]["requestBody"]["content"];
    let mut patches: Vec<_> = patches.as_object().unwrap().keys().collect();
    patches.sort();
    assert_eq!(
        patches,
        [
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
        ]
    );
    let old = get(&world, "/openapi/v2", "application/json").await;
    assert!(old["definitions"]["com.example.stable.v1.CronTab"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_outlives_a_change_of_the_definition_and_ends_with_it() {
    let world = defined().await;
    let tabs = tabs_in(&world, "v1");
    let made = tabs.create(&tab("a", json!({"image": "i"}))).await.unwrap();
    let mut events = tabs
        .watch(&ListParams::default(), made.resource_version(), 60)
        .await
        .unwrap();
    let definitions = world.client.all::<CustomResourceDefinition>();
    let change = json!({"spec": {"names": {"shortNames": ["ct", "tab"]}}});
    definitions
        .patch("crontabs.stable.example.com", &Patch::Merge(change))
        .await
        .unwrap();
    world
        .until("the new name is served", || async {
            let list = get(&world, "/apis/stable.example.com/v1", "application/json").await;
            match list["resources"][0]["shortNames"] == json!(["ct", "tab"]) {
                true => Ok(()),
                false => Err(list.to_string()),
            }
        })
        .await;
    tabs.create(&tab("b", json!({"image": "i"}))).await.unwrap();
    assert!(events.next().await.unwrap().is_ok());

    let params = DeleteParams::default();
    definitions
        .delete("crontabs.stable.example.com", &params)
        .await
        .unwrap();
    world
        .until("the definition is gone", || async {
            match definitions
                .get_opt("crontabs.stable.example.com")
                .await
                .unwrap()
            {
                None => Ok(()),
                Some(left) => Err(format!("{:?} {:?}", left.metadata, left.status)),
            }
        })
        .await;
    let rest: Vec<_> = events.collect().await;
    assert!(rest.len() >= 2, "both objects were deleted: {rest:?}");
    let gone = tabs.list(&ListParams::default()).await.unwrap_err();
    assert!(gone.is_not_found());
}
