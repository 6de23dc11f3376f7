//! Any sequence of writes, reads, compactions and ways to go down, against a model that keeps
//! everything.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::conformance::{delete, on, put, relaxed};
use crate::store::{Error, Event, KeyValue, Precondition, Txn, WatchItem};

#[derive(Clone, Debug)]
enum Op {
    Put {
        key: u8,
        relaxed: bool,
    },
    Delete {
        key: u8,
        relaxed: bool,
    },
    /// A put of one key and a delete of another.
    Both {
        put: u8,
        delete: u8,
    },
    /// A put that expects the key as it is, or not.
    Expecting {
        key: u8,
        rightly: bool,
    },
    Compact {
        back: u64,
    },
    ReadAt {
        back: u64,
    },
    Sync,
    Restart(Down),
}

#[derive(Clone, Copy, Debug)]
enum Down {
    Closed,
    Killed,
    PowerCut(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = 0..5_u8;
    let op = prop_oneof![
        6 => (key.clone(), any::<bool>()).prop_map(|(key, relaxed)| Op::Put { key, relaxed }),
        3 => (key.clone(), any::<bool>()).prop_map(|(key, relaxed)| Op::Delete { key, relaxed }),
        2 => (key.clone(), 5..8_u8).prop_map(|(put, delete)| Op::Both { put, delete }),
        2 => (key, any::<bool>()).prop_map(|(key, rightly)| Op::Expecting { key, rightly }),
        1 => (0..8_u64).prop_map(|back| Op::Compact { back }),
        2 => (0..12_u64).prop_map(|back| Op::ReadAt { back }),
        1 => Just(Op::Sync),
        1 => Just(Op::Restart(Down::Closed)),
        1 => Just(Op::Restart(Down::Killed)),
        2 => any::<u64>().prop_map(|seed| Op::Restart(Down::PowerCut(seed))),
    ];
    prop::collection::vec(op, 1..60)
}

type State = BTreeMap<Bytes, KeyValue>;

/// All states there were, the newest last, each with the events that led to it.
struct Model {
    states: Vec<(Revision, State, Vec<Event>)>,
    compacted: Revision,
    synced: Revision,
    /// The newest revision that was ever given out.
    given_out: Revision,
}

impl Model {
    fn new() -> Self {
        Self {
            states: vec![(Revision(0), State::new(), Vec::new())],
            compacted: Revision(0),
            synced: Revision(0),
            given_out: Revision(0),
        }
    }

    fn newest(&self) -> &(Revision, State, Vec<Event>) {
        self.states.last().unwrap()
    }

    /// The state at `revision`, which lies at or behind the newest.
    fn at(&self, revision: Revision) -> &State {
        let newer = self.states.partition_point(|(at, ..)| *at <= revision);
        &self.states[newer - 1].1
    }

    fn written(&mut self, revision: Revision, event: Event) {
        if self.newest().0 != revision {
            let state = self.newest().1.clone();
            self.states.push((revision, state, Vec::new()));
        }
        let (_, state, events) = self.states.last_mut().unwrap();
        match &event {
            Event::Put(item) => state.insert(item.key.clone(), item.clone()),
            Event::Delete { key, .. } => state.remove(key),
        };
        events.push(event);
        self.given_out = self.given_out.max(revision);
    }

    fn put(&mut self, revision: Revision, key: Bytes, value: Bytes) {
        let created = self.newest().1.get(&key).map_or(revision, |i| i.created);
        let item = KeyValue {
            key,
            value,
            created,
            modified: revision,
        };
        self.written(revision, Event::Put(item));
    }

    fn delete(&mut self, revision: Revision, key: Bytes) {
        if self.newest().1.contains_key(&key) {
            self.written(revision, Event::Delete { key, revision });
        }
    }

    fn events_after(&self, revision: Revision) -> Vec<Event> {
        let later = self.states.iter().filter(|(at, ..)| *at > revision);
        later.flat_map(|(_, _, events)| events.clone()).collect()
    }
}

struct Run {
    machine: Machine,
    store: Arc<Mvcc>,
    model: Model,
    /// What a client saw last, which it resumes from.
    seen: Revision,
    count: u64,
}

impl Run {
    fn key(key: u8) -> Bytes {
        format!("/k/{key}").into()
    }

    fn value(&mut self) -> Bytes {
        self.count += 1;
        format!("value {}", self.count).into()
    }

    async fn step(&mut self, op: &Op) {
        match *op {
            Op::Put { key, relaxed } => self.put(Self::key(key), relaxed).await,
            Op::Delete { key, relaxed } => {
                let txn = delete(Self::key(key));
                let revision = self.txn(txn, relaxed).await;
                self.model.delete(revision, Self::key(key));
            }
            Op::Both {
                put: one,
                delete: other,
            } => {
                let value = self.value();
                let mut txn = put(Self::key(one), value.clone());
                txn.writes.extend(delete(Self::key(other)).writes);
                let revision = self.txn(txn, false).await;
                self.model.put(revision, Self::key(one), value);
                self.model.delete(revision, Self::key(other));
            }
            Op::Expecting { key, rightly } => self.expecting(Self::key(key), rightly).await,
            Op::Compact { back } => {
                let to = Revision(self.model.newest().0.0.saturating_sub(back));
                self.store.compact(to).await.unwrap();
                self.model.compacted = self.model.compacted.max(to);
            }
            Op::ReadAt { back } => self.read_at(back).await,
            Op::Sync => {
                self.store.sync().await.unwrap();
                self.model.synced = self.model.newest().0;
            }
            Op::Restart(down) => self.restart(down).await,
        }
        self.check().await;
    }

    async fn txn(&mut self, txn: Txn, is_relaxed: bool) -> Revision {
        let txn = if is_relaxed { relaxed(txn) } else { txn };
        let before = self.model.newest().0;
        let revision = self.store.txn(txn).await.unwrap();
        assert!(revision >= before);
        if !is_relaxed && revision > before {
            self.model.synced = revision;
        }
        revision
    }

    async fn put(&mut self, key: Bytes, is_relaxed: bool) {
        let value = self.value();
        let txn = put(key.clone(), value.clone());
        let revision = self.txn(txn, is_relaxed).await;
        assert!(revision > self.model.given_out, "a revision was used twice");
        self.model.put(revision, key, value);
    }

    async fn expecting(&mut self, key: Bytes, rightly: bool) {
        let present = self.model.newest().1.get(&key).cloned();
        let expectation = match (&present, rightly) {
            (None, true) | (Some(_), false) => Precondition::Absent(key.clone()),
            (Some(item), true) => Precondition::ModifiedAt(key.clone(), item.modified),
            (None, false) => Precondition::ModifiedAt(key.clone(), Revision(1)),
        };
        if rightly {
            let value = self.value();
            let txn = on(expectation, put(key.clone(), value.clone()));
            let revision = self.txn(txn, false).await;
            self.model.put(revision, key, value);
            return;
        }
        match self.store.txn(on(expectation, put(key, "x"))).await {
            Err(Error::Conflict { current, .. }) => assert_eq!(current, present),
            other => panic!("not a conflict: {other:?}"),
        }
    }

    async fn read_at(&self, back: u64) {
        let at = Revision(self.model.newest().0.0.saturating_sub(back));
        match self.store.range(all(), Some(at), None).await {
            Ok(page) => {
                let expected: Vec<_> = self.model.at(at).values().cloned().collect();
                assert_eq!(page.items, expected, "at {at:?}");
                assert!(at >= self.store.oldest().await.unwrap());
            }
            Err(Error::Compacted { wanted, .. }) => {
                let was_lost = self.model.states.iter().all(|(known, ..)| *known != at);
                assert!(wanted == at && (at < self.model.compacted || was_lost));
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn restart(&mut self, down: Down) {
        match down {
            Down::Closed => self.store.close().await.unwrap(),
            Down::Killed => {}
            Down::PowerCut(seed) => self.machine.cut_power(seed),
        }
        self.store = self.machine.start().unwrap();
        let newest = self.store.current().await.unwrap();
        assert!(newest >= self.model.given_out, "revisions went back");
        if let Down::PowerCut(_) = down {
            self.forget_what_was_lost().await;
        }
        self.model.synced = self.model.newest().0;
        // A compaction that had not reached the disk is done again; until then there is more.
        self.model.compacted = self.store.oldest().await.unwrap();
        self.resume().await;
    }

    /// What was relaxed may be lost, from the end; everything else must be there.
    async fn forget_what_was_lost(&mut self) {
        let page = self.store.range(all(), None, None).await.unwrap();
        let found: State = page
            .items
            .into_iter()
            .map(|item| (item.key.clone(), item))
            .collect();
        // Equal states may come again, so the revision must have survived too.
        while self.model.newest().1 != found || !self.is_known(self.model.newest().0).await {
            assert!(
                self.model.newest().0 > self.model.synced,
                "lost what was acknowledged: {found:?}"
            );
            self.model.states.pop();
        }
    }

    async fn is_known(&self, revision: Revision) -> bool {
        self.store.range(all(), Some(revision), None).await.is_ok()
    }

    /// A client goes on from what it saw last.
    async fn resume(&mut self) {
        let survived = self.model.states.iter().any(|(at, ..)| *at == self.seen);
        match self.store.watch(all(), self.seen).await {
            Err(Error::Compacted { .. }) => {
                let is_old = self.seen < self.store.oldest().await.unwrap();
                assert!(
                    is_old || !survived,
                    "a watch from {:?} was refused",
                    self.seen
                );
            }
            Err(error) => panic!("{error}"),
            Ok(_) => assert!(survived || self.model.events_after(self.seen).is_empty()),
        }
    }

    async fn check(&mut self) {
        let page = self.store.range(all(), None, None).await.unwrap();
        let expected: Vec<_> = self.model.newest().1.values().cloned().collect();
        assert_eq!(page.items, expected);
        let oldest = self.store.oldest().await.unwrap();
        assert!(oldest >= self.model.compacted);
        self.model.compacted = oldest;
        let from = self.seen.max(oldest);
        if let Ok(stream) = self.store.watch(all(), from).await {
            let expected = self.model.events_after(from);
            assert_eq!(read(stream, expected.len()).await, expected);
        }
        self.seen = self.store.current().await.unwrap();
    }
}

/// Everything a watch delivers until it has caught up.
async fn read(mut stream: crate::store::WatchStream, at_least: usize) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        match stream.next().await.unwrap().unwrap() {
            WatchItem::Events(some) => events.extend(some),
            WatchItem::Progress(_) => {
                assert!(events.len() >= at_least);
                return events;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_engine_does_what_the_model_does(ops in ops()) {
        block_on(async {
            let mut machine = Machine::new();
            machine.history.revisions = 16;
            let store = machine.start().unwrap();
            let mut run = Run { machine, store, model: Model::new(), seen: Revision(0), count: 0 };
            for op in &ops {
                run.step(op).await;
            }
        });
    }
}
