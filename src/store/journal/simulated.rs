//! A disk that loses what was not synced, fails when told to, and can be damaged.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, Segment};
use crate::util::rng::Rng;

/// Shared by its clones, so that a test can open a journal twice over the same content.
#[derive(Clone, Debug, Default)]
pub(crate) struct Simulated(Arc<Mutex<Content>>);

#[derive(Debug, Default)]
struct Content {
    files: BTreeMap<String, Stored>,
    steps: u64,
    fault: Option<Fault>,
}

/// What goes wrong from a step on. A step is a write, a sync, a creation, a cut or a removal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Everything from that step on fails.
    Stop(u64),
    /// No segment can be made, nothing can be written.
    Full,
}

#[derive(Clone, Debug, Default)]
struct Stored {
    on_disk: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl Stored {
    fn now(&self) -> Vec<u8> {
        let mut bytes = self.on_disk.clone();
        for (at, written) in &self.unsynced {
            overwrite(&mut bytes, *at, written);
        }
        bytes
    }
}

fn overwrite(bytes: &mut Vec<u8>, at: usize, written: &[u8]) {
    if bytes.len() < at + written.len() {
        bytes.resize(at + written.len(), 0);
    }
    bytes[at..at + written.len()].copy_from_slice(written);
}

impl Simulated {
    pub(crate) fn fault(&self, fault: Option<Fault>) {
        self.0.lock().fault = fault;
    }

    /// How many steps were done.
    pub(crate) fn steps(&self) -> u64 {
        self.0.lock().steps
    }

    /// Each unsynced write reaches the disk whole, in part, or not, as `rng` has it; a reboot.
    pub(crate) fn cut_power(&self, rng: &Rng) {
        let mut content = self.0.lock();
        content.fault = None;
        for stored in content.files.values_mut() {
            for (at, written) in std::mem::take(&mut stored.unsynced) {
                let kept = match rng.below(3) {
                    0 => 0..0,
                    1 => 0..written.len(),
                    _ => {
                        let from = rng.below(written.len() + 1);
                        from..from + rng.below(written.len() - from + 1)
                    }
                };
                overwrite(&mut stored.on_disk, at + kept.start, &written[kept]);
            }
        }
    }

    /// The process ended, the machine did not: nothing is lost.
    pub(crate) fn end_process(&self) {
        self.0.lock().fault = None;
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().files.keys().cloned().collect()
    }

    /// Another disk with the same content.
    pub(crate) fn copy(&self) -> Self {
        let content = self.0.lock();
        Self(Arc::new(Mutex::new(Content {
            files: content.files.clone(),
            ..Content::default()
        })))
    }

    /// Changes a segment's bytes behind the journal's back.
    pub(crate) fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.0.lock();
        let stored = content.files.get_mut(name).unwrap();
        stored.on_disk = stored.now();
        stored.unsynced.clear();
        change(&mut stored.on_disk);
    }

    pub(crate) fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let content = self.0.lock();
        let each = content.files.iter();
        each.map(|(name, stored)| (name.clone(), stored.now()))
            .collect()
    }

    fn step(&self) -> io::Result<parking_lot::MutexGuard<'_, Content>> {
        let mut content = self.0.lock();
        content.steps += 1;
        match content.fault {
            Some(Fault::Stop(at)) if content.steps > at => Err(io::Error::other("stopped")),
            Some(Fault::Full) => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(content),
        }
    }
}

impl Disk for Simulated {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let content = self.0.lock();
        let stored = content.files.get(name);
        stored
            .map(Stored::now)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn read_head(&self, name: &str, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = self.read(name)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Segment>> {
        Ok(Box::new(SimulatedSegment {
            disk: self.clone(),
            name: name.to_owned(),
        }))
    }

    fn create(&self, name: &str, head: &[u8], len: u64) -> io::Result<Box<dyn Segment>> {
        let mut on_disk = head.to_vec();
        on_disk.resize(len as usize, 0);
        let stored = Stored {
            on_disk,
            unsynced: Vec::new(),
        };
        self.step()?.files.insert(name.to_owned(), stored);
        self.open(name)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step()?.files.remove(name);
        Ok(())
    }

    fn place(&self) -> String {
        "simulated".to_owned()
    }
}

struct SimulatedSegment {
    disk: Simulated,
    name: String,
}

impl Segment for SimulatedSegment {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut content = self.disk.step()?;
        let stored = content.files.get_mut(&self.name).unwrap();
        stored.unsynced.push((offset as usize, bytes.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut content = self.disk.step()?;
        let stored = content.files.get_mut(&self.name).unwrap();
        stored.on_disk = stored.now();
        stored.unsynced.clear();
        Ok(())
    }

    fn cut(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut content = self.disk.step()?;
        let stored = content.files.get_mut(&self.name).unwrap();
        stored.on_disk = stored.now();
        stored.unsynced.clear();
        stored.on_disk.truncate(offset as usize);
        stored.on_disk.resize(len as usize, 0);
        Ok(())
    }
}
