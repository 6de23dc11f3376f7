//! Cgroups of version 1 and 2: made, limited, removed. Containers' own are made by the OCI
//! runtime; these are the folders around them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Limits of a folder; `None`: none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Version 1's `cpu.shares`; the weight of version 2 follows from it.
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time in each 100 ms.
    pub cpu_quota_us: Option<i64>,
    /// Bytes of memory.
    pub memory_bytes: Option<i64>,
}

/// Controllers in whose version 1 hierarchies pods have a folder.
const CONTROLLERS: [&str; 8] = [
    "cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "freezer", "devices",
];

/// How cgroups are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// One hierarchy per controller, each below a folder of its name.
    V1 {
        /// The controllers' folders, each once.
        controllers: Vec<(String, PathBuf)>,
    },
    /// One hierarchy.
    V2 {
        /// Its root.
        root: PathBuf,
    },
}

impl Cgroups {
    /// How they are mounted at `root`, normally `/sys/fs/cgroup`.
    pub fn at(root: &Path) -> Self {
        if root.join("cgroup.controllers").exists() {
            return Self::V2 {
                root: root.to_owned(),
            };
        }
        let mut controllers: Vec<(String, PathBuf)> = Vec::new();
        for name in CONTROLLERS {
            // `cpu` and `cpuacct` are often links to one folder.
            let Ok(path) = root.join(name).canonicalize() else {
                continue;
            };
            if path.is_dir() && !controllers.iter().any(|(_, have)| *have == path) {
                controllers.push((name.to_owned(), path));
            }
        }
        Self::V1 { controllers }
    }

    /// Makes `path` where missing and sets its limits.
    pub fn set(&self, path: &str, limits: &Limits) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        match self {
            Self::V2 { root } => {
                let folder = make_v2(root, path)?;
                write_v2(&folder, limits)
            }
            Self::V1 { controllers } => {
                for (name, root) in controllers {
                    let folder = root.join(path);
                    fs::create_dir_all(&folder)?;
                    match name.as_str() {
                        "cpuset" => inherit_cpuset(root, path)?,
                        "cpu" => write_v1_cpu(&folder, limits)?,
                        "memory" => write_v1_memory(&folder, limits)?,
                        _ => {}
                    }
                }
                Ok(())
            }
        }
    }

    /// Removes `path` and everything below it that has no processes any more.
    pub fn remove(&self, path: &str) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let folders: Vec<PathBuf> = match self {
            Self::V2 { root } => vec![root.join(path)],
            Self::V1 { controllers } => controllers
                .iter()
                .map(|(_, root)| root.join(path))
                .collect(),
        };
        folders.iter().try_for_each(|folder| remove_tree(folder))
    }

    /// Names of the folders below `path`.
    pub fn children(&self, path: &str) -> Vec<String> {
        let path = path.trim_start_matches('/');
        let folder = match self {
            Self::V2 { root } => Some(root.join(path)),
            Self::V1 { controllers } => {
                let memory = controllers.iter().find(|(name, _)| name == "memory");
                memory.map(|(_, root)| root.join(path))
            }
        };
        let entries = folder.and_then(|folder| fs::read_dir(folder).ok());
        let entries = entries.into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Moves a process into `path`.
    pub fn enter(&self, path: &str, pid: u32) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        let folders: Vec<PathBuf> = match self {
            Self::V2 { root } => vec![make_v2(root, path)?],
            Self::V1 { controllers } => controllers
                .iter()
                .map(|(_, root)| root.join(path))
                .collect(),
        };
        for folder in folders {
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }
}

/// Makes the folders one by one and hands each the controllers of the one above.
fn make_v2(root: &Path, path: &str) -> io::Result<PathBuf> {
    let mut folder = root.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        for controller in ["+cpu", "+cpuset", "+memory", "+pids", "+io", "+hugetlb"] {
            // One that is not there, or not to be had, is done without.
            let _ = fs::write(folder.join("cgroup.subtree_control"), controller);
        }
        folder.push(part);
        if !folder.exists() {
            fs::create_dir(&folder)?;
        }
    }
    Ok(folder)
}

/// The weight that stands for version 1's shares, as runc computes it.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn write_v2(folder: &Path, limits: &Limits) -> io::Result<()> {
    let put = |name: &str, value: String| match fs::write(folder.join(name), value) {
        // A controller that is not enabled has no file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    };
    if let Some(shares) = limits.cpu_shares {
        put("cpu.weight", weight(shares).to_string())?;
    }
    let quota = limits.cpu_quota_us.map(|quota| quota.to_string());
    put(
        "cpu.max",
        format!("{} 100000", quota.as_deref().unwrap_or("max")),
    )?;
    let memory = limits.memory_bytes.map(|bytes| bytes.to_string());
    put("memory.max", memory.unwrap_or_else(|| "max".to_owned()))
}

fn write_v1_cpu(folder: &Path, limits: &Limits) -> io::Result<()> {
    if let Some(shares) = limits.cpu_shares {
        fs::write(folder.join("cpu.shares"), shares.to_string())?;
    }
    match limits.cpu_quota_us {
        Some(quota) => fs::write(folder.join("cpu.cfs_quota_us"), quota.to_string()),
        None => Ok(()),
    }
}

fn write_v1_memory(folder: &Path, limits: &Limits) -> io::Result<()> {
    match limits.memory_bytes {
        Some(bytes) => fs::write(folder.join("memory.limit_in_bytes"), bytes.to_string()),
        None => Ok(()),
    }
}

/// A new folder of `cpuset` is unusable until it has processors and memory nodes.
fn inherit_cpuset(root: &Path, path: &str) -> io::Result<()> {
    let mut folder = root.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let parent = folder.clone();
        folder.push(part);
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let (Ok(own), Ok(above)) = (
                fs::read_to_string(folder.join(name)),
                fs::read_to_string(parent.join(name)),
            ) else {
                continue;
            };
            if own.trim().is_empty() && !above.trim().is_empty() {
                fs::write(folder.join(name), above.trim())?;
            }
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            memory_bytes: Some(1 << 20),
        }
    }

    fn read(path: PathBuf) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn version_two_has_one_tree_with_weights() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::write(root.join("cgroup.controllers"), "cpu memory").unwrap();
        let cgroups = Cgroups::at(root);
        cgroups.set("/kubepods/burstable", &limits()).unwrap();
        let at = |name: &str| root.join("kubepods/burstable").join(name);
        assert_eq!(read(at("cpu.weight")), "39");
        assert_eq!(read(at("cpu.max")), "50000 100000");
        assert_eq!(read(at("memory.max")), "1048576");
        assert_eq!(cgroups.children("/kubepods"), ["burstable"]);
    }

    #[test]
    fn version_one_has_a_tree_per_controller() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for name in ["cpu", "memory", "cpuset"] {
            fs::create_dir(root.join(name)).unwrap();
        }
        fs::write(root.join("cpuset/cpuset.cpus"), "0-1\n").unwrap();
        fs::create_dir(root.join("cpuset/k")).unwrap();
        fs::write(root.join("cpuset/k/cpuset.cpus"), "").unwrap();
        let cgroups = Cgroups::at(root);
        cgroups.set("/k", &limits()).unwrap();
        assert_eq!(read(root.join("cpu/k/cpu.shares")), "1024");
        assert_eq!(read(root.join("memory/k/memory.limit_in_bytes")), "1048576");
        assert_eq!(read(root.join("cpuset/k/cpuset.cpus")), "0-1");
    }

    #[test]
    fn shares_become_the_weights_runc_computes() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
    }
}
