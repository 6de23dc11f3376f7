//! A container of a pod as the runtime wants it. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use crate::runtime::{ContainerSpec, Image, Mount, Namespace, Security};

use super::expand::expand;
use super::names;
use super::plan::has_network;
use super::resources;
use super::state::Namespaces;

/// Where a container may say why it ended, where it does not say itself.
const TERMINATION_LOG_DEFAULT: &str = "/dev/termination-log";

/// All a container is made of.
#[derive(Clone, Debug)]
pub(crate) struct Recipe<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) container: &'a Container,
    pub(crate) attempt: u32,
    pub(crate) image: &'a Image,
    /// Variables beside the image's.
    pub(crate) variables: &'a BTreeMap<String, String>,
    pub(crate) security: Security,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) log: PathBuf,
    pub(crate) cgroup_root: &'a str,
    /// Memory of the machine.
    pub(crate) memory_bytes: u64,
    pub(crate) boot: &'a str,
    pub(crate) hostname: &'a str,
}

/// The container for the runtime.
///
/// Errors: there is nothing to run.
pub(crate) fn container(recipe: Recipe<'_>) -> Result<ContainerSpec, String> {
    let Recipe { pod, container, .. } = recipe;
    let args = command(container, recipe.image, recipe.variables)?;
    let spec = pod.spec.as_ref();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let id = names::container_id(uid, &container.name, recipe.attempt);
    let is = |field: Option<bool>| field == Some(true);
    let host_network = !has_network(pod);
    let host_ipc = spec.is_some_and(|s| is(s.host_ipc));
    let host_pid = spec.is_some_and(|s| is(s.host_pid));
    let pinned = recipe.namespaces.pinned.as_ref();
    let joined = |path: Option<&PathBuf>, is_host: bool| match path {
        _ if is_host => Namespace::Host,
        Some(path) => Namespace::Path(path.clone()),
        None => Namespace::Private,
    };
    let mut env = vec![format!("HOSTNAME={}", recipe.hostname)];
    let variables = recipe.variables.iter();
    env.extend(variables.map(|(name, value)| format!("{name}={value}")));
    let labels = labels(&recipe);
    Ok(ContainerSpec {
        image: recipe.image.id.clone(),
        args,
        env,
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts: recipe.mounts,
        devices: Vec::new(),
        network: joined(pinned.map(|p| &p.network), host_network),
        ipc: joined(pinned.map(|p| &p.ipc), host_ipc),
        uts: joined(pinned.map(|p| &p.uts), host_network),
        pid: joined(recipe.namespaces.processes.as_ref(), host_pid),
        cgroup: format!("{}/{id}", resources::cgroup(recipe.cgroup_root, pod)),
        resources: resources::of_container(container),
        oom_score_adj: resources::oom_score_adj(pod, container, recipe.memory_bytes),
        security: recipe.security,
        tty: is(container.tty),
        stdin: is(container.stdin),
        stdin_once: is(container.stdin_once),
        log: recipe.log,
        labels,
        id,
    })
}

fn labels(recipe: &Recipe<'_>) -> BTreeMap<String, String> {
    let meta = &recipe.pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let image = recipe.image;
    let identity = image.names.iter().find_map(|name| {
        let repository = name.split('@').next().unwrap_or_default();
        let tag_at = repository
            .rfind(':')
            .filter(|at| !repository[*at..].contains('/'));
        let repository = tag_at.map_or(repository, |at| &repository[..at]);
        let is_named = !image.digest.is_empty() && !repository.is_empty();
        is_named.then(|| format!("{repository}@{}", image.digest))
    });
    [
        (names::POD_UID, text(&meta.uid)),
        (names::POD_NAME, text(&meta.name)),
        (names::POD_NAMESPACE, text(&meta.namespace)),
        (names::CONTAINER_NAME, recipe.container.name.clone()),
        (names::RESTART_COUNT, recipe.attempt.to_string()),
        (names::IMAGE, text(&recipe.container.image)),
        (
            names::IMAGE_NAME,
            image.names.first().cloned().unwrap_or_default(),
        ),
        (
            names::IMAGE_ID,
            identity.unwrap_or_else(|| image.id.clone()),
        ),
        (names::STOP_SIGNAL, stop_signal(recipe)),
        (names::BOOT, recipe.boot.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn stop_signal(recipe: &Recipe<'_>) -> String {
    let lifecycle = recipe.container.lifecycle.as_ref();
    let own = lifecycle.and_then(|lifecycle| lifecycle.stop_signal.clone());
    own.unwrap_or_else(|| recipe.image.config.stop_signal.clone())
}

/// Program and arguments: a command replaces the image's entry point and its arguments.
fn command(
    container: &Container,
    image: &Image,
    variables: &BTreeMap<String, String>,
) -> Result<Vec<String>, String> {
    let known = |name: &str| variables.get(name).cloned();
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter()
            .flatten()
            .map(|arg| expand(arg, known))
            .collect()
    };
    let own = expanded(&container.command);
    let args = expanded(&container.args);
    let mut all = own;
    if all.is_empty() {
        all.clone_from(&image.config.entrypoint);
        if args.is_empty() {
            all.extend(image.config.cmd.iter().cloned());
        }
    }
    all.extend(args);
    if all.is_empty() {
        return Err("failed to generate container spec: no command specified".to_owned());
    }
    Ok(all)
}

/// The path in the container of the file in which it may say why it ended.
pub(crate) fn termination_path(container: &Container) -> &Path {
    let own = container.termination_message_path.as_deref();
    let own = own.filter(|path| !path.is_empty());
    Path::new(own.unwrap_or(TERMINATION_LOG_DEFAULT))
}

/// A bind of a file the agent keeps for the pod.
pub(crate) fn bind(source: PathBuf, destination: impl Into<PathBuf>) -> Mount {
    Mount {
        source,
        destination: destination.into(),
        kind: "bind".to_owned(),
        options: ["rbind", "rprivate", "rw"].map(str::to_owned).into(),
    }
}

/// The mount of a volume.
pub(crate) fn volume(mount: &VolumeMount, source: PathBuf, is_read_only: bool) -> Mount {
    let destination = if mount.mount_path.starts_with('/') {
        PathBuf::from(&mount.mount_path)
    } else {
        Path::new("/").join(&mount.mount_path)
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => "rslave",
        Some("Bidirectional") => "rshared",
        _ => "rprivate",
    };
    let access = match (is_read_only, mount.recursive_read_only.as_deref()) {
        (true, Some("Enabled" | "IfPossible")) => "rro",
        (true, _) => "ro",
        (false, _) => "rw",
    };
    let mut options = ["rbind", propagation, access].map(str::to_owned).to_vec();
    options.extend(mount.bind_mount_options.iter().flatten().cloned());
    Mount {
        source,
        destination,
        kind: "bind".to_owned(),
        options,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::pod::testing::pod;
    use crate::agent::seam::PinnedNamespaces;
    use crate::runtime::ImageConfig;
    use serde_json::json;

    fn image() -> Image {
        Image {
            names: vec!["reg:5000/team/app:1".into()],
            digest: "sha256:d".into(),
            id: "sha256:i".into(),
            config: ImageConfig {
                entrypoint: vec!["/entry".into()],
                cmd: vec!["serve".into()],
                stop_signal: "SIGQUIT".into(),
                ..ImageConfig::default()
            },
            ..Image::default()
        }
    }

    fn run(spec: serde_json::Value, namespaces: &Namespaces) -> Result<ContainerSpec, String> {
        let pod = pod(spec);
        container(Recipe {
            pod: &pod,
            container: &pod.spec.as_ref().unwrap().containers[0],
            attempt: 2,
            image: &image(),
            variables: &BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            security: Security::default(),
            mounts: vec![],
            namespaces,
            log: "/l".into(),
            cgroup_root: "/kubepods",
            memory_bytes: 1 << 30,
            boot: "b",
            hostname: "h",
        })
    }

    #[test]
    fn commands_and_arguments_replace_the_image_s_as_upstream() {
        let table = [
            (json!({}), vec!["/entry", "serve"]),
            (json!({"args": ["$(A)"]}), vec!["/entry", "1"]),
            (json!({"command": ["x"]}), vec!["x"]),
            (json!({"command": ["x"], "args": ["y"]}), vec!["x", "y"]),
        ];
        for (mut fields, expected) in table {
            fields["name"] = json!("a");
            let got = run(json!({"containers": [fields]}), &Namespaces::default());
            assert_eq!(got.unwrap().args, expected);
        }
    }

    #[test]
    fn labels_hold_all_that_is_found_again() {
        let got = run(json!({}), &Namespaces::default()).unwrap();
        assert_eq!(got.labels[names::RESTART_COUNT], "2");
        assert_eq!(got.labels[names::IMAGE_ID], "reg:5000/team/app@sha256:d");
        assert_eq!(got.labels[names::STOP_SIGNAL], "SIGQUIT");
        assert_eq!(got.id, names::container_id("u", "a", 2));
        assert_eq!(got.cgroup, format!("/kubepods/besteffort/podu/{}", got.id));
        assert_eq!(got.env, ["HOSTNAME=h", "A=1"]);
    }

    #[test]
    fn namespaces_are_the_pod_s_or_the_host_s() {
        let path = |name: &str| PathBuf::from(format!("/ns/{name}"));
        let namespaces = Namespaces {
            pinned: Some(PinnedNamespaces {
                network: path("net"),
                ipc: path("ipc"),
                uts: path("uts"),
            }),
            processes: None,
        };
        let own = run(json!({}), &namespaces).unwrap();
        assert_eq!(own.network, Namespace::Path(path("net")));
        assert_eq!(own.pid, Namespace::Private);
        let host = json!({"hostNetwork": true, "hostPID": true, "hostIPC": true});
        let host = run(host, &namespaces).unwrap();
        for namespace in [host.network, host.uts, host.pid, host.ipc] {
            assert_eq!(namespace, Namespace::Host);
        }
    }

    #[test]
    fn volumes_are_bound_as_their_mounts_say() {
        let mount =
            |fields: serde_json::Value| -> VolumeMount { serde_json::from_value(fields).unwrap() };
        let plain = mount(json!({"name": "v", "mountPath": "data"}));
        let got = volume(&plain, "/src".into(), false);
        assert_eq!(got.destination, Path::new("/data"));
        assert_eq!(got.options, ["rbind", "rprivate", "rw"]);
        let shared = mount(json!({"name": "v", "mountPath": "/d",
            "mountPropagation": "Bidirectional"}));
        assert_eq!(
            volume(&shared, "/src".into(), true).options,
            ["rbind", "rshared", "ro"]
        );
    }
}
