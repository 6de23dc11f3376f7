//! One watch: how far it got, and what comes next.

use std::sync::Arc;

use futures_util::stream::{self, Stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::mvcc::Shared;
use crate::store::{KeyRange, Result, Revision, WatchItem};

/// A running watch.
pub(crate) struct Cursor {
    shared: Arc<Shared>,
    range: KeyRange,
    /// Everything up to here was delivered.
    after: Revision,
    /// Up to here the reader was told that there is no more.
    told: Option<Revision>,
    newest: watch::Receiver<Revision>,
    closed: CancellationToken,
    ended: bool,
}

impl Cursor {
    /// Starts after `after`, which the caller has checked to be readable.
    pub(crate) fn new(shared: Arc<Shared>, range: KeyRange, after: Revision) -> Self {
        Self {
            newest: shared.hub.subscribe(),
            closed: shared.closed.clone(),
            shared,
            range,
            after,
            told: None,
            ended: false,
        }
    }

    /// Its items. The stream's state is only changed when an item is ready, so a reader may drop
    /// the future of one.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<WatchItem>> + Send + 'static {
        stream::unfold(self, |mut cursor| async move {
            let item = cursor.next().await?;
            Some((item, cursor))
        })
    }

    async fn next(&mut self) -> Option<Result<WatchItem>> {
        while !self.ended {
            self.newest.borrow_and_update();
            match self.look() {
                Ok(Some(item)) => return Some(Ok(item)),
                Ok(None) => {}
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
            tokio::select! {
                changed = self.newest.changed() => changed.ok()?,
                () = self.closed.cancelled() => return None,
            }
        }
        None
    }

    /// The next item where there is one now: events first, then once that there are no more.
    fn look(&mut self) -> Result<Option<WatchItem>> {
        loop {
            let changes = self.shared.changes(&self.range, self.after)?;
            self.after = changes.until;
            if !changes.events.is_empty() {
                // A reader that keeps up learns the revision from the events.
                if changes.is_newest && self.told.is_some() {
                    self.told = Some(self.after);
                }
                return Ok(Some(WatchItem::Events(changes.events)));
            }
            if changes.is_newest {
                let news = self.told != Some(self.after);
                self.told = Some(self.after);
                return Ok(news.then_some(WatchItem::Progress(self.after)));
            }
        }
    }
}
