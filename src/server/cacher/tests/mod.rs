//! The cache over a store that can be broken.

use super::*;
use crate::server::storage::{codec, keys};
use crate::store::{Txn, Write};
use crate::util::tasks::Tasks;
use bytes::Bytes;
use serde_json::json;

pub(crate) mod fake_store;
use fake_store::FakeStore;

const STORAGE: &str = "configmaps";

fn value(name: &str, text: &str) -> Bytes {
    let object = json!({"metadata": {"name": name, "labels": {"text": text}}});
    codec::encode(&Object::from_value(object).unwrap())
}

async fn put(store: &FakeStore, name: &str, text: &str) -> Revision {
    let write = Write::Put {
        key: keys::object(STORAGE, &keys::local("ns", name)),
        value: value(name, text),
        ttl: None,
    };
    txn(store, write).await
}

async fn delete(store: &FakeStore, name: &str) -> Revision {
    let key = keys::object(STORAGE, &keys::local("ns", name));
    txn(store, Write::Delete { key }).await
}

async fn txn(store: &FakeStore, write: Write) -> Revision {
    let txn = Txn {
        writes: vec![write],
        ..Txn::default()
    };
    store.txn(txn).await.unwrap()
}

async fn cacher(store: &Arc<FakeStore>, tasks: &Tasks) -> Cacher {
    let registry = Arc::new(Registry::of(&[]));
    let store = Arc::clone(store) as Arc<dyn Store>;
    Cacher::start(store, registry, Rng::seeded(1), tasks)
        .await
        .unwrap()
}

async fn reached(cacher: &Cacher, revision: Revision) {
    assert!(cacher.wait_for(revision, Duration::from_secs(5)).await);
}

#[tokio::test]
async fn reads_at_start_what_was_there_and_follows_what_comes() {
    let (store, tasks) = (FakeStore::new(), Tasks::new());
    put(&store, "a", "1").await;
    let cacher = cacher(&store, &tasks).await;
    assert_eq!(cacher.get(STORAGE, "ns/a").unwrap().labels["text"], "1");
    let (before, mut watcher) = cacher.watch_from_now(STORAGE);
    let last = put(&store, "b", "2").await;
    let gone = delete(&store, "a").await;
    reached(&cacher, gone).await;
    assert_eq!((before.len(), before.items("ns", None).count()), (1, 1));
    let snapshot = cacher.snapshot(STORAGE);
    assert_eq!(snapshot.revision, gone);
    let names: Vec<_> = snapshot.items("ns", None).map(|i| i.name()).collect();
    assert_eq!(names, ["b"]);
    let events = watcher.next(10).await.unwrap();
    assert_eq!(events[0].revision, last);
    assert!(events[1].item.is_none() && events[1].previous.is_some());
    assert_eq!(watcher.progress(), Some(gone));
}

#[tokio::test]
async fn a_watch_from_before_a_restart_gets_every_event_since() {
    let (store, tasks) = (FakeStore::new(), Tasks::new());
    let first = put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    delete(&store, "a").await;
    let cacher = cacher(&store, &tasks).await;
    let mut watcher = cacher.watch_after(STORAGE, first).unwrap();
    let events = watcher.next(10).await.unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(events[0].item.as_ref().unwrap().labels["text"], "2");
    assert!(events[1].item.is_none());
    assert!(cacher.watch_after("other", first).is_ok());
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_expired() {
    let (store, tasks) = (FakeStore::new(), Tasks::new());
    let first = put(&store, "a", "1").await;
    let second = put(&store, "a", "2").await;
    store.compact(second).await.unwrap();
    let cacher = cacher(&store, &tasks).await;
    assert_eq!(cacher.watch_after(STORAGE, first).unwrap_err(), Expired);
    assert!(cacher.watch_after(STORAGE, second).is_ok());
}

#[tokio::test(start_paused = true)]
async fn after_a_broken_watch_and_compaction_the_difference_becomes_events() {
    let (store, tasks) = (FakeStore::new(), Tasks::new());
    put(&store, "a", "1").await;
    let start = put(&store, "b", "1").await;
    let cacher = cacher(&store, &tasks).await;
    let mut watcher = cacher.watch_after(STORAGE, start).unwrap();
    store.break_watches();
    put(&store, "b", "2").await;
    let last = delete(&store, "a").await;
    store.compact(last).await.unwrap();
    reached(&cacher, last).await;
    let events = watcher.next(10).await.unwrap();
    let seen: Vec<_> = events.iter().map(|e| e.item.is_some()).collect();
    assert_eq!(seen, [true, false]);
    assert_eq!(cacher.list(STORAGE, "").len(), 1);
}

#[tokio::test]
async fn a_list_goes_on_behind_a_key_in_the_order_of_the_store() {
    let (store, tasks) = (FakeStore::new(), Tasks::new());
    for name in ["c", "a", "b"] {
        put(&store, name, "").await;
    }
    let cacher = cacher(&store, &tasks).await;
    let names = |namespace: &str, after| -> Vec<String> {
        let snapshot = cacher.snapshot(STORAGE);
        let items = snapshot.items(namespace, after);
        items.map(|item| item.name().to_owned()).collect()
    };
    assert_eq!(names("ns", None), ["a", "b", "c"]);
    assert_eq!(names("ns", Some("ns/a")), ["b", "c"]);
    assert_eq!(names("", Some("ns/b")), ["c"]);
    assert!(names("n", None).is_empty());
}
