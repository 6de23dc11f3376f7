//! A container's wishes turned into an OCI runtime specification.
//!
//! Pure: what has to be looked up (the image's users, the host's devices, what this process may
//! set) comes in as [`Facts`]. The defaults are containerd's CRI defaults, because those are what
//! Kubernetes' users have: capabilities, masked paths, the order of mounts, the primary group
//! among the additional ones.

mod capabilities;
mod cgroups;
mod devices;
mod mounts;
mod oci;
mod seccomp;
mod users;

use super::{ContainerSpec, ImageConfig, Namespace, Security};

pub(crate) use cgroups::resources;
pub(crate) use devices::Device;
pub(crate) use oci::{Process, Spec};
pub(crate) use users::{UserDb, UserError};

use oci::{Linux, LinuxNamespace, Root};

/// Where a process looks for programs when nobody says.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const MASKED_PATHS: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

const READ_ONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What is known of the host and the image.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The image's defaults.
    pub image: ImageConfig,
    /// Who the image knows.
    pub users: UserDb,
    /// Device nodes asked for, and every one of the host for a privileged container.
    pub devices: Vec<Device>,
    /// Lowest `oom_score_adj` this process may give to others.
    pub oom_score_adj_min: i32,
    /// Whether the host has only the unified hierarchy.
    pub cgroup_v2: bool,
    /// Whether swap can be limited.
    pub swap_accounting: bool,
    /// The profile of a container that brings its own, in OCI form.
    pub seccomp: Option<serde_json::Value>,
}

/// The runtime specification of `container`.
pub(crate) fn build(container: &ContainerSpec, facts: &Facts) -> Result<Spec, UserError> {
    let privileged = container.security.privileged;
    let mounts = mounts::all(container);
    let propagation = mounts::root_propagation(&mounts);
    Ok(Spec {
        oci_version: "1.0.2".to_owned(),
        root: Root {
            path: "rootfs".to_owned(),
            readonly: container.security.read_only_root,
        },
        process: process(container, facts)?,
        mounts,
        hostname: None,
        linux: Linux {
            namespaces: namespaces(container, facts.cgroup_v2),
            cgroups_path: container.cgroup.clone(),
            resources: cgroups::with_devices(container, facts),
            devices: facts.devices.iter().map(devices::node).collect(),
            masked_paths: paths(container, &MASKED_PATHS),
            readonly_paths: paths(container, &READ_ONLY_PATHS),
            rootfs_propagation: propagation,
            seccomp: if privileged {
                None
            } else {
                seccomp(container, facts)
            },
        },
    })
}

fn paths(container: &ContainerSpec, paths: &[&str]) -> Vec<String> {
    if container.security.privileged || container.security.unmasked_proc {
        return Vec::new();
    }
    paths.iter().map(|path| (*path).to_owned()).collect()
}

fn seccomp(container: &ContainerSpec, facts: &Facts) -> Option<serde_json::Value> {
    if facts.seccomp.is_some() {
        return facts.seccomp.clone();
    }
    container
        .security
        .seccomp_default
        .then(|| seccomp::default_profile(&capabilities::wanted(&container.security)))
}

fn process(container: &ContainerSpec, facts: &Facts) -> Result<Process, UserError> {
    let security = &container.security;
    let capabilities = capabilities::wanted(security);
    Ok(Process {
        terminal: container.tty,
        user: facts.users.resolve(security, &facts.image.user)?,
        args: container.args.clone(),
        env: environment(container, &facts.image),
        cwd: working_dir(container, &facts.image),
        capabilities: capabilities::sets(&capabilities),
        rlimits: Vec::new(),
        no_new_privileges: security.no_new_privileges,
        apparmor_profile: apparmor(security),
        oom_score_adj: Some(container.oom_score_adj.max(facts.oom_score_adj_min)),
        other: serde_json::Map::new(),
    })
}

fn apparmor(security: &Security) -> String {
    if security.privileged && security.apparmor.is_empty() {
        return String::new();
    }
    security.apparmor.clone()
}

fn working_dir(container: &ContainerSpec, image: &ImageConfig) -> String {
    [&container.working_dir, &image.working_dir]
        .into_iter()
        .find(|dir| !dir.is_empty())
        .map_or_else(|| "/".to_owned(), Clone::clone)
}

/// The image's variables under the container's, the last of a name winning.
fn environment(container: &ContainerSpec, image: &ImageConfig) -> Vec<String> {
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    let mut env: Vec<String> = Vec::new();
    for entry in image.env.iter().chain(&container.env) {
        let key = name(entry);
        match env.iter_mut().find(|have| name(have) == key) {
            Some(have) => entry.clone_into(have),
            None => env.push(entry.clone()),
        }
    }
    if !env.iter().any(|entry| entry.starts_with("PATH=")) {
        env.insert(0, DEFAULT_PATH.to_owned());
    }
    if container.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    env
}

fn namespaces(container: &ContainerSpec, cgroup_v2: bool) -> Vec<LinuxNamespace> {
    let of = |kind: &str, namespace: &Namespace| match namespace {
        Namespace::Private => Some(LinuxNamespace::new(kind, None)),
        Namespace::Host => None,
        Namespace::Path(path) => Some(LinuxNamespace::new(kind, Some(path))),
    };
    let mut all: Vec<_> = [
        of("pid", &container.pid),
        of("ipc", &container.ipc),
        of("uts", &container.uts),
        of("network", &container.network),
    ]
    .into_iter()
    .flatten()
    .collect();
    all.push(LinuxNamespace::new("mount", None));
    if cgroup_v2 && !container.security.privileged {
        all.push(LinuxNamespace::new("cgroup", None));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::runtime::tests::container_spec;

    fn built(container: &ContainerSpec) -> serde_json::Value {
        let facts = Facts {
            oom_score_adj_min: -100,
            ..Facts::default()
        };
        serde_json::to_value(build(container, &facts).unwrap()).unwrap()
    }

    #[test]
    fn a_plain_container_gets_the_usual_defaults() {
        let mut container = container_spec("a", "web");
        container.network = Namespace::Path(PathBuf::from("/run/net"));
        container.oom_score_adj = -997;
        let spec = built(&container);
        assert_eq!(spec["process"]["cwd"], "/");
        assert_eq!(spec["process"]["env"][0], DEFAULT_PATH);
        assert_eq!(spec["process"]["oomScoreAdj"], -100);
        assert_eq!(spec["process"]["user"]["uid"], 0);
        assert_eq!(spec["root"]["path"], "rootfs");
        assert_eq!(spec["linux"]["maskedPaths"][2], "/proc/kcore");
        let namespaces = spec["linux"]["namespaces"].to_string();
        assert!(
            namespaces.contains(r#"{"path":"/run/net","type":"network"}"#),
            "{namespaces}"
        );
        assert!(
            !namespaces.contains("uts") && namespaces.contains("pid"),
            "{namespaces}"
        );
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], false);
    }

    #[test]
    fn a_privileged_container_sees_all_of_the_host() {
        let mut container = container_spec("a", "web");
        container.security.privileged = true;
        container.security.seccomp_default = true;
        let spec = built(&container);
        assert!(spec["linux"].get("maskedPaths").is_none());
        assert!(spec["linux"].get("seccomp").is_none());
        assert_eq!(spec["linux"]["resources"]["devices"][0]["allow"], true);
        let sys = spec["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .find(|m| m["destination"] == "/sys");
        assert!(!sys.unwrap()["options"].to_string().contains("\"ro\""));
    }

    #[test]
    fn the_containers_variables_win_over_the_images() {
        let mut container = container_spec("a", "web");
        container.tty = true;
        container.env = vec!["A=2".to_owned(), "PATH=/x".to_owned()];
        let image = ImageConfig {
            env: vec!["A=1".to_owned(), "B=1".to_owned()],
            ..ImageConfig::default()
        };
        assert_eq!(
            environment(&container, &image),
            ["A=2", "B=1", "PATH=/x", "TERM=xterm"]
        );
    }
}
