//! The images folder: every archive in it is loaded, at start and when it appears. An archive is
//! loaded once for each content (size and time of change), as long as its images are there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use notify::{RecursiveMode, Watcher};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::runtime::Runtime;
use crate::util::{backoff::Backoff, errors::chain, fs::write_atomic, rng::Rng, tasks::Tasks};

/// What is read.
const ENDINGS: &[&str] = &[".tar", ".tar.gz", ".tgz", ".tar.zst"];
/// A copy into the folder is over when nothing came for so long.
const QUIET: Duration = Duration::from_millis(200);
/// First and longest pause before what failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// What is known of an archive that was loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Loaded {
    size_bytes: u64,
    changed_ms: u128,
    images: Vec<String>,
}

/// Loads the archives of `folder` through `runtime` until `tasks` end. `record` is a file.
///
/// Errors: the folder cannot be made or watched.
pub(crate) fn start(
    folder: PathBuf,
    record: PathBuf,
    runtime: Arc<dyn Runtime>,
    tasks: &Tasks,
) -> Result<(), notify::Error> {
    std::fs::create_dir_all(&folder).map_err(notify::Error::io)?;
    let changed = Arc::new(Notify::new());
    let told = changed.clone();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // A file is whole when its writer closed it; reading it is no change.
        let is_reading = |event: &notify::Event| {
            event.kind.is_access()
                && event.kind
                    != notify::EventKind::Access(notify::event::AccessKind::Close(
                        notify::event::AccessMode::Write,
                    ))
        };
        if !event.as_ref().is_ok_and(is_reading) {
            told.notify_one();
        }
    })?;
    watcher.watch(&folder, RecursiveMode::NonRecursive)?;
    let known = read_record(&record);
    let loader = Folder {
        folder,
        record,
        runtime,
        known,
    };
    let cancelled = tasks.cancelled();
    tasks.service("images-folder", async move {
        cancelled.run_until_cancelled(loader.run(changed)).await;
        drop(watcher);
    });
    Ok(())
}

struct Folder {
    folder: PathBuf,
    record: PathBuf,
    runtime: Arc<dyn Runtime>,
    known: BTreeMap<String, Loaded>,
}

impl Folder {
    async fn run(mut self, changed: Arc<Notify>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, Rng::from_system());
        loop {
            if self.load_all().await {
                backoff.reset();
                changed.notified().await;
            } else {
                // Whichever comes first: another change or the time to try again.
                let _ = tokio::time::timeout(backoff.next_delay(), changed.notified()).await;
            }
            while tokio::time::timeout(QUIET, changed.notified())
                .await
                .is_ok()
            {}
        }
    }

    /// `false`: something could not be loaded.
    async fn load_all(&mut self) -> bool {
        let mut all_good = true;
        for path in archives(&self.folder) {
            if let Err(error) = self.load(&path).await {
                tracing::warn!(path = %path.display(), error, "image archive not loaded");
                all_good = false;
            }
        }
        all_good
    }

    async fn load(&mut self, path: &Path) -> Result<(), String> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let mut found = stamp(path).map_err(|error| error.to_string())?;
        if let Some(known) = self.known.get(&name) {
            let same = (known.size_bytes, known.changed_ms) == (found.size_bytes, found.changed_ms);
            if same && self.are_there(&known.images).await {
                return Ok(());
            }
        }
        let images = self
            .runtime
            .import(path)
            .await
            .map_err(|error| chain(&error))?;
        found.images = images.into_iter().flat_map(|image| image.names).collect();
        tracing::info!(archive = name, images = ?found.images, "images loaded");
        self.known.insert(name, found);
        let record = serde_json::to_vec(&self.known).unwrap_or_default();
        write_atomic(&self.record, &record, 0o600).map_err(|error| error.to_string())
    }

    async fn are_there(&self, images: &[String]) -> bool {
        for image in images {
            if !matches!(self.runtime.image(image).await, Ok(Some(_))) {
                return false;
            }
        }
        true
    }
}

fn archives(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|p| is_archive(p))
        .collect();
    paths.sort();
    paths
}

fn is_archive(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    !name.starts_with('.') && ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn stamp(path: &Path) -> std::io::Result<Loaded> {
    let data = std::fs::metadata(path)?;
    let changed = data
        .modified()?
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Ok(Loaded {
        size_bytes: data.len(),
        changed_ms: changed.as_millis(),
        images: Vec::new(),
    })
}

fn read_record(path: &Path) -> BTreeMap<String, Loaded> {
    let text = std::fs::read(path).unwrap_or_default();
    // A record that is not readable is made anew: everything is loaded once more.
    serde_json::from_slice(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_archives_are_read() {
        for name in ["a.tar", "a.tar.gz", "b.tar.zst", "c.tgz"] {
            assert!(is_archive(Path::new(name)), "{name}");
        }
        for name in [".a.tar", "a.txt", "a.tar.part", "tar"] {
            assert!(!is_archive(Path::new(name)), "{name}");
        }
    }
}
