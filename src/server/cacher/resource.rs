//! The cache of one resource: its objects in the order of their keys, and the ring of its last
//! events. One task writes; readers take snapshots that cost nothing and never change.

use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::store::Revision;

use super::item::Item;
use super::lines::Lines;
use super::ring::{Event, Expired, Ring};

/// All objects of one resource.
#[derive(Debug)]
pub(super) struct ResourceCache {
    state: RwLock<State>,
    /// Wakes watchers; carries the revision of the last event.
    changed: watch::Sender<Revision>,
    /// What watchers were told last.
    pub(super) lines: Lines,
}

#[derive(Debug)]
struct State {
    items: OrdMap<Arc<str>, Arc<Item>>,
    /// Of the last event; before the first, that of the state read at start.
    revision: Revision,
    ring: Ring,
}

/// A change that is about to be applied.
#[derive(Debug)]
pub(super) enum Change {
    Put(Arc<Item>),
    Delete(Arc<str>, Revision),
}

/// The objects of one resource at one revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    items: OrdMap<Arc<str>, Arc<Item>>,
    /// What a list of it says its `resourceVersion` is.
    pub revision: Revision,
    /// Whether nothing of this resource changed after this revision.
    pub(super) last_change: Revision,
}

impl Snapshot {
    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The revision of the resource's last change: the snapshot is also that of every revision
    /// between it and [`Snapshot::revision`].
    pub fn last_change(&self) -> Revision {
        self.last_change
    }

    /// The object with a local key.
    pub fn get(&self, key: &str) -> Option<&Arc<Item>> {
        self.items.get(key)
    }

    /// Objects of a namespace (empty: of all) behind the local key `after`, in order.
    pub fn items<'a>(
        &'a self,
        namespace: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Item>> + use<'a> {
        let prefix: Arc<str> = if namespace.is_empty() {
            "".into()
        } else {
            format!("{namespace}/").into()
        };
        let start: Bound<Arc<str>> = match after {
            Some(after) if after >= &*prefix => Bound::Excluded(after.into()),
            _ => Bound::Included(Arc::clone(&prefix)),
        };
        self.items
            .range((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(&*prefix))
            .map(|(_, item)| item)
    }
}

impl ResourceCache {
    pub(super) fn new(complete_after: Revision) -> Self {
        Self {
            state: RwLock::new(State {
                items: OrdMap::new(),
                revision: complete_after,
                ring: Ring::new(complete_after),
            }),
            changed: watch::Sender::new(Revision(0)),
            lines: Lines::default(),
        }
    }

    /// The state read at start: no events.
    pub(super) fn load(&self, items: impl IntoIterator<Item = Arc<Item>>) {
        let items = items.into_iter().map(|item| (Arc::clone(&item.key), item));
        self.state.write().items = items.collect();
    }

    /// Applies changes in order, as one: no reader sees a part of them.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        let mut state = self.state.write();
        for change in changes {
            let (revision, item, previous) = match change {
                Change::Put(item) => {
                    let previous = state.items.insert(Arc::clone(&item.key), Arc::clone(&item));
                    (item.revision, Some(item), previous)
                }
                Change::Delete(key, revision) => match state.items.remove(&key) {
                    Some(previous) => (revision, None, Some(previous)),
                    None => continue,
                },
            };
            state.revision = state.revision.max(revision);
            state.ring.push(Event {
                revision,
                item,
                previous,
            });
        }
        let revision = state.revision;
        drop(state);
        self.changed.send_replace(revision);
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<Item>> {
        self.state.read().items.get(key).cloned()
    }

    /// All objects; `applied` is what the whole cache had applied before this call.
    pub(super) fn snapshot(&self, applied: Revision) -> Snapshot {
        self.state.read().snapshot(applied)
    }

    /// All objects and the position of the event after them.
    pub(super) fn snapshot_and_end(&self, applied: Revision) -> (Snapshot, u64) {
        let state = self.state.read();
        (state.snapshot(applied), state.ring.end())
    }

    pub(super) fn position_after(&self, revision: Revision) -> Result<u64, Expired> {
        self.state.read().ring.position_after(revision)
    }

    /// Events from `position` on; where there are none, the revision up to which there are none.
    pub(super) fn read(
        &self,
        position: u64,
        most: usize,
        applied: Revision,
    ) -> Result<(Vec<Arc<Event>>, Revision), Expired> {
        let state = self.state.read();
        let events = state.ring.read(position, most)?;
        Ok((events, state.revision.max(applied)))
    }

    pub(super) fn changes(&self) -> watch::Receiver<Revision> {
        self.changed.subscribe()
    }
}

impl State {
    /// Everything up to `applied` is in the map, and beyond it exactly what is up to the map's own
    /// revision: so the later of the two is the revision of the map.
    fn snapshot(&self, applied: Revision) -> Snapshot {
        Snapshot {
            items: self.items.clone(),
            revision: self.revision.max(applied),
            last_change: self.revision,
        }
    }
}
