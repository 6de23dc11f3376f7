//! The data folder: whose it is, and that only one process has it.
//!
//! ```text
//! orch-store   what this folder is: format and identity; written last when the folder is made
//! lock         held while the store is open; has the holder's pid and the boot it runs in
//! checkpoint   a revision up to which the database was once completely on disk
//! image        a snapshot; with the journal since it, the database can be made anew
//! journal/     segments, see `store/journal`
//! sled/        the database
//! suspect      there while the database is to be checked value by value
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::store::{Error, Result, Revision};
use crate::util::fs::write_atomic;
use crate::util::rng::Rng;

const IDENTITY: &str = "orch-store";
const LOCK: &str = "lock";
const CHECKPOINT: &str = "checkpoint";
const IMAGE: &str = "image";
const JOURNAL: &str = "journal";
const DATABASE: &str = "sled";
const SUSPECT: &str = "suspect";
const FORMAT: u32 = 1;
/// Changes whenever the machine starts.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A data folder this process holds.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    identity: u64,
    lock: Flock<File>,
}

/// A folder that is being made a data folder.
#[derive(Debug)]
pub(crate) struct Fresh {
    path: PathBuf,
}

/// What a look into a folder found.
enum Look {
    Nothing,
    Ours(u64),
}

impl DataDir {
    /// Takes the folder at `path`, making it where there is nothing.
    ///
    /// Errors: [`Error::Unusable`] where something else is there, [`Error::Locked`].
    pub(crate) fn open(path: &Path) -> Result<Self> {
        // Looked at before anything is written, so that a foreign folder gets no lock file.
        if matches!(look(path)?, Look::Nothing) {
            fs::create_dir_all(path).map_err(|error| unusable(path, error.to_string()))?;
        }
        let mut lock = take_lock(path)?;
        let identity = match look(path)? {
            Look::Ours(identity) => identity,
            Look::Nothing => {
                let fresh = Fresh {
                    path: path.to_owned(),
                };
                fresh.finish()?
            }
        };
        mark_holder(&mut lock, path).map_err(|error| unusable(path, error.to_string()))?;
        Ok(Self {
            path: path.to_owned(),
            identity,
            lock,
        })
    }

    /// Begins to make the empty or absent folder at `path` a data folder.
    pub(crate) fn prepare(path: &Path) -> Result<Fresh> {
        match look(path)? {
            Look::Nothing => {}
            Look::Ours(_) => {
                return Err(unusable(
                    path,
                    "it already holds a store; choose an empty one",
                ));
            }
        }
        fs::create_dir_all(path).map_err(|error| unusable(path, error.to_string()))?;
        Ok(Fresh {
            path: path.to_owned(),
        })
    }

    /// Of this store, in every segment of its journal.
    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    pub(crate) fn image(&self) -> PathBuf {
        self.path.join(IMAGE)
    }

    /// Up to here the database was once on disk; 0 where that is unknown.
    pub(crate) fn checkpoint(&self) -> Revision {
        let text = fs::read_to_string(self.path.join(CHECKPOINT)).unwrap_or_default();
        Revision(text.trim().parse().unwrap_or(0))
    }

    /// The database is on disk up to `revision`.
    pub(crate) fn set_checkpoint(&self, revision: Revision) -> Result<()> {
        let text = format!("{}\n", revision.0);
        write_atomic(&self.path.join(CHECKPOINT), text.as_bytes(), 0o600)
            .map_err(|error| unavailable("noting a checkpoint", &error))
    }

    /// Whether the database gave back something wrong before, or the machine went down while it was
    /// open.
    pub(crate) fn is_suspect(&self) -> bool {
        self.path.join(SUSPECT).exists()
    }

    /// The database is good, or new.
    pub(crate) fn clear_suspicion(&self) {
        // Where it stays, the database is only checked once more.
        let _ = fs::remove_file(self.path.join(SUSPECT));
    }

    /// Replaces the database by the one at `fresh`; the old one is kept beside it for study.
    pub(crate) fn replace_database(&self, fresh: &Path) -> Result<()> {
        let damaged = self.path.join("sled.damaged");
        let database = self.database();
        let replaced = remove_all(&damaged)
            .and_then(|()| match fs::rename(&database, &damaged) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                renamed => renamed,
            })
            .and_then(|()| fs::rename(fresh, &database))
            .and_then(|()| File::open(&self.path)?.sync_all());
        replaced.map_err(|error| unavailable("replacing the database", &error))
    }

    /// The store was closed in order: nothing needs to be looked at next time.
    pub(crate) fn release(&self) {
        // Only a note; with it left behind, the next opening looks more closely.
        let _ = self.lock.set_len(0);
    }
}

impl Fresh {
    /// Where a snapshot to begin with belongs.
    pub(crate) fn image(&self) -> PathBuf {
        self.path.join(IMAGE)
    }

    /// Makes it a data folder and returns its identity.
    pub(crate) fn finish(&self) -> Result<u64> {
        let identity = Rng::from_system().uid();
        let digits: String = identity.chars().filter(char::is_ascii_hexdigit).collect();
        let digits = &digits[digits.len() - 16..];
        let text = format!("{IDENTITY}\nformat {FORMAT}\nidentity {digits}\n");
        write_atomic(&self.path.join(IDENTITY), text.as_bytes(), 0o600)
            .map_err(|error| unusable(&self.path, error.to_string()))?;
        Ok(u64::from_str_radix(digits, 16).unwrap_or(0))
    }
}

/// Notes that the database below `path` gave back something wrong.
pub(crate) fn suspect(path: &Path) {
    // Without the note a restart does not repair it, the error at hand is told anyway.
    let _ = fs::write(path.join(SUSPECT), b"");
}

/// Removes a folder and what is in it, where it exists.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn look(path: &Path) -> Result<Look> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Look::Nothing),
        entries => entries.map_err(|error| unusable(path, error.to_string()))?,
    };
    let mut stranger = None;
    for entry in entries {
        let entry = entry.map_err(|error| unusable(path, error.to_string()))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = name == LOCK || (name.starts_with('.') && name.ends_with(".tmp"));
        if !is_ours && name != IDENTITY && name != "lost+found" {
            stranger = Some(name.clone());
        }
        if name == IDENTITY {
            let text = fs::read_to_string(entry.path());
            let text = text.map_err(|error| unusable(path, error.to_string()))?;
            return parse(&text)
                .map(Look::Ours)
                .map_err(|why| unusable(path, why));
        }
    }
    match stranger {
        None => Ok(Look::Nothing),
        Some(name) => Err(unusable(
            path,
            format!("it holds `{name}` but no store of this program; choose an empty folder"),
        )),
    }
}

fn parse(text: &str) -> std::result::Result<u64, String> {
    let mut lines = text.lines();
    let format = match (
        lines.next(),
        lines.next().and_then(|l| l.strip_prefix("format ")),
    ) {
        (Some(IDENTITY), Some(format)) => format.parse::<u32>().ok(),
        _ => None,
    };
    match format {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => {
            return Err(format!(
                "its format is {newer}, this program knows up to {FORMAT}; use the newer program \
                 that wrote it"
            ));
        }
        _ => return Err(format!("its file `{IDENTITY}` is damaged")),
    }
    let digits = lines.next().and_then(|line| line.strip_prefix("identity "));
    digits
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| format!("its file `{IDENTITY}` is damaged"))
}

fn take_lock(path: &Path) -> Result<Flock<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path.join(LOCK))
        .map_err(|error| unusable(path, error.to_string()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, _)| {
        let mut text = String::new();
        // The pid only makes the message better.
        let _ = file.read_to_string(&mut text);
        let pid = text.lines().next().and_then(|pid| pid.parse().ok());
        Error::Locked {
            path: path.display().to_string(),
            pid: pid.unwrap_or(0),
        }
    })
}

/// Writes who holds the lock. Where the last holder had it in an earlier boot, the machine went down
/// under it: what it had not flushed may be there in part.
fn mark_holder(lock: &mut File, path: &Path) -> io::Result<()> {
    let mut before = String::new();
    lock.read_to_string(&mut before)?;
    let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
    if before
        .lines()
        .nth(1)
        .is_some_and(|then| then != boot.trim())
    {
        fs::write(path.join(SUSPECT), b"")?;
    }
    lock.set_len(0)?;
    lock.rewind()?;
    write!(lock, "{}\n{}\n", std::process::id(), boot.trim())
}

fn unusable(path: &Path, why: impl Into<String>) -> Error {
    Error::Unusable {
        path: path.display().to_string(),
        why: why.into(),
    }
}

fn unavailable(doing: &'static str, error: &io::Error) -> Error {
    Error::Unavailable {
        doing,
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_keeps_its_identity_and_has_one_holder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let dir = DataDir::open(&path).unwrap();
        let identity = dir.identity();
        assert!(!dir.is_suspect());
        match DataDir::open(&path) {
            Err(Error::Locked { pid, .. }) => assert_eq!(pid, std::process::id()),
            other => panic!("{other:?}"),
        }
        drop(dir);
        let dir = DataDir::open(&path).unwrap();
        assert_eq!(dir.identity(), identity);
    }

    #[test]
    fn a_foreign_a_newer_and_a_damaged_folder_are_left_alone() {
        for (name, text, says) in [
            ("letter.txt", "hello", "letter.txt"),
            (
                IDENTITY,
                "orch-store\nformat 2\nidentity 00\n",
                "format is 2",
            ),
            (IDENTITY, "orch-store\nformat", "damaged"),
            (IDENTITY, "\0\0\0", "damaged"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(name), text).unwrap();
            match DataDir::open(folder.path()) {
                Err(Error::Unusable { why, .. }) => assert!(why.contains(says), "{why}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(names(folder.path()), [name]);
        }
    }

    #[test]
    fn a_holder_of_an_earlier_boot_makes_the_database_suspect() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        DataDir::open(&path).unwrap().release();
        assert!(!DataDir::open(&path).unwrap().is_suspect());
        assert!(
            !DataDir::open(&path).unwrap().is_suspect(),
            "killed, same boot"
        );
        fs::write(path.join(LOCK), "12\nanother-boot\n").unwrap();
        assert!(DataDir::open(&path).unwrap().is_suspect());
        let dir = DataDir::open(&path).unwrap();
        assert!(dir.is_suspect(), "until it was checked");
        dir.clear_suspicion();
        assert!(!dir.is_suspect());
    }
}
