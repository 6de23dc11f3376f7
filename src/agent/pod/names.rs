//! Names that tie a pod to what it has on the node: container ids, labels, folders, files.
//!
//! All of them follow from the pod alone, so that an agent that starts anew finds everything again.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use sha2::{Digest, Sha256};

/// Label: the pod's UID (as CRI runtimes set it).
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: the pod's name.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: the pod's namespace.
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: the container's name in the pod.
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Label: how often the container had been started before.
pub(crate) const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Label: the image as the pod names it.
pub(crate) const IMAGE: &str = "orch.dev/image";
/// Label: the full name of the image it was found under.
pub(crate) const IMAGE_NAME: &str = "orch.dev/image-name";
/// Label: the image's identity.
pub(crate) const IMAGE_ID: &str = "orch.dev/image-id";
/// Label: the signal that asks it to end; empty: SIGTERM.
pub(crate) const STOP_SIGNAL: &str = "orch.dev/stop-signal";
/// Label: the boot of the machine it was made in; namespaces and mounts do not outlive one.
pub(crate) const BOOT: &str = "orch.dev/boot";

/// The id of a container's `attempt`: the same for the same attempt, so that making it twice is
/// noticed, and of the form container ids usually have.
pub(crate) fn container_id(uid: &str, container: &str, attempt: u32) -> String {
    hex::encode(Sha256::digest(format!("{uid}/{container}/{attempt}")))
}

/// Where a pod's things lie on the node.
#[derive(Clone, Debug)]
pub(crate) struct Folders {
    /// `DATA/agent`
    agent: PathBuf,
    /// `/var/log/pods`, or a folder per node where several share the machine.
    logs: PathBuf,
}

impl Folders {
    pub(crate) fn new(data_dir: &Path, logs: &Path) -> Self {
        Self {
            agent: data_dir.join("agent"),
            logs: logs.to_owned(),
        }
    }

    /// What all pods have on disk.
    pub(crate) fn pods(&self) -> PathBuf {
        self.agent.join("pods")
    }

    /// What one pod has on disk.
    pub(crate) fn pod(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// The tmpfs that holds what must not reach a disk.
    pub(crate) fn memory(&self) -> PathBuf {
        self.agent.join("memory")
    }

    /// Where the pod's namespaces are bound.
    pub(crate) fn namespaces(&self, uid: &str) -> PathBuf {
        self.pod(uid).join("ns")
    }

    /// The file in which a container may say why it ended.
    pub(crate) fn termination_log(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        let folder = self.pod(uid).join("containers").join(container);
        folder.join(attempt.to_string())
    }

    /// All logs.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// The logs of one pod, in the kubelet's layout.
    pub(crate) fn pod_logs(&self, pod: &Pod) -> PathBuf {
        let meta = &pod.metadata;
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        self.logs.join(format!(
            "{}_{}_{}",
            text(&meta.namespace),
            text(&meta.name),
            text(&meta.uid)
        ))
    }

    /// The log of one attempt of a container.
    pub(crate) fn log(&self, pod: &Pod, container: &str, attempt: u32) -> PathBuf {
        let folder = self.pod_logs(pod).join(container);
        folder.join(format!("{attempt}.log"))
    }
}

/// The folder for logs that goes with a data folder: the kubelet's for the default one, otherwise
/// one below it, so that nodes that share a machine do not share logs.
pub(crate) fn log_root(data_dir: &Path) -> PathBuf {
    if data_dir == Path::new("/var/lib/orch") {
        return PathBuf::from("/var/log/pods");
    }
    data_dir.join("agent/logs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_has_one_id_and_attempts_differ() {
        let id = container_id("u", "c", 0);
        assert_eq!(id, container_id("u", "c", 0));
        assert_ne!(id, container_id("u", "c", 1));
        assert_eq!(id.len(), 64);
    }

    #[test]
    fn nodes_that_share_a_machine_have_logs_of_their_own() {
        assert_eq!(
            log_root(Path::new("/var/lib/orch")),
            Path::new("/var/log/pods")
        );
        assert_eq!(
            log_root(Path::new("/tmp/n1")),
            Path::new("/tmp/n1/agent/logs")
        );
    }
}
