//! Ordered bytes in sled. The only file that names it.
//!
//! sled 0.34 is used, not the 1.0 alpha, which runs the `sync` program at every open and rewrites
//! whole pages for small commits. What 0.34 lacks is made up here: its `flush` only starts
//! writing out, so its files are synced after it; it may panic on damage, so every call is guarded;
//! and its background flusher, which would write on an idle machine, is off.

use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{Backend, Batch, Visit};
use crate::store::{Error, KeyRange, Result};

/// A sled database in a folder of its own.
pub struct Sled {
    database: sled::Db,
    path: PathBuf,
}

impl Sled {
    /// Opens or makes the database in `path`; pages up to about `cache_bytes` stay in memory.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        let database = guard(path, "opening the database", || config.open())?;
        Ok(Self {
            database,
            path: path.to_owned(),
        })
    }
}

impl Backend for Sled {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = guard(&self.path, "reading", || self.database.get(key))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, range: &KeyRange, visit: &mut Visit<'_>) -> Result<()> {
        let end = range
            .end
            .as_deref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        if range
            .end
            .as_deref()
            .is_some_and(|end| end <= &range.start[..])
        {
            return Ok(());
        }
        let mut pairs = self
            .database
            .range::<&[u8], _>((Bound::Included(&range.start[..]), end));
        while let Some((key, value)) = guard(&self.path, "reading", || pairs.next().transpose())? {
            visit(&key, &value)?;
        }
        Ok(())
    }

    fn apply(&self, batch: Batch) -> Result<()> {
        let mut changes = sled::Batch::default();
        for (key, value) in batch.changes {
            match value {
                Some(value) => changes.insert(&key[..], &value[..]),
                None => changes.remove(&key[..]),
            }
        }
        guard(&self.path, "applying a batch", || {
            self.database.apply_batch(changes)
        })
    }

    fn flush(&self) -> Result<()> {
        guard(&self.path, "flushing", || self.database.flush())?;
        sync_folder(&self.path).map_err(|error| Error::Unavailable {
            doing: "flushing",
            why: error.to_string(),
        })
    }

    fn size_bytes(&self) -> u64 {
        self.database.size_on_disk().unwrap_or(0)
    }
}

/// Syncs every file below `path`, and the folders.
fn sync_folder(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let synced = match entry.file_type()?.is_dir() {
            true => sync_folder(&entry.path()),
            false => File::open(entry.path()).and_then(|file| file.sync_all()),
        };
        match synced {
            // sled removes old snapshots and values as it goes.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            synced => synced?,
        }
    }
    File::open(path)?.sync_all()
}

fn guard<T>(path: &Path, doing: &'static str, call: impl FnOnce() -> sled::Result<T>) -> Result<T> {
    let corrupt = |why: String| Error::Corrupt {
        path: path.display().to_string(),
        why,
    };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error)))
            if matches!(
                error.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData
            ) =>
        {
            Err(corrupt(error.to_string()))
        }
        Ok(Err(sled::Error::Io(error))) => Err(Error::Unavailable {
            doing,
            why: error.to_string(),
        }),
        Ok(Err(error)) => Err(corrupt(error.to_string())),
        Err(_) => Err(corrupt(format!("sled panicked while {doing}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: u64 = 1 << 20;

    #[test]
    fn a_batch_is_read_back_in_order_and_after_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let database = Sled::open(&path, CACHE).unwrap();
        let mut batch = Batch::default();
        for key in ["c", "a", "b", "x"] {
            batch.put(key, vec![key.as_bytes()[0]; 5000]);
        }
        batch.delete("x");
        database.apply(batch).unwrap();
        database.flush().unwrap();
        drop(database);
        let database = Sled::open(&path, CACHE).unwrap();
        let mut keys = Vec::new();
        let range = KeyRange {
            start: Bytes::from_static(b"a"),
            end: Some(Bytes::from_static(b"c")),
        };
        database
            .scan(&range, &mut |key, value| {
                keys.push((key[0], value.len()));
                Ok(())
            })
            .unwrap();
        assert_eq!(keys, [(b'a', 5000), (b'b', 5000)]);
        assert_eq!(database.get(b"c").unwrap().unwrap(), vec![b'c'; 5000]);
        assert_eq!(database.get(b"x").unwrap(), None);
    }

    #[test]
    fn what_is_no_database_is_an_error_not_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        drop(Sled::open(&path, CACHE).unwrap());
        fs::write(path.join("conf"), b"something else").unwrap();
        assert!(Sled::open(&path, CACHE).is_err());
    }
}
