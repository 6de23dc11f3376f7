//! One reader of a resource's events: a position in the ring and a wake-up, no queue.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::store::Revision;

use super::resource::ResourceCache;
use super::ring::{Event, Expired};

/// Reads the events of one resource from a position on.
#[derive(Debug)]
pub struct Watcher {
    cache: Arc<ResourceCache>,
    position: u64,
    /// Events up to this revision are not delivered: the client asked for a later start.
    after: Revision,
    changed: watch::Receiver<Revision>,
    applied: watch::Receiver<Revision>,
}

impl Watcher {
    pub(super) fn new(
        cache: Arc<ResourceCache>,
        position: u64,
        after: Revision,
        applied: watch::Receiver<Revision>,
    ) -> Self {
        let changed = cache.changes();
        Self {
            cache,
            position,
            after,
            changed,
            applied,
        }
    }

    /// The next events, at most `most`; waits where there are none.
    ///
    /// Errors: [`Expired`] where the reader was too slow.
    pub async fn next(&mut self, most: usize) -> Result<Vec<Arc<Event>>, Expired> {
        loop {
            // Marked as seen before reading, so that what comes during the reading wakes again.
            self.changed.borrow_and_update();
            let events = self.poll(most)?;
            if !events.is_empty() {
                return Ok(events);
            }
            if self.changed.changed().await.is_err() {
                // The cache is held by `self`, so its sender lives; kept total all the same.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The next events that are there already.
    pub fn poll(&mut self, most: usize) -> Result<Vec<Arc<Event>>, Expired> {
        let applied = *self.applied.borrow();
        let (mut events, _) = self.cache.read(self.position, most, applied)?;
        self.position += events.len() as u64;
        events.retain(|event| event.revision > self.after);
        Ok(events)
    }

    /// Bytes made of an event, the same for every watcher that asks for this `form` of it.
    pub fn line(&self, event: &Arc<Event>, form: u8, make: impl FnOnce() -> Bytes) -> Bytes {
        self.cache.lines.get(event, form, make)
    }

    /// The revision up to which everything was delivered, where nothing is waiting.
    pub fn progress(&self) -> Option<Revision> {
        let applied = *self.applied.borrow();
        let (events, revision) = self.cache.read(self.position, 1, applied).ok()?;
        events.is_empty().then(|| revision.max(self.after))
    }
}
