//! An append-only journal: what was appended and synced is found again, whatever happens.
//!
//! # On disk
//!
//! A folder of segments `NUMBER.journal`, NUMBER counting up from 1 in 16 hexadecimal digits, each
//! with its room allocated before it is used. A segment begins with a header ([`Header`]): format
//! version, the journal's identity, its number, the revision before its first frame, and how many
//! bytes of the previous segment count. Behind it lie frames (`frame.rs`), each with the
//! payload of one append. Zeros follow.
//!
//! # What is atomic
//!
//! - One append is one frame, and a frame counts only if its checksum is right: all of it or
//!   nothing.
//! - A segment is made under another name, synced, and renamed: it exists with its header or not at
//!   all.
//! - The end of a full segment is synced before the next is made, and the next one's header holds
//!   that end. So only the last segment can have a torn tail.
//!
//! # Crash story
//!
//! Frames are written in order, and those written without a sync are on disk only with the next
//! synced one. When the power goes, any part of what was written since the last sync may be on disk,
//! in any order. On opening, the first place in the last segment that is not a frame is either
//!
//! - where such a part begins: no later frame says that it was written after a sync beyond that
//!   place. The tail is cut off there, before anything else is written, so that no left-over frame
//!   can ever be taken for a later one; or
//! - damage: a later frame says so. Then, and for every fault in an earlier segment, opening fails
//!   with [`Error::Corrupt`] and nothing on disk was changed. A damaged last frame looks like a torn
//!   tail; no format can tell them apart without a second write.
//!
//! A process that is killed loses nothing, synced or not: the kernel has what was written.
//!
//! When a write or a sync fails, the frame does not count and the next one is written over it,
//! together with everything that was not synced before: after a failed sync the kernel may have
//! dropped what it could not write. It may still be found after a crash at that moment; who appended
//! it was told that it is unknown.

pub(crate) mod disk;
mod frame;
mod header;
#[cfg(test)]
pub(crate) mod simulated;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use self::disk::{Disk, Segment};
use self::frame::{Scan, Tail};
use self::header::{HEADER_BYTES, Header};
use crate::store::{Durability, Error, Result, Revision};

/// The journal of one store, open for appending.
pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    identity: u64,
    segment_bytes: u64,
    /// Full ones, oldest first.
    full: VecDeque<Full>,
    active: Option<Active>,
    newest: Revision,
}

/// A segment that is not written any more.
#[derive(Clone, Copy, Debug)]
struct Full {
    number: u64,
    /// The newest revision in it.
    newest: Revision,
    bytes: u64,
}

/// The segment being written.
struct Active {
    number: u64,
    segment: Box<dyn Segment>,
    end: u64,
    room: u64,
    synced: u64,
    /// The bytes from `synced` to `end`.
    unsynced: Vec<u8>,
    /// A write or sync failed: what is on disk behind `synced` is unknown.
    is_doubtful: bool,
}

/// What a journal's folder was found to hold; nothing was changed yet.
pub(crate) struct Found {
    disk: Arc<dyn Disk>,
    identity: u64,
    full: VecDeque<Full>,
    last: Option<(Header, u64, Tail, u64)>,
    newest: Revision,
    before: Revision,
}

/// Reads the journal with `identity` on `disk` without changing it. Every frame that ends with
/// `after` or a later revision is shown to `visit`, in order.
///
/// Errors: [`Error::Corrupt`]; what `visit` returns.
pub(crate) fn read(
    disk: Arc<dyn Disk>,
    identity: u64,
    after: Revision,
    visit: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Found> {
    let headers = headers(&*disk, identity)?;
    let mut found = Found {
        disk: disk.clone(),
        identity,
        full: VecDeque::new(),
        last: None,
        newest: headers.first().map_or(Revision(0), |header| header.before),
        before: headers.first().map_or(Revision(0), |header| header.before),
    };
    for (at, header) in headers.iter().enumerate() {
        let next = headers.get(at + 1);
        if let Some(next) = next.filter(|next| next.before <= after) {
            found.skip(header, next);
            continue;
        }
        let bytes = disk
            .read(&header.name())
            .map_err(|error| unavailable("reading the journal", &error))?;
        // Behind the end that counted may lie a frame that could not be synced.
        let counted = next.map_or(bytes.len(), |next| saturating(next.previous_end));
        let counted = bytes.get(..counted).unwrap_or(&bytes);
        let scan = frame::scan(counted, header.seed(), HEADER_BYTES);
        check_scan(&*disk, header, &scan, next)?;
        for frame in &scan.frames {
            // The one with `after` itself may be followed by notes of the same revision.
            if frame.revision >= after {
                visit(&bytes[frame.payload.clone()])?;
            }
            found.newest = frame.revision;
        }
        match next {
            Some(next) => found.skip(header, next),
            None => {
                let room = bytes.len() as u64;
                found.last = Some((*header, scan.end as u64, scan.tail, room));
            }
        }
    }
    Ok(found)
}

/// All segments' headers, checked to follow each other.
fn headers(disk: &dyn Disk, identity: u64) -> Result<Vec<Header>> {
    let names = disk
        .list()
        .map_err(|error| unavailable("listing the journal", &error))?;
    let mut headers: Vec<Header> = Vec::new();
    let mut names: Vec<String> = names;
    names.sort_unstable();
    for name in names {
        let head = disk
            .read_head(&name, HEADER_BYTES)
            .map_err(|error| unavailable("reading the journal", &error))?;
        let header = Header::decode(&head).map_err(|why| corrupt(disk, &name, why))?;
        if header.name() != name || header.identity != identity {
            return Err(corrupt(disk, &name, "it belongs to another journal"));
        }
        if let Some(last) = headers.last()
            && (last.number + 1 != header.number || header.before < last.before)
        {
            let missing = Header {
                number: last.number + 1,
                ..header
            };
            return Err(corrupt(disk, &missing.name(), "it is missing"));
        }
        headers.push(header);
    }
    Ok(headers)
}

fn check_scan(disk: &dyn Disk, header: &Header, scan: &Scan, next: Option<&Header>) -> Result<()> {
    let newest = scan.frames.last().map_or(header.before, |f| f.revision);
    let oldest = scan.frames.first().map_or(newest, |f| f.revision);
    let why = match next {
        None if scan.tail == Tail::Damaged => Some("a frame that was on disk is damaged"),
        Some(next) if next.previous_end != scan.end as u64 => Some("a frame is damaged"),
        Some(next) if next.before != newest => Some("its revisions do not fit the next segment"),
        _ if oldest < header.before => Some("its revisions go back"),
        _ => None,
    };
    why.map_or(Ok(()), |why| {
        let why = format!("{why} at byte {}", scan.end);
        Err(corrupt(disk, &header.name(), why))
    })
}

impl Found {
    fn skip(&mut self, header: &Header, next: &Header) {
        self.newest = next.before;
        self.full.push_back(Full {
            number: header.number,
            newest: next.before,
            bytes: next.previous_end,
        });
    }

    /// The newest revision in it.
    pub(crate) fn newest(&self) -> Revision {
        self.newest
    }

    /// It holds everything after this revision.
    pub(crate) fn reaches_back_to(&self) -> Revision {
        self.before
    }

    /// Whether it has no segment.
    pub(crate) fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// Cuts off a torn tail and opens for appending. An empty journal goes on after `newest`.
    pub(crate) fn open(self, segment_bytes: u64, newest: Revision) -> Result<Journal> {
        let mut active = None;
        if let Some((header, end, tail, room)) = self.last {
            let failed = |error: io::Error| unavailable("opening the journal", &error);
            let segment = self.disk.open(&header.name()).map_err(failed)?;
            if tail != Tail::Empty || room <= end {
                segment.cut(end, room.max(segment_bytes)).map_err(failed)?;
            } else {
                // What a killed process left in the kernel's hands counts as synced from here on.
                segment.sync().map_err(failed)?;
            }
            active = Some(Active {
                number: header.number,
                segment,
                end,
                room: room.max(segment_bytes),
                synced: end,
                unsynced: Vec::new(),
                is_doubtful: false,
            });
        }
        Ok(Journal {
            disk: self.disk,
            identity: self.identity,
            segment_bytes,
            full: self.full,
            newest: if active.is_some() {
                self.newest
            } else {
                newest
            },
            active,
        })
    }
}

impl Journal {
    /// Appends one frame whose newest revision is `revision`. With [`Durability::Synced`] it and
    /// everything before it is on disk on return. On an error it does not count.
    pub(crate) fn append(
        &mut self,
        revision: Revision,
        payload: &[u8],
        durability: Durability,
    ) -> Result<()> {
        let appended = self.try_append(revision, payload, durability);
        appended.map_err(|error| unavailable("writing the journal", &error))
    }

    fn try_append(
        &mut self,
        revision: Revision,
        payload: &[u8],
        durability: Durability,
    ) -> io::Result<()> {
        let len = frame::frame_len(payload.len()) as u64;
        let fits = |active: &Active| active.end + len <= active.room;
        if !self.active.as_ref().is_some_and(fits) {
            self.rotate(len)?;
        }
        let active = self.active.as_mut().ok_or(io::ErrorKind::NotFound)?;
        let seed = Header::seed_of(self.identity, active.number);
        let before = active.unsynced.len();
        frame::encode(&mut active.unsynced, seed, revision, active.synced, payload);
        let written = active.write_from(before).and_then(|()| match durability {
            Durability::Synced => active.sync(),
            Durability::Relaxed => Ok(()),
        });
        if let Err(error) = written {
            active.is_doubtful = true;
            active.unsynced.truncate(before);
            active.end = active.synced + before as u64;
            return Err(error);
        }
        self.newest = revision;
        Ok(())
    }

    /// Returns when everything appended is on disk.
    pub(crate) fn sync(&mut self) -> Result<()> {
        match &mut self.active {
            Some(active) if !active.unsynced.is_empty() => active
                .write_from(active.unsynced.len())
                .and_then(|()| active.sync())
                .map_err(|error| {
                    active.is_doubtful = true;
                    unavailable("syncing the journal", &error)
                }),
            _ => Ok(()),
        }
    }

    /// How much was appended since the last sync.
    pub(crate) fn unsynced_bytes(&self) -> usize {
        self.active.as_ref().map_or(0, |a| a.unsynced.len())
    }

    /// The newest revision appended.
    pub(crate) fn newest(&self) -> Revision {
        self.newest
    }

    /// How much it has that is newer than `revision`, in whole segments but for the newest.
    pub(crate) fn bytes_after(&self, revision: Revision) -> u64 {
        let full = self.full.iter().filter(|full| full.newest > revision);
        let active = self.active.as_ref().filter(|_| self.newest > revision);
        full.map(|full| full.bytes).sum::<u64>() + active.map_or(0, |active| active.end)
    }

    /// Forgets full segments with nothing newer than `revision`; the caller removes them with
    /// [`remove`] once nobody waits for it.
    pub(crate) fn forget(&mut self, revision: Revision) -> Vec<String> {
        let mut names = Vec::new();
        while let Some(full) = self.full.front().filter(|full| full.newest <= revision) {
            names.push(Header::name_of(full.number));
            self.full.pop_front();
        }
        names
    }

    fn rotate(&mut self, len: u64) -> io::Result<()> {
        let mut header = Header {
            identity: self.identity,
            number: 1,
            before: self.newest,
            previous_end: 0,
        };
        if let Some(active) = &mut self.active {
            if !active.unsynced.is_empty() {
                active.write_from(active.unsynced.len())?;
                active.sync()?;
            }
            header.number = active.number + 1;
            header.previous_end = active.end;
        }
        let room = self.segment_bytes.max(HEADER_BYTES as u64 + len);
        let segment = self.disk.create(&header.name(), &header.encode(), room)?;
        let next = Active {
            number: header.number,
            segment,
            end: HEADER_BYTES as u64,
            room,
            synced: HEADER_BYTES as u64,
            unsynced: Vec::new(),
            is_doubtful: false,
        };
        if let Some(full) = self.active.replace(next) {
            self.full.push_back(Full {
                number: full.number,
                newest: self.newest,
                bytes: full.end,
            });
        }
        Ok(())
    }
}

impl Active {
    /// Writes the unsynced bytes from `from` on, or all of them where it is unknown what of them
    /// is on disk.
    fn write_from(&mut self, from: usize) -> io::Result<()> {
        let from = if self.is_doubtful { 0 } else { from };
        let bytes = &self.unsynced[from..];
        if !bytes.is_empty() {
            self.segment.write_at(bytes, self.synced + from as u64)?;
        }
        self.end = self.synced + self.unsynced.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.segment.sync()?;
        self.synced = self.end;
        self.unsynced.clear();
        self.unsynced.shrink_to(64 << 10);
        self.is_doubtful = false;
        Ok(())
    }
}

/// Removes segments that [`Journal::forget`] returned.
pub(crate) fn remove(disk: &dyn Disk, names: &[String]) -> Result<()> {
    for name in names {
        match disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(unavailable("removing old segments of the journal", &error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn saturating(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn corrupt(disk: &dyn Disk, name: &str, why: impl Into<String>) -> Error {
    Error::Corrupt {
        path: format!("{}/{name}", disk.place()),
        why: format!(
            "{}; nothing was changed, restore a snapshot into an empty folder",
            why.into()
        ),
    }
}

fn unavailable(doing: &'static str, error: &io::Error) -> Error {
    Error::Unavailable {
        doing,
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
