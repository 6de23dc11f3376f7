//! The one task that keeps the cache: reads everything at start, then follows one watch of the
//! store and deals its events out to the resources. When the watch breaks it goes on where it was,
//! or, where the history is gone, compares a new reading with what it has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::server::storage::keys;
use crate::store::{self, KeyRange, KeyValue, Page, Revision, Store, WatchItem, WatchStream};
use crate::util::backoff::Backoff;
use crate::util::errors::chain;
use crate::util::rng::Rng;

use super::Shared;
use super::item::Item;
use super::resource::Change;

/// How much of the store's history is read again at start, so that watches go on across it. More
/// than the embedded store leaves out after a crash (6144 revisions), so that it reaches beyond.
const REPLAY_REVISIONS: u64 = 12 * 1024;

pub(super) struct Follower {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    applied: watch::Sender<Revision>,
    backoff: Backoff,
}

fn everything() -> KeyRange {
    KeyRange::prefix(keys::ROOT)
}

impl Follower {
    pub(super) fn new(
        store: Arc<dyn Store>,
        shared: Arc<Shared>,
        applied: watch::Sender<Revision>,
        rng: Rng,
    ) -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5), rng);
        Self {
            store,
            shared,
            applied,
            backoff,
        }
    }

    /// Reads the state as it was some revisions ago; the watch that follows replays the rest.
    pub(super) async fn load(&self) -> store::Result<WatchStream> {
        let current = self.store.current().await?;
        let oldest = self.store.oldest().await?;
        let wanted = Revision(current.0.saturating_sub(REPLAY_REVISIONS)).max(oldest);
        let (page, mut watch) = self.read_since(wanted, oldest).await?;
        // A store that was asked for a revision answers with that one.
        let start = page.revision;
        let mut items: HashMap<String, Vec<Arc<Item>>> = HashMap::new();
        for stored in &page.items {
            if let Some((storage, item)) = self.read(stored) {
                items.entry(storage).or_default().push(item);
            }
        }
        self.shared.begin(start);
        for (storage, items) in items {
            self.shared.cache(&storage).load(items);
        }
        self.applied.send_replace(start);
        let mut last = start;
        while *self.applied.borrow() < current {
            match watch.next().await {
                Some(Ok(item)) => {
                    if let WatchItem::Events(events) = &item {
                        last = events.last().map_or(last, store::Event::revision);
                    }
                    self.take(item);
                }
                Some(Err(store::Error::Compacted { .. })) => return self.relist().await,
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        self.shared.leave_out(last, current);
        Ok(watch)
    }

    /// From `wanted` on; where nobody can read that revision (it was left out after a crash, or
    /// compaction was faster), from the `oldest`, else from now.
    async fn read_since(
        &self,
        wanted: Revision,
        oldest: Revision,
    ) -> store::Result<(Page, WatchStream)> {
        for at in [wanted, oldest] {
            match self.read_from(Some(at)).await {
                Err(store::Error::Compacted { .. }) => {}
                read => return read,
            }
        }
        self.read_from(None).await
    }

    /// The state at a revision (`None`: now), and what happens after it.
    async fn read_from(&self, at: Option<Revision>) -> store::Result<(Page, WatchStream)> {
        let page = self.store.range(everything(), at, None).await?;
        let watch = self.store.watch(everything(), page.revision).await?;
        Ok((page, watch))
    }

    pub(super) async fn run(mut self, watch: WatchStream, cancelled: CancellationToken) {
        let work = async {
            let mut watch = watch;
            loop {
                let error = self.follow(&mut watch).await;
                tracing::warn!(error = %error, "store watch ended, watching again");
                watch = self.reopen().await;
            }
        };
        tokio::select! {
            () = cancelled.cancelled() => {}
            () = work => {}
        }
    }

    /// Until the watch ends; the text says why.
    async fn follow(&mut self, watch: &mut WatchStream) -> String {
        loop {
            match watch.next().await {
                Some(Ok(item)) => {
                    self.take(item);
                    self.backoff.reset();
                }
                Some(Err(error)) => return chain(&error),
                None => return "the store ended the watch".to_owned(),
            }
        }
    }

    async fn reopen(&mut self) -> WatchStream {
        loop {
            tokio::time::sleep(self.backoff.next_delay()).await;
            let after = *self.applied.borrow();
            let opened = match self.store.watch(everything(), after).await {
                Err(store::Error::Compacted { .. }) => self.relist().await,
                opened => opened,
            };
            match opened {
                Ok(watch) => return watch,
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "store cannot be watched, trying again");
                }
            }
        }
    }

    /// The history is gone: what changed meanwhile is found by comparing.
    async fn relist(&self) -> store::Result<WatchStream> {
        let (page, watch) = self.read_from(None).await?;
        self.compare(&page);
        self.applied.send_replace(page.revision);
        Ok(watch)
    }

    fn compare(&self, page: &Page) {
        let mut found: HashMap<String, HashMap<Arc<str>, Arc<Item>>> = HashMap::new();
        for stored in &page.items {
            if let Some((storage, item)) = self.read(stored) {
                let items = found.entry(storage).or_default();
                items.insert(Arc::clone(&item.key), item);
            }
        }
        for storage in found.keys() {
            self.shared.cache(storage);
        }
        for (storage, cache) in self.shared.caches() {
            let mut new = found.remove(&storage).unwrap_or_default();
            let mut changes = Vec::new();
            for old in cache.snapshot(Revision(0)).items("", None) {
                match new.remove(&old.key) {
                    None => changes.push(Change::Delete(Arc::clone(&old.key), page.revision)),
                    Some(item) if item.revision != old.revision => changes.push(Change::Put(item)),
                    Some(_) => {}
                }
            }
            changes.extend(new.into_values().map(Change::Put));
            changes.sort_by_key(Change::revision);
            if !changes.is_empty() {
                cache.apply(changes);
            }
        }
    }

    /// Deals out one item of the watch.
    fn take(&self, item: WatchItem) {
        let events = match item {
            WatchItem::Progress(revision) => {
                self.advance(revision);
                return;
            }
            WatchItem::Events(events) => events,
        };
        let Some(last) = events.last().map(store::Event::revision) else {
            return;
        };
        let mut changes: Vec<(String, Vec<Change>)> = Vec::new();
        for event in events {
            let Some((storage, change)) = self.change(event) else {
                continue;
            };
            match changes.iter_mut().find(|(name, _)| *name == storage) {
                Some((_, list)) => list.push(change),
                None => changes.push((storage, vec![change])),
            }
        }
        for (storage, changes) in changes {
            self.shared.cache(&storage).apply(changes);
        }
        self.advance(last);
    }

    fn advance(&self, to: Revision) {
        self.applied.send_if_modified(|applied| {
            let is_later = to > *applied;
            *applied = to.max(*applied);
            is_later
        });
    }

    fn change(&self, event: store::Event) -> Option<(String, Change)> {
        match event {
            store::Event::Put(stored) => {
                let (storage, item) = self.read(&stored)?;
                Some((storage, Change::Put(item)))
            }
            store::Event::Delete { key, revision } => {
                let (storage, local) = keys::parse(&key)?;
                let change = Change::Delete(local.into(), revision);
                Some((storage.to_owned(), change))
            }
        }
    }

    /// `None` for keys that are no objects and, with an error in the log, for unreadable values.
    fn read(&self, stored: &KeyValue) -> Option<(String, Arc<Item>)> {
        let (storage, local) = keys::parse(&stored.key)?;
        if storage == keys::ALLOC {
            return None;
        }
        match Item::read(local, stored, self.shared.fields_of(storage)) {
            Ok(item) => Some((storage.to_owned(), Arc::new(item))),
            Err(error) => {
                let key = String::from_utf8_lossy(&stored.key);
                tracing::error!(%key, error = %chain(&error), "stored object is not readable");
                None
            }
        }
    }
}

impl Change {
    fn revision(&self) -> Revision {
        match self {
            Change::Put(item) => item.revision,
            Change::Delete(_, revision) => *revision,
        }
    }
}
