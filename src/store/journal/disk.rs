//! Where segments lie: files in a folder, or a simulated disk in tests.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;

/// A folder of segments.
pub(crate) trait Disk: Send + Sync + 'static {
    /// Names of all segments, in any order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// The whole content of a segment.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// The first bytes of a segment, fewer where it is shorter.
    fn read_head(&self, name: &str, len: usize) -> io::Result<Vec<u8>>;

    /// Opens a segment for writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn Segment>>;

    /// Makes a segment that begins with `head` and has room for `len` bytes. It exists whole and
    /// on disk, or not at all.
    fn create(&self, name: &str, head: &[u8], len: u64) -> io::Result<Box<dyn Segment>>;

    /// Removes a segment.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// For messages.
    fn place(&self) -> String;
}

/// A segment open for writing.
pub(crate) trait Segment: Send {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns when everything written is on disk.
    fn sync(&self) -> io::Result<()>;

    /// Removes everything from `offset` on and makes room up to `len` again, on disk when it
    /// returns.
    fn cut(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// Free space a new segment leaves for the database behind the journal.
const RESERVE_BYTES: u64 = 24 << 20;
/// A segment that is not ready.
const UNFINISHED: &str = "next.tmp";

/// A real folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// `path` is made when the first segment is.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != UNFINISHED {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path.join(name))
    }

    fn read_head(&self, name: &str, len: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.path.join(name))?;
        let mut head = vec![0; len];
        let mut read = 0;
        while read < len {
            match file.read_at(&mut head[read..], read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        head.truncate(read);
        Ok(head)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Segment>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join(name))?;
        Ok(Box::new(SegmentFile(file)))
    }

    fn create(&self, name: &str, head: &[u8], len: u64) -> io::Result<Box<dyn Segment>> {
        fs::create_dir_all(&self.path)?;
        check_free(&self.path, len)?;
        let unfinished = self.path.join(UNFINISHED);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        let made = reserve(&file, len)
            .and_then(|()| file.write_all_at(head, 0))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&unfinished, self.path.join(name)))
            .and_then(|()| File::open(&self.path)?.sync_all());
        if let Err(error) = made {
            // Gives the room back; the error of making it is the one to tell.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        Ok(Box::new(SegmentFile(file)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }
}

struct SegmentFile(File);

impl Segment for SegmentFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn cut(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.set_len(offset)?;
        reserve(&self.0, len)?;
        self.0.sync_all()
    }
}

/// Makes the file `len` bytes long with its blocks allocated, so that a sync of data written into
/// it needs little else written, and a full disk shows here and not in the middle of a frame.
fn reserve(file: &File, len: u64) -> io::Result<()> {
    let bytes = i64::try_from(len).unwrap_or(i64::MAX);
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        // A file system without it still works, only slower.
        Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOSYS) => file.set_len(len),
        Err(errno) => Err(errno.into()),
    }
}

/// The journal is the first to notice a full disk, before the database behind it does.
fn check_free(folder: &Path, len: u64) -> io::Result<()> {
    let stat = statvfs(folder)?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    if free < len.saturating_add(RESERVE_BYTES) {
        return Err(io::Error::new(
            ErrorKind::StorageFull,
            format!(
                "only {} MiB free on the disk, {} MiB are needed",
                free >> 20,
                (len + RESERVE_BYTES) >> 20
            ),
        ));
    }
    Ok(())
}
