//! A backend in memory, for clusters that need not survive and for tests, with faults on request.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::{Backend, Batch, Visit};
use crate::store::{Error, KeyRange, Result};

/// Shared by its clones: what one applies another reads, so a test can open an engine twice over
/// the same content.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    live: BTreeMap<Bytes, Bytes>,
    /// Kept only once [`Memory::keep_flushed`] was called.
    flushed: Option<BTreeMap<Bytes, Bytes>>,
    applies_before_failure: Option<u64>,
}

impl Memory {
    /// Empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on remembers what is flushed, so that [`Memory::lose_unflushed`] can go back.
    pub fn keep_flushed(&self) {
        let mut content = self.0.lock();
        content.flushed = Some(content.live.clone());
    }

    /// What a power cut does: everything since the last flush is gone.
    pub fn lose_unflushed(&self) {
        let mut content = self.0.lock();
        if let Some(flushed) = content.flushed.clone() {
            content.live = flushed;
        }
    }

    /// After `applies` more batches each further one fails; `None` heals it.
    pub fn fail_after(&self, applies: Option<u64>) {
        self.0.lock().applies_before_failure = applies;
    }

    /// Changes one stored value behind the engine's back.
    pub fn damage(&self, key: &[u8], value: impl Into<Bytes>) {
        self.0
            .lock()
            .live
            .insert(Bytes::copy_from_slice(key), value.into());
    }

    /// Another one with the same content.
    pub fn copy(&self) -> Self {
        let content = self.0.lock();
        Self(Arc::new(Mutex::new(Content {
            live: content.live.clone(),
            flushed: content.flushed.clone(),
            applies_before_failure: None,
        })))
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<Bytes> {
        self.0.lock().live.keys().cloned().collect()
    }
}

impl Backend for Memory {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.lock().live.get(key).cloned())
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        let content = self.0.lock();
        let end = match &range.end {
            Some(end) if end <= &range.start => return Ok(()),
            Some(end) => Bound::Excluded(end.clone()),
            None => Bound::Unbounded,
        };
        let bounds = (Bound::Included(range.start.clone()), end);
        content
            .live
            .range(bounds)
            .try_for_each(|(key, value)| visit(key, value))
    }

    fn apply(&self, batch: Batch) -> Result<()> {
        let mut content = self.0.lock();
        match &mut content.applies_before_failure {
            Some(0) => {
                return Err(Error::Unavailable {
                    doing: "applying a batch",
                    why: "injected fault".to_owned(),
                });
            }
            Some(left) => *left -= 1,
            None => {}
        }
        for (key, value) in batch.changes {
            match value {
                Some(value) => content.live.insert(key, value),
                None => content.live.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let mut content = self.0.lock();
        if content.flushed.is_some() {
            content.flushed = Some(content.live.clone());
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        let content = self.0.lock();
        let bytes = content.live.iter().map(|(k, v)| k.len() + v.len());
        bytes.sum::<usize>() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &'static str) -> Batch {
        let mut batch = Batch::default();
        batch.put(key, "v");
        batch
    }

    #[test]
    fn a_power_cut_loses_what_was_not_flushed() {
        let memory = Memory::new();
        memory.keep_flushed();
        memory.apply(put("a")).unwrap();
        memory.flush().unwrap();
        memory.apply(put("b")).unwrap();
        memory.lose_unflushed();
        assert_eq!(memory.keys(), ["a"]);
    }

    #[test]
    fn fails_from_the_chosen_batch_until_healed() {
        let memory = Memory::new();
        memory.fail_after(Some(1));
        memory.apply(put("a")).unwrap();
        assert!(memory.apply(put("b")).is_err());
        memory.fail_after(None);
        memory.apply(put("c")).unwrap();
        assert_eq!(memory.keys(), ["a", "c"]);
    }
}
