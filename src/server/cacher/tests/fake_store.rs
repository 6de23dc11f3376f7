//! A store in a few lines for tests: every state is kept, watches can be broken.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use crate::store::{
    Error, Event, KeyRange, KeyValue, Page, Precondition, Result, Revision, Store, Txn, WatchItem,
    WatchStream, Write,
};

#[derive(Debug)]
pub(crate) struct FakeStore {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    broken: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    log: Vec<Event>,
    current: Revision,
    oldest: Revision,
}

impl State {
    fn at(&self, revision: Revision) -> BTreeMap<Bytes, KeyValue> {
        let mut map = BTreeMap::new();
        for event in self.log.iter().filter(|e| e.revision() <= revision) {
            match event {
                Event::Put(item) => map.insert(item.key.clone(), item.clone()),
                Event::Delete { key, .. } => map.remove(key),
            };
        }
        map
    }
}

impl FakeStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Arc::default(),
            changed: watch::Sender::new(0),
            broken: watch::Sender::new(0),
        })
    }

    /// Ends all watches with an error.
    pub(crate) fn break_watches(&self) {
        self.broken.send_modify(|count| *count += 1);
    }
}

#[async_trait]
impl Store for FakeStore {
    async fn current(&self) -> Result<Revision> {
        Ok(self.state.lock().current)
    }

    async fn get(&self, key: &[u8]) -> Result<(Option<KeyValue>, Revision)> {
        let state = self.state.lock();
        let map = state.at(state.current);
        Ok((map.get(key).cloned(), state.current))
    }

    async fn range(
        &self,
        range: KeyRange,
        at: Option<Revision>,
        limit: Option<usize>,
    ) -> Result<Page> {
        let state = self.state.lock();
        let (oldest, current) = (state.oldest, state.current);
        let at = at.unwrap_or(current);
        if at < oldest {
            return Err(Error::Compacted { wanted: at, oldest });
        }
        if at > current {
            return Err(Error::Future {
                wanted: at,
                current,
            });
        }
        let mut items: Vec<_> = state.at(at).into_values().collect();
        items.retain(|item| range.contains(&item.key));
        let total = items.len();
        items.truncate(limit.unwrap_or(total));
        Ok(Page {
            remaining: (total - items.len()) as u64,
            items,
            revision: at,
        })
    }

    async fn txn(&self, txn: Txn) -> Result<Revision> {
        let mut state = self.state.lock();
        let map = state.at(state.current);
        for precondition in &txn.preconditions {
            let (key, holds) = match precondition {
                Precondition::Absent(key) => (key, !map.contains_key(key)),
                Precondition::ModifiedAt(key, at) => {
                    (key, map.get(key).is_some_and(|i| i.modified == *at))
                }
            };
            if !holds {
                return Err(Error::Conflict {
                    key: key.clone(),
                    current: map.get(key).cloned(),
                });
            }
        }
        let revision = Revision(state.current.0 + 1);
        state.current = revision;
        for write in txn.writes {
            let event = match write {
                Write::Put { key, value, .. } => Event::Put(KeyValue {
                    created: map.get(&key).map_or(revision, |i| i.created),
                    key,
                    value,
                    modified: revision,
                }),
                Write::Delete { key } if map.contains_key(&key) => Event::Delete { key, revision },
                Write::Delete { .. } => continue,
            };
            state.log.push(event);
        }
        drop(state);
        self.changed.send_modify(|count| *count += 1);
        Ok(revision)
    }

    async fn watch(&self, range: KeyRange, after: Revision) -> Result<WatchStream> {
        let state = Arc::clone(&self.state);
        let oldest = state.lock().oldest;
        if after < oldest {
            return Err(Error::Compacted {
                wanted: after,
                oldest,
            });
        }
        let (sender, receiver) = mpsc::channel(16);
        let (mut changed, mut broken) = (self.changed.subscribe(), self.broken.subscribe());
        let mut after = after;
        crate::util::tasks::Tasks::new().service("fake watch", async move {
            loop {
                changed.borrow_and_update();
                let (events, current) = {
                    let state = state.lock();
                    let new = state.log.iter().filter(|e| e.revision() > after);
                    let new: Vec<_> = new.filter(|e| range.contains(e.key())).cloned().collect();
                    (new, state.current)
                };
                after = current;
                let item = match events.is_empty() {
                    true => WatchItem::Progress(current),
                    false => WatchItem::Events(events),
                };
                if sender.send(Ok(item)).await.is_err() {
                    return;
                }
                tokio::select! {
                    changed = changed.changed() => if changed.is_err() { return },
                    _ = broken.changed() => return,
                    () = sender.closed() => return,
                }
            }
        });
        Ok(WatchStream::new(receiver))
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.state.lock().oldest = revision;
        Ok(())
    }

    async fn oldest(&self) -> Result<Revision> {
        Ok(self.state.lock().oldest)
    }

    async fn sync(&self) -> Result<()> {
        Ok(())
    }
}
