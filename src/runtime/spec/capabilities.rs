//! Which capabilities a container's process has.

use super::oci::Capabilities;
use crate::runtime::Security;

/// What every container has; Docker's list, which Kubernetes' documentation builds on.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// Every capability, in the kernel's order: the place in the list is the bit.
const ALL: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The capabilities `security` asks for, with `CAP_`, in the kernel's order.
///
/// As CRI does it: `ALL` added or dropped first, then single ones added, then dropped.
pub(crate) fn wanted(security: &Security) -> Vec<String> {
    let add = names(&security.add_capabilities);
    let drop = names(&security.drop_capabilities);
    let has_all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let start: &[&str] = if security.privileged || (has_all(&add) && !has_all(&drop)) {
        &ALL
    } else if has_all(&drop) {
        if has_all(&add) { &ALL } else { &[] }
    } else {
        &DEFAULT
    };
    let dropped = |name: &str| !security.privileged && drop.iter().any(|d| d == name);
    ALL.iter()
        .filter(|name| start.contains(name) || add.iter().any(|a| a == *name))
        .filter(|name| !dropped(name))
        .map(|name| format!("CAP_{name}"))
        .collect()
}

fn names(list: &[String]) -> Vec<String> {
    list.iter()
        .map(|name| {
            let name = name.to_ascii_uppercase();
            name.strip_prefix("CAP_")
                .map_or(name.clone(), str::to_owned)
        })
        .collect()
}

/// A process that may have `capabilities`; none is inherited by programs of other users
/// (CVE-2022-24769).
pub(crate) fn sets(capabilities: &[String]) -> Capabilities {
    Capabilities {
        bounding: capabilities.to_vec(),
        effective: capabilities.to_vec(),
        permitted: capabilities.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(add: &[&str], drop: &[&str]) -> Security {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Security {
            add_capabilities: list(add),
            drop_capabilities: list(drop),
            ..Security::default()
        }
    }

    #[test]
    fn lists_are_added_to_and_taken_from_the_default_set() {
        assert_eq!(wanted(&Security::default()).len(), DEFAULT.len());
        assert_eq!(
            wanted(&security(&["NET_ADMIN", "CAP_CHOWN"], &["ALL"])),
            ["CAP_CHOWN", "CAP_NET_ADMIN"]
        );
        assert_eq!(
            wanted(&security(&["ALL"], &["SYS_ADMIN"])).len(),
            ALL.len() - 1
        );
        assert!(!wanted(&security(&[], &["mknod"])).contains(&"CAP_MKNOD".to_owned()));
    }

    #[test]
    fn a_privileged_container_has_all_whatever_it_drops() {
        let privileged = Security {
            privileged: true,
            ..security(&[], &["ALL"])
        };
        assert_eq!(wanted(&privileged).len(), ALL.len());
    }
}
