//! A watch of etcd that survives its connection.
//!
//! etcd sends changes, but not how far it is when nothing changes in the range. Who has heard of a
//! revision (by any answer, see `Shared::told`) that this watch has not reached, makes it ask etcd for
//! progress. Versions of etcd that may answer too early (`has_early_progress`) are believed only
//! after a while without events.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    EventType, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::convert::{etcd_range, fail, item, number, revision, revision_of};
use super::{Shared, timed};
use crate::store::{Error, Event, KeyRange, Result, Revision, WatchItem, WatchStream};
use crate::util::backoff::Backoff;
use crate::util::errors::chain;
use crate::util::rng::Rng;

/// Items that wait for the reader; beyond, etcd itself keeps what follows.
const ITEMS_AHEAD: usize = 16;
/// Events mostly come by themselves in this time after the answer to a write.
const EVENT_DELAY: Duration = Duration::from_millis(20);
/// Progress that was asked for and did not come is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// So long must nothing come before early progress is believed.
const QUIET: Duration = Duration::from_millis(500);
/// The largest message; etcd puts up to a thousand revisions in one.
const MESSAGE_BYTES_MAX: usize = 512 << 20;

/// What runs for one watch.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    range: KeyRange,
    /// Everything up to here was delivered.
    delivered: Revision,
    /// The newest revision when the connection began, until it is delivered.
    catching_up: Option<Revision>,
    told: watch::Receiver<Revision>,
    items: mpsc::Sender<Result<WatchItem>>,
    /// Early progress on trial, and when it is believed.
    trial: Option<(Revision, Instant)>,
    /// When to ask for progress.
    ask_at: Option<Instant>,
}

/// Why a connection's turn ended.
enum End {
    /// The reader is gone or was told an error.
    Over,
    /// The connection is gone.
    Lost(String),
}

impl Watcher {
    /// A watch of what happens in `range` after `after`; it runs with [`Watcher::run`].
    pub(crate) fn new(
        shared: Arc<Shared>,
        range: KeyRange,
        after: Revision,
    ) -> (Self, WatchStream) {
        let (items, receiver) = mpsc::channel(ITEMS_AHEAD);
        let watcher = Self {
            told: shared.told.subscribe(),
            shared,
            range,
            delivered: after,
            catching_up: None,
            items,
            trial: None,
            ask_at: None,
        };
        (watcher, WatchStream::new(receiver))
    }

    /// Runs until the reader is gone or was told an error.
    pub(crate) async fn run(mut self) {
        let first = Duration::from_millis(50);
        let mut backoff = Backoff::new(first, Duration::from_secs(5), Rng::from_system());
        loop {
            let before = self.delivered;
            match self.connection().await {
                End::Over => return,
                End::Lost(why) => tracing::debug!(why, "watch of etcd lost, trying again"),
            }
            if self.delivered > before {
                backoff.reset();
            }
            let items = self.items.clone();
            tokio::select! {
                () = items.closed() => return,
                () = tokio::time::sleep(backoff.next_delay()) => {}
            }
        }
    }

    /// One connection, from where the last one ended.
    async fn connection(&mut self) -> End {
        let (start, end) = etcd_range(&self.range);
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(number(Revision(self.delivered.0 + 1)))
            .with_progress_notify();
        let client = self.shared.client.watch_client();
        let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
        let watching = timed("watching etcd", client.watch(start, Some(options)));
        let (mut requests, mut responses) = match watching.await {
            Ok(stream) => stream.split(),
            Err(error) => return End::Lost(chain(&error)),
        };
        self.trial = None;
        loop {
            if let Some(end) = self.turn(&mut requests, &mut responses).await {
                return end;
            }
        }
    }

    /// Waits for one thing and handles it.
    async fn turn(
        &mut self,
        requests: &mut WatchRequestSender,
        responses: &mut WatchResponseStream,
    ) -> Option<End> {
        let items = self.items.clone();
        let trial_over = self.trial.map(|(_, at)| at);
        let wake = [trial_over, self.ask_at].into_iter().flatten().min();
        tokio::select! {
            () = items.closed() => Some(End::Over),
            message = responses.message() => match message {
                Ok(Some(response)) => self.response(&response).await,
                Ok(None) => Some(End::Lost("etcd ended the stream".to_owned())),
                Err(error) => self.failed(&error).await,
            },
            changed = self.told.changed() => {
                if changed.is_ok() && *self.told.borrow_and_update() > self.delivered {
                    self.ask_at.get_or_insert(Instant::now() + EVENT_DELAY);
                }
                None
            }
            () = sleep_until(wake) => self.woken(requests).await,
        }
    }

    async fn failed(&mut self, error: &etcd_client::Error) -> Option<End> {
        match fail("watching etcd", error) {
            Error::Compacted { .. } => self.compacted(Revision(0)).await,
            other => Some(End::Lost(chain(&other))),
        }
    }

    async fn response(&mut self, response: &WatchResponse) -> Option<End> {
        let newest = revision_of(response.header());
        if response.canceled() {
            return match response.compact_revision() {
                0 => Some(End::Lost(response.cancel_reason().to_owned())),
                compacted => self.compacted(revision(compacted)).await,
            };
        }
        if response.created() {
            // Nothing lies between here and there, or it must be asked for.
            if newest <= self.delivered {
                return self.send(WatchItem::Progress(self.delivered)).await;
            }
            self.catching_up = Some(newest);
            self.ask_at = Some(Instant::now());
            return None;
        }
        let events: Vec<Event> = response.events().iter().filter_map(event).collect();
        if let Some(last) = events.last().map(Event::revision) {
            return self.events(events, last).await;
        }
        if self.shared.has_early_progress {
            if newest > self.delivered && self.trial.is_none() {
                self.trial = Some((newest, Instant::now() + QUIET));
            }
            return None;
        }
        self.progress(newest).await
    }

    async fn events(&mut self, events: Vec<Event>, last: Revision) -> Option<End> {
        self.delivered = self.delivered.max(last);
        self.trial = None;
        if *self.told.borrow() > self.delivered {
            self.ask_at.get_or_insert(Instant::now() + EVENT_DELAY);
        }
        if let Some(end) = self.send(WatchItem::Events(events)).await {
            return Some(end);
        }
        match self.catching_up {
            Some(to) if to <= self.delivered => self.progress(self.delivered).await,
            _ => None,
        }
    }

    async fn woken(&mut self, requests: &mut WatchRequestSender) -> Option<End> {
        let now = Instant::now();
        if let Some((newest, _)) = self.trial.filter(|(_, at)| *at <= now) {
            self.trial = None;
            if let Some(end) = self.progress(newest).await {
                return Some(end);
            }
        }
        if self.ask_at.is_none_or(|at| at > now) {
            return None;
        }
        self.ask_at = None;
        if *self.told.borrow() > self.delivered {
            self.ask_at = Some(now + ASK_AGAIN);
            if self.trial.is_none()
                && let Err(error) = requests.request_progress().await
            {
                return Some(End::Lost(error.to_string()));
            }
        }
        None
    }

    async fn progress(&mut self, newest: Revision) -> Option<End> {
        if newest < self.delivered {
            return None;
        }
        self.delivered = newest;
        if self.catching_up.is_some_and(|to| to <= newest) {
            self.catching_up = None;
        }
        self.send(WatchItem::Progress(newest)).await
    }

    async fn compacted(&mut self, oldest: Revision) -> Option<End> {
        let error = Error::Compacted {
            wanted: self.delivered,
            oldest: oldest.max(Revision(self.delivered.0 + 1)),
        };
        // The reader may be gone; it is over either way.
        let _ = self.items.send(Err(error)).await;
        Some(End::Over)
    }

    async fn send(&mut self, item: WatchItem) -> Option<End> {
        match self.items.send(Ok(item)).await {
            Ok(()) => None,
            Err(_) => Some(End::Over),
        }
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn event(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => Event::Put(item(kv)),
        EventType::Delete => Event::Delete {
            key: item(kv).key,
            revision: revision(kv.mod_revision()),
        },
    })
}
