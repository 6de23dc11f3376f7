//! Tells all watches at once that there is something new.

use tokio::sync::watch;

use crate::store::Revision;

/// The newest revision, to be waited on.
#[derive(Debug)]
pub(crate) struct Hub {
    newest: watch::Sender<Revision>,
}

impl Hub {
    /// With nothing newer than `revision` yet.
    pub(crate) fn new(revision: Revision) -> Self {
        Self {
            newest: watch::Sender::new(revision),
        }
    }

    /// Everything up to `revision` can be read now.
    pub(crate) fn publish(&self, revision: Revision) {
        self.newest.send_replace(revision);
    }

    /// The newest revision.
    pub(crate) fn newest(&self) -> Revision {
        *self.newest.borrow()
    }

    /// For a new watch.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Revision> {
        self.newest.subscribe()
    }
}
