//! A process that writes is killed, without warning, at any moment; nothing it said is lost.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;
use crate::store::conformance::{put, relaxed};

/// Tells this test, run again as a child, which folder to write to.
const FOLDER: &str = "ORCH_STORE_KILL_TEST_FOLDER";
const WRITERS: usize = 8;
const ROUNDS: usize = 4;

/// Not a test of its own: what the child does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_until_killed_when_told_where() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let store = Mvcc::open(&Config::new(folder)).unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let store = store.clone();
        async move {
            for n in 0..1_000_000 {
                let txn = put(format!("/{writer}/{}", n % 500), format!("{n:0200}"));
                let txn = if n % 3 == 1 { relaxed(txn) } else { txn };
                store.txn(txn).await.unwrap();
                println!("acknowledged {writer} {n}");
            }
        }
    });
    futures_util::future::join_all(writers).await;
}

#[expect(clippy::disallowed_methods, reason = "a process that is to be killed")]
fn child(folder: &std::path::Path) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "store::mvcc::tests::kill::writes_until_killed_when_told_where",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_killed_process_loses_nothing_it_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let mut before = Revision(0);
    for round in 0..ROUNDS {
        let mut child = child(&path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut newest = [None; WRITERS];
        let mut read = 0;
        while let Some(Ok(line)) = lines.next() {
            let words: Vec<_> = line.split(' ').collect();
            if let ["acknowledged", writer, n] = words[..] {
                newest[writer.parse::<usize>().unwrap()] = Some(n.parse::<usize>().unwrap());
                read += 1;
            }
            if read == 700 * (round + 1) {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(read >= 700 * (round + 1), "the child wrote: {read}");
        let store = Mvcc::open(&Config::new(&path)).unwrap();
        for (writer, newest) in newest.iter().enumerate() {
            let Some(n) = newest else { continue };
            let key = format!("/{writer}/{}", n % 500);
            let item = store.get(key.as_bytes()).await.unwrap().0.unwrap();
            let found: usize = std::str::from_utf8(&item.value).unwrap().parse().unwrap();
            assert!(found >= *n, "{key}: {found}, acknowledged {n}");
        }
        let current = store.current().await.unwrap();
        assert!(current > before);
        before = current;
    }
}
