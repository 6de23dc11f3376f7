//! The manifests folder: what lies in it is applied, what leaves it is deleted.
//!
//! A change in the folder (told by inotify) wakes a lap: read every file, compare with the record
//! of what came from which file, apply what is new or changed by server-side apply, delete what is
//! gone, write the record. A lap that failed in part is run again after a pause. The record is a
//! ConfigMap, so that a file removed while the server was down is noticed; it also carries the
//! complaints that `orch status` shows.
//!
//! A file that cannot be read as a whole deletes nothing: what came from it stays as it is until
//! the file is readable or gone.

mod plan;
mod read;
mod record;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use notify::{RecursiveMode, Watcher};
use tokio::sync::Notify;

use self::plan::{Item, Plan};
use self::read::{Complaint, Read};
use self::record::Entry;
use crate::api::object::Object;
use crate::client::events::Recorder;
use crate::client::{Client, DeleteParams, Error};
use crate::util::{backoff::Backoff, clock::Clock, errors::chain, rng::Rng, tasks::Tasks};

pub use self::record::{NAME, NAMESPACE};

/// Owner of the fields that come from manifests.
pub const MANAGER: &str = "orch-manifests";
/// Set to `"true"` as label or annotation: the object outlives its manifest.
const KEEP: &str = "orch.dev/keep";
/// A burst of changes (an editor's, `cp -r`) is over when nothing came for so long.
const QUIET: Duration = Duration::from_millis(50);
/// First and longest pause before what failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// Why the folder cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It cannot be made.
    #[error("make the manifests folder `{}`", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The kernel does not tell of changes in it.
    #[error("watch the manifests folder `{}`", path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: notify::Error,
    },
}

/// Keeps the cluster as `folder` says until `tasks` end.
pub fn start(
    folder: PathBuf,
    client: Client,
    clock: &Clock,
    tasks: &Tasks,
) -> Result<(), StartError> {
    std::fs::create_dir_all(&folder).map_err(|source| StartError::Folder {
        path: folder.clone(),
        source,
    })?;
    let changed = Arc::new(Notify::new());
    let told = changed.clone();
    let failed = |source| StartError::Watch {
        path: folder.clone(),
        source,
    };
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files is no change of them.
        if !event.is_ok_and(|event| event.kind.is_access()) {
            told.notify_one();
        }
    })
    .map_err(failed)?;
    watcher
        .watch(&folder, RecursiveMode::Recursive)
        .map_err(failed)?;
    let recorder = Recorder::new(client.clone(), tasks, clock.clone(), (MANAGER, ""));
    let manifests = Manifests {
        folder,
        client,
        recorder,
        complaints: Vec::new(),
    };
    let cancelled = tasks.cancelled();
    tasks.service("manifests", async move {
        cancelled.run_until_cancelled(manifests.run(changed)).await;
        drop(watcher);
    });
    Ok(())
}

struct Manifests {
    folder: PathBuf,
    client: Client,
    recorder: Recorder,
    /// Told already, so that a lap that changes nothing says nothing.
    complaints: Vec<Complaint>,
}

impl Manifests {
    async fn run(mut self, changed: Arc<Notify>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, Rng::from_system());
        // The first lap applies everything: somebody may have changed it meanwhile.
        let mut trust_record = false;
        loop {
            match self.lap(trust_record).await {
                Ok(true) => {
                    trust_record = true;
                    backoff.reset();
                    changed.notified().await;
                }
                Ok(false) => {
                    trust_record = true;
                    // Whichever comes first: another change or the time to try again.
                    let _ = tokio::time::timeout(backoff.next_delay(), changed.notified()).await;
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "manifests not applied, trying again");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
            while tokio::time::timeout(QUIET, changed.notified())
                .await
                .is_ok()
            {}
        }
    }

    /// `Ok(false)`: something could not be done and is to be tried again.
    async fn lap(&mut self, trust_record: bool) -> Result<bool, Error> {
        let folder = self.folder.clone();
        let read = tokio::task::spawn_blocking(move || read::folder(&folder)).await;
        let read = read.unwrap_or_else(|_| Read::default());
        let before = record::load(&self.client).await?;
        let mut after = before.clone();
        let Plan {
            apply,
            delete,
            keep,
        } = plan::plan(&before, &read, trust_record);
        let mut complaints = read.complaints;
        complaints.extend(keep);
        let mut done = true;
        for item in apply {
            match self.apply(&item).await {
                Ok(()) => after.set(
                    item.id,
                    Entry {
                        file: item.file,
                        hash: item.hash,
                    },
                ),
                Err(error) => {
                    done = false;
                    complaints.push(Complaint::new(&item.file, item.line, &chain(&error)));
                }
            }
        }
        for (id, entry) in delete {
            match self.delete(&id).await {
                Ok(()) => after.remove(&id),
                Err(error) => {
                    done = false;
                    complaints.push(Complaint::new(&entry.file, 0, &chain(&error)));
                }
            }
        }
        after.complaints = complaints.iter().map(ToString::to_string).collect();
        if after != before {
            record::save(&self.client, &after).await?;
        }
        self.tell(complaints);
        Ok(done)
    }

    async fn apply(&self, item: &Item) -> Result<(), Error> {
        let api = self.client.api_of(&item.object).await?;
        let body = item.object.clone().into_value();
        api.apply(item.object.name(), MANAGER, &body).await?;
        tracing::info!(file = %item.file, object = %item.id, "manifest applied");
        Ok(())
    }

    async fn delete(&self, id: &record::Id) -> Result<(), Error> {
        let api = match self.client.api_of(&id.to_object()).await {
            Ok(api) => api,
            // The kind is gone, and its objects with it.
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        };
        let Some(live) = api.get_opt(&id.name).await? else {
            return Ok(());
        };
        if is_kept(&live) {
            tracing::info!(object = %id, "manifest gone, object kept as it asks");
            return Ok(());
        }
        match api.delete(&id.name, &DeleteParams::uid(live.uid())).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => {
                tracing::info!(object = %id, "manifest gone, object deleted");
                Ok(())
            }
        }
    }

    fn tell(&mut self, complaints: Vec<Complaint>) {
        for complaint in complaints
            .iter()
            .filter(|new| !self.complaints.contains(new))
        {
            tracing::warn!(%complaint, "manifest not applied");
            let about = ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("ConfigMap".to_owned()),
                name: Some(NAME.to_owned()),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectReference::default()
            };
            self.recorder
                .warning(&about, "ManifestFailed", complaint.to_string());
        }
        self.complaints = complaints;
    }
}

fn is_kept(object: &Object) -> bool {
    ["labels", "annotations"]
        .iter()
        .any(|map| object.text_at(&["metadata", map, KEEP]) == "true")
}

/// A path below the folder as complaints and the record print it.
fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
