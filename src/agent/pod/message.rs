//! Why a container ended, in its own words: its termination file, or the end of its log
//! (kubernetes `pkg/kubelet/kuberuntime/kuberuntime_container.go`).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Longest message of a termination file.
const FILE_BYTES_MAX: u64 = 4096;
/// Most of a log that stands in for one.
const LOG_BYTES_MAX: usize = 2048;
const LOG_LINES_MAX: usize = 80;
/// What is read of a log to find its last lines: each carries a time and a mark.
const LOG_READ_BYTES: u64 = 32 << 10;

/// The message in `file`, or where it is empty and `log` is given, the end of that log.
pub(crate) fn read(file: &Path, log: Option<&Path>) -> String {
    let own = head(file).unwrap_or_default();
    if !own.is_empty() {
        return own;
    }
    let tail = log.and_then(|log| tail(log).ok());
    tail.map(|bytes| last_lines(&bytes)).unwrap_or_default()
}

fn head(file: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(file)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(log: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_READ_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of the last lines of a log in the kubelet's format: `TIME STREAM F|P TEXT`.
fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LOG_LINES_MAX);
    let mut out = String::new();
    for line in &lines[first..] {
        let mut parts = line.splitn(4, ' ').skip(2);
        let (Some(mark), text) = (parts.next(), parts.next().unwrap_or_default()) else {
            continue;
        };
        out.push_str(text);
        if mark.starts_with('F') {
            out.push('\n');
        }
    }
    let mut start = out.len().saturating_sub(LOG_BYTES_MAX);
    while !out.is_char_boundary(start) {
        start += 1;
    }
    out.split_off(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_comes_first_and_the_log_stands_in() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let log = folder.path().join("log");
        let lines = "2024-01-01T00:00:00Z stdout F one\n\
            2024-01-01T00:00:00Z stderr P tw\n2024-01-01T00:00:00Z stderr F o\n";
        std::fs::write(&log, lines).unwrap();
        assert_eq!(read(&file, None), "");
        assert_eq!(read(&file, Some(&log)), "one\ntwo\n");
        std::fs::write(&file, "why").unwrap();
        assert_eq!(read(&file, Some(&log)), "why");
    }

    #[test]
    fn only_the_end_of_a_long_log_is_kept() {
        let line = format!("t stdout F {}\n", "x".repeat(100));
        let text = last_lines(line.repeat(100).as_bytes());
        assert_eq!(text.len(), LOG_BYTES_MAX);
        assert!(text.ends_with("x\n"));
    }
}
