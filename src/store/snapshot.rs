//! One consistent revision in one file.
//!
//! ```text
//! 0  magic    8   b"ORCHSNAP"
//! 8  version  4
//! 12 crc      4   CRC-32 of the next 32 bytes
//! 16 revision 8   whose state it is
//! 24 resume   8   the revision a store made of it begins with, never before `revision`
//! 32 made_ms  8   wall clock
//! 40 zero     8
//! 48 blocks:  packed length(4), length(4), crc of the packed bytes(4), packed bytes
//!    the last one has both lengths 0 and behind its crc the count(8) of all items
//! ```
//!
//! A block is zstd of items: key length(4), value length(4), created(8), modified(8),
//! deadline_ms(8), key, value. Numbers are little-endian. The file is written under another name,
//! synced and renamed, so a snapshot that exists is whole.
//!
//! Values are stored as they are, Secrets too: the file has mode 0600.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::mvcc::DataDir;
use super::{Error, KeyRange, KeyValue, Result, Revision, Store};
use crate::util::clock::Clock;

const MAGIC: &[u8; 8] = b"ORCHSNAP";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 48;
const ITEM_BYTES: usize = 32;
/// Items are packed together up to this size.
const BLOCK_BYTES: usize = 256 << 10;
/// No block is larger; a length beyond it is damage.
const BLOCK_BYTES_MAX: usize = 64 << 20;
/// Keys read at once.
const PAGE_KEYS: usize = 500;
/// Pages read ahead of the disk.
const PAGES_AHEAD: usize = 2;
/// When the revision is compacted away while it is read, a newer one is tried.
const TRIES: usize = 3;
/// Between the last revision of a restored store and its first new one lies this, more than can
/// have been given out since the snapshot, so that no client ever sees a revision go back.
const RESUME_GAP: u64 = 1_000_000_000;

/// What a snapshot says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Whose state it is.
    pub revision: Revision,
    /// The revision a store made of it begins with.
    pub resume: Revision,
    /// When it was made, in milliseconds since 1970.
    pub made_ms: u64,
    /// How many keys it has.
    pub keys: u64,
    /// Size of the file.
    pub file_bytes: u64,
}

/// A key in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// Key, value and revisions.
    pub(crate) pair: KeyValue,
    /// Wall clock at which it expires; 0 for never.
    pub(crate) deadline_ms: u64,
}

/// Saves the present state of `store` to `path`, replacing what is there.
pub async fn save(store: &dyn Store, path: &Path, clock: &Clock) -> Result<Info> {
    let mut tried = 1;
    loop {
        match save_once(store, path, clock).await {
            Err(Error::Compacted { .. }) if tried < TRIES => tried += 1,
            saved => return saved,
        }
    }
}

async fn save_once(store: &dyn Store, path: &Path, clock: &Clock) -> Result<Info> {
    let deadlines = store.deadlines().await?;
    let mut range = KeyRange {
        start: Bytes::from_static(b"\0"),
        end: None,
    };
    let mut page = store.range(range.clone(), None, Some(PAGE_KEYS)).await?;
    let revision = page.revision;
    let made_ms = u64::try_from(clock.now().as_millisecond()).unwrap_or(0);
    let mut writer = Writer::create(path, revision, revision, made_ms)?;
    let (pages, mut next) = mpsc::channel::<Vec<KeyValue>>(PAGES_AHEAD);
    let written = tokio::task::spawn_blocking(move || {
        while let Some(page) = next.blocking_recv() {
            for pair in page {
                let deadline_ms = deadlines.get(&pair.key).copied().unwrap_or(0);
                writer.push(&Item { pair, deadline_ms })?;
            }
        }
        Ok(writer)
    });
    loop {
        let last = page.items.last().map(|item| item.key.clone());
        let more = page.remaining > 0;
        // The writer ended early: its error is told below.
        if pages.send(page.items).await.is_err() {
            break;
        }
        let Some(last) = last.filter(|_| more) else {
            break;
        };
        range.start = [&last[..], b"\0"].concat().into();
        page = store
            .range(range.clone(), Some(revision), Some(PAGE_KEYS))
            .await?;
    }
    drop(pages);
    let writer: Result<Writer> = written.await.map_err(|error| Error::Unavailable {
        doing: "writing a snapshot",
        why: error.to_string(),
    })?;
    tokio::task::spawn_blocking(|| writer?.finish())
        .await
        .map_err(|error| Error::Unavailable {
            doing: "writing a snapshot",
            why: error.to_string(),
        })?
}

/// Reads all of the snapshot at `path` and tells what it is.
///
/// Errors: [`Error::Corrupt`] where it is not one or is damaged.
pub fn inspect(path: &Path) -> Result<Info> {
    let mut reader = Reader::open(path)?;
    while reader.next()?.is_some() {}
    Ok(reader.info)
}

/// Makes `dir`, which must be empty or not exist, a data folder with the state of the snapshot at
/// `path`. Its first new revision lies far beyond any that was given out after the snapshot.
pub fn restore(path: &Path, dir: &Path) -> Result<Info> {
    let mut info = inspect(path)?;
    let fresh = DataDir::prepare(dir)?;
    let mut reader = Reader::open(path)?;
    info.resume = Revision(info.resume.0.saturating_add(RESUME_GAP));
    let mut writer = Writer::create(&fresh.image(), info.revision, info.resume, info.made_ms)?;
    while let Some(item) = reader.next()? {
        writer.push(&item)?;
    }
    let restored = writer.finish()?;
    fresh.finish()?;
    Ok(restored)
}

/// Writes a snapshot.
pub(crate) struct Writer {
    path: PathBuf,
    unfinished: Unfinished,
    file: BufWriter<File>,
    block: Vec<u8>,
    info: Info,
}

/// The file under its other name, removed unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Gone when it was renamed; otherwise a left-over is only in the way.
        let _ = fs::remove_file(&self.0);
    }
}

impl Writer {
    /// Begins a snapshot of `revision` that is to appear at `path`.
    pub(crate) fn create(
        path: &Path,
        revision: Revision,
        resume: Revision,
        made_ms: u64,
    ) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let other = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&other)
            .map_err(|error| unavailable(path, &error))?;
        let mut writer = Self {
            path: path.to_owned(),
            unfinished: Unfinished(other),
            file: BufWriter::new(file),
            block: Vec::new(),
            info: Info {
                revision,
                resume,
                made_ms,
                keys: 0,
                file_bytes: 0,
            },
        };
        let header = encode_header(&writer.info);
        writer.write(&header)?;
        Ok(writer)
    }

    /// Adds a key; in ascending order.
    pub(crate) fn push(&mut self, item: &Item) -> Result<()> {
        let pair = &item.pair;
        for len in [pair.key.len(), pair.value.len()] {
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            self.block.extend_from_slice(&len.to_le_bytes());
        }
        for number in [pair.created.0, pair.modified.0, item.deadline_ms] {
            self.block.extend_from_slice(&number.to_le_bytes());
        }
        self.block.extend_from_slice(&pair.key);
        self.block.extend_from_slice(&pair.value);
        self.info.keys += 1;
        if self.block.len() >= BLOCK_BYTES {
            self.end_block()?;
        }
        Ok(())
    }

    /// Completes the file; from here on it exists.
    pub(crate) fn finish(mut self) -> Result<Info> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let count = self.info.keys.to_le_bytes();
        let mut last = vec![0; 8];
        last.extend_from_slice(&crc32fast::hash(&count).to_le_bytes());
        last.extend_from_slice(&count);
        self.write(&last)?;
        let file = &mut self.file;
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        let finished = file
            .flush()
            .and_then(|()| self.file.get_ref().sync_all())
            .and_then(|()| fs::rename(&self.unfinished.0, &self.path))
            .and_then(|()| File::open(folder.unwrap_or(Path::new(".")))?.sync_all());
        finished.map_err(|error| unavailable(&self.path, &error))?;
        Ok(self.info)
    }

    fn end_block(&mut self) -> Result<()> {
        let packed = zstd::bulk::compress(&self.block, 1)
            .map_err(|error| unavailable(&self.path, &error))?;
        let mut head = Vec::with_capacity(12);
        for len in [packed.len(), self.block.len()] {
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            head.extend_from_slice(&len.to_le_bytes());
        }
        head.extend_from_slice(&crc32fast::hash(&packed).to_le_bytes());
        self.write(&head)?;
        self.write(&packed)?;
        self.block.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.info.file_bytes += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .map_err(|error| unavailable(&self.path, &error))
    }
}

/// Reads a snapshot and checks all of it on the way.
pub(crate) struct Reader {
    path: PathBuf,
    file: BufReader<File>,
    block: Vec<u8>,
    at: usize,
    last: Option<Bytes>,
    is_done: bool,
    /// `keys` and `file_bytes` count what was read so far.
    pub(crate) info: Info,
}

impl Reader {
    /// Opens the snapshot at `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| unavailable(path, &error))?;
        let mut reader = Self {
            path: path.to_owned(),
            file: BufReader::new(file),
            block: Vec::new(),
            at: 0,
            last: None,
            is_done: false,
            info: Info {
                revision: Revision(0),
                resume: Revision(0),
                made_ms: 0,
                keys: 0,
                file_bytes: 0,
            },
        };
        let header: [u8; HEADER_BYTES] = reader.take()?;
        reader.info = decode_header(&header).map_err(|why| reader.corrupt(&why))?;
        reader.info.file_bytes = HEADER_BYTES as u64;
        Ok(reader)
    }

    /// The next key.
    pub(crate) fn next(&mut self) -> Result<Option<Item>> {
        if self.at == self.block.len() && !self.is_done {
            self.next_block()?;
        }
        if self.is_done {
            return Ok(None);
        }
        let item = self
            .item()
            .ok_or_else(|| self.corrupt("an item is cut off"))?;
        if self
            .last
            .as_ref()
            .is_some_and(|last| *last >= item.pair.key)
        {
            return Err(self.corrupt("keys are not in order"));
        }
        self.last = Some(item.pair.key.clone());
        self.info.keys += 1;
        Ok(Some(item))
    }

    fn item(&mut self) -> Option<Item> {
        let bytes = &self.block[self.at..];
        let head = bytes.get(..ITEM_BYTES)?;
        let key_len = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
        let value_len = u32::from_le_bytes(head[4..8].try_into().ok()?) as usize;
        let number = |at: usize| Some(u64::from_le_bytes(head[at..at + 8].try_into().ok()?));
        let key = bytes.get(ITEM_BYTES..ITEM_BYTES + key_len)?;
        let value = bytes.get(ITEM_BYTES + key_len..ITEM_BYTES + key_len + value_len)?;
        let item = Item {
            pair: KeyValue {
                key: Bytes::copy_from_slice(key),
                value: Bytes::copy_from_slice(value),
                created: Revision(number(8)?),
                modified: Revision(number(16)?),
            },
            deadline_ms: number(24)?,
        };
        self.at += ITEM_BYTES + key_len + value_len;
        Some(item)
    }

    fn next_block(&mut self) -> Result<()> {
        let head: [u8; 12] = self.take()?;
        let field = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap_or_default());
        let (packed_len, len, crc) = (field(0) as usize, field(4) as usize, field(8));
        if packed_len == 0 && len == 0 {
            return self.end(crc);
        }
        if len > BLOCK_BYTES_MAX || packed_len > BLOCK_BYTES_MAX {
            return Err(self.corrupt("a block's length is damaged"));
        }
        let mut packed = vec![0; packed_len];
        self.read(&mut packed)?;
        if crc32fast::hash(&packed) != crc {
            return Err(self.corrupt("a block's checksum does not match"));
        }
        match zstd::bulk::decompress(&packed, len) {
            Ok(block) if block.len() == len && len > 0 => self.block = block,
            _ => return Err(self.corrupt("a block does not unpack")),
        }
        self.at = 0;
        Ok(())
    }

    fn end(&mut self, crc: u32) -> Result<()> {
        let count: [u8; 8] = self.take()?;
        if crc32fast::hash(&count) != crc || u64::from_le_bytes(count) != self.info.keys {
            return Err(self.corrupt("the count of keys does not match"));
        }
        self.is_done = true;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    fn read(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.info.file_bytes += bytes.len() as u64;
        match self.file.read_exact(bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.corrupt("it is cut off"))
            }
            read => read.map_err(|error| unavailable(&self.path, &error)),
        }
    }

    fn corrupt(&self, why: &str) -> Error {
        Error::Corrupt {
            path: self.path.display().to_string(),
            why: format!("{why}; this snapshot cannot be used"),
        }
    }
}

fn encode_header(info: &Info) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for number in [info.revision.0, info.resume.0, info.made_ms, 0] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[16..]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode_header(bytes: &[u8; HEADER_BYTES]) -> std::result::Result<Info, String> {
    if &bytes[..8] != MAGIC {
        return Err("it is not a snapshot".to_owned());
    }
    let version = u32::from_le_bytes(bytes[8..12].try_into().unwrap_or_default());
    if version != VERSION {
        return Err(format!(
            "its format is {version}, this program knows {VERSION}"
        ));
    }
    if crc32fast::hash(&bytes[16..]).to_le_bytes() != bytes[12..16] {
        return Err("its header is damaged".to_owned());
    }
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
    Ok(Info {
        revision: Revision(number(16)),
        resume: Revision(number(24)),
        made_ms: number(32),
        keys: 0,
        file_bytes: 0,
    })
}

fn unavailable(path: &Path, error: &io::Error) -> Error {
    Error::Unavailable {
        doing: "reading or writing a snapshot",
        why: format!("`{}`: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: &str, len: usize) -> Item {
        Item {
            pair: KeyValue {
                key: key.to_owned().into(),
                value: vec![b'x'; len].into(),
                created: Revision(3),
                modified: Revision(5),
            },
            deadline_ms: 9,
        }
    }

    fn write(path: &Path, items: &[Item]) -> Info {
        let mut writer = Writer::create(path, Revision(7), Revision(8), 1).unwrap();
        for item in items {
            writer.push(item).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn what_was_written_is_read_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot");
        let items: Vec<_> = (0..40)
            .map(|n| item(&format!("{n:03}"), n * 1000))
            .collect();
        let written = write(&path, &items);
        let mut reader = Reader::open(&path).unwrap();
        for item in &items {
            assert_eq!(reader.next().unwrap().as_ref(), Some(item));
        }
        assert_eq!(reader.next().unwrap(), None);
        assert_eq!(inspect(&path).unwrap(), written);
        assert_eq!(written.file_bytes, fs::metadata(&path).unwrap().len());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot");
        write(&path, &[item("a", 10), item("b", 500)]);
        let bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(&path, &damaged).unwrap();
            assert!(
                matches!(inspect(&path), Err(Error::Corrupt { .. })),
                "byte {at}"
            );
            fs::write(&path, &bytes[..at]).unwrap();
            assert!(
                matches!(inspect(&path), Err(Error::Corrupt { .. })),
                "cut {at}"
            );
        }
    }

    #[test]
    fn an_unfinished_snapshot_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot");
        drop(Writer::create(&path, Revision(1), Revision(1), 1).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
