//! Revisions and bytes: an ordered map of keys whose every state can be read and watched.
//!
//! Terms. A *revision* counts transactions; all writes of one transaction share it. The *history*
//! is what is kept of earlier states; [`Store::compact`] shortens it, and asking for what is gone
//! is [`Error::Compacted`].
//!
//! Invariants. A transaction that was answered is on disk (unless its durability says relaxed).
//! A watch delivers every event after its start exactly once and in order, or ends with an error.
//! The store never looks inside a value.

pub mod backend;
#[cfg(test)]
mod conformance;
mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
mod journal;
pub mod mvcc;
pub mod snapshot;
mod ttl;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{BoxStream, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

pub use error::Error;

/// What store calls return.
pub type Result<T> = std::result::Result<T, Error>;

/// The count of transactions at which something was so. 0 is before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// A key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// Opaque to the store.
    pub value: Bytes,
    /// When the key was last made.
    pub created: Revision,
    /// When the value was written.
    pub modified: Revision,
}

/// Keys from `start` on, up to but without `end`; without an end where that is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// First key.
    pub start: Bytes,
    /// First key past the range.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = start.iter().rposition(|byte| *byte != u8::MAX).map(|last| {
            let mut end = start[..=last].to_vec();
            end[last] += 1;
            end.into()
        });
        Self { start, end }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && self.end.as_ref().is_none_or(|end| key < &end[..])
    }
}

/// What must hold for a transaction to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// There is no such key.
    Absent(Bytes),
    /// The key was last written at that revision.
    ModifiedAt(Bytes, Revision),
}

/// One change of a transaction. A key may occur once in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets the key; with `ttl` it is deleted by the store that long after this write.
    Put {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// How long it is kept, at least; whole seconds.
        ttl: Option<Duration>,
    },
    /// Removes the key; nothing happens where it is absent.
    Delete {
        /// The key.
        key: Bytes,
    },
}

/// Whether an answer waits for the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Answered when on disk.
    #[default]
    Synced,
    /// Answered at once; written with the next synced transaction or within a bounded time. For
    /// what is worthless after a crash: Leases, heartbeats, Events.
    Relaxed,
}

/// Preconditions and writes, carried out together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub preconditions: Vec<Precondition>,
    /// All share one revision.
    pub writes: Vec<Write>,
    /// Whether the answer waits for the disk.
    pub durability: Durability,
}

/// What a range read gives.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// In key order.
    pub items: Vec<KeyValue>,
    /// The state that was read.
    pub revision: Revision,
    /// How many more keys the range has beyond `items`.
    pub remaining: u64,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was made or its value replaced; `created == modified` tells which.
    Put(KeyValue),
    /// The key was removed.
    Delete {
        /// The key.
        key: Bytes,
        /// By which transaction.
        revision: Revision,
    },
}

impl Event {
    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Event::Put(item) => item.modified,
            Event::Delete { revision, .. } => *revision,
        }
    }

    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Event::Put(item) => &item.key,
            Event::Delete { key, .. } => key,
        }
    }
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Changes in order, never split within one revision.
    Events(Vec<Event>),
    /// Everything up to and including this revision was delivered.
    Progress(Revision),
}

/// A running watch. Dropping it ends it.
pub struct WatchStream {
    items: BoxStream<'static, Result<WatchItem>>,
}

impl WatchStream {
    /// Over a bounded channel that a store fills.
    pub fn new(receiver: mpsc::Receiver<Result<WatchItem>>) -> Self {
        Self::from_stream(ReceiverStream::new(receiver))
    }

    /// Over anything that yields items; it ends after its first error.
    pub fn from_stream(items: impl Stream<Item = Result<WatchItem>> + Send + 'static) -> Self {
        Self {
            items: items.boxed(),
        }
    }

    /// The next item; after an error, and when the store ends, `None`. Loses nothing when the
    /// returned future is dropped before it is ready.
    pub async fn next(&mut self) -> Option<Result<WatchItem>> {
        self.items.next().await
    }
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("WatchStream")
            .finish_non_exhaustive()
    }
}

/// The seam between the API server and what keeps its data.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The newest revision that is readable.
    async fn current(&self) -> Result<Revision>;

    /// The value of `key` now, and the revision it was read at.
    async fn get(&self, key: &[u8]) -> Result<(Option<KeyValue>, Revision)>;

    /// Whether the last change of `key` is the one of `revision`, as far as the store knows without
    /// reading: `false` may also mean that it would have to.
    fn is_current(&self, _key: &[u8], _revision: Revision) -> bool {
        false
    }

    /// Keys of `range` in order as they were `at` a revision (`None`: now), at most `limit`
    /// (`None`: all).
    ///
    /// Errors: [`Error::Compacted`], [`Error::Future`].
    async fn range(
        &self,
        range: KeyRange,
        at: Option<Revision>,
        limit: Option<usize>,
    ) -> Result<Page>;

    /// Carries out `txn` and returns its revision.
    ///
    /// Errors: [`Error::Conflict`] with the first precondition that did not hold; then nothing was
    /// written. After [`Error::Unavailable`] it may or may not have been.
    async fn txn(&self, txn: Txn) -> Result<Revision>;

    /// Every change in `range` after revision `after`; ends with [`Error::Compacted`] where the
    /// history does not reach back that far, also later, for a reader that is too slow.
    async fn watch(&self, range: KeyRange, after: Revision) -> Result<WatchStream>;

    /// Forgets the history before `revision`: reads and watches from before it fail afterwards.
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// The oldest revision that can still be read or watched from.
    async fn oldest(&self) -> Result<Revision>;

    /// Waits until everything answered so far, relaxed or not, is on disk.
    async fn sync(&self) -> Result<()>;

    /// The keys that expire, with the wall clock in milliseconds at which they do; for snapshots.
    async fn deadlines(&self) -> Result<BTreeMap<Bytes, u64>> {
        Ok(BTreeMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_the_next_prefix() {
        assert_eq!(KeyRange::prefix("a/").end.as_deref(), Some(&b"a0"[..]));
        assert_eq!(
            KeyRange::prefix(&b"a\xff"[..]).end.as_deref(),
            Some(&b"b"[..])
        );
        assert_eq!(KeyRange::prefix(&b"\xff"[..]).end, None);
        assert!(KeyRange::prefix("a/").contains(b"a/x") && !KeyRange::prefix("a/").contains(b"a0"));
    }
}
