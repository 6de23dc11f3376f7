//! On a real folder: restarts, damage, locks, and what survives.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::store::conformance::{delete, put, put_for, relaxed};
use crate::store::snapshot;
use crate::store::{Error, Event, WatchItem, WatchStream};

fn folder() -> (TempDir, Config) {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::new(folder.path().join("db"));
    (folder, config)
}

/// All files below `path` with their content.
fn files(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push((path.clone(), fs::read(&path).unwrap())),
        }
    }
    files.sort();
    files
}

async fn fill(store: &Mvcc, keys: std::ops::Range<u32>) {
    for n in keys {
        let key = format!("/k/{n:04}");
        store.txn(put(key, format!("value {n}"))).await.unwrap();
    }
}

async fn events(stream: &mut WatchStream, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        if let WatchItem::Events(some) = stream.next().await.unwrap().unwrap() {
            events.extend(some);
        }
    }
    events
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_after_a_restart_of_any_kind() {
    let (_folder, config) = folder();
    let mut seen = Revision(0);
    for round in 0..6_u32 {
        let store = Mvcc::open(&config).unwrap();
        let mut watch = store.watch(all(), seen).await.unwrap();
        fill(&store, round * 10..round * 10 + 10).await;
        store
            .txn(relaxed(put("/lease", round.to_string())))
            .await
            .unwrap();
        let got = events(&mut watch, 11).await;
        let keys: Vec<_> = got.iter().map(|event| event.key().clone()).collect();
        assert_eq!(keys[0], format!("/k/{:04}", round * 10));
        assert_eq!(keys[10], "/lease");
        // Not what was last seen, but a few events before it.
        seen = got[10].revision();
        let mut again = store.watch(all(), got[4].revision()).await.unwrap();
        assert_eq!(events(&mut again, 6).await, got[5..]);
        if round % 2 == 0 {
            store.close().await.unwrap();
        }
    }
    let store = Mvcc::open(&config).unwrap();
    let mut from_the_start = store.watch(all(), Revision(0)).await.unwrap();
    assert_eq!(events(&mut from_the_start, 66).await.len(), 66);
}

#[tokio::test]
async fn after_a_clean_end_revisions_go_on_without_a_gap_and_otherwise_with_one() {
    let (_folder, config) = folder();
    let store = Mvcc::open(&config).unwrap();
    fill(&store, 0..5).await;
    store.close().await.unwrap();
    let store = Mvcc::open(&config).unwrap();
    assert_eq!(store.current().await.unwrap(), Revision(5));
    fill(&store, 5..6).await;
    drop(store);
    let store = Mvcc::open(&config).unwrap();
    let current = store.current().await.unwrap();
    assert!(current > Revision(1000));
    let lost = store.watch(all(), Revision(7)).await;
    assert!(matches!(lost, Err(Error::Compacted { oldest, .. }) if oldest == current));
    let lost = store.range(all(), Some(Revision(7)), None).await;
    assert!(matches!(lost, Err(Error::Compacted { .. })));
    assert!(store.watch(all(), Revision(6)).await.is_ok());
    fill(&store, 6..7).await;
    store.close().await.unwrap();
    let store = Mvcc::open(&config).unwrap();
    assert_eq!(store.current().await.unwrap(), Revision(current.0 + 1));
    assert!(matches!(
        store.watch(all(), Revision(7)).await,
        Err(Error::Compacted { .. })
    ));
    let mut resumed = store.watch(all(), Revision(6)).await.unwrap();
    assert_eq!(events(&mut resumed, 1).await[0].key(), "/k/0006");
}

#[tokio::test]
async fn a_closed_store_refuses_and_ends_its_watches() {
    let (_folder, config) = folder();
    let store = Mvcc::open(&config).unwrap();
    fill(&store, 0..1).await;
    let mut watch = store.watch(all(), Revision(1)).await.unwrap();
    assert_eq!(
        watch.next().await.unwrap().unwrap(),
        WatchItem::Progress(Revision(1))
    );
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert!(watch.next().await.is_none());
    assert!(matches!(
        store.txn(put("/a", "1")).await,
        Err(Error::Unavailable { .. })
    ));
    assert!(store.sync().await.is_err());
    assert!(Mvcc::open(&config).is_ok(), "the folder is free");
}

#[tokio::test]
async fn a_second_holder_and_a_foreign_folder_are_refused() {
    let (folder, config) = folder();
    let store = Mvcc::open(&config).unwrap();
    assert!(matches!(
        Mvcc::open(&config),
        Err(Error::Locked { pid, .. }) if pid == std::process::id()
    ));
    drop(store);
    let foreign = folder.path().join("foreign");
    fs::create_dir_all(foreign.join("member/wal")).unwrap();
    let refused = Mvcc::open(&Config::new(&foreign));
    assert!(matches!(refused, Err(Error::Unusable { .. })));
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1);
}

#[tokio::test]
async fn deadlines_survive_a_restart() {
    let (_folder, mut config) = folder();
    config.clock = Clock::fixed(Timestamp::UNIX_EPOCH);
    let store = Mvcc::open(&config).unwrap();
    let ttl = Duration::from_secs(3600);
    store.txn(put_for("/short", "1", ttl)).await.unwrap();
    store.txn(put_for("/long", "1", ttl * 3)).await.unwrap();
    store.txn(put_for("/kept", "1", ttl)).await.unwrap();
    store.txn(put("/kept", "2")).await.unwrap();
    // Once out of the database, once out of the journal.
    for is_closed in [true, false] {
        if is_closed {
            store.close().await.unwrap();
        }
    }
    drop(store);
    config.clock.set(Timestamp::from_second(7200).unwrap());
    let store = Mvcc::open(&config).unwrap();
    let current = store.current().await.unwrap();
    let mut watch = store.watch(all(), current).await.unwrap();
    let gone = events(&mut watch, 1).await;
    assert_eq!(gone[0].key(), "/short");
    let left: Vec<_> = content(&*store)
        .await
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(left, ["/kept", "/long"]);
    assert_eq!(store.deadlines().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_missing_or_damaged_database_is_made_anew_from_the_journal() {
    for damage in ["missing", "garbage", "cut", "older"] {
        let (folder, config) = folder();
        let database = config.dir.join("sled");
        let store = Mvcc::open(&config).unwrap();
        fill(&store, 0..50).await;
        store.close().await.unwrap();
        let older = folder.path().join("older");
        copy(&database, &older);
        let store = Mvcc::open(&config).unwrap();
        fill(&store, 25..100).await;
        store.txn(delete("/k/0001")).await.unwrap();
        let before = content(&*store).await;
        let current = store.current().await.unwrap();
        store.close().await.unwrap();
        match damage {
            "missing" => fs::remove_dir_all(&database).unwrap(),
            "garbage" => {
                let file = database.join("db");
                let len = fs::metadata(&file).unwrap().len() as usize;
                fs::write(file, vec![0x5a; len]).unwrap();
            }
            "cut" => {
                let file = fs::OpenOptions::new().write(true).open(database.join("db"));
                file.unwrap().set_len(1000).unwrap();
            }
            _ => {
                fs::remove_dir_all(&database).unwrap();
                copy(&older, &database);
            }
        }
        let store = Mvcc::open(&config).unwrap();
        assert_eq!(content(&*store).await, before, "{damage}");
        assert_eq!(store.current().await.unwrap(), current, "{damage}");
        fill(&store, 100..101).await;
        store.close().await.unwrap();
        let store = Mvcc::open(&config).unwrap();
        assert_eq!(content(&*store).await.len(), before.len() + 1, "{damage}");
    }
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in files(from) {
        let to = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
    fs::create_dir_all(to.join("blobs")).unwrap();
}

#[tokio::test]
async fn a_value_that_was_damaged_is_repaired_by_the_next_start() {
    let (_folder, config) = folder();
    let store = Mvcc::open(&config).unwrap();
    fill(&store, 0..50).await;
    let before = content(&*store).await;
    store.close().await.unwrap();
    // Written past sled's own checksums, as a bug of ours or a flipped bit in memory would.
    let sled = sled::open(config.dir.join("sled")).unwrap();
    let damaged: Vec<_> = sled.scan_prefix(b"v/k/0007").keys().flatten().collect();
    sled.insert(&damaged[0], "something else").unwrap();
    sled.flush().unwrap();
    drop(sled);
    let store = Mvcc::open(&config).unwrap();
    assert!(matches!(
        store.get(b"/k/0007").await,
        Err(Error::Corrupt { .. })
    ));
    drop(store);
    let store = Mvcc::open(&config).unwrap();
    assert_eq!(content(&*store).await, before);
    assert!(!config.dir.join("suspect").exists());
}

#[tokio::test]
async fn a_damaged_journal_is_told_and_nothing_is_touched() {
    let (_folder, config) = folder();
    let store = Mvcc::open(&config).unwrap();
    fill(&store, 0..20).await;
    drop(store);
    let segment = config.dir.join("journal/0000000000000001.journal");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[64 + 100] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let lock = config.dir.join("lock");
    let but_lock = |files: Vec<(PathBuf, Vec<u8>)>| -> Vec<_> {
        files
            .into_iter()
            .filter(|(path, _)| *path != lock)
            .collect()
    };
    let before = but_lock(files(&config.dir));
    let opened = Mvcc::open(&config);
    assert!(matches!(&opened, Err(Error::Corrupt { path, .. }) if path.contains("journal")));
    assert!(but_lock(files(&config.dir)) == before);
}

#[tokio::test]
async fn a_snapshot_restores_into_an_empty_folder_and_revisions_never_go_back() {
    let (folder, config) = folder();
    let store = Mvcc::open(&config).unwrap();
    fill(&store, 0..1200).await;
    store.txn(delete("/k/0003")).await.unwrap();
    let ttl = Duration::from_secs(3600);
    store.txn(put_for("/event", "1", ttl)).await.unwrap();
    let before = content(&*store).await;
    let file = folder.path().join("snapshot");
    let saved = snapshot::save(&*store, &file, &config.clock).await.unwrap();
    assert_eq!(saved.keys, 1200);
    assert_eq!(snapshot::inspect(&file).unwrap(), saved);
    fill(&store, 1200..1210).await;
    let seen = store.current().await.unwrap();
    let item = store.get(b"/k/0007").await.unwrap().0.unwrap();

    let refused = snapshot::restore(&file, &config.dir);
    assert!(
        matches!(refused, Err(Error::Unusable { .. })),
        "not over a store"
    );
    let dir = folder.path().join("restored");
    snapshot::restore(&file, &dir).unwrap();
    for _ in 0..3 {
        let restored = Mvcc::open(&Config::new(&dir)).unwrap();
        assert_eq!(content(&*restored).await, before);
        assert!(restored.current().await.unwrap() > seen);
        let same = restored.get(b"/k/0007").await.unwrap().0.unwrap();
        assert_eq!(same, item, "revisions of objects are kept");
        assert!(matches!(
            restored.watch(all(), seen).await,
            Err(Error::Compacted { .. })
        ));
        assert_eq!(restored.deadlines().await.unwrap().len(), 1);
    }
    let restored = Mvcc::open(&Config::new(&dir)).unwrap();
    let next = restored.txn(put("/new", "1")).await.unwrap();
    restored.close().await.unwrap();
    let restored = Mvcc::open(&Config::new(&dir)).unwrap();
    assert_eq!(restored.current().await.unwrap(), next);
}

#[tokio::test]
async fn history_is_bounded_by_count_and_by_age() {
    let (_folder, mut config) = folder();
    config.clock = Clock::fixed(Timestamp::UNIX_EPOCH);
    config.history = HistoryLimits {
        age: Duration::from_secs(80),
        revisions: 100,
    };
    let store = Mvcc::in_memory_with(config.history, config.clock.clone());
    for n in 0..1000 {
        store.txn(put("/a", n.to_string())).await.unwrap();
        let kept = 1 + n - store.oldest().await.unwrap().0;
        assert!(kept <= 113, "{kept} kept after {n}");
    }
    assert!(store.oldest().await.unwrap() <= Revision(900));
    config.clock.set(Timestamp::from_second(60).unwrap());
    let middle = store.txn(put("/a", "x")).await.unwrap();
    config.clock.set(Timestamp::from_second(120).unwrap());
    store.txn(put("/a", "y")).await.unwrap();
    assert_eq!(
        store.oldest().await.unwrap(),
        Revision(1000),
        "older than 90 s"
    );
    assert!(store.range(all(), Some(middle), None).await.is_ok());
}

#[tokio::test]
async fn a_watch_that_is_too_slow_is_told_and_does_not_hold_up_the_writer() {
    let history = HistoryLimits {
        revisions: 100,
        ..HistoryLimits::default()
    };
    let store = Mvcc::in_memory_with(history, Clock::system());
    let mut slow = store.watch(all(), Revision(0)).await.unwrap();
    store.txn(put("/a", "0")).await.unwrap();
    assert_eq!(events(&mut slow, 1).await.len(), 1);
    for n in 0..500 {
        store.txn(put("/a", n.to_string())).await.unwrap();
    }
    let told = slow.next().await.unwrap();
    assert!(matches!(told, Err(Error::Compacted { .. })));
    assert!(slow.next().await.is_none());
}

#[tokio::test]
async fn a_long_read_sees_one_state_while_others_write_and_compact() {
    let (_folder, mut config) = folder();
    config.history.revisions = 50;
    let store = Mvcc::open(&config).unwrap();
    fill(&store, 0..3000).await;
    let reading = {
        let store = store.clone();
        async move {
            for _ in 0..5 {
                let page = store.range(all(), None, None).await.unwrap();
                assert_eq!(page.items.len(), 3000);
                let newest = page.items.iter().map(|item| item.modified).max();
                assert!(newest.unwrap() <= page.revision);
            }
        }
    };
    let writing = async {
        for n in 0..3000_u32 {
            let key = format!("/k/{:04}", n * 7 % 3000);
            let write = relaxed(put(key, format!("again {n}")));
            let revision = store.txn(write).await.unwrap();
            if n % 100 == 0 {
                store.compact(revision).await.unwrap();
            }
        }
    };
    tokio::join!(reading, writing);
}
