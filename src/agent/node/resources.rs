//! What the machine is and has: read from `/proc`, `/sys` and the file system.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use nix::sys::statvfs::statvfs;

use crate::api::quantity;

/// What a machine is. Read once: none of it changes while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) boot_id: String,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) kernel_version: String,
    pub(crate) os_image: String,
    /// As Go names it: `amd64`, `arm64`.
    pub(crate) architecture: &'static str,
    pub(crate) cpus: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
}

/// How much is left now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Free {
    pub(crate) memory_bytes: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) disk_total_bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_total: u64,
    pub(crate) processes: u64,
    pub(crate) processes_total: u64,
}

fn read(path: &str) -> String {
    fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Reads what the machine is. `data_dir` is on the file system of pods.
pub(crate) fn facts(data_dir: &Path) -> Facts {
    let machine_id = read("/etc/machine-id");
    let system_uuid = read("/sys/class/dmi/id/product_uuid");
    let disk = statvfs(data_dir).ok();
    Facts {
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        system_uuid: if system_uuid.is_empty() {
            machine_id.clone()
        } else {
            system_uuid
        },
        machine_id,
        kernel_version: read("/proc/sys/kernel/osrelease"),
        os_image: os_image(&read("/etc/os-release")),
        architecture: architecture(std::env::consts::ARCH),
        cpus: cpus(&read("/proc/stat")),
        memory_bytes: kib_field(&read("/proc/meminfo"), "MemTotal"),
        disk_bytes: disk.map_or(0, |disk| disk.blocks() * disk.fragment_size()),
    }
}

/// Reads how much is left.
pub(crate) fn free(data_dir: &Path) -> Free {
    let disk = statvfs(data_dir).ok();
    let disk = disk.as_ref();
    let processes = read("/proc/loadavg");
    let processes = processes.split_whitespace().nth(3).unwrap_or_default();
    let processes = processes.split_once('/').map_or("", |(_, all)| all);
    let most = |path: &str| read(path).parse().unwrap_or(u64::MAX);
    Free {
        memory_bytes: kib_field(&read("/proc/meminfo"), "MemAvailable"),
        disk_bytes: disk.map_or(0, |disk| disk.blocks_available() * disk.fragment_size()),
        disk_total_bytes: disk.map_or(0, |disk| disk.blocks() * disk.fragment_size()),
        inodes: disk.map_or(0, |disk| disk.files_available()),
        inodes_total: disk.map_or(0, |disk| disk.files()),
        processes: processes.parse().unwrap_or(0),
        processes_total: most("/proc/sys/kernel/pid_max").min(most("/proc/sys/kernel/threads-max")),
    }
}

fn os_image(release: &str) -> String {
    let field = |name: &str| {
        let mut lines = release.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    field("PRETTY_NAME")
        .or_else(|| field("NAME"))
        .unwrap_or_else(|| "Linux".to_owned())
}

fn architecture(rust_name: &'static str) -> &'static str {
    match rust_name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// Processors of the machine, not only those this process may use.
fn cpus(stat: &str) -> u64 {
    let is_cpu = |line: &&str| {
        let number = line
            .strip_prefix("cpu")
            .and_then(|rest| rest.chars().next());
        number.is_some_and(|c| c.is_ascii_digit())
    };
    stat.lines().filter(is_cpu).count().max(1) as u64
}

/// A field of `/proc/meminfo`, in bytes.
fn kib_field(meminfo: &str, name: &str) -> u64 {
    let mut lines = meminfo.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// Amounts by resource.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

/// What the machine has.
pub(crate) fn capacity(facts: &Facts, max_pods: u32) -> Amounts {
    let kib = |bytes: u64| format!("{}Ki", bytes / 1024);
    [
        ("cpu", facts.cpus.to_string()),
        ("memory", kib(facts.memory_bytes)),
        ("ephemeral-storage", kib(facts.disk_bytes)),
        ("hugepages-1Gi", "0".to_owned()),
        ("hugepages-2Mi", "0".to_owned()),
        ("pods", max_pods.to_string()),
    ]
    .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
    .into()
}

/// What pods may have of it: all but what must stay free.
pub(crate) fn allocatable(
    facts: &Facts,
    max_pods: u32,
    eviction_hard: &BTreeMap<String, String>,
) -> Amounts {
    let keep = |signal: &str, total: u64| {
        let text = eviction_hard.get(signal);
        text.and_then(|text| threshold(text, total)).unwrap_or(0)
    };
    let memory = facts.memory_bytes;
    let memory = memory.saturating_sub(keep("memory.available", memory));
    let disk = facts.disk_bytes;
    let disk = disk.saturating_sub(keep("nodefs.available", disk));
    let mut all = capacity(facts, max_pods);
    all.insert(
        "memory".to_owned(),
        Quantity(format!("{}Ki", memory / 1024)),
    );
    all.insert("ephemeral-storage".to_owned(), Quantity(disk.to_string()));
    all
}

/// A threshold: an amount, or percent of `total`.
pub(crate) fn threshold(text: &str, total: u64) -> Option<u64> {
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.trim().parse().ok()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share of a size need not be exact"
        )]
        return Some((total as f64 * percent.clamp(0.0, 100.0) / 100.0) as u64);
    }
    let amount: quantity::Quantity = text.parse().ok()?;
    u64::try_from(amount.value()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        assert_eq!(cpus("cpu  1 2\ncpu0 1\ncpu1 1\nintr 5\n"), 2);
        let info = "MemTotal:       2048 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(kib_field(info, "MemAvailable"), 1 << 20);
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
    }

    #[test]
    fn this_machine_has_something_of_everything() {
        let facts = facts(Path::new("/"));
        assert!(facts.cpus > 0 && facts.memory_bytes > 0 && facts.disk_bytes > 0);
        assert!(!facts.boot_id.is_empty() && !facts.kernel_version.is_empty());
        let free = free(Path::new("/"));
        assert!(free.memory_bytes > 0 && free.processes > 0);
    }

    #[test]
    fn pods_get_all_but_what_must_stay_free() {
        let facts = Facts {
            cpus: 2,
            memory_bytes: 1 << 30,
            disk_bytes: 1000 * 1024,
            ..Facts::default()
        };
        let hard = [("memory.available", "100Mi"), ("nodefs.available", "10%")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let all = allocatable(&facts, 110, &hard);
        assert_eq!(all["memory"].0, "946176Ki");
        assert_eq!(all["ephemeral-storage"].0, "921600");
        assert_eq!(all["pods"].0, "110");
        assert_eq!(capacity(&facts, 110)["memory"].0, "1048576Ki");
    }
}
