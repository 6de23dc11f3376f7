//! The bounded queue between those who have transactions and the writer's thread.

use std::collections::VecDeque;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Semaphore, oneshot};

use crate::store::{Error, Result, Revision, Txn};

/// Transactions that may wait. Each stands for a request that waits too; beyond it, requests wait
/// for room.
const ROOM: usize = 4096;

/// What the writer is asked for.
pub(crate) enum Request {
    /// To carry out a transaction.
    Txn(Txn, oneshot::Sender<Result<Revision>>),
    /// To bring everything to disk.
    Sync(oneshot::Sender<Result<Revision>>),
}

/// What the writer takes at once.
pub(crate) struct Taken {
    /// In order of arrival.
    pub(crate) requests: Vec<Request>,
    /// Nothing comes after them.
    pub(crate) is_last: bool,
}

/// Any number of producers, one consumer that blocks its thread.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    ready: Condvar,
    room: Semaphore,
}

#[derive(Default)]
struct Inner {
    requests: VecDeque<Request>,
    is_closed: bool,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            ready: Condvar::new(),
            room: Semaphore::new(ROOM),
        }
    }

    /// Puts a transaction into the queue and waits for its answer.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<Revision> {
        self.ask(|reply| Request::Txn(txn, reply)).await
    }

    /// Waits until everything before is on disk.
    pub(crate) async fn sync(&self) -> Result<Revision> {
        self.ask(Request::Sync).await
    }

    async fn ask(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<Revision>>) -> Request,
    ) -> Result<Revision> {
        let room = self.room.acquire().await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        {
            let mut inner = self.inner.lock();
            if inner.is_closed {
                return Err(closed());
            }
            inner.requests.push_back(request(reply));
            // Given back when it is taken, also where nobody waits for the answer any more.
            room.forget();
        }
        self.ready.notify_one();
        answer.await.map_err(|_| closed())?
    }

    /// Blocks until there is something, or `wait` is over, or the queue is closed; takes at most
    /// `count`.
    pub(crate) fn take(&self, count: usize, wait: Option<Duration>) -> Taken {
        let mut inner = self.inner.lock();
        if inner.requests.is_empty() && !inner.is_closed {
            match wait {
                Some(wait) => {
                    self.ready.wait_for(&mut inner, wait);
                }
                None => self.ready.wait(&mut inner),
            }
        }
        let count = count.min(inner.requests.len());
        let requests: Vec<_> = inner.requests.drain(..count).collect();
        let is_last = inner.is_closed && inner.requests.is_empty();
        drop(inner);
        self.room.add_permits(requests.len());
        Taken { requests, is_last }
    }

    /// No further requests; those in the queue are still taken.
    pub(crate) fn close(&self) {
        self.inner.lock().is_closed = true;
        self.room.close();
        self.ready.notify_one();
    }

    /// Answers nobody any more: the writer is gone.
    pub(crate) fn abandon(&self) {
        self.close();
        self.inner.lock().requests.clear();
    }
}

/// What a store that is closed answers.
pub(crate) fn closed() -> Error {
    Error::Unavailable {
        doing: "writing",
        why: "the store is closed".to_owned(),
    }
}
