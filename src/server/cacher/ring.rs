//! The last events of one resource, in order, for watchers to read at their own pace.
//!
//! There is no queue per watcher: each has a position, counted over all events ever pushed. What
//! falls out at the back is gone for whoever had not read it; the ring says so instead of skipping.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::store::Revision;

use super::item::Item;

/// Enough for a client that was away for some minutes at a lively rate.
const EVENTS_MAX: usize = 8192;
/// A few large objects that change often must not hold all of memory.
const SIZE_BYTES_MAX: usize = 8 << 20;
/// Kept whatever their size, so that a watch of large objects makes progress at all.
const EVENTS_MIN: usize = 64;

/// A change of one object.
#[derive(Debug)]
pub struct Event {
    /// Of the change.
    pub revision: Revision,
    /// What is there now; `None`: removed.
    pub item: Option<Arc<Item>>,
    /// What was there before.
    pub previous: Option<Arc<Item>>,
}

/// The requested position fell out of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("events since the position are no longer kept")]
pub struct Expired;

#[derive(Debug)]
pub(super) struct Ring {
    events: VecDeque<Arc<Event>>,
    /// Position of the front.
    first: u64,
    size_bytes: usize,
    /// All events after this revision are in the ring.
    complete_after: Revision,
}

impl Ring {
    pub(super) fn new(complete_after: Revision) -> Self {
        Self {
            events: VecDeque::new(),
            first: 0,
            size_bytes: 0,
            complete_after,
        }
    }

    pub(super) fn push(&mut self, event: Event) {
        self.size_bytes += size_bytes(&event);
        self.events.push_back(Arc::new(event));
        while self.events.len() > EVENTS_MAX
            || (self.size_bytes > SIZE_BYTES_MAX && self.events.len() > EVENTS_MIN)
        {
            let Some(oldest) = self.events.pop_front() else {
                break;
            };
            self.size_bytes -= size_bytes(&oldest);
            self.first += 1;
            self.complete_after = oldest.revision;
        }
    }

    /// The position behind the last event.
    pub(super) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The position of the first event after `revision`.
    pub(super) fn position_after(&self, revision: Revision) -> Result<u64, Expired> {
        if revision < self.complete_after {
            return Err(Expired);
        }
        let passed = self.events.partition_point(|e| e.revision <= revision);
        Ok(self.first + passed as u64)
    }

    /// Events from `position` on, at most `most`.
    pub(super) fn read(&self, position: u64, most: usize) -> Result<Vec<Arc<Event>>, Expired> {
        let skip = position.checked_sub(self.first).ok_or(Expired)?;
        let events = self.events.iter().skip(skip as usize).take(most);
        Ok(events.cloned().collect())
    }
}

fn size_bytes(event: &Event) -> usize {
    let item = event.item.as_ref().or(event.previous.as_ref());
    item.map_or(0, |item| item.size_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64) -> Event {
        Event {
            revision: Revision(revision),
            item: None,
            previous: None,
        }
    }

    #[test]
    fn a_full_ring_forgets_the_oldest_and_says_so() {
        let mut ring = Ring::new(Revision(10));
        let total = EVENTS_MAX as u64 + 5;
        (1..=total).for_each(|i| ring.push(event(10 + i)));
        assert_eq!(ring.end(), total);
        assert_eq!(ring.read(4, 1).unwrap_err(), Expired);
        assert_eq!(ring.read(5, 1).unwrap()[0].revision, Revision(16));
        assert_eq!(ring.position_after(Revision(14)), Err(Expired));
        assert_eq!(ring.position_after(Revision(15)), Ok(5));
        assert_eq!(ring.position_after(Revision(1 << 40)), Ok(total));
    }
}
