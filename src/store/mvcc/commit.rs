//! The way of a transaction to the writer and of the answer back: through a queue to the writer's
//! own thread, or, without a disk to wait for, straight.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Shared;
use super::apply::{Applier, Thresholds};
use super::queue::{Queue, Request, closed};
use super::write::{GROUP_TXNS_MAX, Writer};
use crate::store::{Error, Result, Revision, Txn};
use crate::util::errors::chain;

/// Relaxed writes are on disk after this at the latest.
const RELAXED_DELAY: Duration = Duration::from_secs(25);
/// How often it looks then.
const BEHIND_WAIT: Duration = Duration::from_millis(20);
/// After a failure the applier tries again, later each time, up to this.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Brings transactions to the writer.
pub(crate) enum Committer {
    /// The caller is writer and applier, one at a time; `None` when it is closed.
    Inline(Mutex<Option<(Writer, Applier)>>),
    /// Each has its thread.
    Threads(Threads),
}

/// The writer's and the applier's threads.
pub(crate) struct Threads {
    queue: Arc<Queue>,
    applier: Arc<Alarm>,
    running: Mutex<Option<Running>>,
}

struct Running {
    writer: JoinHandle<Option<Writer>>,
    applier: JoinHandle<Option<Applier>>,
}

/// Wakes the applier.
#[derive(Default)]
struct Alarm {
    state: Mutex<AlarmState>,
    rung: Condvar,
}

#[derive(Default)]
struct AlarmState {
    is_rung: bool,
    is_over: bool,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Committer").finish_non_exhaustive()
    }
}

impl Committer {
    /// Without threads.
    pub(crate) fn inline(writer: Writer, applier: Applier) -> Self {
        Self::Inline(Mutex::new(Some((writer, applier))))
    }

    /// Starts the threads.
    pub(crate) fn threads(shared: &Arc<Shared>, writer: Writer, applier: Applier) -> Result<Self> {
        let queue = Arc::new(Queue::new());
        let alarm = Arc::new(Alarm::default());
        let failed = |error: std::io::Error| Error::Unavailable {
            doing: "starting a thread",
            why: error.to_string(),
        };
        let applying = {
            let (shared, alarm) = (shared.clone(), alarm.clone());
            thread::Builder::new()
                .name("store-applier".to_owned())
                .spawn(move || guarded("applier", || run_applier(&shared, &alarm, applier)))
                .map_err(failed)?
        };
        let writing = {
            let (shared, alarm, queue) = (shared.clone(), alarm.clone(), queue.clone());
            let run = move || {
                let writer = guarded("writer", || run_writer(&shared, &alarm, &queue, writer));
                queue.abandon();
                writer
            };
            thread::Builder::new()
                .name("store-writer".to_owned())
                .spawn(run)
        };
        let writer = writing.map_err(|error| {
            alarm.end();
            failed(error)
        })?;
        Ok(Self::Threads(Threads {
            queue,
            applier: alarm,
            running: Mutex::new(Some(Running {
                writer,
                applier: applying,
            })),
        }))
    }

    /// Carries out `txn`.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<Revision> {
        match self {
            Self::Threads(threads) => threads.queue.txn(txn).await,
            Self::Inline(both) => {
                let mut both = both.lock();
                let (writer, applier) = both.as_mut().ok_or_else(closed)?;
                let answer = writer.commit(std::iter::once(txn)).pop();
                applier.turn()?;
                answer.unwrap_or_else(|| Err(closed()))
            }
        }
    }

    /// Waits until everything answered is on disk.
    pub(crate) async fn sync(&self) -> Result<()> {
        match self {
            Self::Threads(threads) => threads.queue.sync().await.map(|_| ()),
            Self::Inline(both) => match both.lock().as_mut() {
                Some((writer, _)) => writer.sync(),
                None => Err(closed()),
            },
        }
    }

    /// Ends the writer after what is in its queue, and the applier; `None` where that was done
    /// before. Blocks.
    pub(crate) fn end(&self) -> Option<(Writer, Applier)> {
        match self {
            Self::Inline(both) => both.lock().take(),
            Self::Threads(threads) => {
                let running = threads.running.lock().take()?;
                threads.queue.close();
                let writer = running.writer.join().ok().flatten();
                threads.applier.end();
                let applier = running.applier.join().ok().flatten();
                writer.zip(applier)
            }
        }
    }
}

/// A panic must not go unseen: the store then answers that it is closed.
fn guarded<T>(name: &'static str, run: impl FnOnce() -> T) -> Option<T> {
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    if ran.is_err() {
        tracing::error!(thread = name, "store thread panicked, the store is closed");
    }
    ran.ok()
}

// === the writer's thread ===

fn run_writer(shared: &Shared, alarm: &Alarm, queue: &Queue, mut writer: Writer) -> Writer {
    let mut sync_by: Option<Instant> = None;
    loop {
        let wait = sync_by.map(|by| by.saturating_duration_since(Instant::now()));
        let taken = queue.take(GROUP_TXNS_MAX, wait);
        if !taken.requests.is_empty() {
            wait_for_applier(shared, alarm);
            serve(&mut writer, taken.requests);
            let due = Thresholds::ON_DISK.apply_bytes;
            if shared.state.read().pending.weight_bytes() > due || shared.has_long_history() {
                alarm.ring();
            }
        }
        sync_by = match writer.has_unsynced() {
            true => sync_by.or_else(|| Some(Instant::now() + RELAXED_DELAY)),
            false => None,
        };
        if sync_by.is_some_and(|by| taken.is_last || by <= Instant::now()) {
            if let Err(error) = writer.sync() {
                tracing::error!(error = %chain(&error), "cannot bring relaxed writes to disk");
            }
            sync_by = None;
        }
        if taken.is_last {
            return writer;
        }
    }
}

/// Carries out requests in order: transactions between two syncs as one group.
fn serve(writer: &mut Writer, requests: Vec<Request>) {
    let mut txns: Vec<Txn> = Vec::with_capacity(requests.len());
    let mut replies = Vec::with_capacity(requests.len());
    for request in requests {
        match request {
            Request::Txn(txn, reply) => {
                txns.push(txn);
                replies.push(reply);
            }
            Request::Sync(reply) => {
                answer(writer.commit(txns.drain(..)), &mut replies);
                let synced = writer.sync().map(|()| Revision(0));
                // Who no longer waits needs no answer.
                let _ = reply.send(synced);
            }
        }
    }
    if !txns.is_empty() {
        answer(writer.commit(txns.into_iter()), &mut replies);
    }
}

fn answer(answers: Vec<Result<Revision>>, replies: &mut Vec<oneshot::Sender<Result<Revision>>>) {
    for (reply, answer) in replies.drain(..).zip(answers) {
        // Who no longer waits needs no answer.
        let _ = reply.send(answer);
    }
}

fn wait_for_applier(shared: &Shared, alarm: &Alarm) {
    while shared.is_behind() && shared.trouble().is_none() {
        alarm.ring();
        thread::park_timeout(BEHIND_WAIT);
    }
}

// === the applier's thread ===

fn run_applier(shared: &Shared, alarm: &Alarm, mut applier: Applier) -> Applier {
    let mut retry = Duration::from_secs(1);
    loop {
        let wait = match applier.turn() {
            Ok(()) => {
                shared.set_trouble(None);
                retry = Duration::from_secs(1);
                shared.until_compaction()
            }
            Err(error) => {
                tracing::error!(error = %chain(&error), "cannot apply writes to the database");
                shared.set_trouble(Some(error));
                retry = (retry * 2).min(RETRY_MAX);
                Some(retry)
            }
        };
        if alarm.wait(wait) {
            return applier;
        }
    }
}

impl Alarm {
    fn ring(&self) {
        self.state.lock().is_rung = true;
        self.rung.notify_all();
    }

    fn end(&self) {
        self.state.lock().is_over = true;
        self.rung.notify_all();
    }

    /// Blocks until it rings or `wait` is over; `true` at the end.
    fn wait(&self, wait: Option<Duration>) -> bool {
        let mut state = self.state.lock();
        if !state.is_rung && !state.is_over {
            match wait {
                Some(wait) => {
                    self.rung.wait_for(&mut state, wait);
                }
                None => self.rung.wait(&mut state),
            }
        }
        state.is_rung = false;
        state.is_over
    }
}
