//! The store stopped after each step it takes on the disk, and started again.

use super::*;
use crate::store::conformance::{delete, put, relaxed};
use crate::store::journal::simulated::Fault;
use crate::store::{Error, Txn};

/// A round of writes: enough for several segments, applications and checkpoints.
fn txns() -> Vec<Txn> {
    let mut txns = Vec::new();
    for n in 0..40 {
        let key = format!("/k/{}", n % 6);
        txns.push(match n % 8 {
            3 => delete(key),
            5 => relaxed(put(key, format!("{n:050}"))),
            _ => put(key, format!("{n:050}")),
        });
    }
    txns
}

/// The content after each of `txns`.
fn states() -> Vec<Vec<(String, String)>> {
    block_on(async {
        let store = Mvcc::in_memory();
        let mut states = vec![content(&*store).await];
        for txn in txns() {
            store.txn(txn).await.unwrap();
            states.push(content(&*store).await);
        }
        states
    })
}

/// Runs until something fails; returns how many transactions were acknowledged, and of how many it
/// is known that they are on disk.
async fn run(store: &Mvcc) -> (usize, usize) {
    let (mut done, mut synced) = (0, 0);
    for txn in txns() {
        let durability = txn.durability;
        match store.txn(txn).await {
            Ok(_) => done += 1,
            Err(Error::Unavailable { .. }) => break,
            Err(error) => panic!("{error}"),
        }
        if durability == crate::store::Durability::Synced {
            synced = done;
        }
    }
    (done, synced)
}

#[test]
fn stopped_after_any_step_nothing_acknowledged_is_lost_or_torn() {
    let states = states();
    let steps = block_on(async {
        let machine = Machine::new();
        run(&machine.start().unwrap()).await;
        machine.disk.steps()
    });
    assert!(steps > 60, "the disk is used: {steps} steps");
    for stop in 0..=steps {
        let machine = Machine::new();
        let (done, synced) = block_on(async {
            let store = machine.start().unwrap();
            machine.disk.fault(Some(Fault::Stop(stop)));
            run(&store).await
        });
        for seed in 0..4 {
            let machine = Machine {
                disk: machine.disk.copy(),
                backend: machine.backend.copy(),
                ..machine.clone()
            };
            machine.cut_power(seed);
            block_on(async {
                let store = machine.start().unwrap();
                let found = content(&*store).await;
                let fits = (synced..=done + 1).any(|n| states.get(n) == Some(&found));
                assert!(fits, "stop {stop}, seed {seed}: {found:?}");
                store.txn(put("/after", "x")).await.unwrap();
                store.close().await.unwrap();
                let store = machine.start().unwrap();
                assert_eq!(content(&*store).await.len(), found.len() + 1);
            });
        }
    }
}

#[test]
fn a_backend_that_fails_is_caught_up_after_a_restart() {
    let states = states();
    for applies in 0..8 {
        let machine = Machine::new();
        block_on(async {
            let store = machine.start().unwrap();
            machine.backend.fail_after(Some(applies));
            let mut done = 0;
            for txn in txns() {
                // The write itself is in the journal when applying older ones fails.
                match store.txn(txn).await {
                    Ok(_) | Err(Error::Unavailable { .. }) => done += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            machine.backend.fail_after(None);
            drop(store);
            let store = machine.start().unwrap();
            assert_eq!(content(&*store).await, states[done], "{applies} applies");
        });
    }
}

#[test]
fn a_full_disk_refuses_writes_and_recovers() {
    let machine = Machine::new();
    block_on(async {
        let store = machine.start().unwrap();
        store.txn(put("/a", "1")).await.unwrap();
        let before = store.current().await.unwrap();
        machine.disk.fault(Some(Fault::Full));
        for _ in 0..3 {
            let refused = store.txn(put("/b", vec![b'x'; 700])).await;
            assert!(matches!(refused, Err(Error::Unavailable { .. })));
            let refused = store.txn(relaxed(put("/c", "1"))).await;
            assert!(matches!(refused, Err(Error::Unavailable { .. })));
        }
        assert_eq!(store.current().await.unwrap(), before);
        assert_eq!(content(&*store).await, [("/a".to_owned(), "1".to_owned())]);
        machine.disk.fault(None);
        store.txn(put("/b", "2")).await.unwrap();
        machine.cut_power(3);
        let store = machine.start().unwrap();
        assert_eq!(content(&*store).await.len(), 2);
    });
}

#[test]
fn a_backend_that_is_not_what_it_says_is_not_taken() {
    let machine = Machine::new();
    block_on(async {
        let store = machine.start().unwrap();
        run(&store).await;
        store.close().await.unwrap();
    });
    let record = |key: &Bytes| key.starts_with(b"i/k/");
    let key = machine.backend.keys().into_iter().find(record).unwrap();
    for value in [&b"short"[..], &[0; 32]] {
        let machine = Machine {
            backend: machine.backend.copy(),
            ..machine.clone()
        };
        machine.backend.damage(&key, Bytes::copy_from_slice(value));
        assert!(matches!(machine.start(), Err(Error::Corrupt { .. })));
    }
}

#[test]
fn a_damaged_value_is_an_error_of_the_read_and_not_a_wrong_answer() {
    let machine = Machine::new();
    block_on(async {
        let store = machine.start().unwrap();
        run(&store).await;
        store.close().await.unwrap();
        let value = |key: &Bytes| key.starts_with(b"v/k/4");
        let key = machine.backend.keys().into_iter().rfind(value).unwrap();
        machine.backend.damage(&key, "something else");
        let store = machine.start().unwrap();
        assert!(matches!(
            store.get(b"/k/4").await,
            Err(Error::Corrupt { .. })
        ));
        assert!(store.get(b"/k/2").await.is_ok());
    });
}
