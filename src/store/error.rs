//! How the store fails.

use bytes::Bytes;

use super::{KeyValue, Revision};

/// A failure of a store call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The revision asked for is no longer kept.
    #[error("revision {} is compacted, the oldest kept is {}", wanted.0, oldest.0)]
    Compacted {
        /// What was asked for.
        wanted: Revision,
        /// What could be asked for.
        oldest: Revision,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {} is in the future, the newest is {}", wanted.0, current.0)]
    Future {
        /// What was asked for.
        wanted: Revision,
        /// The newest.
        current: Revision,
    },
    /// A precondition did not hold; nothing was written.
    #[error("key `{}` is not as expected", String::from_utf8_lossy(key))]
    Conflict {
        /// The key of the first precondition that failed.
        key: Bytes,
        /// What is there instead.
        current: Option<KeyValue>,
    },
    /// A transaction names a key twice, or is larger than the limit.
    #[error("invalid transaction: {0}")]
    InvalidTxn(String),
    /// The store cannot be reached or cannot write (disk full, etcd gone). Reads may still work.
    #[error("store unavailable while {doing}: {why}")]
    Unavailable {
        /// The step that failed.
        doing: &'static str,
        /// The cause's text.
        why: String,
    },
    /// What is on disk is not what was written.
    #[error("store damaged at `{path}`: {why}")]
    Corrupt {
        /// The file.
        path: String,
        /// What was expected and what was found, and what to do.
        why: String,
    },
    /// The data folder is not one this program may use; it was not touched.
    #[error("data folder `{path}` cannot be used: {why}")]
    Unusable {
        /// The folder.
        path: String,
        /// What was found there and what to do.
        why: String,
    },
    /// Another process has the data folder.
    #[error("data folder `{path}` is in use by another process (pid {pid})")]
    Locked {
        /// The folder.
        path: String,
        /// Who holds it; 0 where unknown.
        pid: u32,
    },
}
