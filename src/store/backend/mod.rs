//! What the engine needs of a place for ordered bytes, so small that it can be replaced.
//!
//! A backend may lose whatever was applied after the last [`Backend::flush`], but only whole
//! batches and only from the end: what it holds after a crash is what it held after some batch.

pub mod memory;
pub mod sled;

use bytes::Bytes;

use crate::store::{KeyRange, Result};

/// Changes that are applied together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Keys with their new value; `None` removes.
    pub changes: Vec<(Bytes, Option<Bytes>)>,
}

impl Batch {
    /// Sets `key`.
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.push((key.into(), Some(value.into())));
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.changes.push((key.into(), None));
    }
}

/// What a scan calls for each pair; an error ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'a;

/// An ordered map of bytes. All calls may block on the disk.
pub trait Backend: Send + Sync + 'static {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// Visits the pairs of `range` in key order.
    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()>;

    /// Applies `batch` as one.
    fn apply(&self, batch: Batch) -> Result<()>;

    /// Returns when everything applied is on disk.
    fn flush(&self) -> Result<()>;

    /// Bytes it takes, roughly.
    fn size_bytes(&self) -> u64;
}
