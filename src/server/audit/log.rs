//! The file of audit events: one JSON line each, in order; turned over by size, old ones removed by
//! count and age, named as upstream's (`audit-2026-11-25T14-00-00.000.log`).
//!
//! Requests wait for a place in the queue, never for the disk. What the disk does not take is
//! counted and said, and does not hold the API up.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::LogConfig;
use crate::util::clock::Clock;
use crate::util::metrics::Counters;

const MIB: u64 = 1024 * 1024;
/// Lines written with one system call at most.
const LINES_A_WRITE: usize = 256;
const DAY: Duration = Duration::from_secs(86_400);
/// In the names of old files.
const STAMP: &str = "%Y-%m-%dT%H-%M-%S.%3f";

/// Writes what comes until cancelled, then what is still queued.
pub(super) struct Log {
    pub(super) config: LogConfig,
    pub(super) clock: Clock,
    pub(super) lines: mpsc::Receiver<String>,
    pub(super) errors: Counters,
}

struct Open {
    file: File,
    size_bytes: u64,
}

impl Log {
    pub(super) async fn run(mut self, cancelled: CancellationToken) {
        let mut open = None;
        let mut batch = Vec::with_capacity(LINES_A_WRITE);
        loop {
            let count = tokio::select! {
                biased;
                count = self.lines.recv_many(&mut batch, LINES_A_WRITE) => count,
                () = cancelled.cancelled() => {
                    self.lines.close();
                    self.lines.recv_many(&mut batch, LINES_A_WRITE).await
                }
            };
            if count == 0 {
                return;
            }
            if let Err(error) = self.write(&mut open, &batch).await {
                open = None;
                for _ in 0..count {
                    self.errors.increment(&["log"]);
                }
                let path = self.config.path.display();
                tracing::error!(path = %path, error = %error, events = count, "audit events are lost");
            }
            batch.clear();
        }
    }

    async fn write(&self, open: &mut Option<Open>, batch: &[String]) -> std::io::Result<()> {
        let text = batch.concat();
        let bytes_max = self.config.size_mib_max.saturating_mul(MIB);
        let is_full =
            |open: &Open| open.size_bytes > 0 && open.size_bytes + text.len() as u64 > bytes_max;
        let mut current = match open.take() {
            Some(current) => current,
            None => open_file(&self.config.path).await?,
        };
        if is_full(&current) {
            drop(current);
            self.turn_over().await?;
            current = open_file(&self.config.path).await?;
        }
        current.file.write_all(text.as_bytes()).await?;
        current.file.flush().await?;
        current.size_bytes += text.len() as u64;
        *open = Some(current);
        Ok(())
    }

    async fn turn_over(&self) -> std::io::Result<()> {
        let path = &self.config.path;
        let now = self.clock.now();
        tokio::fs::rename(path, old_name(path, now)).await?;
        let mut names = Vec::new();
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut entries = tokio::fs::read_dir(folder).await?;
        while let Some(entry) = entries.next_entry().await? {
            names.push(entry.path());
        }
        for name in surplus(&self.config, &names, now) {
            tokio::fs::remove_file(name).await?;
        }
        Ok(())
    }
}

async fn open_file(path: &Path) -> std::io::Result<Open> {
    let mut options = OpenOptions::new();
    let file = options
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .await?;
    let size_bytes = file.metadata().await?.len();
    Ok(Open { file, size_bytes })
}

fn old_name(path: &Path, at: Timestamp) -> PathBuf {
    let (prefix, suffix) = affixes(path);
    path.with_file_name(format!("{prefix}{}{suffix}", at.strftime(STAMP)))
}

/// What stands before and behind the time in names of old files.
fn affixes(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map(|t| t.to_string_lossy().into_owned())
            .unwrap_or_default()
    };
    let suffix = match path.extension() {
        Some(extension) => format!(".{}", text(Some(extension))),
        None => String::new(),
    };
    (format!("{}-", text(path.file_stem())), suffix)
}

/// Which old files are too many or too old, 0 meaning no limit.
fn surplus(config: &LogConfig, names: &[PathBuf], now: Timestamp) -> Vec<PathBuf> {
    let (prefix, suffix) = affixes(&config.path);
    let mut old: Vec<(Timestamp, &PathBuf)> = names
        .iter()
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            let stamp = name.strip_prefix(&prefix)?.strip_suffix(&suffix)?;
            let at = jiff::civil::DateTime::strptime(STAMP, stamp).ok()?;
            let at = at.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
            Some((at.timestamp(), path))
        })
        .collect();
    old.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let age_max = DAY.saturating_mul(config.age_days_max);
    let is_old = |at: Timestamp| {
        let age = Duration::try_from(now.duration_since(at)).unwrap_or_default();
        config.age_days_max > 0 && age > age_max
    };
    let is_beyond = |place: usize| config.backups_max > 0 && place >= config.backups_max;
    old.iter()
        .enumerate()
        .filter(|(place, (at, _))| is_beyond(*place) || is_old(*at))
        .map(|(_, (_, path))| (*path).clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::metrics::Metrics;

    fn config(folder: &Path) -> LogConfig {
        LogConfig {
            path: folder.join("audit.log"),
            size_mib_max: 1,
            backups_max: 2,
            age_days_max: 3,
        }
    }

    #[test]
    fn old_files_are_removed_by_count_and_age() {
        let now: Timestamp = "2026-11-25T14:00:00Z".parse().unwrap();
        let config = config(Path::new("/a"));
        let names: Vec<PathBuf> = [
            "/a/audit.log",
            "/a/audit-2026-11-25T13-00-00.000.log",
            "/a/audit-2026-11-20T13-00-00.000.log",
            "/a/audit-2026-11-24T13-00-00.000.log",
            "/a/audit-mine.log",
        ]
        .map(PathBuf::from)
        .to_vec();
        assert_eq!(surplus(&config, &names, now), [names[2].clone()]);
        let kept = LogConfig {
            backups_max: 1,
            age_days_max: 0,
            ..config.clone()
        };
        assert_eq!(
            surplus(&kept, &names, now),
            [names[3].clone(), names[2].clone()]
        );
        assert_eq!(
            old_name(&config.path, now),
            Path::new("/a/audit-2026-11-25T14-00-00.000.log")
        );
    }

    #[tokio::test]
    async fn a_full_file_is_turned_over_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let (sender, lines) = mpsc::channel(8);
        let cancelled = CancellationToken::new();
        let errors = Metrics::new().counters("e_total", "", &["plugin"]);
        let clock = Clock::fixed("2026-11-25T14:00:00Z".parse().unwrap());
        let log = Log {
            config: config(folder.path()),
            clock,
            lines,
            errors,
        };
        let line = format!("{}\n", "x".repeat(600 * 1024));
        let writing = log.run(cancelled.clone());
        let sending = async {
            sender.send(line.clone()).await.unwrap();
            while !folder.path().join("audit.log").exists() {
                tokio::task::yield_now().await;
            }
            sender.send(line.clone()).await.unwrap();
            cancelled.cancel();
        };
        tokio::join!(writing, sending);
        let mut sizes: Vec<u64> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        sizes.sort_unstable();
        let total: u64 = sizes.iter().sum();
        assert_eq!(total, 2 * line.len() as u64);
    }
}
