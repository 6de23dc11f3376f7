//! What is mounted where in a container.

use std::path::Path;

use super::oci::OciMount;
use crate::runtime::ContainerSpec;

/// The mounts every container has, the container's own in place of those they cover, parents
/// before what is below them.
pub(super) fn all(container: &ContainerSpec) -> Vec<OciMount> {
    let own: Vec<OciMount> = container
        .mounts
        .iter()
        .map(|mount| OciMount {
            destination: tidy(&mount.destination),
            kind: if mount.kind.is_empty() {
                "bind".to_owned()
            } else {
                mount.kind.clone()
            },
            source: mount.source.to_string_lossy().into_owned(),
            options: mount.options.clone(),
        })
        .collect();
    let has = |path: &str| own.iter().any(|mount| mount.destination == path);
    let own_dev = has("/dev");
    let mut mounts: Vec<OciMount> = defaults(container.security.privileged)
        .into_iter()
        .filter(|mount| !has(&mount.destination))
        .filter(|mount| !(own_dev && mount.destination.starts_with("/dev/")))
        .collect();
    mounts.extend(own);
    // Stable: of two mounts of one depth the later one still comes later.
    mounts.sort_by_key(|mount| Path::new(&mount.destination).components().count());
    mounts
}

/// `rshared` or `rslave` where a mount needs the root to be that.
pub(super) fn root_propagation(mounts: &[OciMount]) -> Option<String> {
    let any = |options: [&str; 2]| {
        mounts
            .iter()
            .any(|mount| mount.options.iter().any(|o| options.contains(&o.as_str())))
    };
    if any(["rshared", "shared"]) {
        Some("rshared".to_owned())
    } else if any(["rslave", "slave"]) {
        Some("rslave".to_owned())
    } else {
        None
    }
}

fn tidy(path: &Path) -> String {
    let text = path.to_string_lossy();
    let trimmed = text.trim_end_matches('/');
    if trimmed.is_empty() {
        "/".to_owned()
    } else {
        trimmed.to_owned()
    }
}

fn defaults(privileged: bool) -> Vec<OciMount> {
    let mount = |destination: &str, kind: &str, source: &str, options: &str| OciMount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.split(',').map(str::to_owned).collect(),
    };
    let sys = |options: &str| {
        let access = if privileged { "rw" } else { "ro" };
        format!("{options},{access}")
    };
    let cgroup = "nosuid,noexec,nodev,relatime";
    vec![
        mount("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            "nosuid,strictatime,mode=755,size=65536k",
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            "nosuid,noexec,nodev,mode=1777,size=65536k",
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        mount("/sys", "sysfs", "sysfs", &sys("nosuid,noexec,nodev")),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &sys(cgroup)),
    ]
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::runtime::Mount;
    use crate::runtime::tests::container_spec;

    fn bind(destination: &str, option: &str) -> Mount {
        Mount {
            source: PathBuf::from("/host"),
            destination: PathBuf::from(destination),
            kind: "bind".to_owned(),
            options: vec!["rbind".to_owned(), option.to_owned()],
        }
    }

    #[test]
    fn own_mounts_replace_defaults_and_parents_come_first() {
        let mut container = container_spec("a", "web");
        container.mounts = vec![
            bind("/data/deep", "rprivate"),
            bind("/data/", "rslave"),
            bind("/dev/shm", "ro"),
        ];
        let mounts = all(&container);
        let place = |path: &str| mounts.iter().position(|m| m.destination == path).unwrap();
        assert!(place("/data") < place("/data/deep"));
        assert!(place("/dev") < place("/dev/shm"));
        assert_eq!(
            mounts
                .iter()
                .filter(|m| m.destination == "/dev/shm")
                .count(),
            1
        );
        assert_eq!(mounts[place("/dev/shm")].source, "/host");
        assert_eq!(root_propagation(&mounts).as_deref(), Some("rslave"));
    }

    #[test]
    fn a_host_dev_takes_away_what_would_be_below_it() {
        let mut container = container_spec("a", "web");
        container.mounts = vec![bind("/dev", "rprivate")];
        let mounts = all(&container);
        assert_eq!(
            mounts
                .iter()
                .filter(|m| m.destination.starts_with("/dev"))
                .count(),
            1
        );
    }
}
