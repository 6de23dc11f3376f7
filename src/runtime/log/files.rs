//! The log file on disk: appended to, and rotated by size as the kubelet does it.
//!
//! Rotating is renaming `0.log` to `0.log.20260102-030405` and opening a new `0.log`, both by the
//! only writer, so that nothing is lost between. What cannot be written (a full disk) is thrown
//! away: the container must not be held up.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

/// The kubelet's `containerLogMaxSize`.
const FILE_BYTES_MAX: u64 = 10 << 20;

/// The kubelet's `containerLogMaxFiles`, the one being written among them.
const FILES_MAX: usize = 5;

/// Between a log file's name and the time it was rotated at.
pub const ROTATED_MARK: char = '.';

/// A log file being written.
pub(super) struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    size_max: u64,
    /// The last write ended within a line.
    torn: bool,
}

impl LogFile {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        Self::open_sized(path, FILE_BYTES_MAX)
    }

    fn open_sized(path: PathBuf, size_max: u64) -> io::Result<Self> {
        let file = append(&path)?;
        let size = file.metadata()?.len();
        Ok(Self {
            path,
            file: Some(file),
            size,
            size_max,
            torn: false,
        })
    }

    /// Writes whole lines.
    pub(super) fn write(&mut self, lines: &[u8], now: Timestamp) {
        if lines.is_empty() {
            return;
        }
        if self.size > 0 && self.size + lines.len() as u64 > self.size_max {
            self.rotate(now);
        }
        if self.file.is_none() {
            self.file = append(&self.path).ok();
        }
        let Some(file) = &mut self.file else {
            return;
        };
        if self.torn && file.write_all(b"\n").is_ok() {
            self.torn = false;
        }
        self.torn |= file.write_all(lines).is_err();
        self.size += lines.len() as u64;
    }

    fn rotate(&mut self, now: Timestamp) {
        let stamp = now.strftime("%Y%m%d-%H%M%S");
        let rotated = (0..1000)
            .map(|number| match number {
                0 => format!("{}{ROTATED_MARK}{stamp}", self.path.display()),
                _ => format!("{}{ROTATED_MARK}{stamp}-{number:03}", self.path.display()),
            })
            .map(PathBuf::from)
            .find(|path| !path.exists());
        let renamed = rotated.is_some_and(|rotated| fs::rename(&self.path, rotated).is_ok());
        if !renamed {
            // Going on in a file that is too long is better than losing lines.
            return;
        }
        self.file = append(&self.path).ok();
        self.size = 0;
        let old = rotated_files(&self.path);
        let too_many = old.len().saturating_sub(FILES_MAX - 1);
        for path in &old[..too_many] {
            // Tried again at the next rotation.
            let _ = fs::remove_file(path);
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

/// Files that `path` was rotated to, oldest first.
pub fn rotated_files(path: &Path) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Vec::new();
    };
    let prefix = format!("{}{ROTATED_MARK}", name.to_string_lossy());
    let Ok(list) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = list
        .flatten()
        .filter(|item| {
            let name = item.file_name();
            let name = name.to_string_lossy();
            name.strip_prefix(&prefix)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
        .map(|item| item.path())
        .collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_the_newest_files_and_loses_nothing_between() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut log = LogFile::open_sized(path.clone(), 8).unwrap();
        for second in 0..20 {
            let now = Timestamp::new(second / 2, 0).unwrap();
            log.write(format!("line{second:02}\n").as_bytes(), now);
        }
        let old = rotated_files(&path);
        assert_eq!(old.len(), FILES_MAX - 1);
        let mut text: String = old.iter().map(|p| fs::read_to_string(p).unwrap()).collect();
        text.push_str(&fs::read_to_string(&path).unwrap());
        assert_eq!(text, "line15\nline16\nline17\nline18\nline19\n");
    }

    #[test]
    fn an_existing_file_is_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        fs::write(&path, "a\n").unwrap();
        LogFile::open(path.clone())
            .unwrap()
            .write(b"b\n", Timestamp::UNIX_EPOCH);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\n");
    }
}
