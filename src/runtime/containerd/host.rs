//! What is read from the host itself: cgroup files, device nodes, what this process may set, and
//! the users of an image.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

use crate::runtime::spec::Device;
use crate::runtime::{Error, Result, Stats};

const CGROUPS: &str = "/sys/fs/cgroup";
const CAP_SYS_RESOURCE: u32 = 24;

/// Folders of `/dev` that a privileged container does not get as devices.
const DEV_PASSED_OVER: [&str; 8] = [
    "pts",
    "shm",
    "fd",
    "mqueue",
    ".lxc",
    ".lxd-mounts",
    ".udev",
    "console",
];

/// Device nodes one container may have.
const DEVICES_MAX: usize = 4096;

/// What of the host does not change while we run.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub cgroup_v2: bool,
    pub swap_accounting: bool,
    pub oom_score_adj_min: i32,
}

impl Host {
    pub(super) fn read() -> Self {
        let root = Path::new(CGROUPS);
        let cgroup_v2 = root.join("cgroup.controllers").exists();
        let swap_accounting = if cgroup_v2 {
            // The root has no swap file of its own; any group below has.
            has_below(root, "memory.swap.max")
        } else {
            root.join("memory/memory.memsw.limit_in_bytes").exists()
        };
        Self {
            cgroup_v2,
            swap_accounting,
            oom_score_adj_min: oom_score_adj_min(),
        }
    }

    /// The file of a container's cgroup, under the controller's own tree for v1.
    fn file(&self, controller: &str, cgroup: &str, name: &str) -> PathBuf {
        let root = if self.cgroup_v2 {
            PathBuf::from(CGROUPS)
        } else {
            Path::new(CGROUPS).join(controller)
        };
        root.join(cgroup.trim_start_matches('/')).join(name)
    }

    fn number(&self, controller: &str, cgroup: &str, name: &str) -> Option<u64> {
        let text = fs::read_to_string(self.file(controller, cgroup, name)).ok()?;
        text.trim().parse().ok()
    }

    fn field(&self, controller: &str, cgroup: &str, name: &str, field: &str) -> Option<u64> {
        let text = fs::read_to_string(self.file(controller, cgroup, name)).ok()?;
        keyed(&text, field)
    }

    /// Whether the kernel killed a process of the cgroup for want of memory.
    pub(super) fn oom_killed(&self, cgroup: &str) -> bool {
        let name = if self.cgroup_v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        self.field("memory", cgroup, name, "oom_kill")
            .is_some_and(|count| count > 0)
    }

    /// Figures of a cgroup; `None` where it is not there.
    pub(super) fn stats(&self, cgroup: &str) -> Option<Stats> {
        let (cpu_usage_ns, usage, inactive) = if self.cgroup_v2 {
            (
                self.field("", cgroup, "cpu.stat", "usage_usec")? * 1000,
                self.number("", cgroup, "memory.current")?,
                self.field("", cgroup, "memory.stat", "inactive_file"),
            )
        } else {
            (
                self.number("cpuacct", cgroup, "cpuacct.usage")?,
                self.number("memory", cgroup, "memory.usage_in_bytes")?,
                self.field("memory", cgroup, "memory.stat", "total_inactive_file"),
            )
        };
        Some(Stats {
            cpu_usage_ns,
            memory_working_set_bytes: usage.saturating_sub(inactive.unwrap_or(0)),
            memory_usage_bytes: usage,
            pids: self.number("pids", cgroup, "pids.current").unwrap_or(0),
        })
    }
}

fn has_below(root: &Path, name: &str) -> bool {
    let Ok(list) = fs::read_dir(root) else {
        return false;
    };
    list.flatten().any(|item| item.path().join(name).exists())
}

/// `field 12` on a line of its own.
fn keyed(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(' ')?;
        (key == field).then(|| value.trim().parse().ok())?
    })
}

/// Without the capability nobody may go below the value this process has.
fn oom_score_adj_min() -> i32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|value| u64::from_str_radix(value.trim(), 16).ok())
        .unwrap_or(0);
    if effective & (1 << CAP_SYS_RESOURCE) != 0 {
        return -1000;
    }
    fs::read_to_string("/proc/self/oom_score_adj")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0)
}

/// The device nodes at `paths`, folders walked; all of `/dev` for a privileged container.
pub(super) fn devices(paths: &[PathBuf], privileged: bool) -> Result<Vec<Device>> {
    let mut found = Vec::new();
    if privileged {
        walk(Path::new("/dev"), &mut found);
    }
    for path in paths {
        let before = found.len();
        walk(path, &mut found);
        if found.len() == before && !found.iter().any(|device| device.path == *path) {
            return Err(Error::Failed {
                doing: "find device",
                id: path.display().to_string(),
                why: "no device node there".to_owned(),
            });
        }
    }
    found.dedup_by(|a, b| a.path == b.path);
    Ok(found)
}

fn walk(path: &Path, found: &mut Vec<Device>) {
    if found.len() >= DEVICES_MAX {
        return;
    }
    let Ok(meta) = fs::symlink_metadata(path) else {
        return;
    };
    let kind = meta.file_type();
    if kind.is_dir() {
        let Ok(list) = fs::read_dir(path) else {
            return;
        };
        for item in list.flatten() {
            let name = item.file_name();
            if !DEV_PASSED_OVER.iter().any(|passed| name == *passed) {
                walk(&item.path(), found);
            }
        }
    } else if kind.is_char_device() || kind.is_block_device() {
        found.push(Device {
            path: path.to_owned(),
            block: kind.is_block_device(),
            major: major(meta.rdev()),
            minor: minor(meta.rdev()),
            mode: meta.mode(),
            uid: meta.uid(),
            gid: meta.gid(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = "oom 1\noom_kill 2\noom_group_kill 3\n";
        assert_eq!(keyed(text, "oom_kill"), Some(2));
        assert_eq!(keyed(text, "oom_k"), None);
    }

    #[test]
    fn device_nodes_are_found_and_others_refused() {
        let null = devices(&[PathBuf::from("/dev/null")], false).unwrap();
        assert_eq!((null[0].major, null[0].minor, null[0].block), (1, 3, false));
        assert!(devices(&[PathBuf::from("/etc/passwd")], false).is_err());
    }
}
