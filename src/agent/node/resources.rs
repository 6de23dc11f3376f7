//! What the machine has and how much of it is left, read from the kernel.

use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Figures of the machine. What cannot be read is 0 or empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Machine {
    /// Number of processors.
    pub(super) cpus: usize,
    /// Size of memory.
    pub(super) memory_bytes: u64,
    /// What programs could still get of it.
    pub(super) memory_available_bytes: u64,
    /// Size of the file system of the data folder.
    pub(super) disk_bytes: u64,
    /// Free for us on it.
    pub(super) disk_available_bytes: u64,
    /// Inodes of it.
    pub(super) inodes: u64,
    /// Free ones.
    pub(super) inodes_free: u64,
    /// Most processes.
    pub(super) pids: u64,
    /// Processes there are.
    pub(super) pids_used: u64,
    /// `/etc/machine-id`
    pub(super) machine_id: String,
    /// Of the firmware.
    pub(super) system_uuid: String,
    /// New at each boot.
    pub(super) boot_id: String,
    /// `uname -r`
    pub(super) kernel: String,
    /// `PRETTY_NAME` of `/etc/os-release`
    pub(super) os_image: String,
}

/// Reads the figures; `folder` is on the file system that pods fill.
pub(super) fn read(folder: &Path) -> Machine {
    let memory = text("/proc/meminfo");
    let disk = statvfs(folder).ok();
    let disk = disk.as_ref();
    let block = disk.map_or(0, |disk| disk.fragment_size());
    let uuid = text("/sys/class/dmi/id/product_uuid");
    let machine_id = text("/etc/machine-id");
    Machine {
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: kibibytes(&memory, "MemTotal:"),
        memory_available_bytes: kibibytes(&memory, "MemAvailable:"),
        disk_bytes: disk.map_or(0, |disk| disk.blocks() * block),
        disk_available_bytes: disk.map_or(0, |disk| disk.blocks_available() * block),
        inodes: disk.map_or(0, |disk| disk.files()),
        inodes_free: disk.map_or(0, |disk| disk.files_available()),
        pids: text("/proc/sys/kernel/pid_max").parse().unwrap_or(0),
        pids_used: processes(&text("/proc/loadavg")),
        system_uuid: if uuid.is_empty() {
            machine_id.clone()
        } else {
            uuid
        },
        machine_id,
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        kernel: text("/proc/sys/kernel/osrelease"),
        os_image: pretty_name(&text("/etc/os-release")),
    }
}

fn text(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn kibibytes(meminfo: &str, name: &str) -> u64 {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_default();
    line.split_whitespace()
        .next()
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// The second figure of `running/all` in `/proc/loadavg`.
fn processes(loadavg: &str) -> u64 {
    let pair = loadavg
        .split_whitespace()
        .nth(3)
        .and_then(|pair| pair.split_once('/'));
    pair.and_then(|(_, all)| all.parse().ok()).unwrap_or(0)
}

fn pretty_name(os_release: &str) -> String {
    let line = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.unwrap_or("Linux").trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_in_the_kernels_texts() {
        let meminfo = "MemTotal:       24557548 kB\nMemFree: 1 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(kibibytes(meminfo, "MemAvailable:"), 20_000_000 * 1024);
        assert_eq!(kibibytes("", "MemTotal:"), 0);
        assert_eq!(processes("0.00 0.01 0.05 1/123 456"), 123);
        assert_eq!(
            pretty_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
            "Debian GNU/Linux 12"
        );
    }

    #[test]
    fn this_machine_has_something_of_everything() {
        let machine = read(Path::new("/"));
        assert!(machine.cpus > 0 && machine.memory_bytes > machine.memory_available_bytes);
        assert!(machine.disk_bytes > 0 && !machine.kernel.is_empty());
    }
}
