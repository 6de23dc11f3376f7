//! What is kept of containers: in memory for every reader, and small files that a restart reads.
//!
//! Containerd keeps a container's identity (spec, labels). What it forgets when the task is gone,
//! start and end, is kept here in `STATE/containers/ID/state.json`. The files are renamed into
//! place but not synced: after a power cut no process runs, and what is lost then is a time.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::import::Imported;
use crate::runtime::{ContainerState, Exit, Phase};

/// How a container is connected, kept as a containerd extension with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Details {
    pub image: String,
    pub labels: BTreeMap<String, String>,
    pub cgroup: String,
    pub log: PathBuf,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub details: Details,
    pub created_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub phase: Phase,
}

impl Entry {
    pub(super) fn state(&self, id: &str) -> ContainerState {
        ContainerState {
            id: id.to_owned(),
            image: self.details.image.clone(),
            labels: self.details.labels.clone(),
            created_at: self.created_at,
            started_at: self.started_at,
            phase: self.phase.clone(),
        }
    }
}

/// Start and end of a container, as written to its file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Life {
    pub started_at: Option<Timestamp>,
    pub exit_code: Option<i32>,
    pub exited_at: Option<Timestamp>,
    pub oom_killed: bool,
}

impl Life {
    pub(super) fn exit(&self) -> Option<Exit> {
        Some(Exit {
            code: self.exit_code?,
            at: self.exited_at?,
            oom_killed: self.oom_killed,
        })
    }
}

/// All containers, and the folder of their files.
pub(super) struct Records {
    folder: PathBuf,
    entries: Mutex<BTreeMap<String, Entry>>,
    imports: Mutex<HashMap<PathBuf, Imported>>,
}

impl Records {
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(folder.join("containers"))?;
        let imports = fs::read(folder.join("imports.json"))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        Ok(Self {
            folder,
            entries: Mutex::default(),
            imports: Mutex::new(imports),
        })
    }

    pub(super) fn get(&self, id: &str) -> Option<Entry> {
        self.entries.lock().get(id).cloned()
    }

    pub(super) fn all(&self) -> Vec<ContainerState> {
        let entries = self.entries.lock();
        entries.iter().map(|(id, entry)| entry.state(id)).collect()
    }

    pub(super) fn ids(&self) -> Vec<String> {
        self.entries.lock().keys().cloned().collect()
    }

    pub(super) fn insert(&self, id: &str, entry: Entry) {
        self.entries.lock().insert(id.to_owned(), entry);
    }

    /// Forgets a container and removes its folder.
    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        self.entries.lock().remove(id);
        match fs::remove_dir_all(self.folder_of(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Changes a container that is known.
    pub(super) fn change(&self, id: &str, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.lock().get_mut(id) {
            change(entry);
        }
    }

    /// Where a container's FIFOs, socket and state file are.
    pub(super) fn folder_of(&self, id: &str) -> PathBuf {
        self.folder.join("containers").join(id)
    }

    /// Folders of containers that are not known any more.
    pub(super) fn left_folders(&self) -> Vec<String> {
        let Ok(list) = fs::read_dir(self.folder.join("containers")) else {
            return Vec::new();
        };
        let entries = self.entries.lock();
        list.flatten()
            .filter_map(|item| item.file_name().into_string().ok())
            .filter(|id| !entries.contains_key(id))
            .collect()
    }

    /// A folder for commands run in containers.
    pub(super) fn exec_folder(&self, exec_id: &str) -> PathBuf {
        self.folder.join("exec").join(exec_id)
    }

    /// A folder for short-lived things.
    pub(super) fn scratch_folder(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    pub(super) fn life(&self, id: &str) -> Life {
        fs::read(self.folder_of(id).join("state.json"))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default()
    }

    pub(super) fn write_life(&self, id: &str, life: &Life) -> io::Result<()> {
        let path = self.folder_of(id).join("state.json");
        let json = serde_json::to_vec(life).map_err(io::Error::other)?;
        replace(&path, &json)
    }

    pub(super) fn imported(&self, path: &Path) -> Option<Imported> {
        self.imports.lock().get(path).cloned()
    }

    /// Remembers what a file held; not remembering costs only time.
    pub(super) fn remember_import(&self, path: &Path, imported: Imported) {
        let json = {
            let mut imports = self.imports.lock();
            imports.insert(path.to_owned(), imported);
            imports.retain(|path, _| path.exists());
            serde_json::to_vec(&*imports).unwrap_or_default()
        };
        if let Err(error) = replace(&self.folder.join("imports.json"), &json) {
            tracing::warn!(%error, "imported files could not be remembered");
        }
    }
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, content)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_and_end_survive_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path().to_owned()).unwrap();
        fs::create_dir_all(records.folder_of("a")).unwrap();
        assert_eq!(records.life("a"), Life::default());
        let life = Life {
            started_at: Some(Timestamp::UNIX_EPOCH),
            exit_code: Some(3),
            exited_at: Some(Timestamp::UNIX_EPOCH),
            oom_killed: true,
        };
        records.write_life("a", &life).unwrap();
        assert_eq!(records.life("a").exit().unwrap().code, 3);
        assert_eq!(records.left_folders(), ["a"]);
        records.remove("a").unwrap();
        records.remove("a").unwrap();
        assert!(records.left_folders().is_empty());
    }
}
