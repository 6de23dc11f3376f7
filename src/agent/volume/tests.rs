//! Volumes of a pod as folders on disk, with a server that answers from a table.

use std::sync::Arc;

use serde_json::json;

use crate::client::fake::Fake;

use super::*;

struct World {
    _folder: tempfile::TempDir,
    fake: Arc<Fake>,
    volumes: Volumes,
    root: PathBuf,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    let fake = Fake::new();
    let roots = Roots {
        pods: root.join("pods"),
        memory: root.join("memory"),
    };
    let clock = Clock::fixed(Timestamp::from_second(1_700_000_000).unwrap());
    let volumes = Volumes::new(
        roots,
        &fake.client(),
        (clock, Rng::seeded(1)),
        &Tasks::new(),
    );
    World {
        _folder: folder,
        fake,
        volumes,
        root,
    }
}

fn pod(volumes: serde_json::Value) -> Pod {
    serde_json::from_value(
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u",
        "labels": {"app": "x"}}, "spec": {"containers": [{"name": "c"}], "volumes": volumes}}),
    )
    .unwrap()
}

fn list(items: serde_json::Value) -> serde_json::Value {
    json!({"metadata": {"resourceVersion": "5"}, "items": items})
}

#[tokio::test]
async fn every_kind_of_volume_is_made_and_taken_down_again() {
    let world = world();
    let secret = json!({"metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}});
    let path = "GET /api/v1/namespaces/n/secrets";
    world.fake.answer(path, list(json!([secret])));
    let pod = pod(json!([
        {"name": "empty", "emptyDir": {}},
        {"name": "secret", "secret": {"secretName": "s"}},
        {"name": "labels", "downwardAPI": {"items": [
            {"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "host", "hostPath": {"path": world.root.join("h"), "type": "DirectoryOrCreate"}},
    ]));
    let wake: Wake = Arc::new(|| {});
    world.volumes.hold(&pod, &wake);
    let again = world.volumes.set_up(&pod, &Place::default()).await;
    assert_eq!(again, Ok(None));
    let read = |volume: &str, file: &str| {
        let folder = world.volumes.path(&pod, volume).unwrap();
        fs::read_to_string(folder.join(file)).unwrap()
    };
    assert_eq!(read("secret", "k"), "secret");
    assert_eq!(read("labels", "l"), "app=\"x\"");
    let empty = world.volumes.path(&pod, "empty").unwrap();
    let mode = fs::metadata(&empty).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o777);
    fs::write(empty.join("kept"), "1").unwrap();
    world.volumes.set_up(&pod, &Place::default()).await.unwrap();
    assert_eq!(read("empty", "kept"), "1");
    assert_eq!(
        world.volumes.path(&pod, "host").unwrap(),
        world.root.join("h")
    );
    world.volumes.tear_down("u").unwrap();
    assert!(!empty.exists() && !world.root.join("memory/u").exists());
    assert!(world.root.join("h").exists());
}

#[tokio::test]
async fn the_first_volume_that_fails_is_named() {
    let world = world();
    world
        .fake
        .answer("GET /api/v1/namespaces/n/configmaps", list(json!([])));
    let pod = pod(json!([{"name": "v", "configMap": {"name": "cm"}}]));
    let wake: Wake = Arc::new(|| {});
    world.volumes.hold(&pod, &wake);
    let error = world.volumes.set_up(&pod, &Place::default()).await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found"
    );
}

#[tokio::test]
async fn what_cannot_be_mounted_here_is_said() {
    let world = world();
    let pod = pod(json!([{"name": "v", "nfs": {"server": "a", "path": "/b"}}]));
    let error = world.volumes.set_up(&pod, &Place::default()).await;
    let error = error.unwrap_err();
    assert!(
        error.why.ends_with("not supported on this node: nfs"),
        "{error}"
    );
}
