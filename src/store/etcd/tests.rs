//! Against a real etcd, started by the test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::*;
use crate::store::conformance::{self, put, put_for};
use crate::store::mvcc::{Config, Mvcc};
use crate::store::{Event, WatchItem, snapshot};

/// An etcd of one member on loopback; ended when it is dropped.
pub(crate) struct Member {
    folder: TempDir,
    client_url: String,
    peer_url: String,
    child: Option<Child>,
}

/// A port that was free a moment ago.
fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

impl Member {
    fn new() -> Self {
        let mut member = Self {
            folder: tempfile::tempdir().unwrap(),
            client_url: free_url(),
            peer_url: free_url(),
            child: None,
        };
        member.start();
        member
    }

    #[expect(clippy::disallowed_methods, reason = "a real etcd to test against")]
    fn start(&mut self) {
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(self.folder.path().join("etcd"))
            .args(["--listen-client-urls", &self.client_url])
            .args(["--advertise-client-urls", &self.client_url])
            .args(["--listen-peer-urls", &self.peer_url])
            .args(["--initial-advertise-peer-urls", &self.peer_url])
            .args(["--initial-cluster", &format!("default={}", self.peer_url)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.child = Some(child.expect(
            "the program `etcd` is needed by this test: install etcd-server (Debian) or put etcd \
             3.4 or newer on PATH",
        ));
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    async fn connect(&self) -> Arc<Etcd> {
        let mut last = None;
        for _ in 0..100 {
            let config = EtcdConfig {
                endpoints: vec![self.client_url.clone()],
                ..EtcdConfig::default()
            };
            match Etcd::connect(config).await {
                Ok(etcd) => return etcd,
                Err(error) => last = Some(error),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("etcd did not start: {last:?}");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn events(stream: &mut WatchStream, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(30), stream.next());
        if let WatchItem::Events(some) = next.await.unwrap().unwrap().unwrap() {
            events.extend(some);
        }
    }
    events
}

#[tokio::test]
async fn etcd_conforms() {
    let member = Member::new();
    conformance::run_all(member.connect().await).await;
}

#[tokio::test]
async fn a_watch_goes_on_after_etcd_was_away() {
    let mut member = Member::new();
    let etcd = member.connect().await;
    let start = etcd.current().await.unwrap();
    let mut watch = etcd.watch(KeyRange::prefix("/a/"), start).await.unwrap();
    etcd.txn(put("/a/1", "1")).await.unwrap();
    assert_eq!(events(&mut watch, 1).await[0].key(), "/a/1");
    member.stop();
    let away = tokio::time::timeout(Duration::from_secs(60), etcd.txn(put("/a/x", "1")));
    assert!(matches!(
        away.await.unwrap(),
        Err(Error::Unavailable { .. })
    ));
    member.start();
    // Another client writes, so that only the watch itself can find its way back.
    let other = member.connect().await;
    other.txn(put("/a/2", "1")).await.unwrap();
    other.txn(put("/a/3", "1")).await.unwrap();
    let seen = events(&mut watch, 2).await;
    assert_eq!(
        (&seen[0].key()[..], &seen[1].key()[..]),
        (&b"/a/2"[..], &b"/a/3"[..])
    );
    etcd.close().await;
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn progress_is_told_for_what_happens_outside_the_range() {
    let member = Member::new();
    let etcd = member.connect().await;
    let start = etcd.current().await.unwrap();
    let mut watch = etcd.watch(KeyRange::prefix("/a/"), start).await.unwrap();
    etcd.txn(put("/a/1", "1")).await.unwrap();
    let elsewhere = etcd.txn(put("/b/1", "1")).await.unwrap();
    let mut told = Revision(0);
    while told < elsewhere {
        let next = tokio::time::timeout(Duration::from_secs(30), watch.next());
        match next.await.unwrap().unwrap().unwrap() {
            WatchItem::Progress(revision) => told = revision,
            WatchItem::Events(events) => assert!(events[0].revision() > told),
        }
    }
}

#[tokio::test]
async fn keys_with_one_ttl_share_a_lease() {
    let member = Member::new();
    let etcd = member.connect().await;
    let hour = Duration::from_secs(3600);
    for n in 0..10 {
        etcd.txn(put_for(format!("/event/{n}"), "1", hour))
            .await
            .unwrap();
    }
    let deadlines = etcd.deadlines().await.unwrap();
    assert_eq!(deadlines.len(), 10);
    let mut client = etcd.shared.client.clone();
    let leases = client.leases().await.unwrap();
    assert_eq!(leases.leases().len(), 1);
    client.lease_revoke(leases.leases()[0].id()).await.unwrap();
    etcd.txn(put_for("/event/again", "1", hour)).await.unwrap();
    assert_eq!(etcd.deadlines().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_snapshot_of_etcd_restores_into_the_embedded_engine() {
    let member = Member::new();
    let etcd = member.connect().await;
    for n in 0..1300 {
        etcd.txn(put(format!("/k/{n:04}"), n.to_string()))
            .await
            .unwrap();
    }
    let page = etcd
        .range(KeyRange::prefix("/k/"), None, None)
        .await
        .unwrap();
    assert_eq!((page.items.len(), page.remaining), (1300, 0));
    let page_of = etcd
        .range(KeyRange::prefix("/k/"), None, Some(700))
        .await
        .unwrap();
    assert_eq!((page_of.items.len(), page_of.remaining), (700, 600));
    let file = member.folder.path().join("snapshot");
    let clock = Clock::system();
    let info = snapshot::save(&*etcd, &file, &clock).await.unwrap();
    assert_eq!(info.keys, 1300);
    let dir = member.folder.path().join("db");
    snapshot::restore(&file, &dir).unwrap();
    let store = Mvcc::open(&Config::new(dir)).unwrap();
    let restored = store
        .range(KeyRange::prefix("/k/"), None, None)
        .await
        .unwrap();
    assert_eq!(restored.items, page.items);
}

#[tokio::test]
async fn what_does_not_answer_is_unavailable() {
    let config = EtcdConfig {
        endpoints: vec![free_url()],
        ..EtcdConfig::default()
    };
    let refused = Etcd::connect(config).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })));
    let config = EtcdConfig {
        endpoints: vec!["https://127.0.0.1:1".to_owned()],
        ca: Some("/nowhere/ca.pem".into()),
        ..EtcdConfig::default()
    };
    let refused = Etcd::connect(config).await;
    assert!(matches!(refused, Err(Error::Unavailable { why, .. }) if why.contains("ca.pem")));
}
